"""layout.merging: segments that share pages, or could share a huge page. In: Layout. Out: Merger, or a Refusal.

A page has one set of permissions. Where a machine's pages are larger than those that a file was linked for, two
segments may want one: then either one segment is made of both, with the permissions of both; or, where the second one
is data to be written and what it shares a page with need not be executed, that page alone gets what both need, because
a segment that is mapped later takes the pages of one before it (mmap, MAP_FIXED). Never is a page writable and
executable.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage
from elfolio.layout.finding import size_text
from elfolio.layout.hugepages import Ladder, Tier
from elfolio.layout.plan import Joint, Reason, Refusal
from elfolio.layout.relro import protected_span
from elfolio.layout.segments import PAGE_SIZES, Layout, Load, congruence
from elfolio.span import Span

__all__ = ["Merger", "Unmergeable", "check_bytes", "check_fills", "gather", "join", "overlap", "relro_notes"]

_WX = c.PF_W | c.PF_X


class Unmergeable(Exception):
    """Two segments that cannot share; `refusal` says which, and why."""

    def __init__(self, reason: Reason, text: str, mend: str) -> None:
        super().__init__(text)
        self.refusal = Refusal(reason, text, mend, Tier.MERGE)


@dataclass(frozen=True)
class Merger:
    """Which segments become one, and which must keep their distance."""

    groups: tuple[tuple[Load, ...], ...]
    """All of them, in memory's order; those of one group become one segment."""
    bound: dict[int, int] = field(default_factory=dict)
    """Program headers by index: each with the one before it that must be as far away in the file as in memory."""
    joints: tuple[Joint, ...] = ()

    def group(self, index: int) -> tuple[Load, ...]:
        """That of a program header."""
        return next(group for group in self.groups if any(load.index == index for load in group))


def gather(layout: Layout, ladder: Ladder | None, *, force: bool = False) -> Merger:
    """What to merge, for the layout's pages, and where there is a ladder for its huge ones; `force` takes
    all neighbours that win none too. Raises Unmergeable."""
    loads = layout.in_memory
    if (refusal := overlap(layout, Tier.MERGE)) is not None:
        raise Unmergeable(refusal.reason, refusal.text, refusal.mend)
    _check_pages(layout)
    wanted = set() if ladder is None else _for_huge_pages(layout, ladder, force)
    groups: list[list[Load]] = []
    bound: dict[int, int] = {}
    overlays: list[Joint] = []
    for load in loads:
        before = groups[-1] if groups else None
        if before is None:
            groups.append([load])
            continue
        last = before[-1]
        shares = last.memory.common(load.memory).size > 0
        if shares and not _joins(_perms(before), last, load):
            overlays.append(_overlay(layout, last, load))
            bound[load.index] = last.index
            groups.append([load])
        elif shares or (last.index, load.index) in wanted:
            if load.segment.filesz:
                bound[load.index] = last.index
            before.append(load)
        else:
            groups.append([load])
    joints = [_joint(group) for group in groups if len(group) > 1]
    return Merger(tuple(map(tuple, groups)), bound, (*joints, *overlays))


def overlap(layout: Layout, tier: Tier) -> Refusal | None:
    """Two segments that want the same addresses, so that nobody can say whose bytes go with which; refuses `tier`."""
    for a, b in pairwise(layout.in_memory):
        if b.segment.vaddr < a.segment.vaddr + a.segment.memsz:
            text = f"program headers {a.index} and {b.index} overlap at {b.segment.vaddr:#x}"
            return Refusal(Reason.OVERLAP, text, "relink it", tier)
    return None


def _perms(group: Iterable[Load]) -> int:
    flags = 0
    for load in group:
        flags |= load.segment.flags
    return flags


def _joins(before: int, last: Load, load: Load) -> bool:
    """Whether two that share a page become one: unless what is mapped later has all that the page needs, and the
    whole of both must not have it."""
    if (before | load.segment.flags) & _WX == _WX:
        return False
    # Else the page is enough: of the rest, what could only be read stays so.
    return last.is_writable or not load.is_writable


def _check_pages(layout: Layout) -> None:
    """No page may be both writable and executable."""
    loads = layout.in_memory
    for i, b in enumerate(loads):
        for a in reversed(loads[:i]):
            shared = a.memory.common(b.memory)
            if not shared.size:
                break  # the others end before it
            if (a.segment.flags | b.segment.flags) & _WX == _WX:
                both = f"program headers {a.index} ({a.segment.perms}) and {b.index} ({b.segment.perms})"
                text = f"{both} share the page of {size_text(layout.page)} at {shared.start:#x}"
                mend = f"relink with -Wl,-z,max-page-size={layout.page}"
                raise Unmergeable(Reason.WRITE_EXEC, f"{text}, which would be writable and executable", mend)


def _for_huge_pages(layout: Layout, ladder: Ladder, force: bool) -> set[tuple[int, int]]:
    """Neighbours that win a huge page as one segment: pairs of indexes."""
    found: set[tuple[int, int]] = set()
    apart = {rung.load.index: rung.at(Tier.RELAY) for rung in ladder.rungs}
    for run in _close_runs(layout):
        span = Span(run[0].memory.start, run[-1].memory.end).shifted(-layout.origin)
        blocks = span.whole_blocks(ladder.block).size // ladder.block
        if force or blocks > sum(apart.get(x.index, 0) for x in run):
            found |= {(a.index, b.index) for a, b in pairwise(run)}
    return found


def _close_runs(layout: Layout) -> Iterator[list[Load]]:
    """Neighbours without PF_W, two at least, with no more between them than a page of the largest size: a huge page of
    padding would take memory, and win nothing."""
    run: list[Load] = []
    for load in layout.in_memory:
        fits = not load.is_writable and load.segment.filesz > 0
        if run and not (fits and load.memory.start - run[-1].memory.end <= PAGE_SIZES[-1]):
            yield from [run] if len(run) > 1 else []
            run = []
        if fits:
            run.append(load)
    yield from [run] if len(run) > 1 else []


def _joint(group: list[Load]) -> Joint:
    joined = replace(group[0].segment, flags=_perms(group)).perms
    return Joint(tuple(x.index for x in group), tuple(x.segment.perms for x in group), joined)


def _overlay(layout: Layout, last: Load, load: Load) -> Joint:
    if last.zero.size:
        text = f"program header {last.index} ends in zeros on a page that {load.index} takes"
        raise Unmergeable(Reason.OVERLAP, text, f"relink with -Wl,-z,max-page-size={layout.page}")
    pages = last.memory.common(load.memory)
    perms = (last.segment.perms, load.segment.perms)
    return Joint((last.index, load.index), perms, load.segment.perms, pages)


def join(image: ElfImage, merger: Merger, moduli: Mapping[int, int], page: int) -> ElfImage:
    """The headers with one segment for each group, once its segments stand where they should; the others' become
    PT_NULL, so that no header moves. p_align becomes what address and offset are congruent to."""
    segments = list(image.segments)
    for group in merger.groups:
        first, parts = group[0].index, [image.segments[x.index] for x in group]
        start = parts[0].vaddr
        align = max(*(s.align for s in parts), page if page > 4096 else 1, moduli.get(first, 1))
        align = min(align, congruence(start, parts[0].offset))
        segments[first] = replace(
            parts[0],
            flags=_perms(group),
            filesz=max((s.vaddr + s.filesz - start for s in parts if s.filesz), default=0),
            memsz=max(s.vaddr + s.memsz - start for s in parts),
            align=align if len(parts) > 1 or first in moduli else parts[0].align,
        )
        for other in group[1:]:
            segments[other.index] = replace(image.segments[other.index], type=c.PT_NULL)
    return replace(image, segments=tuple(segments))


def check_fills(image: ElfImage, merger: Merger, is_zero: Callable[[Span], bool]) -> None:
    """Zeros that a segment has in memory only come to stand in the file, where another one follows it in its group: so
    nothing else may stand there. Raises Unmergeable."""
    for group in merger.groups:
        filled = [x for x in group if x.segment.filesz]
        if filled and group[0] is not filled[0]:
            text = f"program header {group[0].index} has nothing in the file, and another one is joined to it"
            raise Unmergeable(Reason.OVERLAP, text, "relink it")
        for a, b in pairwise(filled):
            between = Span(a.segment.file.end, b.segment.offset)
            if a.zero.size and between.size and not is_zero(between):
                text = f"bytes at offset {between.start:#x}, between two segments, would be seen where zeros belong"
                raise Unmergeable(Reason.OVERLAP, text, "relink it")


def check_bytes(layout: Layout, shifts: Mapping[int, int]) -> None:
    """Without copies each byte of the old file stands in the new one once: so segments that have the same ones cannot
    move apart. `shifts` is by program header, ascending in the file. Raises Unmergeable."""
    furthest: Load | None = None
    before: Load | None = None  # of those that move less than this one, the one that reaches furthest
    for load in sorted(layout.in_file, key=lambda x: (x.segment.offset, x.index)):
        if furthest is not None and shifts[load.index] != shifts[furthest.index]:
            before = furthest
        if before is not None and before.segment.file.end > load.segment.offset:
            both = f"program headers {before.index} and {load.index}"
            text = f"{both} have the same bytes of the file, at {load.segment.offset:#x}"
            raise Unmergeable(Reason.OVERLAP, text, "relink it")
        if furthest is None or load.segment.file.end >= furthest.segment.file.end:
            furthest = load


def relro_notes(layout: Layout) -> Iterator[str]:
    """What of RELRO holds with the layout's pages. Raises Unmergeable where data would become read-only."""
    found = [s for s in layout.image.segments if s.type == c.PT_GNU_RELRO and s.memsz]
    if not found:
        return
    memory, page = found[-1].memory, size_text(layout.page)
    protected = protected_span(memory.start, memory.size, layout.page)
    caught = Span(protected.start, min(memory.start, protected.end))
    data = sum(x.segment.memory.common(caught).size for x in layout.in_memory if x.is_writable)
    if caught.size and data:
        text = f"RELRO begins within a page of {page}, and {data} bytes of data before it would become read-only"
        raise Unmergeable(Reason.RELRO, text, f"relink with -Wl,-z,max-page-size={layout.page}")
    exposed = memory.end - max(memory.start, protected.end)
    if protected.size == 0:
        yield f"RELRO, {memory.size} bytes, cannot be protected with pages of {page}: it ends within its first one."
    elif exposed:
        yield f"Of RELRO {exposed} of {memory.size} bytes stay writable: it ends within a page of {page}."
