"""kernel.guards: guard markers (MADV_GUARD_INSTALL) as ranges. In: what happens to pages. Out: where touching faults.

Markers are page-table entries and no property of a mapping: they survive splits and merges, move with mremap, are
copied by fork, and go with the mapping.
"""

from bisect import bisect_right

__all__ = ["Guards"]


class Guards:
    """Of one address space. Ranges in bytes, ascending, apart."""

    def __init__(self, ranges: list[tuple[int, int]] | None = None) -> None:
        self.ranges = ranges if ranges is not None else []

    def first(self, start: int, end: int) -> int:
        """The first guarded address of a range; its end where there is none."""
        at = bisect_right(self.ranges, (start, 1 << 64)) - 1
        if at >= 0 and self.ranges[at][1] > start:
            return start
        if at + 1 < len(self.ranges) and self.ranges[at + 1][0] < end:
            return self.ranges[at + 1][0]
        return end

    def install(self, start: int, end: int) -> None:
        """Every page of the range gets a marker."""
        self.remove(start, end)
        self.ranges = sorted([*self.ranges, (start, end)])

    def remove(self, start: int, end: int) -> None:
        """No page of the range has one any more: taken away, or unmapped."""
        kept = []
        for low, high in self.ranges:
            if high <= start or end <= low:
                kept.append((low, high))
                continue
            if low < start:
                kept.append((low, start))
            if end < high:
                kept.append((end, high))
        self.ranges = kept

    def move(self, old: int, new: int, length: int) -> None:
        """mremap takes them along."""
        moved = self.within(old, old + length)
        self.remove(old, old + length)
        self.ranges = sorted(self.ranges + [(low - old + new, high - old + new) for low, high in moved])

    def within(self, start: int, end: int) -> list[tuple[int, int]]:
        """Those parts of ranges that lie in another."""
        return [(max(low, start), min(high, end)) for low, high in self.ranges if low < end and start < high]
