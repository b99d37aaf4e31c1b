"""pagecache.load_job: what is to be loaded. In: a descriptor, a range. Out: Job, and the errors of all strategies."""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from elfolio import _native
from elfolio.live.available import available
from elfolio.live.cached import cachestat, look
from elfolio.memory import Buffer
from elfolio.pagecache.load_memory import Piece, discard
from elfolio.span import Span

__all__ = ["Job", "cached_bytes", "cut_short", "kept", "scarce"]

_OVERLAYFS = 0x794C7630
"""OVERLAYFS_SUPER_MAGIC (include/uapi/linux/magic.h)."""


_TRIFLE = 16 << 20
"""Bytes below which nobody asks what is available."""
_SPARE = 0.9
"""Of the memory that is available, what a load may take."""


@dataclass
class Job:
    """What is to be loaded, and what came of it so far."""

    path: str
    fd: int
    part: Span
    tell: Callable[[int], None] = lambda done: None
    """Told the bytes that are there; what it raises ends the load."""
    how: str = ""
    why: list[str] = field(default_factory=list)
    limit: int | None = None
    """Bytes that may be read beforehand; a mapping of more is read on demand."""
    huge: tuple[int, int] = (0, 0)
    """Whole huge pages of a mapping that were filled, and those of them that one entry maps."""
    into: Buffer | None = None
    """Where a copy is to be put; None: into memory of its own."""


def cached_bytes(fd: int, part: Span) -> int | None:
    """How much of it is in the page cache; None where that is hidden. An overlay's own file has no pages for cachestat
    to count: what its mapping has is asked there, and before 6.5."""
    if not part.size:
        return 0
    told = None if _native.file_system(fd) == _OVERLAYFS else cachestat(fd, part.start, part.size)
    if told is None:
        try:
            found = look(fd, part.start, part.size).cached
        except OSError:
            return None
    else:
        found = told.cached * mmap.PAGESIZE
    return None if found is None else min(found, part.size)


def scarce(size: int) -> int | None:
    """What a load may take of the memory that is available; None where `size` is less."""
    room = available() if size >= _TRIFLE else None
    return None if room is None or size <= room * _SPARE else int(room * _SPARE)


def cut_short(job: Job) -> OSError:
    """The file has fewer bytes than when it was opened, or than its size says, as files of /sys."""
    now = os.fstat(job.fd).st_size
    if now >= job.part.end:
        return OSError(errno.ESTALE, f"its size is {now} bytes, and it gives fewer: read it to its end", job.path)
    said = f"it has been cut short to {now} bytes meanwhile, and is not loaded; try again"
    return OSError(errno.ESTALE, said, job.path)


@contextmanager
def kept(piece: Piece) -> Iterator[Piece]:
    """Given back if what follows fails."""
    try:
        yield piece
    except BaseException:
        discard(piece)
        raise
