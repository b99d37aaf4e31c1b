"""kernel.real_check: how far the simulation was from a real machine. In: nothing. Out: the last check, as data.

bench/fragment.py fragments memory on purpose, loads a file, and writes what came of it here.
"""

from typing import NamedTuple

__all__ = ["GROUPS", "LAST", "Held", "RealCheck"]

GROUPS = (("4K", 0, 0), ("8-32K", 1, 3), ("64K-1M", 4, 8), ("2M", 9, 10))
"""Names of groups of orders, first and last."""


class Held(NamedTuple):
    """One level of fragmentation, and the file's shares by GROUPS."""

    whole: float
    """Free blocks of 2 MiB, in parts of what the file needs."""
    order: int
    """Of the pieces that were free elsewhere."""
    pinned: float
    """Share of held page blocks with a page that cannot be moved."""
    got: tuple[float, ...]
    simulated: tuple[float, ...]

    @property
    def off(self) -> float:
        """The largest difference of a group."""
        return max(abs(a - b) for a, b in zip(self.got, self.simulated, strict=True))


class RealCheck(NamedTuple):
    """A file of 1 GiB loaded with MADV_HUGEPAGE into memory that was fragmented on purpose."""

    machine: str
    date: str
    levels: tuple[Held, ...]

    @property
    def off(self) -> float:
        """The largest difference of all; 0 without levels."""
        return max((level.off for level in self.levels), default=0.0)


LAST = RealCheck("", "", ())
