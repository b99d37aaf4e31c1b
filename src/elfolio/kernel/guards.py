"""kernel.guards: guard markers (MADV_GUARD_INSTALL) as ranges. In: what happens to pages. Out: where touching faults.

Markers are page-table entries and no property of a mapping: they survive splits and merges, move with mremap, are
copied by fork, and go with the mapping.
"""

from bisect import bisect_right
from typing import TYPE_CHECKING

from elfolio.kernel.vmflags import VmFlags

if TYPE_CHECKING:
    from elfolio.kernel.areas import Area
    from elfolio.kernel.mm import Mm

__all__ = ["Guards"]

_WIPEONFORK = int(VmFlags.WIPEONFORK)


class Guards:
    """A Watcher. Ranges in bytes, ascending, apart."""

    def __init__(self, ranges: list[tuple[int, int]] | None = None) -> None:
        self.ranges = ranges if ranges is not None else []

    def first_guard(self, start: int, end: int) -> int:
        """The first guarded address of a range; its end where there is none."""
        at = bisect_right(self.ranges, (start, 1 << 64)) - 1
        if at >= 0 and self.ranges[at][1] > start:
            return start
        if at + 1 < len(self.ranges) and self.ranges[at + 1][0] < end:
            return self.ranges[at + 1][0]
        return end

    def guarded(self, start: int, end: int, install: bool) -> None:
        """Markers put into a range, or taken out of it."""
        kept = _without(self.ranges, start, end)
        self.ranges = sorted([*kept, (start, end)]) if install else kept

    def touched(self, mm: "Mm", area: "Area", start: int, end: int, write: bool) -> None:
        """Nothing: what is guarded faults before."""

    def unmapped(self, mm: "Mm", start: int, end: int) -> None:
        """They go."""
        if self.ranges:
            self.ranges = _without(self.ranges, start, end)

    def moved(self, mm: "Mm", source: "Area", target: "Area", old: int, new: int, length: int, keep: bool) -> None:
        """They move."""
        here = [(max(a, old), min(b, old + length)) for a, b in self.ranges if a < old + length and old < b]
        rest = _without(self.ranges, old, old + length)
        self.ranges = sorted(rest + [(a - old + new, b - old + new) for a, b in here])

    def dropped(self, mm: "Mm", area: "Area", start: int, end: int) -> None:
        """Nothing: giving pages back leaves markers alone."""

    def forked(self, parent: "Mm", child: "Mm") -> "Guards":
        """The child has them, but for what is wiped or not copied."""
        ranges = []
        for area in child.areas:
            if not area.flags & _WIPEONFORK:
                ranges += [
                    (max(a, area.start), min(b, area.end)) for a, b in self.ranges if a < area.end and area.start < b
                ]
        return Guards(ranges)


def _without(ranges: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    kept = []
    for a, b in ranges:
        if b <= start or end <= a:
            kept.append((a, b))
            continue
        if a < start:
            kept.append((a, start))
        if end < b:
            kept.append((end, b))
    return kept
