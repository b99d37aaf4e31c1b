"""pagecache.load_memory: the memory that a file is loaded into. In: sizes, a descriptor. Out: Piece, an OSError.

Every piece begins at the same offset into a huge page as its part of the file does, so that a folio of that size can be
one mapping. Whoever makes a piece gives it back, or hands it to a `Memory` (native/py_load.c), which does.
"""

import ctypes
import mmap
import os
from typing import NamedTuple

from elfolio.errors import InvalidArgument
from elfolio.layout.hugepages import BLOCKS
from elfolio.memory import Buffer
from elfolio.span import Span, round_down, round_up

__all__ = [
    "HUGE",
    "Piece",
    "advise_huge",
    "anonymous",
    "borrowed",
    "discard",
    "file_mapping",
    "populate_write",
    "trim",
]

HUGE = BLOCKS[mmap.PAGESIZE][1]
"""Bytes of a huge page."""
_NONE, _READ, _READ_WRITE = 0, 1, 3
_FIXED, _NORESERVE = 0x10, 0x4000
_HUGEPAGE, _NOHUGEPAGE, _POPULATE_WRITE = 14, 15, 23
_FAILED = ctypes.c_void_p(-1).value
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Piece(NamedTuple):
    """A mapping; what was asked for begins `skip` bytes into it."""

    base: int
    room: int
    skip: int
    length: int
    keep: memoryview | None = None
    """Of a piece that is lent: what keeps its owner from giving it back."""

    @property
    def address(self) -> int:
        """Of what was asked for."""
        return self.base + self.skip

    def writable(self) -> memoryview:
        """All of it, from `base` on. It must not outlive the piece."""
        return memoryview((ctypes.c_char * self.room).from_address(self.base)).cast("B")


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _map(at: int, size: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    address: int | None = _libc.mmap(at or None, size, prot, flags, fd, offset)
    if address is None or address == _FAILED:
        raise _error()
    return address


def _room(size: int, into: int) -> int:
    """Address space without access for `size` bytes, which begins `into` bytes into a huge page."""
    whole = size + HUGE
    begin = _map(0, whole, _NONE, _ANONYMOUS | _NORESERVE)
    at = begin + (into - begin) % HUGE
    if at > begin:
        _libc.munmap(begin, at - begin)
    if at + size < begin + whole:
        _libc.munmap(at + size, begin + whole - at - size)
    return at


def file_mapping(fd: int, part: Span) -> Piece:
    """Of a part of a file, for reading; nothing behind the page of its last byte is mapped."""
    start = round_down(part.start, mmap.PAGESIZE)
    size = round_up(part.end, mmap.PAGESIZE) - start
    at = _room(size, start % HUGE)
    try:
        _map(at, size, _READ, mmap.MAP_PRIVATE | _FIXED, fd, start)
    except OSError:
        _libc.munmap(at, size)
        raise
    return Piece(at, size, part.start - start, part.size)


def anonymous(part: Span, alignment: int) -> Piece:
    """Memory for a part of a file, rounded outwards to `alignment`, on huge pages if there are any."""
    alignment = max(alignment, mmap.PAGESIZE)
    start = round_down(part.start, alignment)
    size = max(round_up(part.end, alignment) - start, mmap.PAGESIZE)
    piece = Piece(_room(size, 0), size, part.start - start, part.size)
    try:
        _map(piece.base, size, _READ_WRITE, _ANONYMOUS | _FIXED)
    except OSError:
        discard(piece)
        raise
    _libc.madvise(piece.base, size, _HUGEPAGE)  # EINVAL: a kernel without huge pages
    return piece


def borrowed(buffer: Buffer, part: Span, alignment: int) -> Piece:
    """As `anonymous`, of a buffer, which cannot grow or close until all of it is gone. Raises InvalidArgument for one
    that is too small."""
    alignment = max(alignment, mmap.PAGESIZE)
    start = round_down(part.start, alignment)
    # Direct reads need an aligned address too: a small buffer begins at any page.
    first = round_up(buffer.address, alignment)
    size = round_up(part.end, alignment) - start
    lost = first - buffer.address
    if lost + size > round_up(len(buffer), mmap.PAGESIZE):
        raise InvalidArgument(f"a buffer of {len(buffer)} bytes is too small: {lost + size} are needed")
    # All of it: advice for a part would make two mappings of it, which mremap cannot grow as one (EFAULT).
    _libc.madvise(buffer.address, round_up(len(buffer), mmap.PAGESIZE), _HUGEPAGE)
    return Piece(first, max(size, mmap.PAGESIZE), part.start - start, part.size, buffer.view())


def discard(piece: Piece) -> None:
    """Gives it back, to its owner if it is lent: an error that still refers to it must not keep the buffer open."""
    if piece.keep is None:
        _libc.munmap(piece.base, piece.room)
    else:
        piece.keep.release()


def advise_huge(piece: Piece, start: int = 0, *, on: bool = True) -> None:
    """From then on, faults from `start` on read whole huge pages of the file into one folio each
    (do_sync_mmap_readahead, mm/filemap.c, 5.18), or no longer do. Raises OSError: EINVAL where the kernel has no
    transparent huge pages."""
    if _libc.madvise(piece.base + start, piece.room - start, _HUGEPAGE if on else _NOHUGEPAGE):
        raise _error()


def populate_write(at: int, size: int) -> None:
    """Allocates memory of this process. Raises OSError: ENOMEM, EINVAL before 5.14."""
    if _libc.madvise(at, size, _POPULATE_WRITE):
        raise _error()


def trim(piece: Piece, size: int) -> Piece | None:
    """Gives back the first `size` bytes; what is left, or None."""
    _libc.munmap(piece.base, size)
    rest = piece.room - size
    return Piece(piece.base + size, rest, 0, rest) if rest else None
