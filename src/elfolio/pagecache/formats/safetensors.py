"""pagecache.formats.safetensors: the header of a safetensors file. In: an open file. Out: Header, or FormatError.

Eight bytes (little-endian) say how long the JSON text behind them is; the tensors' bytes follow, without gaps, up to
the end of the file. What the safetensors package (0.8) takes is taken, what it refuses is refused.
"""

import os
from dataclasses import dataclass
from typing import Any

from elfolio.pagecache.formats.dtypes import SAFETENSORS, Kind
from elfolio.pagecache.formats.fault import FormatError, pointer
from elfolio.pagecache.formats.strictjson import Members, parse, whole_number
from elfolio.pagecache.formats.tensor import TensorInfo
from elfolio.span import Span

__all__ = ["LONGEST", "Header", "header_of", "read_header"]

LONGEST = 100_000_000
"""Bytes of the JSON text at most (MAX_HEADER_SIZE, safetensors/src/tensor.rs)."""
_WORD = 1 << 64
_METADATA = "__metadata__"
_FIELDS = ("dtype", "shape", "data_offsets")


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in front of the data."""

    tensors: tuple[TensorInfo, ...]
    """In the file's order."""
    metadata: dict[str, Any]
    size: int
    """Bytes before the first tensor."""


def read_header(fd: int, name: str) -> Header:
    """Of the file that is open there and called `name` in errors. Reads the header only. OSError, FormatError."""
    size = os.fstat(fd).st_size
    first = _read(fd, 8, 0, name)
    if told := pointer(name, first):
        raise told
    length = _length(first, size, name)
    return header_of(_read(fd, length, 8, name), size, name)


def _read(fd: int, length: int, offset: int, name: str) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(fd, length, offset)
        if not part:
            raise FormatError(name, "it ends in its header", offset)
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def _length(first: bytes, size: int, name: str) -> int:
    length = int.from_bytes(first, "little")
    if length > LONGEST:
        raise FormatError(name, f"a header of {length} bytes, at most {LONGEST}", 0)
    if 8 + length > size:
        raise FormatError(name, f"a header of {length} bytes in a file of {size}", 0)
    return length


def header_of(text: bytes, size: int, name: str) -> Header:
    """From the JSON text of a file of `size` bytes."""
    try:
        members = parse(text.decode())
        if not isinstance(members, Members):
            raise ValueError("no object")
        found, metadata = _split(members)
        tensors = _laid_out(found, 8 + len(text))
    except _Wrong as wrong:
        raise FormatError(name, f"tensor {wrong.tensor[:200]!r}: {wrong}") from None
    except ValueError as error:
        raise FormatError(name, f"its header is no JSON of safetensors: {error}", 8) from None
    end = max((info.span.end for info in tensors), default=8 + len(text))
    if end != size:
        raise FormatError(name, f"its tensors end at {end}, the file at {size}")
    return Header(tensors, metadata, 8 + len(text))


class _Wrong(ValueError):
    def __init__(self, tensor: str, why: str) -> None:
        super().__init__(why)
        self.tensor = tensor


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: Kind
    shape: tuple[int, ...]
    start: int
    end: int


def _split(members: Members) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Of tensors of one name the last counts, but each must be a tensor."""
    found: dict[str, _Entry] = {}
    metadata: dict[str, str] | None = None
    for name, value in members:
        if name != _METADATA:
            found[name] = _entry(name, value)
        elif metadata is not None:
            raise ValueError(f"{_METADATA} twice")
        else:
            metadata = _metadata(value)
    return found, metadata or {}


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Members) or not all(isinstance(text, str) for _, text in value):
        raise ValueError(f"{_METADATA} is no object of strings")
    return dict(value)


def _entry(name: str, value: object) -> _Entry:
    dtype, shape, offsets = _fields(name, value)
    kind = _kind(dtype)
    if kind is None:
        raise _Wrong(name, "its dtype is none of safetensors'")
    if not isinstance(shape, list) or not all(map(whole_number, shape)):
        raise _Wrong(name, "its shape is no list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(whole_number, offsets)):
        raise _Wrong(name, "its data_offsets are no two offsets")
    return _Entry(kind, tuple(shape), *offsets)


def _fields(name: str, value: object) -> tuple[Any, Any, Any]:
    """serde also takes a struct as the list of its fields' values, and passes over fields that it does not know."""
    if isinstance(value, list) and len(value) == len(_FIELDS):
        return value[0], value[1], value[2]
    if not isinstance(value, Members):
        raise _Wrong(name, "it is no object")
    known = [(field, below) for field, below in value if field in _FIELDS]
    fields = dict(known)
    if len(known) != len(_FIELDS) or len(fields) != len(_FIELDS):
        raise _Wrong(name, "it needs dtype, shape and data_offsets, once each")
    return fields["dtype"], fields["shape"], fields["data_offsets"]


def _kind(dtype: object) -> Kind | None:
    """serde also takes a variant without a value as {"U8": null}."""
    if isinstance(dtype, Members) and len(dtype) == 1 and dtype[0][1] is None:
        dtype = dtype[0][0]
    return SAFETENSORS.get(dtype) if isinstance(dtype, str) else None


def _laid_out(found: dict[str, _Entry], base: int) -> tuple[TensorInfo, ...]:
    """In the file's order: each begins where the one before it ends, the first at `base`."""
    tensors, expected = [], 0
    for name, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != expected or entry.end < entry.start:
            raise _Wrong(name, f"it is at {entry.start} to {entry.end}, and {expected} is where it had to begin")
        if entry.end - entry.start != _size(name, entry):
            raise _Wrong(name, f"{entry.end - entry.start} bytes are not what its shape and dtype need")
        expected = entry.end
        tensors.append(TensorInfo(name, entry.kind, entry.shape, Span(base + entry.start, base + entry.end)))
    return tuple(tensors)


def _size(name: str, entry: _Entry) -> int:
    """In bytes. The package multiplies in 64 bits from left to right, and refuses what overflows on the way even
    where a 0 follows."""
    bits = 1
    for factor in (*entry.shape, entry.kind.size * 8 // entry.kind.elements):
        bits *= factor
        if bits >= _WORD:
            raise _Wrong(name, "its size overflows 64 bits")
    if bits % 8:
        raise _Wrong(name, "its size is no whole number of bytes")
    return bits // 8
