"""pagecache.formats.files: safetensors and GGUF files as mappings from names to tensors. In: paths. Out: TensorFiles.

Headers are read and checked when files are opened; data comes with each tensor that is asked for, or all at once.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from elfolio.errors import InvalidArgument
from elfolio.live.cached import open_quietly
from elfolio.pagecache.formats.fault import FormatError
from elfolio.pagecache.formats.gguf import read_gguf
from elfolio.pagecache.formats.part import Part, Progress
from elfolio.pagecache.formats.safetensors import read_header
from elfolio.pagecache.formats.several import load_all
from elfolio.pagecache.formats.shards import is_index, read_index
from elfolio.pagecache.formats.tensor import Tensor, TensorInfo
from elfolio.pagecache.load import LoadReport

__all__ = ["TensorFiles", "load_gguf", "load_safetensors", "open_gguf", "open_safetensors"]

Path = str | os.PathLike[str]


class _Place(NamedTuple):
    part: Part
    info: TensorInfo


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of one file or several, by name, in the files' order. `files[name]` loads that tensor alone, unless
    `load` has brought all; what was handed out stays valid without this object."""

    def __init__(self, parts: Sequence[Part], strategy: str = "auto") -> None:
        self._parts = tuple(parts)
        self._strategy = strategy
        self._places: dict[str, _Place] = {}
        for part in self._parts:
            for info in part.tensors:
                if info.name in self._places:
                    other = self._places[info.name].part.path
                    raise FormatError(part.path, f"tensor {info.name[:200]!r} is in {other} too")
                self._places[info.name] = _Place(part, info)

    def __getitem__(self, name: str) -> Tensor:
        part, info = self._places[name]
        return part.tensor(info, self._strategy)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def info(self, name: str) -> TensorInfo:
        """What the header says of a tensor; loads nothing. KeyError for one that is not there."""
        return self._places[name].info

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the files, in their order."""
        return tuple(part.path for part in self._parts)

    @property
    def size(self) -> int:
        """Bytes that `load` loads."""
        return sum(part.size for part in self._parts)

    @property
    def metadata(self) -> dict[str, Any]:
        """Of all files; where several have the same key, the first one's value."""
        return {key: value for part in reversed(self._parts) for key, value in part.metadata.items()}

    @property
    def reports(self) -> tuple[LoadReport, ...]:
        """What the loads cost so far. Tensors under 1 MiB are read plainly, and have none."""
        return tuple(report for part in self._parts for report in part.reports)

    def load(self, *, at_once: int | None = None, progress: Progress | None = None) -> None:
        """Everything, several files (4) at once. `progress` is called with the bytes that are there and all; what it
        raises ends the load."""
        load_all(self._parts, self._strategy, at_once, progress)


def open_safetensors(path: Path | Sequence[Path], *, strategy: str = "auto") -> TensorFiles:
    """A safetensors file, several, or the index of sharded ones (*.json). Raises FormatError for what the safetensors
    package refuses, for shards without the tensors that the index says they have, and for a name in two files; OSError.
    `strategy` is that of `elfolio.load`."""
    if isinstance(path, (str, os.PathLike)) and is_index(os.fspath(path)):
        shards = read_index(os.fspath(path))
        parts = [_part(shard, read_header) for shard in shards]
        for part, names in zip(parts, shards.values(), strict=True):
            if missing := names - {info.name for info in part.tensors}:
                raise FormatError(part.path, f"the index has tensor {min(missing)[:200]!r} in it, the file has not")
        return TensorFiles(parts, strategy)
    return TensorFiles([_part(one, read_header) for one in _paths(path)], strategy)


def open_gguf(path: Path | Sequence[Path], *, strategy: str = "auto") -> TensorFiles:
    """A GGUF file, or all the parts of a split one. Raises FormatError, OSError. `strategy` is that of
    `elfolio.load`."""
    return TensorFiles([_part(one, read_gguf) for one in _paths(path)], strategy)


def load_safetensors(
    path: Path | Sequence[Path],
    *,
    framework: str = "numpy",
    strategy: str = "auto",
    at_once: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All tensors by name, in the files' order, as arrays of numpy or tensors of torch (`framework`), without a copy.
    They must not be written to. Raises as `open_safetensors`, and NoSuchType for types that the framework has not."""
    return _load(open_safetensors(path, strategy=strategy), framework, at_once, progress)


def load_gguf(
    path: Path | Sequence[Path],
    *,
    framework: str = "numpy",
    strategy: str = "auto",
    at_once: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """As `load_safetensors`. Quantised tensors are bytes, the last axis those of a row; `open_gguf(...).info(name)` has
    their type and shape."""
    return _load(open_gguf(path, strategy=strategy), framework, at_once, progress)


def _load(files: TensorFiles, framework: str, at_once: int | None, progress: Progress | None) -> dict[str, Any]:
    views: dict[str, Callable[[Tensor], Any]] = {"numpy": Tensor.numpy, "torch": Tensor.torch}
    view = views.get(framework)
    if view is None:
        raise InvalidArgument(f"no framework {framework!r}; there are numpy and torch")
    files.load(at_once=at_once, progress=progress)
    return {name: view(tensor) for name, tensor in files.items()}


def _paths(path: Path | Sequence[Path]) -> list[str]:
    paths = [path] if isinstance(path, (str, os.PathLike)) else path
    return [os.fspath(one) for one in paths]


def _part(path: Path, read: Callable[[int, str], Any]) -> Part:
    name = os.fspath(path)
    with open_quietly(name) as fd:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # to read a directory is EISDIR
            raise FormatError(name, "not a regular file")
        header = read(fd, name)
    return Part(name, status, header.tensors, header.metadata)
