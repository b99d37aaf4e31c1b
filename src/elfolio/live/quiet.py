"""live.quiet: an ELF file's headers, the page cache left as it was. In: an open file, CachedFile. Out: ElfImage.

The first reader of a file decides its folios: a page of headers, read by itself, keeps the block around it from ever
being a huge page. So they are read page by page, and what that brought in goes again.
"""

import mmap
import os
from collections.abc import Iterator, Sequence

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.errors import ElfError
from elfolio.kernel.folio import Run
from elfolio.live.cached import CachedFile, look

__all__ = ["read_quietly"]

_MOST = 1 << 12
"""Pages of headers: if more have come, they are somebody else's."""


def read_quietly(fd: int, name: str, before: CachedFile) -> ElfImage | None:
    """None for what is no ELF file, or a malformed one. `before` is a look at all of the file, with runs; readahead is
    switched off for the descriptor. A file that is cut short meanwhile ends the process (SIGBUS), as with any reader of
    mapped files. Raises OSError."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    try:
        if os.pread(fd, 4, 0) != b"\x7fELF":
            return None
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
            data.madvise(mmap.MADV_RANDOM)
            try:
                return read(data, name)
            except ElfError as error:
                error.__traceback__ = None  # it holds views of the mapping
                return None
    finally:
        if before.cached is not None and before.cached < before.size:
            _forget(fd, before)


def _forget(fd: int, before: CachedFile) -> None:
    """Drops what has been cached since, as it came: in pages."""
    fresh = list(_since(before.runs or (), look(fd).runs or ()))
    if sum(last - first for first, last in fresh) <= _MOST:
        for first, last in fresh:
            os.posix_fadvise(fd, first * before.page, (last - first) * before.page, os.POSIX_FADV_DONTNEED)


def _since(before: Sequence[Run], after: Sequence[Run]) -> Iterator[tuple[int, int]]:
    """Pages, first and one behind the last, that the second has and the first has not."""
    index = 0
    for run in after:
        at = run.start
        while at < run.end:
            while index < len(before) and before[index].end <= at:
                index += 1
            known = before[index] if index < len(before) else None
            if known is not None and known.start <= at:
                at = known.end
                continue
            end = run.end if known is None else min(run.end, known.start)
            yield at, end
            at = end
