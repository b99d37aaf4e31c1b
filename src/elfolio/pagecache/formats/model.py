"""pagecache.formats.model: what a model's files hold. In: a path. Out: Model, None for other files, or FormatError."""

import os
from dataclasses import dataclass

from elfolio.pagecache.formats.files import TensorFiles, open_gguf, open_safetensors

__all__ = ["Amount", "Model", "model_at"]

_OPENERS = {
    ".safetensors": ("safetensors", open_safetensors),
    ".index.json": ("safetensors", open_safetensors),
    ".gguf": ("GGUF", open_gguf),
}


@dataclass(frozen=True, slots=True)
class Amount:
    """Tensors of one type."""

    tensors: int
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Model:
    """By the header, which was checked; nothing was loaded."""

    path: str
    """As it was given: the file, or the index of several."""
    format: str
    """safetensors, GGUF."""
    files: tuple[str, ...]
    dtypes: dict[str, Amount]
    """By the format's word for the type; those with the most bytes first."""

    @property
    def tensors(self) -> int:
        """How many."""
        return sum(amount.tensors for amount in self.dtypes.values())

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(amount.size for amount in self.dtypes.values())


def model_at(path: str) -> Model | None:
    """By the end of its name: a safetensors file, a GGUF file, or the index of sharded safetensors files. Raises
    FormatError where it is not what its name says, and OSError."""
    for end, (word, opened) in _OPENERS.items():
        if path.endswith(end):
            files = opened(path)
            return Model(os.fspath(path), word, files.paths, _amounts(files))
    return None


def _amounts(files: TensorFiles) -> dict[str, Amount]:
    found: dict[str, Amount] = {}
    for name in files:
        info = files.info(name)
        before = found.get(info.dtype, Amount(0, 0))
        found[info.dtype] = Amount(before.tensors + 1, before.size + info.span.size)
    return dict(sorted(found.items(), key=lambda item: -item[1].size))
