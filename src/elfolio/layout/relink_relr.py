"""layout.relink_relr: packed relative relocations, whose size depends on addresses. In: .relr.dyn. Out: its size.

SHT_RELR (gABI proposal, 2017): an even word is an address to relocate; an odd one is a bitmap of the 63 (31) words
behind what the words before it covered. Sections that move apart need more words, and lld never takes one back.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from elfolio.elf.image import ElfImage
from elfolio.layout.sections import Piece, Sizes

__all__ = ["SHT_RELR", "Relr", "packed_words", "unpacked"]

SHT_RELR = 19


@dataclass(frozen=True, slots=True)
class Relr:
    """The relocations of a .relr.dyn as offsets into sections, so that they move with these."""

    section: Piece
    word: int
    places: tuple[tuple[Piece, int], ...]

    @classmethod
    def of(cls, image: ElfImage, pieces: Iterable[Piece], data: bytes | memoryview) -> "Relr | None":
        """None where there is no SHT_RELR section, or where it names an address that no section has."""
        pieces = list(pieces)
        section = next((p for p in pieces if p.type == SHT_RELR), None)
        if section is None or section.source is None:
            return None
        word = Sizes.of(image).word
        order = "<" if image.header.byteorder == "little" else ">"
        form = struct.Struct(order + ("Q" if word == 8 else "I"))
        span = section.source.file
        body = bytes(data[span.start : span.start + span.size // word * word])
        if len(body) < span.size // word * word:
            return None
        places = _located(list(unpacked((w for (w,) in form.iter_unpack(body)), word)), pieces)
        return None if places is None else cls(section, word, places)

    def size(self) -> int:
        """In bytes, with the sections where they are now."""
        addresses = sorted(piece.addr + at for piece, at in self.places)
        return packed_words(addresses, self.word) * self.word


def unpacked(words: Iterable[int], word: int) -> Iterator[int]:
    """The addresses that the words stand for."""
    bits = word * 8 - 1
    base = 0
    for entry in words:
        if entry & 1:
            yield from (base + i * word for i in range(bits) if entry >> (i + 1) & 1)
            base += bits * word
        else:
            yield entry
            base = entry + word


def packed_words(addresses: list[int], word: int) -> int:
    """How many words lld needs for these addresses, in ascending order."""
    reach = (word * 8 - 1) * word
    count = at = 0
    while at < len(addresses):
        base = addresses[at] + word
        count, at = count + 1, at + 1
        while True:
            before = at
            while at < len(addresses) and addresses[at] - base < reach and (addresses[at] - base) % word == 0:
                at += 1
            if at == before:
                break
            count, base = count + 1, base + reach
    return count


def _located(addresses: list[int], pieces: list[Piece]) -> tuple[tuple[Piece, int], ...] | None:
    held = [(p.source.addr, p) for p in pieces if p.is_alloc and not p.is_tbss and p.size and p.source is not None]
    held.sort(key=lambda pair: pair[0])
    starts = [addr for addr, _ in held]
    places = []
    for address in addresses:
        at = bisect_right(starts, address) - 1
        if at < 0 or address >= starts[at] + held[at][1].size:
            return None
        places.append((held[at][1], address - starts[at]))
    return tuple(places)
