"""layout.modes: which linker options made a file's segments. In: Layout. Out: LinkedAs, with the evidence.

GNU ld, gold, lld and mold each know some of these; the file does not say them, but each leaves its mark on where
one segment begins and the one before it ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from elfolio.elf import constants
from elfolio.layout.segments import WHOLE, Layout
from elfolio.span import is_power_of_two

__all__ = ["Code", "LinkedAs", "Separation", "linked_as", "separation", "usual_align"]

Code = Literal[
    "noseparate-code", "separate-code", "separate-loadable-segments", "nmagic", "omagic", "one segment", "no segment"
]
"""The -z options of ld.lld(1) and ld(1); `-n` and `-N` of ld(1); what is left to say of fewer than two segments."""

_SMALLEST_PAGE = 4096
_WX = constants.PF_W | constants.PF_X


@dataclass(frozen=True, slots=True)
class LinkedAs:
    """What a file's segments look as if they had been linked with."""

    code: Code
    rosegment: bool
    """Read-only data has a segment of its own: --rosegment, or GNU ld with -z separate-code."""
    writable: int
    """RW segments with bytes in the file: lld and mold make two where there is RELRO, GNU ld and gold one."""
    max_page_size: int
    """An estimate: the p_align that most segments have."""
    over_aligned: tuple[int, ...]
    """Program headers, by index, of segments with a larger p_align: a variable's alignment, most often."""
    congruence: int
    """The largest power of two modulo which all addresses equal their offsets; 2 to the 64 where they are the same."""
    evidence: tuple[str, ...]
    """What that was read from, a sentence each."""


class Separation(NamedTuple):
    """The mode, and how many segments' starts said so."""

    code: Code
    at_code: int = 0
    at_code_aligned: int = 0
    others: int = 0
    others_aligned: int = 0


def usual_align(aligns: Sequence[int]) -> int:
    """The p_align that most segments have, the smallest one of several; 1 where none is a power of two. Linkers give
    each segment max-page-size, unless a section in it asks for more."""
    valid = sorted(align for align in aligns if is_power_of_two(align))
    return max(valid, key=valid.count, default=1)


def linked_as(layout: Layout) -> LinkedAs:
    """Reads the mode off the segments that have bytes in the file."""
    loads = [load for load in layout.in_memory if load.segment.filesz]
    largest = usual_align([load.segment.align for load in loads])
    segments = [load.segment for load in loads]
    found = separation([(s.flags, s.offset, s.vaddr) for s in segments], largest)
    over = tuple(x.index for x in layout.in_memory if is_power_of_two(x.segment.align) and x.segment.align > largest)
    readable = [s.perms for s in segments if s.perms == "r--"]
    return LinkedAs(
        code=found.code,
        rosegment=bool(readable),
        writable=sum(load.is_writable for load in loads),
        max_page_size=largest,
        over_aligned=over,
        congruence=layout.congruence,
        evidence=(
            *_evidence(found, largest),
            f"{len(readable)} read-only segments" if readable else "read-only data stands in the executable segment",
            f"p_align is {largest:#x}" + (f", larger in {len(over)}" if over else " in each segment"),
            "each address is its file offset"
            if layout.congruence == WHOLE
            else f"addresses equal file offsets modulo {layout.congruence:#x} at most",
        ),
    )


def separation(starts: Sequence[tuple[int, int, int]], largest: int) -> Separation:
    """From p_flags, p_offset and p_vaddr of the segments that have bytes in the file, by address, and max-page-size.

    What counts are the starts of segments: of those where code begins or ends, and of the others.
    """
    if any(flags & _WX == _WX for flags, _, _ in starts):
        return Separation("omagic")
    if starts and largest < _SMALLEST_PAGE:
        return Separation("nmagic")
    if len(starts) < 2:
        return Separation("one segment" if starts else "no segment")
    counts = [0, 0, 0, 0]
    gnu = False
    before = starts[0][0]
    for flags, offset, vaddr in starts[1:]:
        place = 0 if (before ^ flags) & constants.PF_X else 2
        counts[place] += 1
        counts[place + 1] += (offset | vaddr) & (largest - 1) == 0
        # Read-only data behind code is GNU ld's order and never lld's; GNU ld has no separate-loadable-segments, so
        # that all starts are aligned is chance there.
        gnu = gnu or (place == 0 and flags & _WX == 0)
        before = flags
    if counts[0] != counts[1]:
        return Separation("noseparate-code", *counts)
    if counts[2] and counts[2] == counts[3] and not gnu:
        return Separation("separate-loadable-segments", *counts)
    return Separation("separate-code", *counts)


_SIMPLE: dict[Code, str] = {
    "omagic": "a segment is both writable and executable",
    "nmagic": "segments are aligned to less than a page",
    "one segment": "one segment has bytes in the file",
    "no segment": "no segment has bytes in the file",
}


def _evidence(found: Separation, largest: int) -> tuple[str, ...]:
    if found.code in _SIMPLE:
        return (_SIMPLE[found.code],)
    return (
        f"{found.at_code_aligned} of {found.at_code} segments that begin or follow code start a page of {largest:#x}",
        *([f"{found.others_aligned} of {found.others} of the others do"] if found.others else []),
    )
