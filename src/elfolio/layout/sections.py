"""layout.sections: a linked file's output sections, as a linker holds them. In: ElfImage. Out: Pieces to be placed.

An output section's size and alignment do not depend on where it goes; so the linked file alone tells a linker's
second half, which gives sections addresses and file offsets, nearly all that it had to know the first time.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage, Section
from elfolio.span import FileOffset, LinkedAddress

__all__ = ["RELRO_PADDING", "SHF_X86_64_LARGE", "Piece", "Sizes", "pieces_of", "section_table", "string_table_size"]

RELRO_PADDING = ".relro_padding"
SHF_INFO_LINK, SHF_X86_64_LARGE = 0x40, 0x10000000
_SPECIAL_INDEX = 0xFF00


@dataclass(slots=True, eq=False)
class Piece:
    """One output section on its way; `addr` and `offset` are what the linker finds."""

    name: str
    type: int
    flags: int
    size: int
    addralign: int
    source: Section | None = None
    """The section of the file that it was; None for one that the linker makes."""
    relro: bool = False
    addr: int = 0
    offset: int = 0

    @property
    def is_alloc(self) -> bool:
        """It has an address."""
        return bool(self.flags & c.SHF_ALLOC)

    @property
    def is_nobits(self) -> bool:
        """It has no bytes in the file."""
        return self.type == c.SHT_NOBITS

    @property
    def is_tbss(self) -> bool:
        """Zeros of each thread: PT_TLS has room for them, no PT_LOAD has."""
        return self.is_nobits and bool(self.flags & c.SHF_TLS)

    @property
    def perms(self) -> int:
        """As p_flags."""
        write = c.PF_W if self.flags & c.SHF_WRITE else 0
        return c.PF_R | write | (c.PF_X if self.flags & c.SHF_EXECINSTR else 0)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the ELF class says of the sizes of headers, in bytes."""

    ehdr: int
    phdr: int
    shdr: int
    word: int

    @classmethod
    def of(cls, image: ElfImage) -> "Sizes":
        """Elf64_Ehdr and its like, or Elf32_Ehdr and its like."""
        return cls(64, 56, 64, 8) if image.header.bits == 64 else cls(52, 32, 40, 4)


def pieces_of(image: ElfImage) -> list[Piece]:
    """All sections but the null one, in the file's order."""
    return [
        Piece(s.name, s.type, s.flags, s.size, max(1, s.addralign), source=s)
        for s in image.sections[1:]
        if s.type != c.SHT_NULL
    ]


def string_table_size(names: Iterable[str], *, share_suffixes: bool) -> int:
    """Bytes of a table of these names: lld writes each name once, GNU ld none that is another one's end."""
    unique = {name.encode("utf-8", "surrogateescape") for name in names if name}
    if share_suffixes:
        turned = sorted(name[::-1] for name in unique)
        # Sorted from their ends, a name that is another's end stands right before one that ends in it.
        kept = [a for a, b in zip(turned, [*turned[1:], b""], strict=True) if not b.startswith(a)]
        return 1 + sum(len(name) + 1 for name in kept)
    return 1 + sum(len(name) + 1 for name in unique)


def section_table(image: ElfImage, pieces: Iterable[Piece]) -> tuple[Section, ...]:
    """The section headers of the new file, the null section first; indices that sections name follow the order."""
    placed = list(pieces)
    old = {id(s): index for index, s in enumerate(image.sections)}
    moved = {old[id(p.source)]: index for index, p in enumerate(placed, 1) if p.source is not None}
    null = image.sections[0]
    return (null, *(_header(piece, moved) for piece in placed))


def _header(piece: Piece, moved: dict[int, int]) -> Section:
    source = piece.source
    link = info = entsize = 0
    if source is not None:
        link, info, entsize = moved.get(source.link, source.link), source.info, source.entsize
        if source.flags & SHF_INFO_LINK and info < _SPECIAL_INDEX:
            info = moved.get(info, info)
    return Section(
        piece.name, piece.type, piece.flags, LinkedAddress(piece.addr), FileOffset(piece.offset),
        piece.size, link, info, piece.addralign, entsize,
    )  # fmt: skip
