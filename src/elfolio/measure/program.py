"""measure.program: a program's files, read. In: a path. Out: Program, its image and its interpreter's.

What stands in the way of the interpreter is read too, as the errno that execve would give for it.
"""

import errno
import os
import stat
from dataclasses import dataclass

from elfolio.elf.constants import PT_INTERP
from elfolio.elf.image import ElfImage
from elfolio.errors import ElfError
from elfolio.live.libraries import read_image

__all__ = ["Program", "read_image", "read_program"]


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
