"""pagecache.formats.gguf: the header of a GGUF file. In: an open file. Out: Gguf, or FormatError.

GGUF 2 and 3 of either byte order, as docs/gguf.md of ggml describes them: metadata, then what the tensors are, then
their bytes. What ggml's own reader (gguf.cpp) refuses is refused: names twice, sizes that overflow, rows that are no
whole blocks, offsets that are not aligned. Gaps between tensors are taken, bytes that two tensors share are not.
"""

import os
from dataclasses import dataclass

from elfolio.pagecache.formats.dtypes import GGML
from elfolio.pagecache.formats.fault import pointer
from elfolio.pagecache.formats.gguf_reading import Reader, Value
from elfolio.pagecache.formats.tensor import TensorInfo
from elfolio.span import Span, is_power_of_two, round_up

__all__ = ["Gguf", "read_gguf"]

_MAGIC = b"GGUF"
_ALIGNMENT = "general.alignment"
_U32 = 4
_KEY, _NAME, _SIDES = 65535, 64, 4
"""Bytes of a key and of a tensor's name, and dimensions, at most (docs/gguf.md; GGML_MAX_DIMS)."""
_MOST = 1 << 63
_LEAST_PAIR, _LEAST_TENSOR = 13, 24
"""Bytes of the shortest: a length, a type, a value of one byte; a length, two numbers of 4 bytes, an offset."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """What stands in front of the data."""

    tensors: tuple[TensorInfo, ...]
    """In the file's order; shapes as numpy has them, the reverse of the file's."""
    metadata: dict[str, Value]
    size: int
    """Bytes before the first tensor's place."""
    version: int
    order: str
    """`<`: little-endian, `>`: big-endian."""
    alignment: int


def read_gguf(fd: int, name: str) -> Gguf:
    """Of the file that is open there and called `name` in errors. OSError, FormatError."""
    size = os.fstat(fd).st_size
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        reader = Reader(file, size, name)
        version = _version(reader)
        tensors, pairs = reader.count(_LEAST_TENSOR, "tensors"), reader.count(_LEAST_PAIR, "values")
        metadata, alignment = _metadata(reader, pairs)
        infos = [_tensor(reader) for _ in range(tensors)]
        start = round_up(reader.at, alignment)
        laid_out = _laid_out(reader, infos, start, alignment, size)
    return Gguf(laid_out, metadata, start, version, reader.order, alignment)


def _version(reader: Reader) -> int:
    """The byte order is not said: a version is small, so its two bytes that are not 0 show it."""
    magic = reader.take(4)
    if magic != _MAGIC:
        raise pointer(reader.name, magic) or reader.wrong("no GGUF file: it does not begin with GGUF")
    raw = reader.take(4)
    reader.order = "<" if int.from_bytes(raw, "little") & 0xFFFF else ">"
    version = int.from_bytes(raw, "little" if reader.order == "<" else "big")
    if version not in (2, 3):
        raise reader.wrong(f"GGUF of version {version}; versions 2 and 3 are read")
    return version


def _metadata(reader: Reader, pairs: int) -> tuple[dict[str, Value], int]:
    metadata: dict[str, Value] = {}
    alignment = 32
    for _ in range(pairs):
        key = reader.word(_KEY, "a key")
        if key in metadata:
            raise reader.wrong(f"the key {key[:200]!r} twice")
        kind = reader.number("I")
        metadata[key] = reader.value(kind)
        if key == _ALIGNMENT:
            alignment = metadata[key]
            if kind != _U32 or not is_power_of_two(alignment):
                raise reader.wrong(f"{_ALIGNMENT} is no power of two of 32 bits")
    return metadata, alignment


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    size: int


def _tensor(reader: Reader) -> _Info:
    name = reader.word(_NAME, "a tensor's name")
    sides = reader.number("I")
    if sides > _SIDES:
        raise reader.wrong(f"tensor {name!r}: {sides} dimensions, at most {_SIDES}")
    shape = tuple(reader.number("Q") for _ in range(sides))
    kind, offset = reader.number("I"), reader.number("Q")
    return _Info(name, shape, kind, offset, _size(reader, name, shape, kind))


def _size(reader: Reader, name: str, shape: tuple[int, ...], number: int) -> int:
    """In bytes. The first dimension is the fastest one, and blocks lie in rows."""
    kind = GGML.get(number)
    if kind is None:
        raise reader.wrong(f"tensor {name!r}: no known type has the number {number}")
    elements = 1
    for side in shape:
        elements *= side
        if max(elements, side) >= _MOST // kind.size:
            raise reader.wrong(f"tensor {name!r}: its size overflows 63 bits")
    if (shape[0] if shape else 1) % kind.elements:
        raise reader.wrong(f"tensor {name!r}: rows of {shape[:1]} in blocks of {kind.elements}")
    return elements // kind.elements * kind.size


def _laid_out(reader: Reader, infos: list[_Info], start: int, alignment: int, size: int) -> tuple[TensorInfo, ...]:
    names: set[str] = set()
    found: list[TensorInfo] = []
    end = start
    for info in sorted(infos, key=lambda info: (info.offset, info.size)):
        at = start + info.offset
        if info.name in names:
            raise reader.wrong(f"tensor {info.name!r} twice")
        if info.offset % alignment:
            raise reader.wrong(f"tensor {info.name!r}: its offset {info.offset} is no multiple of {alignment}")
        if at + info.size > size:
            raise reader.wrong(f"tensor {info.name!r}: it ends at {at + info.size}, the file at {size}")
        if at < end:
            raise reader.wrong(f"tensor {info.name!r}: it begins at {at}, inside the one that ends at {end}")
        end = at + info.size
        names.add(info.name)
        found.append(TensorInfo(info.name, GGML[info.kind], info.shape[::-1], Span(at, end), reader.order))
    return tuple(found)
