"""pagecache.load_mapped: strategies whose memory is the page cache itself. In: a Job. Out: a Piece, or OSError."""

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress

from elfolio import _native
from elfolio.live.counters import vmstat
from elfolio.live.hideable import hideable
from elfolio.pagecache.load_job import Job, cut_short, kept
from elfolio.pagecache.load_memory import HUGE, Piece, advise_huge, file_mapping
from elfolio.span import round_down, round_up

__all__ = ["by_mmap", "by_readahead", "is_hugetlb", "watched"]

_STEP = 32 << 20
"""Bytes between two looks at signals and the progress."""
_AHEAD, _ADVISED = 8 << 20, 128 << 10
_FAILED = 2
"""Compactions that failed, after which no huge folios are asked for."""
_HUGETLBFS = 0x958458F6


def is_hugetlb(fd: int) -> bool:
    """A file of hugetlbfs: its mappings are longer than what was asked for, up to its own page size."""
    return _native.file_system(fd) == _HUGETLBFS


def by_mmap(job: Job) -> Piece:
    """The page cache itself, in the largest folios that it gives."""
    with kept(_file_mapping(job)) as piece:
        with suppress(OSError):  # a kernel without huge pages
            advise_huge(piece)
        _fill(job, piece, 0, piece.room)
        job.how = "MADV_HUGEPAGE, MADV_POPULATE_READ"
        return piece


def watched(job: Job) -> Piece:
    """As by_mmap, until compaction is seen to fail for it. Then each huge folio that is asked for costs a stall, and
    the reclaim that follows takes away what was just loaded: small ones, which ask for neither, are faster."""
    was = _failures()

    def is_in_vain() -> bool:
        whole, huge = job.huge
        return huge < whole and _failures() - was >= _FAILED

    with kept(_file_mapping(job)) as piece:
        with suppress(OSError):
            advise_huge(piece)
        done = _fill(job, piece, 0, piece.room, is_in_vain)
        job.how = "MADV_HUGEPAGE, MADV_POPULATE_READ"
        if done < piece.room:
            advise_huge(piece, done, on=False)
            _fill_ahead(job, piece, done)
            job.how += f"; from {done >> 20} MiB on by POSIX_FADV_WILLNEED"
            job.why.append("the kernel failed to make huge pages for it: the rest was read into small ones")
        return piece


def by_readahead(job: Job) -> Piece:
    """The page cache itself, in the smallest folios."""
    with kept(_file_mapping(job)) as piece:
        _fill_ahead(job, piece, 0)
        job.how = f"POSIX_FADV_WILLNEED, {_AHEAD >> 20} MiB ahead, MADV_POPULATE_READ"
        return piece


def _fill_ahead(job: Job, piece: Piece, start: int) -> None:
    """While a part is mapped, the next one is read."""
    end = piece.room if job.limit is None else min(piece.room, piece.skip + job.limit)
    _will_need(job, piece, start, min(end, start + _AHEAD))
    for at in range(start, end, _AHEAD):
        stop = min(end, at + _AHEAD)
        _will_need(job, piece, stop, min(end, stop + _AHEAD))
        _fill(job, piece, at, stop)


def _will_need(job: Job, piece: Piece, start: int, end: int) -> None:
    """The kernel reads no more for one call than the larger of read_ahead_kb and max_sectors_kb."""
    for at in range(start, end, _ADVISED):
        os.posix_fadvise(job.fd, job.part.start - piece.skip + at, min(_ADVISED, end - at), os.POSIX_FADV_WILLNEED)


def _file_mapping(job: Job) -> Piece:
    if is_hugetlb(job.fd):
        raise OSError(errno.EOPNOTSUPP, "a file of hugetlbfs is not mapped; the strategy read copies it", job.path)
    try:
        return file_mapping(job.fd, job.part)
    except OSError as error:
        if error.errno == errno.ENODEV:
            said = "its file system maps no files; the strategy read copies it"
            raise OSError(errno.EOPNOTSUPP, said, job.path) from error
        raise OSError(error.errno, error.strerror, job.path) from error


def _fill(job: Job, piece: Piece, start: int, end: int, is_enough: Callable[[], bool] = lambda: False) -> int:
    """Reads and maps a part of the piece, as far as the job's limit, or until it is enough; counts what lies on huge
    pages. Where it stopped: at `end` also for the limit."""
    at, last = start, end if job.limit is None else min(end, piece.skip + job.limit)
    with ExitStack() as stack:
        pagemap = hideable(stack, "/proc/self/pagemap")
        while at < last:
            # Steps end between huge pages: one that is cut in two would be counted as none.
            stop = min(last, round_down(piece.base + at + _STEP, HUGE) - piece.base)
            whole, huge = _populate(job, piece.base + at, stop - at, pagemap)
            if pagemap >= 0:
                job.huge = (job.huge[0] + whole, job.huge[1] + huge)
            job.tell(min(max(stop - piece.skip, 0), job.part.size))
            at = stop
            if at < last and is_enough():
                return at
    return end


def _failures() -> int:
    """How often, on the whole machine, a caller compacted memory in vain."""
    return vmstat().get("compact_fail", 0)


def _populate(job: Job, address: int, size: int, pagemap: int) -> tuple[int, int]:
    while True:
        try:
            return _native.populate(address, round_up(size, mmap.PAGESIZE), HUGE, pagemap)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.EAGAIN):
                continue
            if error.errno == errno.EFAULT:
                raise _fault(job) from error
            if error.errno == errno.EINVAL:
                raise OSError(errno.EOPNOTSUPP, "MADV_POPULATE_READ needs Linux 5.14", job.path) from error
            raise OSError(error.errno, error.strerror, job.path) from error


def _fault(job: Job) -> OSError:
    """What a load would have been SIGBUS for: a file that has become shorter, or a disk that fails (EIO)."""
    if os.fstat(job.fd).st_size < job.part.end:
        return cut_short(job)
    return OSError(errno.EIO, "its file system cannot read it", job.path)
