"""pagecache.load_report: what a load cost. In: two looks at the counters. Out: LoadReport.

The machine's counters are looked at only where something is read or copied: mapping a MiB that is cached takes less
time than they do, and moves none of them.
"""

import os
import resource
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from elfolio.live.cached import look, open_quietly
from elfolio.live.counters import DeviceLimits, block_device, device_limits, device_reads, free_by_order, vmstat
from elfolio.pagecache.load_job import Job

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
    """Mapped, posix_fadvise(WILLNEED) some MiB ahead, then MADV_POPULATE_READ: the kernel takes its smallest folios for
    it, and so waits for no compaction."""
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


@dataclass(frozen=True)
class LoadReport:
    """One load. Sizes in bytes, times in seconds. `pressure`, `free_*`, `requests` are the whole machine's, and hold
    what others did meanwhile; where all was cached, and only mapped, they are not looked at: empty, and None."""

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
    blocks: int | None
    """Whole huge pages that a mapping was filled with; None of copies, and where the page table is hidden."""
    huge_blocks: int | None
    """Those of them that one entry maps: they lie in one folio each."""
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
    identity: tuple[int, int]
    """The file's device and inode."""

    @property
    def rate(self) -> float:
        """GB (10**9 bytes) a second."""
        return self.length / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def processor_per_gb(self) -> float:
        """Processor seconds a GB (10**9 bytes)."""
        return self.processor * 1e9 / self.length if self.length else 0.0

    @cached_property
    def orders(self) -> dict[int, int] | None:
        """Bytes of this part of the file in the page cache, by the order of their folios, as they were when this was
        first asked for: it takes milliseconds. None where that is hidden, or the path leads to another file by now."""
        return self.orders_now()

    def orders_now(self) -> dict[int, int] | None:
        """`orders`, looked at again."""
        try:
            with open_quietly(self.path) as fd:
                now = os.fstat(fd)
                found = look(fd, self.offset, self.length) if (now.st_dev, now.st_ino) == self.identity else None
        except OSError:
            return None
        return None if found is None or found.runs is None else found.orders()


class Meter:
    """Time and processor from when it is made to `report`; the machine's counters from `look` on, if that is called."""

    def __init__(self) -> None:
        self._usage, self._began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        self._free: dict[int, int] | None = None
        self._counts: dict[str, int] | None = None
        self._reads: tuple[int, int] | None = None
        self._device = 0

    def look(self, fd: int) -> None:
        """Of the device under an open file, too."""
        self._free, self._counts = free_by_order(), vmstat()
        self._device = block_device(fd)
        self._reads = device_reads(self._device)

    def report(self, job: Job, asked: Strategy, strategy: Strategy, cached: int | None) -> LoadReport:
        """The time ends here."""
        seconds = time.monotonic() - self._began
        was, now = self._usage, resource.getrusage(resource.RUSAGE_SELF)
        looked = self._counts is not None
        requests, bytes_read = _grown(self._reads, device_reads(self._device) if looked else None)
        blocks, huge = job.huge if job.huge[0] else (None, None)
        status = os.fstat(job.fd)
        return LoadReport(
            job.path, job.part.start, job.part.size, asked, strategy, job.how, tuple(job.why), cached, seconds,
            now.ru_utime + now.ru_stime - was.ru_utime - was.ru_stime,
            now.ru_minflt - was.ru_minflt, now.ru_majflt - was.ru_majflt, blocks, huge,
            self._pressure(vmstat()) if looked else {}, self._free, free_by_order() if looked else None,
            device_limits(self._device) if looked else None, requests, bytes_read, (status.st_dev, status.st_ino),
        )  # fmt: skip

    def _pressure(self, now: dict[str, int]) -> dict[str, int]:
        counts = self._counts or {}
        grown = {
            said: sum(now.get(name, 0) - counts.get(name, 0) for name in names) for said, names in _COUNTERS.items()
        }
        return {said: count for said, count in grown.items() if count > 0}


def _grown(was: tuple[int, int] | None, now: tuple[int, int] | None) -> tuple[int | None, int | None]:
    return (now[0] - was[0], now[1] - was[1]) if was and now else (None, None)
