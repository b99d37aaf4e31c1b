"""pagecache.probe: the largest folio that a file system really gives. In: a directory. Out: Probe, or OSError.

A scratch file is written in large pieces, mapped and touched, and its folios are looked at. As root, page by page
(/proc/PID/pagemap, /proc/kpageflags). Others are told no page-frame numbers: they learn from FilePmdMapped whether a
folio was as large as a huge page, and nothing of smaller ones.
"""

import ctypes
import mmap
import os
import re
import struct
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from elfolio.pagecache.window import Window

__all__ = ["Probe", "folio_sizes", "probe"]

_PIECES = 4
_ATTEMPTS = 4
_PFN = (1 << 55) - 1
_PRESENT = 1 << 63
_TAIL = 1 << 16
"""KPF_COMPOUND_TAIL (include/uapi/linux/kernel-page-flags.h)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found."""

    largest: int | None
    """Bytes of the largest folio; None where none was as large as a huge page and smaller ones cannot be seen."""
    folios: tuple[tuple[int, int], ...]
    """Bytes of a folio, and how many there were, ascending, over all attempts; empty where they cannot be seen."""
    how: str
    """Which of the kernel's files said so."""


def probe(directory: str | os.PathLike[str], huge: int = 2 << 20) -> Probe:
    """Writes and removes a file of four times `huge` bytes, at most four times: whether a folio of that order is free
    is chance. Raises OSError where the directory cannot be written to or is full."""
    counts: Counter[int] = Counter()
    hidden = False
    for _ in range(_ATTEMPTS):
        with _scratch(directory, huge) as fd, _mapped(fd, _PIECES * huge, huge) as address:
            flags = _flags(address, _PIECES * huge)
            if flags is None:
                hidden = True
                counts[huge] += _pmd_mapped(address) // huge
            else:
                counts.update(folio_sizes(flags, mmap.PAGESIZE))
        if counts[huge]:
            break
    largest = max((size for size, count in counts.items() if count), default=None)
    folios = () if hidden else tuple(sorted((size, count) for size, count in counts.items() if count))
    return Probe(largest, folios, "FilePmdMapped in smaps" if hidden else "pagemap and kpageflags")


@contextmanager
def _scratch(directory: str | os.PathLike[str], huge: int) -> Iterator[int]:
    """A file without a name, written in pieces as large as the folios that are hoped for."""
    with tempfile.TemporaryFile(dir=directory, prefix=".elfolio-") as scratch:
        for _ in range(_PIECES):
            view = memoryview(b"\x01" * huge)
            while view:
                view = view[os.write(scratch.fileno(), view) :]
        yield scratch.fileno()


@contextmanager
def _mapped(fd: int, size: int, huge: int) -> Iterator[int]:
    """Mapped read-only at a multiple of `huge`, and every page touched; yields the address."""
    with Window(fd, size, huge) as window:
        for page in range(window.address, window.address + size, mmap.PAGESIZE):
            ctypes.string_at(page, 1)
        yield window.address


def _flags(address: int, size: int) -> list[int] | None:
    """/proc/kpageflags of every page, in order; None where page-frame numbers are hidden."""
    pages = size // mmap.PAGESIZE
    try:
        with open("/proc/self/pagemap", "rb", 0) as pagemap, open("/proc/kpageflags", "rb", 0) as kpageflags:
            entries = os.pread(pagemap.fileno(), pages * 8, address // mmap.PAGESIZE * 8)
            frames = [entry & _PFN for (entry,) in struct.iter_unpack("Q", entries) if entry & _PRESENT]
            if not any(frames):
                return None
            return [int.from_bytes(os.pread(kpageflags.fileno(), 8, 8 * frame), "little") for frame in frames]
    except PermissionError:
        return None


def _pmd_mapped(address: int) -> int:
    """Bytes that smaps says are mapped by PMDs, of the mapping there."""
    with open("/proc/self/smaps") as smaps:
        text = smaps.read()
    found = re.search(rf"^{address:x}-.*?^FilePmdMapped:\s*(\d+) kB", text, re.M | re.S)
    return int(found[1]) * 1024 if found else 0


def folio_sizes(flags: Iterable[int], page: int) -> Counter[int]:
    """Bytes of each folio, counted, from /proc/kpageflags of a file's pages in order."""
    counts: Counter[int] = Counter()
    length = 0
    for flag in flags:
        if flag & _TAIL and length:
            length += 1
            continue
        counts[length * page] += 1
        length = 1
    counts[length * page] += 1
    del counts[0]
    return counts
