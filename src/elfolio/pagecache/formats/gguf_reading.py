"""pagecache.formats.gguf_reading: values of a GGUF header, one after another. In: an open file. Out: numbers, texts.

Every length is held against what the file still has before anything is allocated for it.
"""

import struct
import sys
from array import array
from typing import Any, BinaryIO

from elfolio.pagecache.formats.fault import FormatError

__all__ = ["LONGEST", "Reader", "Value"]

LONGEST = 256 << 20
"""Bytes of a header at most. Those of models with vocabularies of 256k words have some 15 MB."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
"""enum gguf_metadata_value_type (docs/gguf.md of ggml)."""
_DEEPEST = 4

Value = Any
"""int, float, bool, str; array.array of numbers; a tuple of bool, str or arrays."""


class Reader:
    """Reads a header of a file of `size` bytes from its beginning. Texts that are no UTF-8 keep their bytes
    (surrogateescape); names must be UTF-8."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._end = min(size, LONGEST)
        self._is_whole = size <= LONGEST
        self.name = name
        self.at = 0
        self.order = "<"

    def wrong(self, why: str) -> FormatError:
        """The error of what was read last."""
        return FormatError(self.name, why, self.at)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        if length > self._end - self.at:
            limit = "the file has" if self._is_whole else "a header may have"
            raise self.wrong(f"{length} bytes of header, more than {limit}")
        found = self._file.read(length)
        if len(found) != length:
            raise self.wrong("it ends in its header")
        self.at += length
        return found

    def number(self, code: str) -> Any:
        """One number of the struct module's code."""
        return struct.unpack(self.order + code, self.take(struct.calcsize("=" + code)))[0]

    def count(self, least: int, what: str) -> int:
        """How many things follow, each of `least` bytes or more."""
        count: int = self.number("Q")
        if count * least > self._end - self.at:
            raise self.wrong(f"{count} {what} in {self._end - self.at} bytes")
        return count

    def text(self) -> str:
        """A string of a value."""
        return self.take(self.count(1, "letters")).decode(errors="surrogateescape")

    def word(self, longest: int, what: str) -> str:
        """A name of at most so many bytes."""
        length = self.count(1, "letters")
        if length > longest:
            raise self.wrong(f"{what} of {length} bytes, at most {longest}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.wrong(f"{what} that is no UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> Value:
        """One value of metadata of that type."""
        if code := _SCALARS.get(kind):
            return self.number(code)
        if kind == _BOOL:
            return self._bools(1)[0]
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY and depth < _DEEPEST:
            return self._array(depth)
        raise self.wrong(f"arrays in arrays, {_DEEPEST} deep" if kind == _ARRAY else f"a value of the type {kind}")

    def _array(self, depth: int) -> Value:
        kind = self.number("I")
        if code := _SCALARS.get(kind):
            return self._numbers(code)
        if kind == _BOOL:
            return self._bools(self.count(1, "bools"))
        least = 8 if kind == _STRING else 12  # a string's length; an array's type and length
        return tuple(self.value(kind, depth + 1) for _ in range(self.count(least, "values")))

    def _numbers(self, code: str) -> "array[Any]":
        numbers = array(code)
        numbers.frombytes(self.take(self.count(numbers.itemsize, "numbers") * numbers.itemsize))
        if (self.order == "<") != (sys.byteorder == "little"):
            numbers.byteswap()
        return numbers

    def _bools(self, count: int) -> tuple[bool, ...]:
        found = self.take(count)
        if found.translate(None, b"\0\1"):
            raise self.wrong("a bool that is neither 0 nor 1")
        return tuple(map(bool, found))
