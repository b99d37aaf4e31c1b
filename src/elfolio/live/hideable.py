"""live.hideable: a file of the kernel's that it shows to some. In: a path. Out: a descriptor, or -1."""

import os
from contextlib import ExitStack
from pathlib import Path

__all__ = ["hideable"]


def hideable(stack: ExitStack, path: str | Path) -> int:
    """Open for reading until the stack ends; -1 where it is not there, or not for us."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    stack.callback(os.close, fd)
    return fd
