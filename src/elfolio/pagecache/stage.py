"""pagecache.stage: writes as large as huge pages. In: pieces of a file, at any offset. Out: the file written.

A buffered write makes folios of its own length, aligned to it in the file, and what is in the page cache already keeps
its folio (__filemap_get_folio, fgf_set_order). So pieces are gathered until a block is whole.
"""

import mmap
import os
from collections.abc import Iterator

from elfolio.errors import InvalidArgument
from elfolio.span import Span

__all__ = ["Buffer", "Stage"]

Buffer = bytes | bytearray | memoryview | mmap.mmap


class Stage:
    """Gathers pieces in a block of `huge` bytes. They may come in any order; only those that come in that of their
    offsets become large folios."""

    def __init__(self, fd: int, size: int, huge: int) -> None:
        self.fd = fd
        self.size = size
        self.huge = huge
        self._block = -1
        self._memory = memoryview(bytearray(min(huge, size)))
        self._runs: list[Span] = []

    def put(self, offset: int, data: Buffer) -> None:
        """Raises InvalidArgument for what lies outside of the file, OSError."""
        with memoryview(data).cast("B") as view:
            if offset < 0 or offset + len(view) > self.size:
                raise InvalidArgument(f"{len(view)} bytes at {offset:#x} do not fit into a file of {self.size}")
            at = 0
            while at < len(view):
                at += self._take(offset + at, view[at : at + self.huge])

    def _take(self, offset: int, view: memoryview) -> int:
        """Takes what lies in the block of the first byte, and tells how much that is."""
        block, start = divmod(offset, self.huge)
        count = min(len(view), self.huge - start)
        if block != self._block:
            self.flush()
        if count == self.huge:
            self._runs.clear()
            _write(self.fd, offset, view)
            return count
        self._block = block
        self._memory[start : start + count] = view[:count]
        self._runs.append(Span(start, start + count))
        return count

    def flush(self) -> None:
        """Writes what was gathered, each run of it at once."""
        for start, end in _joined(self._runs):
            _write(self.fd, self._block * self.huge + start, self._memory[start:end])
        self._runs.clear()
        self._block = -1


def _joined(runs: list[Span]) -> Iterator[Span]:
    """The same bytes in as few runs as there can be, ascending."""
    ordered = sorted(runs)
    while ordered:
        start, end = ordered.pop(0)
        while ordered and ordered[0].start <= end:
            end = max(end, ordered.pop(0).end)
        yield Span(start, end)


def _write(fd: int, offset: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
