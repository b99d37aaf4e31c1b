"""pagecache.undoing: a tuned file made what it was. In: its path. Out: the same bytes as before, in its place.

The record in the file says how (elf.undo), and the checksums in it whether that is true; else nothing is written.
"""

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from elfolio.elf.rewriting import Rewrite
from elfolio.elf.undo import find_record
from elfolio.elf.write import digest, pieces, whole
from elfolio.live.cached import open_quietly
from elfolio.pagecache.replace import Links
from elfolio.pagecache.tuning import new_file

__all__ = ["NoRecord", "undo"]


class NoRecord(OSError):
    """A file that cannot be made what it was (`ENODATA`); `strerror` says why."""

    def __init__(self, why: str, filename: str) -> None:
        super().__init__(errno.ENODATA, why, filename)


def undo(path: str, out: str | None = None, *, links: Links = Links.REFUSE) -> int:
    """Makes the file what it was before it was tuned, at its own place or at `out`, and returns its size. Raises
    NoRecord where that cannot be, OSError, ElfError."""
    status = os.stat(path)
    out = path if out is None else out
    with _mapped(path) as view:
        body, rewrite = _first(view, path)
        with new_file(out, rewrite.new_size, path, status, links=links) as new:
            for offset, piece in pieces(rewrite, body):
                new.write(offset, piece)
            new.commit()
    return rewrite.new_size


@contextmanager
def _mapped(path: str) -> Iterator[memoryview]:
    """A file's bytes, whatever it is."""
    with open_quietly(path) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or os.fstat(fd).st_size == 0:
            raise NoRecord("an empty file, or none at all: it was never tuned", path)
        data = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    try:
        yield memoryview(data)
    finally:
        with suppress(BufferError):  # a view of it is still held, by a traceback say: it is closed with that
            data.close()


_GONE = "it has no undo record: it was never tuned, or strip, objcopy or patchelf has rewritten it; install it anew"


def _first(view: memoryview, path: str) -> tuple[memoryview, Rewrite]:
    """What to write so that the file is what it was before all runs, and of which bytes."""
    found = find_record(view, path)
    if found is None:
        raise NoRecord(_GONE, path)
    while True:
        body = view[: found.body]
        if digest([(0, body)], len(body)) != found.record.body:
            why = "it was changed after it was tuned (its checksum differs): undo would not give the original"
            raise NoRecord(f"{why}; install it anew", path)
        inverse = found.record.rewrite.inverse()
        if digest(pieces(inverse, body), inverse.new_size) != found.record.original:
            raise NoRecord("its undo record does not give the original (its checksum differs); install it anew", path)
        if not found.record.inner:
            return body, inverse
        view = memoryview(whole(inverse, body) + found.record.inner)
        inner = find_record(view, path)
        if inner is None:
            raise NoRecord("its undo record holds an older one that is damaged; install it anew", path)
        found = inner
