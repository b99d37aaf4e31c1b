"""tests.tune.raw: an ELF file's headers as they stand. In: bytes. Out: Raw.

Read by struct alone: elfolio's reader shares its constants with the writer that is under test here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_NULL, PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_PHDR, PT_TLS = 0, 1, 2, 3, 4, 6, 7
PT_GNU_STACK, PT_GNU_RELRO = 0x6474E551, 0x6474E552
SHT_NULL, SHT_NOBITS = 0, 8
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_TLS = 1, 2, 4, 0x400
PF_X, PF_W, PF_R = 1, 2, 4

_HEADER = {64: "HHIQQQIHHHHHH", 32: "HHIIIIIHHHHHH"}
_HEADER_NAMES = (
    *("type", "machine", "version", "entry", "phoff", "shoff", "flags"),
    *("ehsize", "phentsize", "phnum", "shentsize", "shnum", "shstrndx"),
)
_SEGMENT = {64: "IIQQQQQQ", 32: "8I"}
_SEGMENT_NAMES = {
    64: ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align"),
    32: ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align"),
}
_SECTION = {64: "IIQQQQIIQQ", 32: "10I"}
_SECTION_NAMES = ("name", "type", "flags", "addr", "offset", "size", "link", "info", "addralign", "entsize")


@dataclass(frozen=True)
class Segment:
    """A program header."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int

    @property
    def file_end(self) -> int:
        """The offset behind its last byte in the file."""
        return self.offset + self.filesz

    def holds(self, offset: int, size: int) -> bool:
        """Whether these bytes of the file are its own."""
        return self.offset <= offset and offset + size <= self.file_end

    def __str__(self) -> str:
        return f"segment of type {self.type:#x} at {self.vaddr:#x}"


@dataclass(frozen=True)
class Section:
    """A section header, and its name."""

    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    addralign: int
    entsize: int
    text: str = ""

    @property
    def filesz(self) -> int:
        """Bytes that it takes in the file."""
        return 0 if self.type in (SHT_NOBITS, SHT_NULL) else self.size


@dataclass(frozen=True)
class Raw:
    """A file."""

    data: bytes = field(repr=False)
    bits: int
    order: str
    header: dict[str, int]
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    @property
    def loads(self) -> tuple[Segment, ...]:
        """Those that are mapped, in the table's order."""
        return tuple(s for s in self.segments if s.type == PT_LOAD)

    def tables(self) -> Iterator[tuple[int, int]]:
        """Offset and size of what the writer may change: the ELF header and the two tables."""
        yield 0, self.header["ehsize"]
        yield self.header["phoff"], len(self.segments) * self.header["phentsize"]
        yield self.header["shoff"], len(self.sections) * self.header["shentsize"]

    def content(self, section: Section) -> bytes:
        """What the section has in the file."""
        return self.data[section.offset : section.offset + section.filesz]


def load(path: Path | str) -> Raw:
    """The file at `path`."""
    return read(Path(path).read_bytes())


def read(data: bytes) -> Raw:
    """Raises ValueError or struct.error where it is not an ELF file."""
    if data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise ValueError("no ELF file")
    bits, order = (32, 64)[data[4] - 1], "<>"[data[5] - 1]
    header = dict(zip(_HEADER_NAMES, struct.unpack_from(order + _HEADER[bits], data, 16), strict=True))
    first = _sections(data, bits, order, header, 1)[0] if header["shoff"] else None
    # gABI: what does not fit into 16 bits stands in section 0.
    phnum = first.info if first and header["phnum"] == 0xFFFF else header["phnum"]
    shnum = first.size if first and header["shnum"] == 0 else header["shnum"]
    names = first.link if first and header["shstrndx"] == 0xFFFF else header["shstrndx"]
    sections = _named(_sections(data, bits, order, header, shnum), names, data)
    return Raw(data, bits, order, header, tuple(_segments(data, bits, order, header, phnum)), sections)


def _segments(data: bytes, bits: int, order: str, header: dict[str, int], count: int) -> Iterator[Segment]:
    for index in range(count):
        values = struct.unpack_from(order + _SEGMENT[bits], data, header["phoff"] + index * header["phentsize"])
        yield Segment(**dict(zip(_SEGMENT_NAMES[bits], values, strict=True)))


def _sections(data: bytes, bits: int, order: str, header: dict[str, int], count: int) -> list[Section]:
    places = (header["shoff"] + index * header["shentsize"] for index in range(count if header["shoff"] else 0))
    rows = (struct.unpack_from(order + _SECTION[bits], data, place) for place in places)
    return [Section(**dict(zip(_SECTION_NAMES, row, strict=True))) for row in rows]


def _named(sections: list[Section], names: int, data: bytes) -> tuple[Section, ...]:
    if not 0 < names < len(sections):
        return tuple(sections)
    table = sections[names]
    texts = data[table.offset : table.offset + table.size]
    return tuple(Section(**{**vars(s), "text": _text(texts, s.name)}) for s in sections)


def _text(table: bytes, at: int) -> str:
    return table[at : table.find(b"\0", at)].decode(errors="replace") if at < len(table) else ""


def fields_of(raw: Raw, of_segment: bool) -> tuple[tuple[str, ...], str]:
    """The names of a program header's fields, or of a section header's, in order; and struct's format of all."""
    names, form = (_SEGMENT_NAMES[raw.bits], _SEGMENT) if of_segment else (_SECTION_NAMES, _SECTION)
    return names, raw.order + (form[64] if raw.bits == 64 else "I" * len(names))
