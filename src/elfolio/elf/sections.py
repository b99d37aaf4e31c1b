"""elf.sections: the section headers. In: the file's bytes, its header. Out: Sections, and what is wrong with them.

Neither the kernel nor a dynamic loader looks at sections, and packers, sstrip and obfuscators leave them broken: so
nothing here refuses a file.
"""

from elfolio.elf import constants as c
from elfolio.elf.buffers import Strings
from elfolio.elf.head import Form
from elfolio.elf.image import Fault, Header, Section

__all__ = ["read_sections"]

_NO_FILE_BYTES = (c.SHT_NULL, c.SHT_NOBITS)


def read_sections(data: memoryview, form: Form, header: Header, faults: list[Fault]) -> tuple[Section, ...]:
    """The table, each section with its name; () with a fault where it lies outside of the file."""
    if not header.shoff:
        return ()
    each, count, at = form.section.size, header.shnum, header.shoff
    if count and header.shentsize != each:
        where = 58 if form.bits == 64 else 46
        faults.append(Fault("malformed section table", where, "e_shentsize", header.shentsize, f"{each:#x}"))
        return ()
    if at + each * count > len(data):
        where = 40 if form.bits == 64 else 32
        room = f"at most {max(0, len(data) - each * count):#x}, for {count} entries in {len(data):#x} bytes"
        faults.append(Fault("section table outside of the file", where, "e_shoff", at, room))
        return ()
    rows = list(form.section.iter_unpack(data[at : at + each * count]))
    names = _names(data, form, header, rows, faults)
    sections = []
    for index, row in enumerate(rows):
        _check(row, at + index * each, form, len(data), faults)
        name = names.at(row[0], at + index * each, "sh_name") if names else ""
        if isinstance(name, Fault):
            faults.append(name)
            name = ""
        sections.append(Section(name, *row[1:]))
    return tuple(sections)


def _names(
    data: memoryview, form: Form, header: Header, rows: list[tuple[int, ...]], faults: list[Fault]
) -> Strings | None:
    """The section names' table; None where there is none (SHN_UNDEF), or it is broken."""
    if header.shstrndx == c.SHN_UNDEF or not rows:
        return None
    if header.shstrndx >= len(rows):
        where = 62 if form.bits == 64 else 50
        expected = f"a section's number, below {len(rows)}"
        faults.append(Fault("no table of section names", where, "e_shstrndx", header.shstrndx, expected))
        return None
    row = rows[header.shstrndx]
    if row[1] == c.SHT_NOBITS:
        return None  # a file of debugging data only may keep the header and not the bytes
    return Strings(data[row[4] : row[4] + row[5]])


def _check(row: tuple[int, ...], at: int, form: Form, size: int, faults: list[Fault]) -> None:
    """A section's bytes must lie in the file, and its memory below the end of the address space."""
    kind, flags, addr, offset, length = row[1:6]
    if kind not in _NO_FILE_BYTES and offset + length > size:
        where, field = (24, "sh_offset") if form.bits == 64 else (16, "sh_offset")
        if offset <= size:
            where, field = (32, "sh_size") if form.bits == 64 else (20, "sh_size")
        found = length if field == "sh_size" else offset
        limit = size - offset if field == "sh_size" else size
        faults.append(Fault("section outside of the file", at + where, field, found, f"at most {limit:#x}"))
    if flags & c.SHF_ALLOC and addr + length > 1 << form.bits:
        where = 16 if form.bits == 64 else 12
        expected = f"at most {(1 << form.bits) - length:#x}"
        faults.append(Fault("section beyond the address space", at + where, "sh_addr", addr, expected))
