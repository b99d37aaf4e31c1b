"""live.text: small files of /proc, /sys and cgroups. In: a path. Out: their text; nothing where they cannot be read.

By bare system calls: a load reads several, and a MiB from the page cache takes less time than pathlib does.
"""

import os

__all__ = ["number_in", "text_of"]


def text_of(path: str) -> str:
    """Empty where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 16), b"")).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def number_in(path: str) -> int | None:
    """Its first word; None where that is no number."""
    first = text_of(path).partition(" ")[0].strip()
    return int(first) if first.isdigit() else None
