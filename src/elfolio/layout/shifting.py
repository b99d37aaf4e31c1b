"""layout.shifting: segments moved in the file, everything else with them. In: ElfImage, a shift each. Out: Rewrite.

No address changes, so that only file offsets do: p_offset, sh_offset, e_phoff, e_shoff. A segment that moves takes
along whole pages: bytes of its neighbours that its first and last page show in memory stay there, in a second copy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from elfolio.elf import constants as c
from elfolio.elf.head import Form, form_of
from elfolio.elf.image import ElfImage, Section, Segment
from elfolio.elf.rewriting import Edit, Move, Rewrite, header_field, section_field, segment_field
from elfolio.layout.hugepages import Tier
from elfolio.layout.plan import Reason, Refusal
from elfolio.layout.segments import PAGE_SIZES, congruence
from elfolio.span import FileOffset, Span, round_up

__all__ = ["Shifted", "Torn", "edits_between", "granule", "shifted"]


class Torn(Exception):
    """Something stands across the border of two segments that move apart, or cannot say where it stands then;
    `refusal` names it."""

    def __init__(
        self, text: str, reason: Reason = Reason.STRADDLES, mend: str = "relink with a larger -Wl,-z,max-page-size"
    ) -> None:
        super().__init__(text)
        self.refusal = Refusal(reason, text, mend, Tier.RELAY)


@dataclass(frozen=True, slots=True)
class Shifted:
    """The outcome."""

    rewrite: Rewrite
    becomes: ElfImage


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbours in the file that move by the same distance."""

    start: int
    """Of its first segment, in the file as it was; 0 for what stands before all segments."""
    pages: Span
    """What its segments' pages cover of the file as it was."""
    by: int


def granule(image: ElfImage, segment: Segment) -> int:
    """Bytes of the largest page with which a segment can be mapped: shifts are multiples of it, and pages of this size
    keep their contents. What it was linked for counts for nothing: larger ones may show what it needs by chance."""
    if image.header.machine in c.SMALL_PAGED:
        return 4096
    return min(PAGE_SIZES[-1], max(PAGE_SIZES[0], congruence(segment.vaddr, segment.offset)))


def shifted(image: ElfImage, shifts: Mapping[int, int], aligns: Mapping[int, int], *, copies: bool = True) -> Shifted:
    """`shifts` is, by program header index, how far each PT_LOAD moves, never less than one before it in the file;
    `aligns` a new p_align for some. Without `copies`, zeros stand where a neighbour's bytes did. Raises Torn."""
    form, size = form_of(image), image.size
    runs = list(_runs(image, shifts, size))
    places = _Places(image, shifts, runs)
    segments = tuple(
        replace(s, offset=FileOffset(s.offset + places.of_segment(i, s)), align=aligns.get(i, s.align))
        for i, s in enumerate(image.segments)
    )
    sections = tuple(
        replace(s, offset=FileOffset(s.offset + places.of_section(i, s))) for i, s in enumerate(image.sections)
    )
    header = image.header
    tables = {
        "phoff": header.phoff
        + places.of_range(
            Span(header.phoff, header.phoff + header.phnum * header.phentsize), "the program headers' table"
        )
        if header.phnum
        else header.phoff,
        "shoff": header.shoff
        + places.of_range(
            Span(header.shoff, header.shoff + header.shnum * header.shentsize), "the section headers' table"
        )
        if header.shoff
        else header.shoff,
    }
    new = replace(header, phoff=FileOffset(tables["phoff"]), shoff=FileOffset(tables["shoff"]))
    moves = tuple(m for m in _moves(runs, size) if copies or not m.copy)
    new_size = max(m.new + m.size for m in moves)
    becomes = replace(image, header=new, segments=segments, sections=sections, size=new_size)
    return Shifted(Rewrite(size, new_size, form.byteorder, moves, edits_between(image, becomes)), becomes)


def _runs(image: ElfImage, shifts: Mapping[int, int], size: int) -> Iterator[_Run]:
    """In the file's order; the first begins at 0."""
    in_file = sorted((s.offset, i) for i, s in enumerate(image.segments) if s.type == c.PT_LOAD and s.filesz)
    start, by, pages = 0, 0, Span(0, 0)
    for offset, i in in_file:
        segment = image.segments[i]
        page = granule(image, segment)
        lead = segment.vaddr % page
        covered = Span(max(0, offset - lead), min(size, offset - lead + round_up(lead + segment.filesz, page)))
        if shifts[i] == by:
            pages = Span(min(pages.start, covered.start), max(pages.end, covered.end)) if pages.size else covered
            continue
        yield _Run(start, pages, by)
        start, by, pages = offset, shifts[i], covered
    yield _Run(start, pages, by)


def _moves(runs: list[_Run], size: int) -> Iterator[Move]:
    """Each run's own bytes, up to where the next one begins, and the foreign ones of its first and last page."""
    ends = [run.start for run in runs[1:]] + [size]
    for run, end in zip(runs, ends, strict=True):
        if run.pages.start < run.start:
            yield Move(run.pages.start, run.pages.start + run.by, run.start - run.pages.start, copy=True)
        if end > run.start:
            yield Move(run.start, run.start + run.by, end - run.start)
        if run.pages.end > end:
            yield Move(end, end + run.by, run.pages.end - end, copy=True)


class _Places:
    """How far each thing in the file moves."""

    def __init__(self, image: ElfImage, shifts: Mapping[int, int], runs: list[_Run]) -> None:
        self._loads = [(i, s) for i, s in enumerate(image.segments) if s.type == c.PT_LOAD]
        self._shifts = shifts
        self._runs = runs
        self._size = image.size

    def of_segment(self, index: int, segment: Segment) -> int:
        """A program header's: a PT_LOAD's own; that of the PT_LOAD whose memory it is; or by its place in the file."""
        if segment.type == c.PT_LOAD:
            return self._shifts[index]
        if not segment.filesz and (not segment.offset or segment.offset > self._size):
            return 0  # it has no place in the file
        what = f"program header {index} (p_type {segment.type:#x})"
        holder = self._holder(segment.vaddr, segment.offset, segment.memsz, segment.filesz, segment.flags)
        if holder is None:
            return self.of_range(segment.file, what)
        if segment.type != c.PT_GNU_RELRO:  # lld rounds its size up, beyond what the segment has
            self._check(holder, segment.file, what)
        return self._shifts[holder]

    def of_section(self, index: int, section: Section) -> int:
        """A section's."""
        if not index:
            return 0  # it holds counts
        what = f"section {index} {section.name}"
        if section.flags & c.SHF_ALLOC:
            write = c.PF_W if section.flags & c.SHF_WRITE else 0
            flags = c.PF_R | write | (c.PF_X if section.flags & c.SHF_EXECINSTR else 0)
            holder = self._holder(section.addr, section.offset, section.size, section.file.size, flags)
            if holder is not None and (section.file.size or self._is_at(holder, section.offset)):
                self._check(holder, section.file, what)
                return self._shifts[holder]
        if not section.file.size and section.offset > self._size:
            return 0  # it has no place in the file
        return self.of_range(section.file, what)

    def of_range(self, span: Span, what: str) -> int:
        """By the place in the file alone. Raises Torn where its parts move by different distances."""
        within = [run for run in self._runs if run.start <= span.start]
        run = within[-1]
        after = next((r for r in self._runs if r.start > span.start), None)
        if after is not None and span.end > after.start:
            raise Torn(f"{what} at offset {span.start:#x} reaches over {after.start:#x}, where a segment begins")
        return run.by

    def _holder(self, addr: int, offset: int, memsz: int, filesz: int, flags: int) -> int | None:
        """The PT_LOAD that has these addresses at this distance from their offsets: the one with all of them, and of
        two that touch there, the one with these permissions."""
        found = [
            (
                s.memory.encloses(Span(addr, addr + memsz)),
                s.memory.covers(addr),
                s.flags & (c.PF_W | c.PF_X) == flags & (c.PF_W | c.PF_X),
                -i,
            )
            for i, s in self._loads
            if s.vaddr <= addr <= s.vaddr + s.memsz and (not filesz or addr - offset == s.vaddr - s.offset)
        ]
        return -max(found)[-1] if found else None

    def _is_at(self, holder: int, offset: int) -> bool:
        """Whether a place in the file is one of a segment's. mold gives sections without bytes the offset 0."""
        segment = next(s for i, s in self._loads if i == holder)
        return segment.offset <= offset <= segment.offset + segment.memsz

    def _check(self, holder: int, span: Span, what: str) -> None:
        """Bytes behind the segment's end must move as it does."""
        segment = next(s for i, s in self._loads if i == holder)
        rest = Span(max(span.start, segment.file.end), span.end)
        if rest.size and self.of_range(rest, what) != self._shifts[holder]:
            raise Torn(f"{what} reaches over the end of program header {holder}, {segment.file.end:#x}")


def edits_between(old: ElfImage, new: ElfImage) -> tuple[Edit, ...]:
    """Every field of the headers that differs, by table; places in the old file. Both have as many of each. Raises
    Torn where a field is too narrow for its new value."""
    edits = tuple(edit for edit in _fields(old, new, form_of(old)) if edit.old != edit.new)
    for edit in edits:
        if edit.new >> 8 * edit.field.width:
            text = f"{edit.field.name} would be {edit.new:#x}, and has {edit.field.width} bytes"
            raise Torn(text, Reason.TOO_LARGE, "relink it")
    return edits


def _fields(old: ElfImage, new: ElfImage, form: Form) -> Iterator[Edit]:
    a, b = old.header, new.header
    yield Edit(header_field(form, "phoff"), a.phoff, b.phoff)
    yield Edit(header_field(form, "shoff"), a.shoff, b.shoff)
    for i, (s, t) in enumerate(zip(old.segments, new.segments, strict=True)):
        for name in ("type", "flags", "offset", "filesz", "memsz", "align"):
            yield Edit(segment_field(form, a.phoff, i, name), getattr(s, name), getattr(t, name))
    for i, (x, y) in enumerate(zip(old.sections, new.sections, strict=True)):
        yield Edit(section_field(form, a.shoff, i, "offset"), x.offset, y.offset)
