"""Memory held in a pattern, so that what is left free has a chosen shape. In: sizes. Out: frames.

Pages are taken one by one, so that each can be given back alone; where they lie is what pagemap says. A page in a pipe
(vmsplice) cannot be moved: its page block is no use to compaction. What is whole in zones that single pages do not come
from is taken as huge pages. It all belongs to one process, which the kernel kills first where memory runs out.
"""

import ctypes
import fcntl
import mmap
import os
import re
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE, BLOCK = 4096, 512
LEFT = 3300 << 20
"""Bytes that always stay available to others."""
_STEP = 32 << 20
_POPULATE_WRITE = 23
_SLOTS = 256
"""Pages of a pipe of 1 MiB, the most that a user may ask for."""
_FRAME = (1 << 55) - 1


class TooLittle(Exception):
    """Others leave too little memory."""


def available() -> int:
    """Bytes that could be had without harm: MemAvailable."""
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) << 10 if found else 0


def whole_blocks() -> int:
    """Free blocks of 2 MiB of all zones."""
    rows = re.findall(r"^Node +\d+, zone +\S+((?: +\d+)+) *$", Path("/proc/buddyinfo").read_text(), re.M)
    return sum(int(row.split()[9]) + 2 * int(row.split()[10]) for row in rows)


class Held:
    """Up to `most` bytes of this process's memory. close() gives back what is still held."""

    def __init__(self, most: int) -> None:
        Path("/proc/self/oom_score_adj").write_text("1000")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._pipes: list[int] = []
        self._small, self._huge = (mmap.mmap(-1, most, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2))
        self._small.madvise(mmap.MADV_NOHUGEPAGE)
        self._huge.madvise(mmap.MADV_HUGEPAGE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._small))
        self.taken = self.taken_whole = 0

    def take(self) -> None:
        """Single pages, until no more may be taken."""
        while self.taken + _STEP <= len(self._small) and available() - _STEP >= LEFT:
            self._small.madvise(_POPULATE_WRITE, self.taken, _STEP)
            self.taken += _STEP

    def take_whole(self, leave: int) -> None:
        """Huge pages, until so many free blocks of 2 MiB are left."""
        while self.taken_whole < len(self._huge) and whole_blocks() > leave + 8 and available() - _STEP >= LEFT:
            size = min(_STEP, (whole_blocks() - leave) << 21, len(self._huge) - self.taken_whole)
            self._huge.madvise(_POPULATE_WRITE, self.taken_whole, size)
            self.taken_whole += size

    def frames(self) -> "array[int]":
        """Of each single page, in order; 0 where there is none."""
        found = array("Q")
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            at, end = self._start // PAGE * 8, (self._start + self.taken) // PAGE * 8
            while at < end:
                piece = os.pread(file.fileno(), min(1 << 20, end - at), at)
                found.frombytes(piece)
                at += len(piece)
        return array("Q", (word & _FRAME if word >> 63 else 0 for word in found))

    def pin(self, pages: Sequence[int]) -> None:
        """These cannot be moved from now on."""
        for at in range(0, len(pages), _SLOTS):
            some = pages[at : at + _SLOTS]
            self._pipes += os.pipe()
            fcntl.fcntl(self._pipes[-1], fcntl.F_SETPIPE_SZ, _SLOTS * PAGE)
            parts = (ctypes.c_size_t * (2 * len(some)))()
            for i, page in enumerate(some):
                parts[2 * i], parts[2 * i + 1] = self._start + page * PAGE, PAGE
            if self._libc.vmsplice(self._pipes[-1], parts, len(some), 0) != len(some) * PAGE:
                raise OSError(ctypes.get_errno(), "vmsplice")

    def release(self, pages: Iterable[int]) -> None:
        """Gives these back, ascending page numbers."""
        first = last = -1
        for page in pages:
            if page != last + 1 or first < 0:
                self._drop(first, last)
                first = page
            last = page
        self._drop(first, last)

    def _drop(self, first: int, last: int) -> None:
        if first >= 0:
            self._small.madvise(mmap.MADV_DONTNEED, first * PAGE, (last + 1 - first) * PAGE)

    def close(self) -> None:
        """All of it."""
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes = []
        for memory, taken in ((self._small, self.taken), (self._huge, self.taken_whole)):
            if taken:
                memory.madvise(mmap.MADV_DONTNEED, 0, taken)
        self.taken = self.taken_whole = 0


def settle(waiting: "Iterable[int]", most: int = 1000, enough: int = 24 << 10) -> None:
    """Until processors' own lists have given back all but so many pages: each time that the kernel brings its counts up
    to date, which it does once a second by itself, they shrink."""
    for _, left in zip(range(most), waiting, strict=False):
        if left < enough:
            return
        Path("/proc/sys/vm/stat_refresh").write_text("1")
