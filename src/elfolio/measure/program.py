"""measure.program: a program's files, read. In: a path. Out: Program, its image and its interpreter's.

What stands in the way of the interpreter is read too, as the errno that execve would give for it.
"""

import errno
import os
import stat
from dataclasses import dataclass
from functools import lru_cache

from elfolio.elf.constants import DT_STRSZ, DT_STRTAB, PT_INTERP
from elfolio.elf.image import ElfImage
from elfolio.errors import ElfError
from elfolio.live.opened import opened

__all__ = ["Program", "dynamic_strings", "read_image", "read_program"]

_IMAGES_KEPT = 512


@dataclass(frozen=True)
class Program:
    """A file and the interpreter that it names, read."""

    path: str
    """As it is executed."""
    image: ElfImage
    """Its name is the path that maps shows."""
    interpreter: ElfImage | None
    obstacle: OSError | None = None
    """Why the interpreter that it names cannot be one; execve fails with this errno."""


def read_image(path: str) -> ElfImage:
    """An ELF file by its path, links followed: maps shows where they lead. A file that has not changed is read once.
    Raises OSError, ElfError."""
    real = os.path.realpath(path)
    found = os.stat(real)
    return _read(real, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=_IMAGES_KEPT)
def _read(path: str, key: tuple[int, ...]) -> ElfImage:
    with opened(path) as found:
        return found.image


def dynamic_strings(image: ElfImage, tag: int) -> tuple[str, ...]:
    """The texts that entries of this tag name (DT_NEEDED, DT_SONAME, DT_RUNPATH), from the file at the image's name.
    Raises OSError."""
    tags = dict(image.dynamic)
    table = tags.get(DT_STRTAB, 0)
    holding = next((s for s in image.loads if s.vaddr <= table < s.vaddr + s.filesz), None)
    wanted = [value for kind, value in image.dynamic if kind == tag]
    if holding is None or not wanted:
        return ()
    with open(image.name, "rb") as file:
        size = min(tags.get(DT_STRSZ, 0), image.size)
        data = os.pread(file.fileno(), size, table - holding.vaddr + holding.offset)
    return tuple(data[at:].partition(b"\0")[0].decode("utf-8", "surrogateescape") for at in wanted)


def read_program(path: str) -> Program:
    """The file and its interpreter. Raises OSError, ElfError, for the file itself."""
    image = read_image(path)
    if not image.interpreter:
        return Program(path, image, None)
    try:
        _check_interpreter(image)
        return Program(path, image, read_image(image.interpreter))
    except ElfError as error:
        return Program(path, image, None, OSError(errno.ELIBBAD, str(error), image.interpreter))
    except OSError as error:
        return Program(path, image, None, error)


def _check_interpreter(image: ElfImage) -> None:
    """As open_exec: a regular file that may be executed. The path must end with its NUL."""
    header, path = image.segment(PT_INTERP), image.interpreter or ""
    if header is not None:
        with open(image.name, "rb") as file:
            if os.pread(file.fileno(), 1, header.file.end - 1) != b"\0":
                raise OSError(errno.ENOEXEC, "PT_INTERP does not end with a NUL", image.name)
    if not stat.S_ISREG(os.stat(path).st_mode) or not os.access(path, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
