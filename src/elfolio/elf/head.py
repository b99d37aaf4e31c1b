"""elf.head: the header and the program headers. In: a file's first bytes, its size. Out: ElfHead's parts, or ElfError.

All that execve looks at stands here, and a file whose header or table is broken cannot be read at all. The kernel asks
for the magic bytes, e_type, e_machine, e_phentsize and e_phnum (load_elf_binary and load_elf_phdrs in fs/binfmt_elf.c);
EI_CLASS, EI_DATA, both versions and e_ehsize it never sees, and so they may be wrong here too.
"""

import struct
from typing import Any, Literal, NamedTuple

from elfolio.elf import constants as c
from elfolio.elf.image import ElfHead, Fault, Header, Segment
from elfolio.span import FileOffset, LinkedAddress

__all__ = ["FORMS", "Form", "RawHead", "form_of", "parse_head", "raw_head", "table_end"]


class Form(NamedTuple):
    """How a file's structures are laid out: one of four."""

    bits: Literal[32, 64]
    byteorder: Literal["little", "big"]
    header: struct.Struct
    """Of Elf64_Ehdr or Elf32_Ehdr, from e_type on; e_ident has no byte order."""
    segment: struct.Struct
    section: struct.Struct
    dynamic: struct.Struct
    symbol: struct.Struct

    @property
    def order(self) -> Literal["<", ">"]:
        """As struct writes it."""
        return "<" if self.byteorder == "little" else ">"


Row = tuple[int, int, FileOffset, LinkedAddress, int, int, int, int]
"""A program header's fields in Segment's order, which is Elf64_Phdr's, whatever the class."""


class RawHead(NamedTuple):
    """A file's head in plain tuples."""

    form: Form
    fields: tuple[Any, ...]
    """e_type and all fields behind it, with the true counts where section 0 says them."""
    rows: list[Row]
    faults: list[Fault]


def _form(bits: Literal[32, 64], byteorder: Literal["little", "big"]) -> Form:
    order = "<" if byteorder == "little" else ">"
    forms = (
        ("HHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ", "qQ", "IBBHQQ")
        if bits == 64
        else ("HHIIIIIHHHHHH", "8I", "10I", "iI", "IIIBBH")
    )
    return Form(bits, byteorder, *(struct.Struct(order + form) for form in forms))


FORMS = {
    (c.ELFCLASS64, c.ELFDATA2LSB): _form(64, "little"),
    (c.ELFCLASS64, c.ELFDATA2MSB): _form(64, "big"),
    (c.ELFCLASS32, c.ELFDATA2LSB): _form(32, "little"),
    (c.ELFCLASS32, c.ELFDATA2MSB): _form(32, "big"),
}
_BY_HEADER = {(form.bits, form.byteorder): form for form in FORMS.values()}
_NATIVE = {
    c.EM_X86_64: (c.ELFCLASS64, c.ELFDATA2LSB),
    c.EM_AARCH64: (c.ELFCLASS64, c.ELFDATA2LSB),
    c.EM_386: (c.ELFCLASS32, c.ELFDATA2LSB),
}
"""What the kernel takes a file of this machine for, whatever e_ident says."""
_PHENTSIZE_AT = {64: 54, 32: 42}


def form_of(head: ElfHead) -> Form:
    """The form in which a file was read."""
    return _BY_HEADER[head.header.bits, head.header.byteorder]


def parse_head(data: memoryview, name: str, size: int) -> tuple[ElfHead, Form, list[Fault]]:
    """`data` is the file's beginning, `size` the whole file's. Raises ElfError for what is no ELF file, and where the
    program headers' table is malformed or ends behind `data`."""
    raw = raw_head(data, name, size)
    fields = raw.fields
    header = Header(raw.form.bits, raw.form.byteorder, data[7], data[8], fields[0], fields[1], *fields[3:])
    return ElfHead(name, size, header, tuple([Segment(*row) for row in raw.rows])), raw.form, raw.faults


def raw_head(data: bytes | memoryview, name: str, size: int) -> RawHead:
    """The same as plain tuples, for those who read thousands of files: with the same errors."""
    form, faults = _recognise(data, name)
    fields = _fields(data, name, form)
    if fields[9] == c.PN_XNUM or (fields[11] == 0 and fields[5]) or fields[12] == c.SHN_XINDEX:
        fields = _extended(data, form, fields)
    return RawHead(form, fields, _rows(data, name, form, fields, size), faults)


def table_end(data: bytes | memoryview, name: str) -> int:
    """Where the program headers' table ends, in bytes from the file's beginning, as e_phoff and e_phnum have it."""
    form, _ = _recognise(data, name)
    fields = _fields(data, name, form)
    return int(fields[4] + fields[8] * fields[9])


def _recognise(data: bytes | memoryview, name: str) -> tuple[Form, list[Fault]]:
    """The form that e_ident tells; or, where it does not hold water, the one by which the kernel would run it."""
    if data[:4] != c.ELFMAG:
        raise Fault("no ELF file", 0, "e_ident", bytes(data[:4]), repr(c.ELFMAG)).error(name)
    if len(data) < 20:
        raise Fault("truncated", len(data), "e_ident", None, "a header of 52 or 64 bytes").error(name)
    said = (data[4], data[5])
    machine = data[18] | data[19] << 8
    native = _NATIVE.get(machine, said)
    if native != said and _counts_as(FORMS[native], data):
        return FORMS[native], [Fault("the kernel does not look here", 4, "EI_CLASS, EI_DATA", said, f"{native}")]
    if said not in FORMS:
        field, at = ("EI_DATA", 5) if data[4] in (c.ELFCLASS32, c.ELFCLASS64) else ("EI_CLASS", 4)
        raise Fault("unknown kind of ELF file", at, field, data[at], "1 or 2").error(name)
    return FORMS[said], []


def _counts_as(form: Form, data: bytes | memoryview) -> bool:
    """Whether e_phentsize is right for this form: the one check of the kernel's that tells the classes apart."""
    at = _PHENTSIZE_AT[form.bits]
    return len(data) >= at + 2 and int.from_bytes(data[at : at + 2], form.byteorder) == form.segment.size


def _fields(data: bytes | memoryview, name: str, form: Form) -> tuple[Any, ...]:
    """e_type and all behind it."""
    if len(data) < 16 + form.header.size:
        raise Fault("truncated", len(data), "e_ident", None, f"a header of {16 + form.header.size} bytes").error(name)
    return form.header.unpack_from(data, 16)


def _extended(data: bytes | memoryview, form: Form, fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """Counts that do not fit into the header stand in section 0: sh_info for e_phnum, sh_size for e_shnum, sh_link for
    e_shstrndx (gABI, chapter 4). Where there is no section 0 the header's own numbers are all there is."""
    shoff, phnum, shnum, shstrndx = fields[5], fields[9], fields[11], fields[12]
    if not shoff or fields[10] != form.section.size or shoff + form.section.size > len(data):
        return fields
    null = form.section.unpack_from(data, shoff)
    phnum = (null[7] or phnum) if phnum == c.PN_XNUM else phnum
    shnum = null[5] if shnum == 0 else shnum
    shstrndx = null[6] if shstrndx == c.SHN_XINDEX else shstrndx
    return (*fields[:9], phnum, fields[10], shnum, shstrndx)


def _rows(data: bytes | memoryview, name: str, form: Form, fields: tuple[Any, ...], size: int) -> list[Row]:
    at, each, count = fields[4], form.segment.size, fields[9]
    if count == 0:
        return []
    if fields[8] != each:
        where = _PHENTSIZE_AT[form.bits]
        raise Fault("malformed program headers", where, "e_phentsize", fields[8], f"{each:#x}").error(name)
    where, end = 32 if form.bits == 64 else 28, at + each * count
    if end > size:
        room = f"at most {max(0, size - each * count):#x}, for {count} entries in {size:#x} bytes"
        raise Fault("program headers outside of the file", where, "e_phoff", at, room).error(name)
    if end > len(data):
        room = f"a table within the first {len(data):#x} bytes, which is all that was given"
        raise Fault("program headers behind the bytes given", where, "e_phoff", at, room).error(name)
    rows = form.segment.iter_unpack(data[at : at + each * count])
    # Elf32_Phdr has p_flags behind p_memsz.
    return list(rows) if form.bits == 64 else [(r[0], r[6], *r[1:6], r[7]) for r in rows]
