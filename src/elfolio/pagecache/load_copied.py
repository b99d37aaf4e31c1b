"""pagecache.load_copied: strategies that copy through the page cache. In: a Job. Out: a Piece, or OSError."""

import errno
import mmap
import os

from elfolio.pagecache.load_job import Job, cut_short, kept, scarce
from elfolio.pagecache.load_memory import Piece, anonymous, borrowed

__all__ = ["by_read", "by_uncached", "room_for"]

_READ = 8 << 20
_DONTCACHE = 0x80
"""RWF_DONTCACHE (include/uapi/linux/fs.h)."""


def by_read(job: Job) -> Piece:
    """Through the page cache, into huge pages."""
    return _plainly(job, 0)


def by_uncached(job: Job) -> Piece:
    """Through the page cache, which drops it at once."""
    return _plainly(job, _DONTCACHE)


def _plainly(job: Job, flags: int) -> Piece:
    with kept(room_for(job, mmap.PAGESIZE)) as piece:
        _read_into(job, piece, flags)
        job.how = f"preadv of {_READ >> 20} MiB"
        return piece


def room_for(job: Job, alignment: int) -> Piece:
    """Where the copy goes. Raises OSError: ENOMEM where it would swap other memory out, or itself; InvalidArgument for
    a buffer that is too small."""
    if job.into is not None:
        return borrowed(job.into, job.part, alignment)
    if (room := scarce(job.part.size)) is not None:
        said = f"a copy takes {job.part.size} bytes, and {room} can be had; the strategy mmap needs none"
        raise OSError(errno.ENOMEM, said, job.path)
    return anonymous(job.part, alignment)


def _read_into(job: Job, piece: Piece, flags: int) -> None:
    at, start, end = 0, job.part.start - piece.skip, piece.skip + job.part.size
    with piece.writable() as memory:
        while at < end:
            with memory[at : min(at + _READ, end)] as room:
                count = _preadv(job, room, start + at, flags)
            if not count:
                raise cut_short(job)
            at += count
            job.tell(max(at - piece.skip, 0))


def _preadv(job: Job, room: memoryview, at: int, flags: int) -> int:
    try:
        return os.preadv(job.fd, [room], at, flags)
    except OSError as error:
        if flags and error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            said = "uncached reads (RWF_DONTCACHE) need Linux 6.14, and a file system that has them: ext4, xfs"
            raise OSError(errno.EOPNOTSUPP, said, job.path) from error
        raise OSError(error.errno, error.strerror, job.path) from error
