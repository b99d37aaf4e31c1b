"""Memory fragmented on purpose, for a while: no free block of a huge page's size, and none that compaction can make.

Nearly all that is free is taken on huge pages. Of the rest one page in every huge page's frames is pinned, as a buffer
registered with io_uring is (FOLL_LONGTERM: compaction leaves it alone), and all others are given back. At the end all
is given back. Needs root, for frame numbers.
"""

import array
import ctypes
import gc
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from elfolio.live.available import on_machine
from elfolio.live.counters import free_by_order
from elfolio.pagecache.load_memory import HUGE, Piece, anonymous, discard, populate_write
from elfolio.span import Span

PAGE = mmap.PAGESIZE
_NOHUGEPAGE, _DONTNEED = 15, 4
_SETUP, _REGISTER, _BUFFERS = 425, 427, 0
_STEP = 64 << 20
_MOST = 1 << 14
"""Buffers of one ring (IORING_MAX_REG_BUFFERS)."""
_FRAME = (1 << 55) - 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.syscall.argtypes = (ctypes.c_long, *[ctypes.c_void_p] * 4)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def free_huge() -> int:
    """Free blocks of a huge page's size, larger ones counted as several."""
    return sum(count << (order - 9) for order, count in (free_by_order() or {}).items() if order >= 9)


@contextmanager
def fragmented(free: int) -> Iterator[None]:
    """About `free` bytes stay free, in pieces smaller than a huge page."""
    with ExitStack() as stack:
        Path("/proc/sys/vm/drop_caches").write_text("1\n")  # clean cache could be given up for whole blocks
        _hold(stack, (on_machine() or 0) - 2 * free, huge=True)
        pieces = _hold(stack, free, huge=False)
        _hold_last_blocks(stack)
        for piece in pieces:
            stack.callback(os.close, _pinned(piece))
        yield
    gc.collect()


def _hold(stack: ExitStack, size: int, *, huge: bool) -> list[Piece]:
    piece = anonymous(Span(0, max(size, HUGE) // HUGE * HUGE), HUGE)
    stack.callback(discard, piece)
    if not huge:
        _libc.madvise(piece.base, piece.room, _NOHUGEPAGE)
    for at in range(0, piece.room, _STEP):
        populate_write(piece.base + at, min(_STEP, piece.room - at))
    return [piece]


def _hold_last_blocks(stack: ExitStack) -> None:
    """A fault takes a free block at once where there is one."""
    for _ in range(4):
        if count := free_huge():
            _hold(stack, count * HUGE, huge=True)


def _pinned(piece: Piece) -> int:
    """Pins one page of each huge frame, gives back all others; what keeps them pinned."""
    chosen = _one_in_each(piece)[:_MOST]
    ring = _ring(chosen)
    at = piece.base
    for address in [*chosen, piece.base + piece.room]:
        if address > at:
            _libc.madvise(at, address - at, _DONTNEED)
        at = address + PAGE
    return ring


def _one_in_each(piece: Piece) -> list[int]:
    entries = array.array("Q")
    with open("/proc/self/pagemap", "rb", 0) as file:
        entries.frombytes(os.pread(file.fileno(), piece.room // PAGE * 8, piece.base // PAGE * 8))
    first: dict[int, int] = {}
    for index, entry in enumerate(entries):
        first.setdefault((entry & _FRAME) * PAGE // HUGE, piece.base + index * PAGE)
    return sorted(first.values())


def _ring(addresses: list[int]) -> int:
    parameters = ctypes.create_string_buffer(120)
    ring = int(_libc.syscall(_SETUP, ctypes.c_void_p(1), parameters, None, None))
    vectors = (_Vector * len(addresses))(*[_Vector(address, PAGE) for address in addresses])
    done = _libc.syscall(_REGISTER, ctypes.c_void_p(ring), ctypes.c_void_p(_BUFFERS), vectors, len(addresses))
    if ring < 0 or done:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ring
