"""pagecache.formats.part: one file of tensors, whose bytes come when asked for. In: a path, its header. Out: memory."""

import os
import threading
from collections.abc import Callable
from typing import Any

from elfolio.pagecache.formats.fault import FormatError
from elfolio.pagecache.formats.tensor import Tensor, TensorInfo
from elfolio.pagecache.load import LoadReport, load
from elfolio.span import Span

__all__ = ["Part", "Progress"]

Progress = Callable[[int, int], object]
"""As `pagecache.load` has it: bytes that are there, and all."""
_SMALL = 1 << 20
"""Bytes from which on a tensor alone is worth a mapping of its own."""


class Part:
    """One file. Its header was read when it had the identity of `status`; bytes of any other are refused."""

    def __init__(self, path: str, status: os.stat_result, tensors: tuple[TensorInfo, ...], metadata: Any) -> None:
        self.path = path
        self.tensors = tensors
        self.metadata = metadata
        self.reports: list[LoadReport] = []
        self._status = _identity(status)
        self._lock = threading.Lock()
        self._span = Span(
            min((i.span.start for i in tensors), default=0), max((i.span.end for i in tensors), default=0)
        )
        self._whole: memoryview | None = None

    @property
    def size(self) -> int:
        """Bytes from the first tensor to the end of the last one."""
        return self._span.size

    def load(self, strategy: str, progress: Progress | None = None) -> None:
        """All tensors at once; nothing where they are there already."""
        with self._lock:
            if self._whole is None:
                self._whole = self._memory(self._span, strategy, progress)
            elif progress is not None:
                progress(self.size, self.size)

    def tensor(self, info: TensorInfo, strategy: str) -> Tensor:
        """One of them: a view of the whole if that was loaded, else its bytes alone."""
        whole = self._whole
        if whole is not None:
            found = info.span.shifted(-self._span.start)
            return Tensor(info, whole[found.start : found.end])
        return Tensor(info, self._memory(info.span, strategy, None))

    def _memory(self, span: Span, strategy: str, progress: Progress | None) -> memoryview:
        self._check()
        load = self._read if span.size < _SMALL else self._loaded
        found = load(span, strategy, progress)
        self._check()
        return found.toreadonly()

    def _loaded(self, span: Span, strategy: str, progress: Progress | None) -> memoryview:
        try:
            loaded = load(self.path, strategy=strategy, offset=span.start, length=span.size, progress=progress)
        except OSError:
            self._check()  # a range that is beyond the file, where it became shorter: say that
            raise
        self.reports.append(loaded.report)
        return memoryview(loaded)

    def _read(self, span: Span, _: str, progress: Progress | None) -> memoryview:
        with open(self.path, "rb", 0) as file:
            parts, at = [], span.start
            while at < span.end:
                part = os.pread(file.fileno(), span.end - at, at)
                if not part:
                    raise self._changed()
                parts.append(part)
                at += len(part)
        if progress is not None:
            progress(span.size, span.size)
        return memoryview(b"".join(parts))

    def _check(self) -> None:
        """A header that is another file's would give wrong tensors."""
        if _identity(os.stat(self.path)) != self._status:
            raise self._changed()

    def _changed(self) -> FormatError:
        return FormatError(self.path, "it has changed since its header was read; open it again")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
