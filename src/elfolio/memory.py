"""memory: large buffers that the kernel can move by whole page tables. In: sizes, addresses. Out: Buffer, addresses.

mremap moves a table of 2 MiB (on x86-64) as one entry, and a directory of 1 GiB as one, only where source and
destination have the same offset in it; else it moves every page by itself, 512 for each table (move_page_tables,
mm/mremap.c). Left to itself the kernel takes the highest gap, and agrees with the source by chance. So the destination
is chosen here. It acts on this process's own memory and reads nothing of the machine.
"""

import ctypes
import operator
import os
import sys
import weakref
from types import TracebackType
from typing import NoReturn

from elfolio.errors import InvalidArgument
from elfolio.span import round_up

__all__ = ["Buffer", "grow"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TABLE = _PAGE * (_PAGE // 8)
"""PMD_SIZE: an entry has 8 bytes on every 64-bit architecture, and a table fills a page."""
_DIRECTORY = _TABLE * (_PAGE // 8)
"""PUD_SIZE."""

_NONE, _READ_WRITE = 0, 3
_PRIVATE_ANONYMOUS, _FIXED, _NORESERVE = 0x22, 0x10, 0x4000
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)


def grow(address: int, old: int, new: int, *, move: bool = False) -> int:
    """Makes the private anonymous mapping at `address`, `old` bytes, `new` bytes long: where it is if there is room and
    `move` is not set, else in a place to which whole page tables can be moved. The new address; pointers to the old one
    are void if it differs. Errors are mremap's (OSError): EINVAL for an address inside a page, no length, or a number
    that is no address, EFAULT for memory that is not mapped, EAGAIN beyond RLIMIT_MEMLOCK, ENOMEM, EPERM for sealed
    memory."""
    address, old, new = (_word(number) for number in (address, old, new))
    if not move:
        at = _mremap(address, old, new, 0)
        if at is not None:
            return at
    length = round_up(new, _PAGE)
    if length > old and not _is_granted(length - old):
        raise OSError(12, os.strerror(12))
    for unit in (_DIRECTORY, _TABLE):
        if unit <= length and (to := _reserve(length, unit, address % unit)) is not None:
            # Should it fail all the same, the room stays reserved: the kernel may have given it up before, and another
            # thread may have memory there since.
            return _required(_mremap(address, old, new, _MREMAP_MAYMOVE | _MREMAP_FIXED, to))
    return _required(_mremap(address, old, new, _MREMAP_MAYMOVE))


def _word(number: int) -> int:
    # ctypes would take the lower 64 bits of a larger one, and a text's own address.
    value = operator.index(number)
    if not 0 <= value <= sys.maxsize:
        raise InvalidArgument(f"{value:#x} is no address or size of memory")
    return value


def _mremap(address: int, old: int, new: int, flags: int, to: int = 0) -> int | None:
    """None for ENOMEM, which may mean no more than that there is no room."""
    at: int = _libc.mremap(address, old, new, flags, to)
    if at != _FAILED:
        return at
    number = ctypes.get_errno()
    if number == 12:
        return None
    raise OSError(number, os.strerror(number))


def _required(at: int | None) -> int:
    if at is None:
        raise OSError(12, os.strerror(12))
    return at


def _is_granted(size: int) -> bool:
    """Whether the kernel would let this process have so much more memory (__vm_enough_memory): asked before room is
    reserved that could not be given back."""
    at: int = _libc.mmap(None, size, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    if at == _FAILED:
        return False
    _libc.munmap(at, size)
    return True


def _reserve(length: int, unit: int, offset: int) -> int | None:
    """Room for `length` bytes that begins `offset` into a unit, without access or cost. Below it all is given back down
    to the boundary and further: only where nothing else is mapped in its first table can a move begin at the table's
    boundary (can_realign_addr, from 6.7). None where the address space or a limit has no room for that much."""
    whole = length + unit
    begin: int = _libc.mmap(None, whole, _NONE, _PRIVATE_ANONYMOUS | _NORESERVE, -1, 0)
    if begin == _FAILED:
        return None
    at = begin + (offset - begin) % unit
    if at > begin:
        _libc.munmap(begin, at - begin)
    if at + length < begin + whole:
        _libc.munmap(at + length, begin + whole - at - length)
    return at


def _allocate(length: int) -> int:
    """At a boundary of the largest unit that it fills, where there is room."""
    for unit in (_DIRECTORY, _TABLE):
        if unit <= length and (to := _reserve(length, unit, 0)) is not None:
            break
    else:
        to = 0
    fixed = _FIXED if to else 0
    at: int = _libc.mmap(to or None, length, _READ_WRITE, _PRIVATE_ANONYMOUS | fixed, -1, 0)
    if at == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return at


class Buffer:
    """Zeroed memory of this process that can grow without being copied.

    Raises InvalidArgument (EINVAL) for a size below 1, OSError (ENOMEM) where the kernel has no memory. It cannot be
    copied or pickled: two that own one piece of memory would each give it back.
    """

    def __init__(self, size: int) -> None:
        self._views: weakref.WeakValueDictionary[int, ctypes.Array[ctypes.c_char]] = weakref.WeakValueDictionary()
        self._address = 0
        self._size = _checked(size)
        self._address = _allocate(round_up(self._size, _PAGE))

    def __repr__(self) -> str:
        return f"<Buffer of {self._size} bytes at {self._address:#x}>" if self._address else "<Buffer, closed>"

    def __len__(self) -> int:
        return self._size

    @property
    def address(self) -> int:
        """Where it begins until it grows. ValueError once it is closed."""
        if not self._address:
            raise ValueError("the buffer is closed")
        return self._address

    def view(self) -> memoryview:
        """All of it, writable, as bytes. While it or what was made of it lives, the buffer neither grows nor closes."""
        array = (ctypes.c_char * self._size).from_address(self.address)
        array.owner = self  # type: ignore[attr-defined]  # memory must outlive its views
        self._views[id(array)] = array
        return memoryview(array).cast("B")

    def grow(self, size: int) -> None:
        """Makes it `size` bytes long: what was there stays, what is new is zero. BufferError while a view lives;
        InvalidArgument (EINVAL) for less than it has; ValueError once it is closed; OSError (ENOMEM), and then it is as
        it was."""
        size, address = _checked(size), self.address
        if size < self._size:
            raise InvalidArgument(f"a buffer of {self._size} bytes cannot grow to {size}")
        self._refuse_views()
        old, new = (round_up(n, _PAGE) for n in (self._size, size))
        if new > old:
            self._address = grow(address, old, new)
        self._size = size

    def close(self) -> None:
        """Gives the memory back; again, nothing. BufferError while a view lives."""
        self._refuse_views()
        address, self._address = self._address, 0
        if address:
            _libc.munmap(address, round_up(self._size, _PAGE))

    def _refuse_views(self) -> None:
        if self._views:
            raise BufferError("a view of the buffer lives: release it, and what was made of it")

    def __enter__(self) -> "Buffer":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._address and not self._views:  # as the interpreter ends, views may go after it
            self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Buffer owns memory of this process: it cannot be copied or pickled")


def _checked(size: int) -> int:
    value = operator.index(size)
    if value < 1:
        raise InvalidArgument(f"a buffer has at least 1 byte, not {value}")
    if value > sys.maxsize - _DIRECTORY:
        raise OSError(12, os.strerror(12))
    return value
