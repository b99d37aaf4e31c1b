"""GGUF files for tests. In: values, tensors. Out: bytes, of either byte order. Shares nothing with src."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d", 7: "?"}
SIZES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 12: (256, 144), 24: (1, 1), 27: (1, 8), 28: (1, 8)}
"""Elements and bytes of a block, of some types."""


@dataclass
class Writer:
    """One file; what is not given is as it should be."""

    order: str = "<"
    version: int = 3
    alignment: int = 32
    pairs: list[tuple[str | bytes, int, bytes]] = field(default_factory=list)
    tensors: list[tuple[str | bytes, Sequence[int], int, int]] = field(default_factory=list)
    """Name, dimensions, type, offset."""
    data: bytes = b""
    counts: tuple[int, int] | None = None

    def number(self, code: str, value: float) -> bytes:
        return struct.pack(self.order + code, value)

    def text(self, value: str | bytes) -> bytes:
        raw = value.encode() if isinstance(value, str) else value
        return self.number("Q", len(raw)) + raw

    def array(self, kind: int, items: Sequence[bytes]) -> bytes:
        return self.number("I", kind) + self.number("Q", len(items)) + b"".join(items)

    def put(self, key: str, kind: int, value: float | str | bytes) -> None:
        """A value of metadata; bytes are written as they are."""
        if isinstance(value, str):
            value = self.text(value)
        elif not isinstance(value, bytes):
            value = self.number(NUMBERS[kind], value)
        self.pairs.append((key, kind, value))

    def add(self, name: str, sides: Sequence[int], kind: int, data: bytes) -> None:
        """A tensor behind those that are there."""
        self.tensors.append((name, sides, kind, len(self.data)))
        self.data += data + bytes(-len(data) % self.alignment)

    def whole(self) -> bytes:
        counts = self.counts or (len(self.tensors), len(self.pairs))
        out = b"GGUF" + self.number("I", self.version) + b"".join(self.number("Q", count) for count in counts)
        for key, kind, value in self.pairs:
            out += self.text(key) + self.number("I", kind) + value
        for name, sides, kind, offset in self.tensors:
            out += self.text(name) + self.number("I", len(sides))
            out += b"".join(self.number("Q", side) for side in sides)
            out += self.number("I", kind) + self.number("Q", offset)
        return out + bytes(-len(out) % self.alignment) + self.data
