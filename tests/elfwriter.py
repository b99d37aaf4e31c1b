"""The tests' own ELF writer: any file of either class and byte order, well-formed or with any field overridden.

It takes nothing from elfolio, not even constants, so that a mistake of the reader cannot hide in the writer.

    Elf(segments=[Ph(PT_LOAD, data=b"...", offset=0x1000, vaddr=0x1000, flags=5)]).build()

What is not given is filled in as a linker would: the program headers follow the header, contents follow them, the
section table comes last, counts and offsets agree. What is given is written as it is, however wrong.
"""

import struct
from dataclasses import dataclass, field
from typing import Literal

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
EM_386, EM_PPC64, EM_S390, EM_X86_64, EM_AARCH64 = 3, 21, 22, 62, 183
PT_NULL, PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_PHDR, PT_TLS = 0, 1, 2, 3, 4, 6, 7
PT_GNU_EH_FRAME, PT_GNU_STACK, PT_GNU_RELRO, PT_GNU_PROPERTY = 0x6474E550, 0x6474E551, 0x6474E552, 0x6474E553
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_DYNAMIC, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 1, 2, 3, 6, 7, 8, 11

EHDR = {64: "16sHHIQQQIHHHHHH", 32: "16sHHIIIIIHHHHHH"}
SHDR = {64: "IIQQQQIIQQ", 32: "10I"}
SYM = {64: "IBBHQQ", 32: "IIIBBH"}
EHDR_SIZE, PHDR_SIZE, SHDR_SIZE = {64: 64, 32: 52}, {64: 56, 32: 32}, {64: 64, 32: 40}
HEADER_FIELDS = (
    *("e_ident", "e_type", "e_machine", "e_version", "e_entry", "e_phoff", "e_shoff", "e_flags"),
    *("e_ehsize", "e_phentsize", "e_phnum", "e_shentsize", "e_shnum", "e_shstrndx"),
)

Order = Literal["little", "big"]


@dataclass
class Ph:
    """A program header. `data` is put at `offset`; without `offset` it is appended, aligned as `align` says, to at most
    64 KiB."""

    type: int = PT_LOAD
    flags: int = 4
    offset: int | None = None
    vaddr: int | None = None
    """Equal to the offset unless given."""
    paddr: int | None = None
    filesz: int | None = None
    """The length of `data` unless given."""
    memsz: int | None = None
    """p_filesz unless given."""
    align: int = 1
    data: bytes = b""


@dataclass
class Sh:
    """A section header. `data` is put at `offset`; without `offset` it is appended."""

    name: str | bytes = ""
    type: int = SHT_PROGBITS
    flags: int = 0
    addr: int = 0
    offset: int | None = None
    size: int | None = None
    """The length of `data` unless given."""
    link: int = 0
    info: int = 0
    addralign: int = 1
    entsize: int = 0
    data: bytes = b""
    name_index: int | None = None
    """sh_name, instead of where `name` stands in .shstrtab."""


@dataclass
class Elf:
    """A file to be built. `sections` are those behind the null section; .shstrtab is added as the last."""

    bits: Literal[32, 64] = 64
    order: Order = "little"
    type: int = ET_DYN
    machine: int = EM_X86_64
    entry: int = 0
    flags: int = 0
    osabi: int = 0
    segments: list[Ph] = field(default_factory=list)
    sections: list[Sh] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)
    """Bytes to write over whatever else stands there, by offset."""
    size: int = 0
    """The least size of the file, in bytes."""
    extended: bool = False
    """Counts stand in section 0 (PN_XNUM, e_shnum 0, SHN_XINDEX), as if they did not fit."""
    phoff: int | None = None
    header: dict[str, int | bytes] = field(default_factory=dict)
    """Fields of the ELF header by name (e_phnum), written instead of the right ones."""
    null_section: dict[str, int] = field(default_factory=dict)
    """`size`, `link` or `info` of section 0, instead of the right ones."""

    def build(self) -> bytes:
        """The file."""
        phoff = EHDR_SIZE[self.bits] if self.phoff is None else self.phoff
        out = bytearray(max(EHDR_SIZE[self.bits], phoff + PHDR_SIZE[self.bits] * len(self.segments)))
        table = b"".join(self._program_header(ph, out) for ph in self.segments)
        out[phoff : phoff + len(table)] = table
        shoff = self._sections(out)
        _grow(out, self.size)
        fields = self._header_fields(phoff, shoff)
        out[: EHDR_SIZE[self.bits]] = self.pack(EHDR[self.bits], *(fields[name] for name in HEADER_FIELDS))
        for offset, data in self.contents.items():
            _put(out, offset, data)
        return bytes(out)

    def pack(self, form: str, *values: int | bytes) -> bytes:
        """As struct.pack, in this file's byte order."""
        return struct.pack(("<" if self.order == "little" else ">") + form, *values)

    def dynamic(self, *tags: tuple[int, int], end: bool = True) -> bytes:
        """A dynamic section's bytes, with DT_NULL unless `end` is false."""
        form = "qQ" if self.bits == 64 else "iI"
        return b"".join(self.pack(form, *pair) for pair in (*tags, *([(0, 0)] if end else [])))

    def note(self, owner: bytes, type: int, desc: bytes, align: int = 4) -> bytes:
        """A note; `owner` with its NUL, if it is to have one."""
        head = self.pack("III", len(owner), len(desc), type) + owner
        return _padded(_padded(head, align) + desc, align)

    def symbol(
        self, name: int, value: int = 0, size: int = 0, info: int = 0x12, other: int = 0, shndx: int = 1
    ) -> bytes:
        """A symbol table's entry."""
        if self.bits == 64:
            return self.pack(SYM[64], name, info, other, shndx, value, size)
        return self.pack(SYM[32], name, value, size, info, other, shndx)

    def _program_header(self, ph: Ph, out: bytearray) -> bytes:
        offset = _place(out, ph.offset, ph.data, ph.align)
        vaddr = offset if ph.vaddr is None else ph.vaddr
        filesz = len(ph.data) if ph.filesz is None else ph.filesz
        memsz = filesz if ph.memsz is None else ph.memsz
        paddr = vaddr if ph.paddr is None else ph.paddr
        if self.bits == 64:
            return self.pack("IIQQQQQQ", ph.type, ph.flags, offset, vaddr, paddr, filesz, memsz, ph.align)
        return self.pack("8I", ph.type, offset, vaddr, paddr, filesz, memsz, ph.flags, ph.align)

    def _sections(self, out: bytearray) -> int:
        """Appends contents, names and the table; returns where the table stands, 0 for none."""
        if not (self.sections or self.extended):
            return 0
        names = bytearray(b"\0")
        named = [(sh, _name_index(sh, names)) for sh in self.sections]
        strings = Sh(type=SHT_STRTAB)
        named.append((strings, len(names)))
        strings.data = bytes(names) + b".shstrtab\0"
        rows = [self._section_header(sh, index, out) for sh, index in named]
        _grow(out, -(-len(out) // 8) * 8)
        shoff = len(out)
        out += self._null_section(len(rows) + 1) + b"".join(rows)
        return shoff

    def _section_header(self, sh: Sh, name: int, out: bytearray) -> bytes:
        offset = _place(out, sh.offset, sh.data, sh.addralign)
        size = len(sh.data) if sh.size is None else sh.size
        return self.pack(
            SHDR[self.bits], name, sh.type, sh.flags, sh.addr, offset, size, sh.link, sh.info, sh.addralign, sh.entsize
        )

    def _null_section(self, count: int) -> bytes:
        right = {"size": count, "link": count - 1, "info": len(self.segments)} if self.extended else {}
        said = {"size": 0, "link": 0, "info": 0, **right, **self.null_section}
        return self.pack(SHDR[self.bits], 0, 0, 0, 0, 0, said["size"], said["link"], said["info"], 0, 0)

    def _header_fields(self, phoff: int, shoff: int) -> dict[str, int | bytes]:
        count = len(self.sections) + 2 if shoff else 0
        ident = bytes((2 if self.bits == 64 else 1, 1 if self.order == "little" else 2, 1, self.osabi)).ljust(12, b"\0")
        right: dict[str, int | bytes] = {
            "e_ident": b"\x7fELF" + ident,
            "e_type": self.type,
            "e_machine": self.machine,
            "e_version": 1,
            "e_entry": self.entry,
            "e_phoff": phoff if self.segments else 0,
            "e_shoff": shoff,
            "e_flags": self.flags,
            "e_ehsize": EHDR_SIZE[self.bits],
            "e_phentsize": PHDR_SIZE[self.bits],
            "e_phnum": 0xFFFF if self.extended else len(self.segments),
            "e_shentsize": SHDR_SIZE[self.bits],
            "e_shnum": 0 if self.extended else count,
            "e_shstrndx": 0xFFFF if self.extended else max(0, count - 1),
        }
        return right | self.header


def strings(*texts: str) -> bytes:
    """A string table: a NUL, then the texts, each with its own."""
    return b"\0" + b"".join(text.encode() + b"\0" for text in texts)


def _name_index(sh: Sh, names: bytearray) -> int:
    if sh.name_index is not None:
        return sh.name_index
    if not sh.name:
        return 0
    at = len(names)
    names += (sh.name.encode() if isinstance(sh.name, str) else sh.name) + b"\0"
    return at


def _place(out: bytearray, offset: int | None, data: bytes, align: int) -> int:
    """Where `data` stands; an offset that was given is taken as it is, and without data nothing is written."""
    if offset is None:
        align = min(max(1, align), 65536)
        offset = -(-len(out) // align) * align if data else 0
    _put(out, offset, data)
    return offset


def _put(out: bytearray, offset: int, data: bytes) -> None:
    if data:
        _grow(out, offset + len(data))
        out[offset : offset + len(data)] = data


def _grow(out: bytearray, size: int) -> None:
    out.extend(bytes(max(0, size - len(out))))


def _padded(data: bytes, align: int) -> bytes:
    return data + bytes(-len(data) % align)
