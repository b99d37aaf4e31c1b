"""span: ranges, page rounding, and a type for each kind of address.

A file offset, a linked address and a mapped address are all integers, and mixing them is the classic ELF bug: so
each has a name of its own for the type checker, and costs nothing at run time.
"""

from collections.abc import Iterator
from typing import NamedTuple, NewType

__all__ = [
    "FileOffset",
    "LinkedAddress",
    "MappedAddress",
    "RelativeAddress",
    "Span",
    "is_power_of_two",
    "round_down",
    "round_up",
]

FileOffset = NewType("FileOffset", int)
"""Bytes from the beginning of a file: p_offset, sh_offset."""
LinkedAddress = NewType("LinkedAddress", int)
"""An address as the linker assigned it: p_vaddr, sh_addr, e_entry, st_value."""
MappedAddress = NewType("MappedAddress", int)
"""An address in a process: a linked address plus the load bias."""
RelativeAddress = NewType("RelativeAddress", int)
"""A mapped address minus its object's lowest one: what two runs with other load biases have in common."""


def is_power_of_two(value: int) -> bool:
    """Whether it is one; 0 is none."""
    return value > 0 and value & (value - 1) == 0


def round_down(value: int, alignment: int) -> int:
    """The largest multiple of `alignment`, any positive number, that is not above `value`."""
    return value // alignment * alignment


def round_up(value: int, alignment: int) -> int:
    """The smallest multiple of `alignment`, any positive number, that is not below `value`."""
    return -(-value // alignment) * alignment


class Span(NamedTuple):
    """The half-open range from `start` up to, not including, `end`; empty where they are equal."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """In bytes; never below 0."""
        return max(0, self.end - self.start)

    def covers(self, position: int) -> bool:
        """Whether `position` lies in it."""
        return self.start <= position < self.end

    def encloses(self, other: "Span") -> bool:
        """Whether all of `other` lies in it."""
        return self.start <= other.start and other.end <= self.end

    def common(self, other: "Span") -> "Span":
        """What both have; an empty span where there is nothing."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.end, other.end)))

    def shifted(self, by: int) -> "Span":
        """The same range, `by` bytes further on."""
        return Span(self.start + by, self.end + by)

    def pages(self, page: int) -> "Span":
        """Rounded outwards: every page that it touches."""
        return Span(round_down(self.start, page), round_up(self.end, page))

    def whole_blocks(self, block: int) -> "Span":
        """Rounded inwards: the aligned blocks that lie in it whole."""
        start = round_up(self.start, block)
        return Span(start, max(start, round_down(self.end, block)))

    def blocks(self, block: int) -> Iterator["Span"]:
        """Each aligned block that it touches, whole."""
        for start in range(round_down(self.start, block), round_up(self.end, block), block):
            yield Span(start, start + block)
