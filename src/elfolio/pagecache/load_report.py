"""pagecache.load_report: what a load cost. In: two looks at the counters. Out: LoadReport."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from elfolio.live.counters import DeviceLimits, device_limits, device_reads, free_by_order, vmstat

__all__ = ["LoadReport", "Meter", "Strategy"]


class Strategy(StrEnum):
    """How a file comes into memory."""

    AUTO = "auto"
    """Looks, and takes one of the others."""
    MMAP = "mmap"
    """Mapped, MADV_HUGEPAGE before anything is touched, then MADV_POPULATE_READ: the page cache itself."""
    READ = "read"
    """read() into a buffer of huge pages."""
    READAHEAD = "readahead"
    """Mapped, posix_fadvise(WILLNEED) piece by piece, then MADV_POPULATE_READ: for comparison; the kernel takes its
    smallest folios for it."""
    DIRECT = "direct"
    """O_DIRECT into a buffer of huge pages, several requests in flight, by io_uring where it is allowed, else by
    threads: the page cache is left as it is."""
    UNCACHED = "uncached"
    """read() with RWF_DONTCACHE (6.14), into a buffer of huge pages: the page cache keeps nothing of it."""


_COUNTERS = {
    "huge page faults that got none": ("thp_fault_fallback", "thp_file_fallback"),
    "stalls for compaction": ("compact_stall",),
    "compactions that failed": ("compact_fail",),
    "stalls for reclaim": ("allocstall_dma", "allocstall_dma32", "allocstall_normal", "allocstall_movable"),
    "pages reclaimed by callers": ("pgsteal_direct",),
    "pages moved": ("pgmigrate_success",),
    "pages swapped out": ("pswpout",),
}
"""What /proc/vmstat calls them."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One load. Sizes in bytes, times in seconds. `pressure`, `free_*`, `requests` are the whole machine's, and hold
    what others did meanwhile."""

    path: str
    offset: int
    length: int
    asked: Strategy
    strategy: Strategy
    """What was used."""
    how: str
    """With what: `io_uring, 8 in flight`, ..."""
    why: tuple[str, ...]
    """What was found, and what followed from it."""
    cached_before: int | None
    """None where it is hidden."""
    seconds: float
    processor: float
    """User and system time of this process, all its threads."""
    minor_faults: int
    major_faults: int
    pressure: dict[str, int]
    """What went badly for allocations: by name, only what is above 0."""
    free_before: dict[int, int] | None
    """Free blocks by order; None where they are hidden."""
    free_after: dict[int, int] | None
    device: DeviceLimits | None
    requests: int | None
    """Read requests that the device finished meanwhile."""
    transferred: int | None
    """Bytes that it read."""

    @property
    def rate(self) -> float:
        """GB (10**9 bytes) a second."""
        return self.length / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def processor_per_gb(self) -> float:
        """Processor seconds a GB (10**9 bytes)."""
        return self.processor * 1e9 / self.length if self.length else 0.0


class Meter:
    """Counters, read when it is made, and again by `report`."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._free, self._counts = free_by_order(), vmstat()
        self._reads = device_reads(device)
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._began = time.monotonic()

    def report(
        self, path: str, offset: int, length: int, asked: Strategy, strategy: Strategy, how: str, why: Sequence[str],
        cached: int | None,
    ) -> LoadReport:  # fmt: skip
        """The time ends here."""
        seconds = time.monotonic() - self._began
        was, now = self._usage, resource.getrusage(resource.RUSAGE_SELF)
        reads = device_reads(self._device)
        requests, bytes_read = _grown(self._reads, reads)
        return LoadReport(
            path, offset, length, asked, strategy, how, tuple(why), cached, seconds,
            now.ru_utime + now.ru_stime - was.ru_utime - was.ru_stime,
            now.ru_minflt - was.ru_minflt, now.ru_majflt - was.ru_majflt,
            self._pressure(vmstat()), self._free, free_by_order(), device_limits(self._device), requests, bytes_read,
        )  # fmt: skip

    def _pressure(self, now: dict[str, int]) -> dict[str, int]:
        grown = {
            said: sum(now.get(name, 0) - self._counts.get(name, 0) for name in names)
            for said, names in _COUNTERS.items()
        }
        return {said: count for said, count in grown.items() if count > 0}


def _grown(was: tuple[int, int] | None, now: tuple[int, int] | None) -> tuple[int | None, int | None]:
    return (now[0] - was[0], now[1] - was[1]) if was and now else (None, None)
