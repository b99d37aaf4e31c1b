"""layout.recheck: a rewritten file held against the plan and the file it was made from. In: Plan, both files' bytes.
Out: differences, a sentence each.

It looks at what a loader looks at, and not at how the writer went about it: headers are read anew, and contents are
compared address by address.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice, takewhile

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage, Section, Segment
from elfolio.elf.reader import read
from elfolio.elf.tail import has_any
from elfolio.errors import ElfError
from elfolio.layout.plan import Plan
from elfolio.span import Span

__all__ = ["differences"]

_STEP = 1 << 20


def differences(plan: Plan, old: memoryview, new: memoryview) -> Iterator[str]:
    """Nothing for a file that is as it should be. `old` and `new` are without undo records. Never raises."""
    if len(new) != plan.rewrite.new_size:
        yield f"it has {len(new):#x} bytes, and the plan {plan.rewrite.new_size:#x}"
        return
    try:
        image = read(new, plan.image.name)
    except ElfError as error:
        yield f"it cannot be read: {error.why}"
        return
    yield from _headers(plan, image)
    edited = _Edited(plan, old)
    for a, b in _segment_pairs(plan, image):
        yield from _segment(a, b, edited, new)
    for index, (x, y) in enumerate(zip(plan.image.sections, image.sections, strict=False)):
        yield from _section(index, x, y, edited, new)
    for span in plan.rewrite.padding:
        if has_any(new[span.start : span.end]):
            yield f"the padding at {span.start:#x} is not all zeros"


def _headers(plan: Plan, image: ElfImage) -> Iterator[str]:
    """What was read is what was planned; and of what was there, nothing but places and alignments differs."""
    if (image.header, image.segments, image.sections) != (
        plan.becomes.header,
        plan.becomes.segments,
        plan.becomes.sections,
    ):
        yield "its headers are not those of the plan"
    if not plan.joints:
        for i, (s, t) in enumerate(zip(plan.image.segments, image.segments, strict=False)):
            if (s.type, s.flags, s.vaddr, s.paddr, s.filesz, s.memsz) != (
                t.type,
                t.flags,
                t.vaddr,
                t.paddr,
                t.filesz,
                t.memsz,
            ):
                yield f"program header {i} differs in more than p_offset and p_align"
    for i, s in enumerate(image.segments):
        if s.type == c.PT_LOAD and s.filesz and s.align > 1 and (s.vaddr - s.offset) % s.align:
            before = plan.image.segments[i] if i < len(plan.image.segments) else None
            if before is None or (before.vaddr - before.offset) % max(1, before.align) == 0:
                yield f"program header {i}: p_vaddr and p_offset differ modulo p_align {s.align:#x}"
    if not plan.joints:
        yield from _inside(plan.image, image)


def _inside(old: ElfImage, new: ElfImage) -> Iterator[str]:
    """What lay in a segment lies at the same place in it."""
    for i, (s, t) in enumerate(zip(old.segments, new.segments, strict=False)):
        if s.type == c.PT_LOAD or not s.filesz:
            continue
        holders = [
            (u, v)
            for u, v in zip(old.loads, new.loads, strict=True)
            if u.memory.covers(s.vaddr) and u.vaddr - u.offset == s.vaddr - s.offset
        ]
        if holders and all(v.offset - u.offset != t.offset - s.offset for u, v in holders):
            yield f"program header {i} has left its segment"


def _segment_pairs(plan: Plan, image: ElfImage) -> Iterator[tuple[Segment, Segment]]:
    """Each old segment with bytes, and the new one that has its first address."""
    for s in plan.image.segments:
        if s.type == c.PT_LOAD and s.filesz:
            found = [t for t in image.loads if t.memory.encloses(Span(s.vaddr, s.vaddr + s.filesz))]
            exact = [t for t in found if t.vaddr == s.vaddr and t.flags == s.flags]
            if found:
                yield s, (exact or found)[0]


def _segment(a: Segment, b: Segment, edited: "_Edited", new: memoryview) -> Iterator[str]:
    """The same bytes at the same addresses."""
    start = b.offset + a.vaddr - b.vaddr
    at = edited.first_difference(a.offset, new[start : start + a.filesz])
    if at is not None:
        yield f"the byte at address {a.vaddr + at:#x} differs (offset {start + at:#x})"


def _section(index: int, x: Section, y: Section, edited: "_Edited", new: memoryview) -> Iterator[str]:
    if (x.name, x.type, x.flags, x.addr, x.size, x.addralign) != (y.name, y.type, y.flags, y.addr, y.size, y.addralign):
        yield f"section {index} {x.name} differs in more than sh_offset"
    elif x.file.size and x.file.end <= len(edited.data):
        at = edited.first_difference(x.offset, new[y.offset : y.offset + y.size])
        if at is not None:
            yield f"section {index} {x.name} differs at {at:#x} (offset {y.offset + at:#x})"


class _Edited:
    """The old file with the plan's edits, compared piece by piece."""

    def __init__(self, plan: Plan, data: memoryview) -> None:
        self.data = data
        self._edits = sorted(plan.rewrite.edits, key=lambda e: e.field.at)
        self._ends = [e.field.at + e.field.width for e in self._edits]
        self._order = plan.rewrite.byteorder

    def first_difference(self, offset: int, other: memoryview) -> int | None:
        """Bytes from `offset` to the first one that differs; None where all are equal."""
        if offset + len(other) > len(self.data):
            return max(0, len(self.data) - offset)
        for at in range(0, len(other), _STEP):
            mine, theirs = self._piece(offset + at, min(_STEP, len(other) - at)), other[at : at + _STEP]
            if mine != theirs:
                return at + next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
        return None

    def _piece(self, offset: int, size: int) -> memoryview | bytearray:
        span = Span(offset, offset + size)
        first = bisect_right(self._ends, offset)
        touching = list(takewhile(lambda e: e.field.at < span.end, islice(self._edits, first, None)))
        if not touching:
            return self.data[offset : offset + size]
        out = bytearray(self.data[offset : offset + size])
        for edit in touching:
            raw = edit.new.to_bytes(edit.field.width, self._order)
            for i, byte in enumerate(raw):
                if span.covers(edit.field.at + i):
                    out[edit.field.at + i - offset] = byte
        return out
