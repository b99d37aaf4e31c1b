"""A second reader of the page cache, for the tests: page by page, in Python, with none of the C core's shortcuts."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

PAGE = mmap.PAGESIZE
HEAD, TAIL = 1 << 15, 1 << 16
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


@contextmanager
def mapped(fd: int, size: int, offset: int = 0, at: int | None = None) -> Iterator[int]:
    """The address of a mapping without readahead."""
    address = _LIBC.mmap(at, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
    try:
        assert _LIBC.madvise(address, size, mmap.MADV_RANDOM) == 0
        yield address
    finally:
        _LIBC.munmap(address, size)


def in_core(address: int, size: int) -> list[bool]:
    """mincore(2), a bool for each page."""
    vector = ctypes.create_string_buffer(-(-size // PAGE))
    assert _LIBC.mincore(address, size, vector) == 0
    return [bool(byte & 1) for byte in vector.raw[: -(-size // PAGE)]]


def word(path: str, index: int) -> int:
    """The 8 bytes of that index in pagemap, kpageflags or kpagecount; 0 where there are none."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return int.from_bytes(os.pread(fd, 8, 8 * index), "little")
    finally:
        os.close(fd)


def order_of(frame: int) -> int:
    """Counts the folio's frames: back to the head, then forward past the tails."""
    fd = os.open("/proc/kpageflags", os.O_RDONLY)
    try:

        def flags(of: int) -> int:
            return int.from_bytes(os.pread(fd, 8, 8 * of), "little")

        if not flags(frame) & (HEAD | TAIL):
            return 0
        head = frame
        while not flags(head) & HEAD:
            head -= 1
        end = head + 1
        while flags(end) & TAIL:
            end += 1
        return (end - head).bit_length() - 1
    finally:
        os.close(fd)


def frames_of(fd: int, size: int, offset: int = 0) -> list[int | None]:
    """The frame of every page of a file from an offset; None for what is not cached."""
    with mapped(fd, size, offset) as address:
        frames: list[int | None] = []
        for page, there in enumerate(in_core(address, size)):
            if there:
                ctypes.string_at(address + page * PAGE, 1)
                frames.append(word("/proc/self/pagemap", address // PAGE + page) & ((1 << 55) - 1))
            else:
                frames.append(None)
        return frames


def orders_of(fd: int, size: int) -> list[int | None]:
    """The order of every page's folio; None for what is not cached."""
    with mapped(fd, size) as address:
        found: list[int | None] = []
        for page, there in enumerate(in_core(address, size)):
            if not there:
                found.append(None)
                continue
            ctypes.string_at(address + page * PAGE, 1)
            found.append(order_of(word("/proc/self/pagemap", address // PAGE + page) & ((1 << 55) - 1)))
        return found
