"""pagecache.load: a large file in memory, on the largest pages that can be had. In: a path. Out: LoadedFile."""

import errno
import mmap
import operator
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn, Self

from elfolio import _native
from elfolio.errors import InvalidArgument
from elfolio.live.cached import open_quietly
from elfolio.memory import Buffer
from elfolio.pagecache.load_auto import choose
from elfolio.pagecache.load_job import Job, cached_bytes, cut_short, kept, scarce
from elfolio.pagecache.load_memory import Piece, anonymous
from elfolio.pagecache.load_report import LoadReport, Meter, Strategy
from elfolio.pagecache.load_ways import COPIES, WAYS
from elfolio.pagecache.reserve import release_for
from elfolio.span import Span

__all__ = ["LoadReport", "LoadedFile", "Progress", "Strategy", "load"]

_SMALL = (
    "it is cached in folios smaller than a huge page: mapping it costs more, and so does each access; to mend it for "
    "later loads: elfolio warm --whole --force"
)
_NONE_CAME = (
    "{} of {} huge pages came in smaller folios: its file system gives none so large, or no block of that size was free"
)
Progress = Callable[[int, int], object]
"""Called with the bytes that are there, and all; what it raises ends the load, and frees everything."""


class LoadedFile(_native.Memory):
    """The bytes of a file, read-only: `memoryview(it)`, `numpy.frombuffer(it, ...)`, `torch.frombuffer(it, ...)` are
    views, without a copy. The memory lives until the last view is gone, or `close`, which refuses (BufferError) while
    one lives.

    After the strategies mmap and readahead it is the page cache itself: who cuts the file short later makes a
    load from it SIGBUS, as of any mapping, and who writes to the file changes it. read, direct and uncached copy.
    """

    report: LoadReport
    """What it cost."""

    def __new__(cls, piece: Piece, report: LoadReport) -> Self:
        self = super().__new__(cls, *piece)
        self.report = report
        return self

    def __repr__(self) -> str:
        state = "" if self.address else ", closed"
        return f"<LoadedFile {self.report.path!r}, {len(self)} bytes{state}>"

    def view(self) -> memoryview:
        """All of it."""
        return memoryview(self)

    def orders(self) -> dict[int, int] | None:
        """Bytes of the file's part in the page cache by the order of their folios, as they are now (`report.orders`
        keeps the first look). None where that is hidden, or the path leads to another file by now."""
        return self.report.orders_now()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LoadedFile owns memory of this process: it cannot be copied or pickled")


def load(
    path: str | bytes | os.PathLike[str],
    *,
    strategy: str = "auto",
    offset: int = 0,
    length: int | None = None,
    progress: Progress | None = None,
    into: Buffer | None = None,
) -> LoadedFile:
    """Loads `length` bytes from `offset` on, or to the end as it is now; a file that grows meanwhile is loaded up to
    there. `progress` is called with the bytes that are there and all; what it raises ends the load.
    `into` takes the bytes, in place of memory of their own: a buffer that has been used before costs no faults. It has
    room for the file rounded up to whole pages, and two more where the range does not begin at one.

    Raises InvalidArgument for a range beyond the file, an unknown strategy, a buffer that is too small or for which the
    strategy makes no copy; and OSError with the path: ESTALE where the file becomes shorter meanwhile, EIO, ENOMEM
    where a copy would have no memory, EOPNOTSUPP where this file cannot be loaded by the strategy that was named.
    """
    meter = Meter()
    name, asked = os.fsdecode(path), _strategy(strategy)
    if into is not None and asked not in (*COPIES, Strategy.AUTO):
        raise InvalidArgument(f"the strategy {asked} makes no copy: there is nothing to put into a buffer")
    offset, length = operator.index(offset), None if length is None else operator.index(length)
    with _opened(name) as fd:
        job = Job(name, fd, _part(fd, name, offset, length), into=into)
        if progress is not None:
            job.tell = lambda done: _ignore(progress(done, job.part.size))
        cached = cached_bytes(fd, job.part)
        if asked in COPIES or into is not None or cached is None or cached < job.part.size:
            meter.look(fd)
            _make_room(job, asked, job.part.size - (cached or 0))
        used, piece = _loaded(job, asked, cached)
        with kept(piece):
            if os.fstat(fd).st_size < job.part.end:
                raise cut_short(job)
            if used is Strategy.MMAP:
                _remark(job, cached)
            return LoadedFile(piece, meter.report(job, asked, used, cached))


def _make_room(job: Job, asked: Strategy, missing: int) -> None:
    """Takes what is missing out of reservations; and of a mapping, reads no more beforehand than there is memory for:
    beyond that the kernel gives up its first pages for its last ones."""
    if job.into is not None:
        return
    if gone := release_for(job.part.size if asked in COPIES else missing):
        job.why.append(f"{gone >> 20} MiB that were reserved were given back for it")
    if asked not in COPIES and (room := scarce(missing)) is not None:
        job.limit = room
        job.why.append(f"{room >> 20} MiB are read beforehand, which is what memory there is; the rest on demand")


def _remark(job: Job, cached: int | None) -> None:
    """Where huge folios did not come."""
    whole, huge = job.huge
    if huge * 2 < whole:
        job.why.append(_SMALL if cached == job.part.size else _NONE_CAME.format(whole - huge, whole))


def _ignore(value: object) -> None:
    """A progress may return anything."""


def _strategy(name: str) -> Strategy:
    try:
        return Strategy(name)
    except ValueError:
        known = ", ".join(one.value for one in Strategy)
        raise InvalidArgument(f"no strategy {name!r}; there are {known}") from None


@contextmanager
def _opened(path: str) -> Iterator[int]:
    with open_quietly(path) as fd:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        yield fd


def _part(fd: int, path: str, offset: int, length: int | None) -> Span:
    size = os.fstat(fd).st_size
    if size == 0 and os.pread(fd, 1, 0):
        raise OSError(errno.EINVAL, "it has no size, as files of /proc have none: read it", path)
    end = size if length is None else offset + length
    if offset < 0 or (length is not None and length < 0) or offset > size or end > size:
        raise InvalidArgument(f"{path} has {size} bytes: there are no {end - offset} from {offset} on")
    return Span(offset, end)


def _loaded(job: Job, asked: Strategy, cached: int | None) -> tuple[Strategy, Piece]:
    if not job.part.size:
        job.how = "nothing to read"
        return Strategy.READ, anonymous(Span(0, 0), mmap.PAGESIZE)
    if asked is not Strategy.AUTO:
        job.why.append("it was asked for")
        return asked, WAYS[asked](job)
    used, way = choose(job, cached)
    try:
        return used, way(job)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP or used is Strategy.READ:
            raise
        job.why.append(f"{error.strerror}: read instead")
        return Strategy.READ, WAYS[Strategy.READ](job)
