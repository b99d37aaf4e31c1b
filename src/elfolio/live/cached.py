"""live.cached: a file's folios in the page cache. In: an open file. Out: CachedFile, or OSError.

Looking must not change what it looks at: nothing is read from the disk, and no folio counts as used afterwards. So
mincore says what is cached, only that is touched, through a mapping that is there for a moment (native/folio_file.c),
and a page's frame number, which its page table has, leads to its folio (/proc/self/pagemap, /proc/kpageflags). What is
evicted between the question and the touch is read again, that page alone.

Who may see what: mincore and (from 6.14) cachestat answer to the file's owner and to those who may write to it; before
6.14 cachestat answers to all, and mincore tells others, always, that all is cached. Frame numbers are root's; without
them folios are seen that are as large as a huge page, because those are mapped by one entry (PAGEMAP_SCAN, 6.7).
"""

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from elfolio import _native
from elfolio.kernel.folio import Kind, Run, bytes_by_order, joined, unpack_runs
from elfolio.layout.hugepages import BLOCKS
from elfolio.live.hideable import hideable
from elfolio.span import round_down, round_up

__all__ = ["CacheStat", "CachedFile", "Progress", "cachestat", "look", "open_quietly"]

_BATCH = 1 << 16
"""FOLIO_BATCH (native/folios.h), in pages: no folio lies in two."""
_LARGE = 16 << 30
"""Bytes above which cachestat, which is fast over what is not cached, is asked before mincore."""
_HUGETLBFS = 0x958458F6
_OVERLAYFS = 0x794C7630
"""HUGETLBFS_MAGIC, OVERLAYFS_SUPER_MAGIC (include/uapi/linux/magic.h)."""

Progress = Callable[[int, int], object]
"""Called with the bytes that have been looked at, and all."""


@dataclass(frozen=True)
class CachedFile:
    """What the page cache has of a part of a file. In bytes where nothing else is said."""

    size: int
    """Of the whole file."""
    start: int
    length: int
    """The part that was looked at: from `start`, a multiple of the page size, at most to the file's end."""
    page: int
    cached: int | None
    """Whole pages; None where it is hidden."""
    dirty: int | None
    writeback: int | None
    runs: tuple[Run, ...] | None
    """What is cached, in the file's order; orders are UNSEEN where frames are hidden. None where not even that can be
    told."""
    how: tuple[str, ...]
    """Which of the kernel's answers it rests on."""
    hidden: str = ""
    """What could not be seen, why, and who could; empty if all was."""

    def orders(self) -> dict[int, int]:
        """Bytes by the order of their folios, ascending; UNSEEN (-1) for those that cannot be seen. Empty where runs
        are None."""
        return bytes_by_order(self.runs or (), self.page)

    @cached_property
    def folios(self) -> dict[int, int]:
        """How many folios of each order."""
        counts: dict[int, int] = {}
        for run in self.runs or ():
            counts[run.order] = counts.get(run.order, 0) + run.folios
        return dict(sorted(counts.items()))


class CacheStat(NamedTuple):
    """cachestat(2). In pages; a large folio counts with all of its."""

    cached: int
    dirty: int
    writeback: int
    evicted: int
    recently_evicted: int


def cachestat(fd: int, start: int = 0, length: int = 0) -> CacheStat | None:
    """Of a range of bytes, to the file's end where `length` is 0; None where the kernel has no such call (before 6.5),
    where the file system has no such pages (hugetlbfs), and where the caller may not know (from 6.14)."""
    try:
        return CacheStat(*_native.cache_stat(fd, start, length))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return None
        raise


@contextmanager
def open_quietly(path: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor for reading that leaves the access time alone where the caller may (its owner, root), waits for no
    writer of a FIFO, and is closed behind. Raises OSError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def look(fd: int, start: int = 0, length: int | None = None, *, progress: Progress | None = None) -> CachedFile:
    """The folios behind a file open for reading, from `start`, rounded down to a page, over `length` bytes.

    What lies behind the file's end is left out; a file that becomes shorter meanwhile has fewer pages. mmap sets the
    access time, where the mount keeps one: open_quietly avoids that. Raises OSError: EISDIR, EINVAL for what is no
    regular file, ENODEV for one without a page cache, as in /proc.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        is_directory = stat.S_ISDIR(status.st_mode)
        raise OSError(*((errno.EISDIR, "a directory") if is_directory else (errno.EINVAL, "not a regular file")))
    if _native.file_system(fd) == _HUGETLBFS:
        return _hugetlb(status)
    truthful = _is_truthful(fd, status.st_size)
    page, size = mmap.PAGESIZE, status.st_size
    start = min(round_down(start, page), round_up(size, page))
    end = size if length is None else min(start + length, size)
    if end <= start:
        return CachedFile(size, start, 0, page, 0, 0, 0, (), ("stat",))
    part = _Part(fd, start, end - start)
    return _seen(part, size, progress) if truthful else _unseen(part, size)


def _is_truthful(fd: int, size: int) -> bool:
    try:
        return _native.mincore_truthful(fd, size)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EIO):  # the second of files in /proc (proc_reg_mmap, fs/proc/inode.c)
            raise OSError(errno.ENODEV, "it has no page cache") from error
        raise


class _Part(NamedTuple):
    fd: int
    start: int
    length: int

    def told(self) -> CacheStat | None:
        """It walks over every page: asked where it is needed. An overlayfs's own file has none (cachestat says 0)."""
        if _native.file_system(self.fd) == _OVERLAYFS:
            return None
        return cachestat(self.fd, self.start, self.length)

    @property
    def pages(self) -> tuple[int, int]:
        """The first, and the one behind the last."""
        return self.start // mmap.PAGESIZE, -(-(self.start + self.length) // mmap.PAGESIZE)


def _unseen(part: _Part, size: int) -> CachedFile:
    """Somebody else's file."""
    page, told = mmap.PAGESIZE, part.told()
    counts = (None, None, None) if told is None else tuple(count * page for count in told[:3])
    how = () if told is None else ("cachestat",)
    hidden = "what is cached: only the file's owner, who may write to it, and root are told (mincore, cachestat)"
    if told is not None:
        hidden = (
            "where it is cached, and in which folios: only the file's owner, who may write to it, and root are told"
        )
    return CachedFile(size, part.start, part.length, page, counts[0], counts[1], counts[2], None, how, hidden)


def _seen(part: _Part, size: int, progress: Progress | None) -> CachedFile:
    page, found = mmap.PAGESIZE, _Found()
    runs = tuple(joined(_runs(part, found, progress)))
    how = ["mincore", "pagemap"] if found.pagemap else ["mincore"]
    dirty: int | None = None
    writeback: int | None = None
    if not found.hidden:
        how.append("kpageflags")
        dirty, writeback = (_bytes(runs, kind) for kind in (Kind.DIRTY, Kind.WRITEBACK))
    elif (told := part.told()) is not None:
        how.append("cachestat")
        dirty, writeback = told.dirty * page, told.writeback * page
    hidden = ""
    if not found.pagemap:
        hidden = "the orders of folios: /proc/self/pagemap cannot be opened"
    elif found.hidden:
        seen = "below a huge page's" if found.has_scan else "(and of huge pages: from Linux 6.7)"
        hidden = f"the orders of folios {seen}: frame numbers are root's (CAP_SYS_ADMIN, for pagemap)"
        how += ["PAGEMAP_SCAN"] if found.has_scan else []
    return CachedFile(
        size, part.start, part.length, page, found.cached * page, dirty, writeback, runs, tuple(how), hidden
    )


def _bytes(runs: tuple[Run, ...], kind: Kind) -> int:
    return sum(run.pages for run in runs if run.kind & kind) * mmap.PAGESIZE


@dataclass
class _Found:
    cached: int = 0
    """Pages."""
    has_scan: bool = True
    hidden: bool = False
    pagemap: bool = True


def _runs(part: _Part, found: _Found, progress: Progress | None) -> Iterator[Run]:
    """Batch by batch: memory stays bounded, and a signal is heard."""
    page = mmap.PAGESIZE
    pmd = BLOCKS[page][1] // page
    at, last = part.pages
    with ExitStack() as stack:
        pagemap = hideable(stack, "/proc/self/pagemap")
        kpageflags = hideable(stack, "/proc/kpageflags")
        told = part.told() if part.length > _LARGE else None
        is_sparse = told is not None and told.cached < (last - at) // 2
        found.pagemap, found.hidden = pagemap >= 0, kpageflags < 0
        while at < last:
            stop = min(last, round_down(at, _BATCH) + _BATCH)
            if not (is_sparse and _is_empty(part.fd, at, stop)):
                packed, cached, has_scan, hidden = _native.file_folios(part.fd, pagemap, kpageflags, pmd, at, stop - at)
                found.cached += cached
                found.has_scan = found.has_scan and bool(has_scan)
                found.hidden = found.hidden or bool(hidden)
                yield from unpack_runs(packed)
            at = stop
            if progress is not None:
                progress(min(at * page - part.start, part.length), part.length)


def _is_empty(fd: int, first: int, last: int) -> bool:
    """Whether cachestat spares the question to mincore."""
    told = cachestat(fd, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)
    return told is not None and not told.cached


def _hugetlb(status: os.stat_result) -> CachedFile:
    """All its pages are of one size, none is dirty or ever written, and a page that is looked at is allocated."""
    page, huge, cached = mmap.PAGESIZE, status.st_blksize, status.st_blocks * 512
    order = (huge // page).bit_length() - 1
    whole = cached >= status.st_size
    run = Run(0, status.st_size // page, order, Kind.FILE | Kind.HUGETLB, status.st_size // huge)
    runs = ((run,) if run.pages else ()) if whole else None
    hidden = (
        "" if whole else f"where they lie: {cached // huge} pages of {huge >> 10} KiB are allocated, none is looked for"
    )
    return CachedFile(status.st_size, 0, status.st_size, page, cached, 0, 0, runs, ("stat",), hidden)
