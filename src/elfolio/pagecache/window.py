"""pagecache.window: reads a file in the largest folios there are. In: a descriptor, blocks. Out: they are cached.

A fault through a mapping with MADV_HUGEPAGE reads the whole block around it into one folio (do_sync_mmap_readahead, in
mm/filemap.c), where plain reads and readahead give folios of 4 to 64 KiB. What is in the page cache already keeps its
folio: it is dropped before, which the kernel does with pages that are clean and that nobody has mapped. Where a kernel
collapses pages of files, MADV_COLLAPSE makes a folio of what is there, mapped or not.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable
from types import TracebackType

from elfolio.span import Span, round_up

__all__ = ["Window", "drop"]

_PROT_NONE, _MAP_FIXED = 0, 0x10
_MADV_HUGEPAGE, _MADV_POPULATE_READ, _MADV_COLLAPSE = 14, 22, 25
_FAILED = ctypes.c_void_p(-1).value


def _functions() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def drop(fd: int, blocks: Iterable[Span]) -> None:
    """Takes out of the page cache what is clean and mapped by nobody; needs no privilege."""
    for block in blocks:
        os.posix_fadvise(fd, block.start, block.size, os.POSIX_FADV_DONTNEED)


class Window:
    """A private mapping of a file from its beginning, at a multiple of `huge` bytes, so that a folio of that size can
    be one mapping. `executable` is what kernels before 6.8 ask for before they collapse. Raises OSError: EACCES, EPERM
    for an executable one of a file on a file system that is mounted noexec."""

    def __init__(self, fd: int, size: int, huge: int, *, executable: bool = False) -> None:
        self._libc = _functions()
        self.huge, self._size = huge, size
        self._room = self._map(None, size + huge, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        prot = mmap.PROT_READ | (mmap.PROT_EXEC if executable else 0)
        try:
            self.address = self._map(round_up(self._room, huge), size, prot, mmap.MAP_PRIVATE | _MAP_FIXED, fd)
        except OSError:
            self._libc.munmap(self._room, size + huge)
            raise

    def _map(self, at: int | None, size: int, prot: int, flags: int, fd: int) -> int:
        address: int | None = self._libc.mmap(at, size, prot, flags, fd, 0)
        if address is None or address == _FAILED:
            raise _error()
        return address

    def __enter__(self) -> "Window":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._libc.munmap(self._room, self._size + self.huge)

    def read(self, blocks: Iterable[Span]) -> None:
        """Reads what is not cached of each block, into as few folios as can be had. Raises OSError: EINVAL where the
        kernel has no transparent huge pages, EFAULT for a file that has been cut short (loads would be SIGBUS), EIO."""
        self._advise(Span(0, self._size), _MADV_HUGEPAGE)
        for block in blocks:
            self._advise(Span(block.start, block.start + 1), _MADV_POPULATE_READ)

    def forget(self) -> None:
        """Unmaps the pages, and keeps the place: what this process has mapped cannot be dropped either."""
        self._advise(Span(0, self._size), mmap.MADV_DONTNEED)

    def collapse(self, blocks: Iterable[Span]) -> int:
        """Makes one folio of each block, whatever it is in; the errno of the last that could not be, or 0. EINVAL: this
        kernel does not for this file system, or somebody has the file open for writing."""
        last = 0
        for block in blocks:
            # The first attempt at a block that only another process has mapped is EINVAL: tried on 6.1.
            number = self._collapse(block) and self._collapse(block)
            last = number or last
        return last

    def _collapse(self, block: Span) -> int:
        try:
            self._advise(block, _MADV_COLLAPSE)
        except OSError as error:
            return error.errno or errno.EINVAL
        return 0

    def _advise(self, block: Span, advice: int) -> None:
        if self._libc.madvise(self.address + block.start, block.size, advice):
            raise _error()

    def huge_blocks(self, blocks: Iterable[Span]) -> frozenset[Span] | None:
        """Those that are one mapping each, of blocks that have been read and not touched otherwise; needs no privilege.
        A fault maps pages around it, 64 KiB at most: if the block's last page has come to be mapped with its first one,
        both are in one folio, mapped by one entry. None where the process may not read its own page table, as after a
        change of its user without an exec."""
        try:
            with open("/proc/self/pagemap", "rb", 0) as pagemap:
                return frozenset(block for block in blocks if self._is_present(pagemap.fileno(), block.end - 1))
        except PermissionError:
            return None

    def _is_present(self, pagemap: int, offset: int) -> bool:
        entry = os.pread(pagemap, 8, (self.address + offset) // mmap.PAGESIZE * 8)
        return int.from_bytes(entry, "little") >> 63 == 1


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
