"""pagecache.formats.tensor: one tensor of a file. In: TensorInfo, the bytes that were loaded. Out: numpy, torch.

Nothing is copied, but for torch what does not stand at a multiple of its element: torch has no such tensors.
"""

import sys
import warnings
from dataclasses import dataclass
from math import prod
from typing import Any

from elfolio.pagecache.formats.dtypes import Kind
from elfolio.pagecache.formats.fault import NoSuchType
from elfolio.span import Span

__all__ = ["Tensor", "TensorInfo"]

_HOST = "<" if sys.byteorder == "little" else ">"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor, checked: `span` lies in the file and holds just that many elements."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    """In elements, the last one the fastest."""
    span: Span
    """File offsets."""
    order: str = "<"
    """`<`: little-endian, `>`: big-endian."""

    @property
    def dtype(self) -> str:
        """The format's word for it: BF16, Q4_K."""
        return self.kind.word


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor whose bytes are in memory; they stay there as long as any view of them."""

    info: TensorInfo
    data: memoryview
    """Its bytes, read-only."""

    def numpy(self) -> Any:
        """A read-only array, not copied. Of a type that packs several elements into a block: bytes (uint8), the last
        axis the bytes of a row, for such blocks as GGML's; NoSuchType where rows are no whole blocks, and for types
        that numpy has not (BF16 and 8-bit floats come with the package ml_dtypes)."""
        import numpy

        kind, shape = self.info.kind, self.info.shape
        if kind.is_block:
            return numpy.frombuffer(self.data, "u1").reshape(_bytes_of_rows(self.info))
        dtype = numpy.dtype(_numpy_type(self.info)).newbyteorder(self.info.order)
        if not self.data.nbytes:
            return _empty(numpy, shape, dtype)
        return numpy.frombuffer(self.data, dtype).reshape(shape)

    def torch(self) -> Any:
        """A tensor that must not be written to: its memory is the file's. Raises NoSuchType as `numpy`."""
        import torch

        kind, shape = self.info.kind, self.info.shape
        dtype = getattr(torch, "uint8" if kind.is_block and not kind.torch else kind.torch or "none", None)
        if dtype is None:
            raise NoSuchType(f"{self.info.name}: this torch has no {kind.word}; .data is its bytes")
        if kind.is_block:
            shape = _bytes_of_rows(self.info)
        if not self.data.nbytes:
            return torch.empty(shape, dtype=dtype)
        flat = self._words(torch, kind.size if not kind.is_block else 1)
        return flat.view(dtype).reshape(shape)

    def _words(self, torch: Any, size: int) -> Any:
        """As uint8, at a multiple of the element's size and in this machine's byte order."""
        with warnings.catch_warnings():
            # That it must not be written to is said in the docstring; torch has no read-only tensors.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            flat = torch.frombuffer(self.data, dtype=torch.uint8)
        if self.info.order != _HOST and size > 1:
            return flat.view(-1, size).flip(1).contiguous().view(-1)
        return flat.clone() if flat.data_ptr() % size else flat


def _numpy_type(info: TensorInfo) -> Any:
    package, _, name = info.kind.numpy.rpartition(".")
    if not package:
        return name
    try:
        import ml_dtypes
    except ImportError:
        why = f"{info.name}: numpy has no {info.dtype}; pip install ml_dtypes, or .data for its bytes"
        raise NoSuchType(why) from None
    return getattr(ml_dtypes, name)


def _bytes_of_rows(info: TensorInfo) -> tuple[int, ...]:
    *rows, last = info.shape or (1,)
    blocks, rest = divmod(last, info.kind.elements)
    if rest:
        raise NoSuchType(f"{info.name}: a row of {last} {info.dtype} is no whole number of bytes; .data is its bytes")
    return (*rows, blocks * info.kind.size)


def _empty(numpy: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """numpy refuses a shape whose other dimensions alone are too large, though nothing is in it."""
    if prod(size for size in shape if size) * dtype.itemsize > sys.maxsize:
        raise NoSuchType(f"numpy has no array of the shape {shape}, though it is empty")
    array = numpy.empty(shape, dtype)
    array.flags.writeable = False
    return array
