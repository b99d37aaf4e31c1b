"""pagecache.load_ways: each strategy of a load. In: a Job. Out: a Piece with the file's bytes, or OSError.

A way that fails, or is interrupted, has given back its memory and ended its requests before it raises.
"""

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from elfolio import _native
from elfolio.live.cached import cachestat
from elfolio.live.counters import available
from elfolio.pagecache.load_align import direct_alignment
from elfolio.pagecache.load_memory import (
    HUGE,
    Piece,
    advise_huge,
    anonymous,
    discard,
    file_mapping,
    forget,
    is_present,
    own,
    populate,
)
from elfolio.pagecache.load_report import Strategy
from elfolio.span import Span, round_up

__all__ = ["WAYS", "Job", "by_read", "cut_short", "is_hugetlb", "mapped", "watched"]

_STEP = 32 << 20
"""Bytes between two looks at signals and the progress, where the kernel is asked for more than one request."""
_READ = 8 << 20
_REQUEST, _DEPTH, _THREADS = 1 << 20, 8, 4
_WATCH, _SAMPLED = 128 << 20, 16 << 20
"""Bytes after which it is decided whether huge folios still come, and of which the first one is looked at."""
_SAMPLES = 8
_SMALL = (
    "it is cached in folios smaller than a huge page: mapping it costs more, and so does each access; to mend it for "
    "later loads: elfolio warm --whole --force"
)
_HUGETLBFS = 0x958458F6
_DONTCACHE = 0x80
"""RWF_DONTCACHE (include/uapi/linux/fs.h)."""


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


def cut_short(job: Job) -> OSError:
    """The file has fewer bytes than when it was opened."""
    now = os.fstat(job.fd).st_size
    said = f"it has been cut short to {now} bytes meanwhile, and is not loaded; try again"
    return OSError(errno.ESTALE, said, job.path)


def is_hugetlb(fd: int) -> bool:
    """A file of hugetlbfs: its mappings are longer than what was asked for, up to its own page size."""
    return _native.file_system(fd) == _HUGETLBFS


def _file_mapping(job: Job) -> Piece:
    if is_hugetlb(job.fd):
        raise OSError(errno.EOPNOTSUPP, "a file of hugetlbfs is not mapped; the strategy read copies it", job.path)
    return file_mapping(job.fd, job.part)


@contextmanager
def _kept(piece: Piece) -> Iterator[Piece]:
    """Given back if what follows fails."""
    try:
        yield piece
    except BaseException:
        discard(piece)
        raise


def by_mmap(job: Job) -> Piece:
    """The page cache itself, in the largest folios that it gives."""
    with _kept(_file_mapping(job)) as piece:
        with suppress(OSError):  # a kernel without huge pages
            advise_huge(piece)
        _populate_all(job, piece)
        job.how = "MADV_HUGEPAGE, MADV_POPULATE_READ"
        return piece


def mapped(job: Job) -> Piece:
    """What is cached already, whatever folios it has. Where these are small, it is said."""
    piece = by_mmap(job)
    with _kept(piece), suppress(PermissionError), open("/proc/self/pagemap", "rb", 0) as pagemap:
        blocks = [block.start for block in Span(piece.base, piece.base + piece.room).whole_blocks(HUGE).blocks(HUGE)]
        chosen = blocks[:: max(1, len(blocks) // _SAMPLES)]
        advise_huge(piece)
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
    faults that find no huge folio are slower than read()."""
    with _kept(_file_mapping(job)) as piece:
        with suppress(OSError):
            advise_huge(piece)
        done = _populate_watched(job, piece)
        job.how = "MADV_HUGEPAGE, MADV_POPULATE_READ"
        if done < piece.room:
            own(piece, done, piece.room - done, huge=False)
            start = job.part.start - piece.skip
            _read_into(job, piece, start, done)
            job.how += f"; the last {piece.room - done} bytes by read()"
            job.why.append(f"no huge folios were left after {done >> 20} MiB: the rest was read into small pages")
        return piece


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


def by_readahead(job: Job) -> Piece:
    """For comparison."""
    with _kept(_file_mapping(job)) as piece:
        for at in range(0, piece.room, _READ):
            os.posix_fadvise(job.fd, job.part.start - piece.skip + at, _READ, os.POSIX_FADV_WILLNEED)
            _populate_steps(job, piece, at, min(piece.room, at + _READ))
        job.how = "POSIX_FADV_WILLNEED in pieces of 8 MiB, MADV_POPULATE_READ"
        return piece


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


def by_read(job: Job) -> Piece:
    """Through the page cache, into huge pages."""
    return _plainly(job, 0, huge=True)


def by_uncached(job: Job) -> Piece:
    """Through the page cache, which drops it at once."""
    return _plainly(job, _DONTCACHE, huge=True)


def _check_room(job: Job) -> None:
    """A copy that swaps other memory out, or this, is slower than a mapping read on demand."""
    room = available()
    if room is not None and job.part.size > room:
        said = f"a copy takes {job.part.size} bytes, and {room} are available; the strategy mmap needs none"
        raise OSError(errno.ENOMEM, said, job.path)


def _plainly(job: Job, flags: int, *, huge: bool) -> Piece:
    _check_room(job)
    with _kept(anonymous(job.part, mmap.PAGESIZE, huge=huge)) as piece:
        _read_into(job, piece, job.part.start - piece.skip, 0, flags)
        job.how = f"preadv of {_READ >> 20} MiB"
        return piece


def _read_into(job: Job, piece: Piece, start: int, at: int, flags: int = 0) -> None:
    """From the offset `at` in the piece on, whose first byte is the file's byte `start`."""
    end = piece.skip + job.part.size
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


def by_direct(job: Job) -> Piece:
    """Past the page cache."""
    _check_room(job)
    alignment = direct_alignment(job.fd)
    before = cachestat(job.fd, job.part.start, job.part.size)
    try:
        fd = os.open(f"/proc/self/fd/{job.fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"no direct reads of it: {error.strerror}", job.path) from error
    try:
        with _kept(anonymous(job.part, alignment)) as piece:
            _read_direct(job, fd, piece)
    finally:
        os.close(fd)
    after = cachestat(job.fd, job.part.start, job.part.size)
    if before and after and (after.cached - before.cached) * mmap.PAGESIZE > job.part.size // 8:
        job.why.append("the file system read it through the page cache all the same (direct reads fell back)")
    return piece


def _read_direct(job: Job, fd: int, piece: Piece) -> None:
    start, end = job.part.start - piece.skip, piece.skip + job.part.size
    raised: list[BaseException] = []

    def tell(done: int) -> None:
        try:
            job.tell(max(min(done - piece.skip, job.part.size), 0))
        except BaseException as error:  # the caller's own: it is passed on as it is
            raised.append(error)
            raise

    try:
        if _native.ring_read(fd, piece.base, start, piece.room, end, _REQUEST, _DEPTH, tell):
            job.how = f"O_DIRECT, io_uring, {_DEPTH} of {_REQUEST >> 20} MiB in flight"
            return
        _Threads(job, fd, piece, tell).run()
        job.how = f"O_DIRECT, {_THREADS} threads"
    except OSError as error:
        if error in raised:
            raise
        if error.errno == errno.ESTALE:
            raise cut_short(job) from error
        raise OSError(error.errno, error.strerror, job.path) from error


class _Threads:
    """Reads the pieces in turn, several at once. What goes wrong in one ends all."""

    def __init__(self, job: Job, fd: int, piece: Piece, tell: Callable[[int], None]) -> None:
        self._fd, self._tell = fd, tell
        self._start, self._end = job.part.start - piece.skip, piece.skip + job.part.size
        self._room = round_up(self._end, mmap.PAGESIZE)
        self._piece, self._lock = piece, threading.Lock()
        self._next = self._done = 0
        self._error: BaseException | None = None
        self._changed = threading.Event()

    def run(self) -> None:
        """The caller's thread hears signals, and tells of the progress; memory is free again only once all have
        ended."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_THREADS)]
        started: list[threading.Thread] = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
            while any(thread.is_alive() for thread in threads) and self._error is None:
                self._changed.wait(0.05)
                self._changed.clear()
                self._tell(self._done)
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            _join(started)
        if self._error is not None:
            raise self._error
        self._tell(self._done)

    def _work(self) -> None:
        try:
            with self._piece.writable() as memory:
                while self._error is None and (span := self._take()).size:
                    self._read(memory, span)
        except BaseException as error:
            self._error = self._error or error
        self._changed.set()

    def _take(self) -> Span:
        with self._lock:
            start = min(self._next, self._piece.room)
            self._next = min(start + 4 * _REQUEST, self._piece.room)
            return Span(start, self._next)

    def _read(self, memory: memoryview, span: Span) -> None:
        at = span.start
        while at < min(span.end, self._end):
            with memory[at : span.end] as room:
                count = os.preadv(self._fd, [room], self._start + at)
            if not count:
                raise OSError(errno.ESTALE, "cut short")
            at += count
        with self._lock:
            self._done += at - span.start
        self._changed.set()


def _join(threads: list[threading.Thread]) -> None:
    """Also while ^C is pressed again: the kernel still writes into the memory."""
    interrupted: KeyboardInterrupt | None = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                interrupted = error
    if interrupted is not None:
        raise interrupted


WAYS: dict[Strategy, Callable[[Job], Piece]] = {
    Strategy.MMAP: by_mmap,
    Strategy.READ: by_read,
    Strategy.READAHEAD: by_readahead,
    Strategy.DIRECT: by_direct,
    Strategy.UNCACHED: by_uncached,
}
"""By name."""
