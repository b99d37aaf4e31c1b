"""live.opened: an ELF file of this machine. In: a path. Out: ElfImage, with the file's bytes behind it.

The bytes are a memory map, so that of a file of gigabytes only the pages with headers are read. It can be cut short
while it is read, and the kernel then says so by SIGBUS: whoever reads files that others write to reads them first.
"""

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.errors import ElfError
from elfolio.kernel.space import OpenFile

__all__ = ["Opened", "opened"]


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that has been read."""

    image: ElfImage
    data: mmap.mmap
    """All of it; closed when the context ends."""
    file: OpenFile
    """What maps will call it: the path with all links followed."""


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Opened]:
    """Opens and reads it. Raises OSError, ElfError; EINVAL for what is no regular file."""
    name = os.fspath(path)
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for a writer
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise OSError(number, "a directory" if number == errno.EISDIR else "not a regular file", name)
        if status.st_size == 0:
            raise ElfError(name, "empty, no ELF file", offset=0, field="e_ident", found=b"", expected="\\x7fELF")
        data = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    try:
        device = status.st_dev
        file = OpenFile(os.path.realpath(name), status.st_ino, os.major(device), os.minor(device))
        yield Opened(read(data, name), data, file)
    finally:
        with suppress(BufferError):  # a view into it is still held, by a traceback say: it is closed with that
            data.close()
