"""layout.placing: where in the file each segment goes. In: ElfImage, what each is to be congruent to. Out: shifts.

In the file's order no shift is smaller than the one before it: so whatever stood behind something still does, and
sections, tables and bytes that no header tells of can go with their neighbours.
"""

from collections.abc import Mapping

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage, Segment
from elfolio.layout.shifting import Torn, granule
from elfolio.span import is_power_of_two, round_up

__all__ = ["holds_header", "place"]


def place(
    image: ElfImage, moduli: Mapping[int, int], *, apart: bool = False, bound: Mapping[int, int] | None = None
) -> dict[int, int]:
    """How far each PT_LOAD moves, by its program header's index; a multiple of the page that it is mapped with.

    `moduli` is modulo what a segment's offset is to equal its address; others stay as congruent as they are. With
    `apart` those of `moduli` begin at a multiple of it where no segment before them has bytes. `bound` names another
    one, before it in the file: their addresses must be as far from each other as their offsets. Raises Torn where that
    cannot be.
    """
    loads = [(s.offset, bool(s.filesz), i, s) for i, s in enumerate(image.segments) if s.type == c.PT_LOAD]
    bound = bound or {}
    shifts: dict[int, int] = {}
    reached, before = 0, 0
    for offset, _, i, s in sorted(loads, key=lambda x: x[:3]):
        page = granule(image, s)
        start = offset - s.vaddr % page
        if i in bound:
            shift = _bound(image, shifts, bound[i], i, before)
        else:
            shift = 0 if holds_header(image, s) else _as_congruent(s, before, page)
            if i in moduli and not holds_header(image, s):
                clear = round_up(reached, moduli[i]) - start if apart else 0
                shift = _congruent(s, max(shift, clear), moduli[i])
            # Pages that both have are in the new file twice, and need room.
            missing = max(reached, offset + before) - start - shift
            if shift != before and s.filesz and missing > 0:
                shift += round_up(missing, moduli.get(i, max(page, s.align)))
        shifts[i] = before = shift
        if s.filesz:
            reached = max(reached, round_up(offset + s.filesz + shift, page))
    return shifts


def holds_header(image: ElfImage, segment: Segment) -> bool:
    """Whether it has the file's header, which must stay where it is."""
    return segment.offset < image.header.ehsize


def _as_congruent(segment: Segment, least: int, page: int) -> int:
    """The smallest shift, not below `least`, that leaves the segment as congruent as it was."""
    return round_up(least, max(page, segment.align if is_power_of_two(segment.align) else 1))


def _congruent(segment: Segment, least: int, modulus: int) -> int:
    """The smallest one, not below `least`, that makes address and offset equal modulo this."""
    return least + (segment.vaddr - segment.offset - least) % modulus


def _bound(image: ElfImage, shifts: Mapping[int, int], to: int, index: int, least: int) -> int:
    """The one that puts it as far behind another as its address is."""
    a, b = image.segments[to], image.segments[index]
    shift = a.offset + shifts[to] + b.vaddr - a.vaddr - b.offset if to in shifts else -1
    if shift < least:
        raise Torn(f"program headers {to} and {index} are further apart in the file than in memory")
    return shift
