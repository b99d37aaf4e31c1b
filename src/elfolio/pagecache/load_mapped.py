"""pagecache.load_mapped: strategies whose memory is the page cache itself. In: a Job. Out: a Piece, or OSError."""

import errno
import mmap
import os
from contextlib import ExitStack, suppress

from elfolio import _native
from elfolio.live.hideable import hideable
from elfolio.pagecache.load_job import Job, cut_short, kept
from elfolio.pagecache.load_memory import HUGE, Piece, advise_huge, file_mapping
from elfolio.span import round_up

__all__ = ["by_mmap", "by_readahead", "is_hugetlb"]

_STEP = 32 << 20
"""Bytes between two looks at signals and the progress."""
_AHEAD = 8 << 20
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


def by_readahead(job: Job) -> Piece:
    """For comparison."""
    with kept(_file_mapping(job)) as piece:
        for at in range(0, piece.room, _AHEAD):
            os.posix_fadvise(job.fd, job.part.start - piece.skip + at, _AHEAD, os.POSIX_FADV_WILLNEED)
            _fill(job, piece, at, min(piece.room, at + _AHEAD))
        job.how = "POSIX_FADV_WILLNEED in pieces of 8 MiB, MADV_POPULATE_READ"
        return piece


def _file_mapping(job: Job) -> Piece:
    if is_hugetlb(job.fd):
        raise OSError(errno.EOPNOTSUPP, "a file of hugetlbfs is not mapped; the strategy read copies it", job.path)
    return file_mapping(job.fd, job.part)


def _fill(job: Job, piece: Piece, start: int, end: int) -> None:
    """Reads and maps a part of the piece, as far as the job's limit, and counts what lies on huge pages."""
    end = end if job.limit is None else min(end, piece.skip + job.limit)
    with ExitStack() as stack:
        pagemap = hideable(stack, "/proc/self/pagemap")
        for at in range(start, end, _STEP):
            stop = min(end, at + _STEP)
            whole, huge = _populate(job, piece.base + at, stop - at, pagemap)
            if pagemap >= 0:
                job.huge = (job.huge[0] + whole, job.huge[1] + huge)
            job.tell(min(max(stop - piece.skip, 0), job.part.size))


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
