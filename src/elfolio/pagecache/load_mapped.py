"""pagecache.load_mapped: strategies whose memory is the page cache itself. In: a Job. Out: a Piece, or OSError."""

import errno
import os
from contextlib import suppress

from elfolio import _native
from elfolio.pagecache.load_copied import read_into
from elfolio.pagecache.load_job import Job, cut_short, kept
from elfolio.pagecache.load_memory import HUGE, Piece, advise_huge, file_mapping, forget, is_present, own, populate
from elfolio.span import Span

__all__ = ["by_mmap", "by_readahead", "is_hugetlb", "mapped", "watched"]

_STEP = 32 << 20
"""Bytes between two looks at signals and the progress."""
_AHEAD = 8 << 20
_WATCH, _SAMPLED = 128 << 20, 16 << 20
"""Bytes after which it is decided whether huge folios still come, and of which the first one is looked at."""
_SAMPLES = 8
_SMALL = (
    "it is cached in folios smaller than a huge page: mapping it costs more, and so does each access; to mend it for "
    "later loads: elfolio warm --whole --force"
)
_HUGETLBFS = 0x958458F6


def is_hugetlb(fd: int) -> bool:
    """A file of hugetlbfs: its mappings are longer than what was asked for, up to its own page size."""
    return _native.file_system(fd) == _HUGETLBFS


def by_mmap(job: Job) -> Piece:
    """The page cache itself, in the largest folios that it gives."""
    with kept(_file_mapping(job)) as piece:
        with suppress(OSError):  # a kernel without huge pages
            advise_huge(piece)
        _populate_all(job, piece)
        job.how = "MADV_HUGEPAGE, MADV_POPULATE_READ"
        return piece


def mapped(job: Job) -> Piece:
    """What is cached already, whatever folios it has. Where these are small, it is said."""
    piece = by_mmap(job)
    with kept(piece), suppress(PermissionError), open("/proc/self/pagemap", "rb", 0) as pagemap:
        blocks = [block.start for block in Span(piece.base, piece.base + piece.room).whole_blocks(HUGE).blocks(HUGE)]
        chosen = blocks[:: max(1, len(blocks) // _SAMPLES)]
        # Unmapped for a moment: then one touch tells whether one entry maps the block.
        huge = 0
        for block in chosen:
            forget(block, HUGE)
            _populate(job, block, 1)
            huge += is_present(pagemap.fileno(), block + HUGE - 1)
            _populate(job, block, HUGE)
        if huge * 2 < len(chosen):
            job.why.append(_SMALL)
    return piece


def watched(job: Job) -> Piece:
    """As by_mmap, but once huge folios run out the rest is read into memory of this process, in the same mapping:
    faults that find no huge folio gave 0.7 to 1.1 GB/s where huge ones gave 2.6."""
    with kept(_file_mapping(job)) as piece:
        with suppress(OSError):
            advise_huge(piece)
        done = _populate_watched(job, piece)
        job.how = "MADV_HUGEPAGE, MADV_POPULATE_READ"
        if done < piece.room:
            own(piece, done, piece.room - done, huge=False)
            start = job.part.start - piece.skip
            read_into(job, piece, start, done)
            job.how += f"; the last {piece.room - done} bytes by read()"
            job.why.append(f"no huge folios were left after {done >> 20} MiB: the rest was read into small pages")
        return piece


def by_readahead(job: Job) -> Piece:
    """For comparison."""
    with kept(_file_mapping(job)) as piece:
        for at in range(0, piece.room, _AHEAD):
            os.posix_fadvise(job.fd, job.part.start - piece.skip + at, _AHEAD, os.POSIX_FADV_WILLNEED)
            _populate_steps(job, piece, at, min(piece.room, at + _AHEAD))
        job.how = "POSIX_FADV_WILLNEED in pieces of 8 MiB, MADV_POPULATE_READ"
        return piece


def _file_mapping(job: Job) -> Piece:
    if is_hugetlb(job.fd):
        raise OSError(errno.EOPNOTSUPP, "a file of hugetlbfs is not mapped; the strategy read copies it", job.path)
    return file_mapping(job.fd, job.part)


def _populate_watched(job: Job, piece: Piece) -> int:
    """How far it came while there were huge folios."""
    at, end = 0, min(piece.room, piece.skip + _limit(job))
    with open("/proc/self/pagemap", "rb", 0) as pagemap:
        while at < end:
            stop = min(end, at + _WATCH)
            seen = [_sampled(job, piece, pagemap.fileno(), Span(start, min(stop, start + _SAMPLED)))
                    for start in range(at, stop, _SAMPLED)]  # fmt: skip
            at = stop
            known = [one for one in seen if one is not None]
            if known and sum(known) * 2 < len(known) and piece.room - at > _WATCH:
                return at
    return piece.room


def _sampled(job: Job, piece: Piece, pagemap: int, part: Span) -> bool | None:
    """Populates a part of the piece. Whether its first whole huge page came as one mapping: a fault maps no more than
    64 KiB around it, unless one entry maps all. None where there is none."""
    blocks = part.shifted(piece.base).whole_blocks(HUGE)
    found = None
    if blocks.size:
        _populate(job, blocks.start, 1)
        found = is_present(pagemap, blocks.start + HUGE - 1)
    _populate_steps(job, piece, part.start, part.end)
    return found


def _limit(job: Job) -> int:
    return job.part.size if job.limit is None else min(job.limit, job.part.size)


def _populate_all(job: Job, piece: Piece) -> None:
    _populate_steps(job, piece, 0, min(piece.room, piece.skip + _limit(job)))


def _populate_steps(job: Job, piece: Piece, start: int, end: int) -> None:
    for at in range(start, end, _STEP):
        stop = min(end, at + _STEP)
        _populate(job, piece.base + at, stop - at)
        job.tell(min(max(stop - piece.skip, 0), job.part.size))


def _populate(job: Job, address: int, size: int) -> None:
    while True:
        try:
            return populate(address, size)
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
