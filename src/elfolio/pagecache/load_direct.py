"""pagecache.load_direct: O_DIRECT, several requests in flight. In: a Job. Out: a Piece, or OSError.

The kernel writes into the memory of a request until it has ended: whoever is interrupted waits for that first.
"""

import errno
import os
import threading
from collections.abc import Callable

from elfolio import _native
from elfolio.pagecache.load_align import direct_alignment
from elfolio.pagecache.load_copied import room_for
from elfolio.pagecache.load_job import Job, cached_bytes, cut_short, kept
from elfolio.pagecache.load_memory import Piece
from elfolio.span import Span

__all__ = ["by_direct"]

_REQUEST, _DEPTH, _THREADS = 1 << 20, 8, 4


def by_direct(job: Job) -> Piece:
    """Past the page cache."""
    try:
        alignment = direct_alignment(job.fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, job.path) from error
    before = cached_bytes(job.fd, job.part)
    try:
        fd = os.open(f"/proc/self/fd/{job.fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"no direct reads of it: {error.strerror}", job.path) from error
    try:
        with kept(room_for(job, alignment)) as piece:
            _read_direct(job, fd, piece)
    finally:
        os.close(fd)
    after = cached_bytes(job.fd, job.part)
    if before is not None and after is not None and after - before > job.part.size // 8:
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
        if _by_ring(fd, piece, start, end, tell):
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


def _by_ring(fd: int, piece: Piece, start: int, end: int, tell: Callable[[int], None]) -> bool:
    """False where this process may have no ring, or where it failed it: reads that cannot be sent at once are handed to
    threads of the kernel, and while signals come one after the other these cannot be made (io_uring/io-wq.c gives up
    after three attempts: ECANCELED)."""
    try:
        return _native.ring_read(fd, piece.base, start, piece.room, end, _REQUEST, _DEPTH, tell)
    except OSError as error:
        if error.errno != errno.ECANCELED:
            raise
        return False


class _Threads:
    """Reads the pieces in turn, several at once. What goes wrong in one ends all."""

    def __init__(self, job: Job, fd: int, piece: Piece, tell: Callable[[int], None]) -> None:
        self._fd, self._tell = fd, tell
        self._start, self._end = job.part.start - piece.skip, piece.skip + job.part.size
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
