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


LAST = RealCheck(
    "Linux 6.18.44, 23.5 GiB",
    "2026-11-22",
    (
        Held(0.7, 3, 1.0, (0.23, 0.0, 0.0, 0.77), (0.261, 0.0, 0.0, 0.739)),
        Held(0.45, 5, 1.0, (0.326, 0.0, 0.0, 0.674), (0.328, 0.0, 0.0, 0.672)),
        Held(0.2, 1, 0.95, (0.062, 0.0, 0.0, 0.938), (0.185, 0.0, 0.0, 0.815)),
        Held(0.05, 7, 1.0, (0.074, 0.0, 0.0, 0.926), (0.298, 0.0, 0.0, 0.702)),
        Held(0.0, 2, 0.98, (0.139, 0.0, 0.0, 0.861), (0.117, 0.0, 0.0, 0.883)),
    ),
)
