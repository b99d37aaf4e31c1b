"""elf.symbols: symbol tables, for those who ask. In: ElfImage and the file's bytes. Out: Symbols, one after another.

Nothing is read until the first symbol is asked for, and no list is made.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elfolio.elf import constants as c
from elfolio.elf.buffers import Strings, byte_view
from elfolio.elf.head import Form, form_of
from elfolio.elf.image import ElfHead, ElfImage, Fault
from elfolio.span import FileOffset, LinkedAddress

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Symbol", "dynsym", "dynsym_count", "symtab"]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol table's entry (Elf64_Sym, Elf32_Sym)."""

    name: str
    value: LinkedAddress
    """In an object file an offset in its section; of STT_TLS one in the TLS block."""
    size: int
    type: int
    """STT_FUNC and so on."""
    bind: int
    """STB_GLOBAL and so on."""
    visibility: int
    section: int
    """st_shndx: a section's number, or one of the reserved ones."""

    @property
    def defined(self) -> bool:
        """False for an import."""
        return self.section != c.SHN_UNDEF


def symtab(image: ElfImage, data: "ReadableBuffer") -> Iterator[Symbol]:
    """The symbols of the first SHT_SYMTAB section, without the null symbol; none where it was stripped. Raises ElfError
    at the first one that is malformed."""
    section = next((s for s in image.sections if s.type == c.SHT_SYMTAB), None)
    if section is None:
        return
    view = byte_view(data)
    if section.file.end > len(view) or section.link >= len(image.sections):
        raise Fault("symbol table outside of the file", section.offset, "sh_link", section.link).error(image.name)
    strings = image.sections[section.link]
    yield from _symbols(image, view, section.offset, section.size, Strings(view[strings.offset : strings.file.end]))


def dynsym(image: ElfImage, data: "ReadableBuffer") -> Iterator[Symbol]:
    """The symbols that the dynamic linker sees, without the null symbol: as DT_SYMTAB has them, sections or none.
    Raises ElfError at the first one that is malformed."""
    view = byte_view(data)
    symbols, strings, size = (image.tag(tag) for tag in (c.DT_SYMTAB, c.DT_STRTAB, c.DT_STRSZ))
    if symbols is None or strings is None or size is None:
        return
    form = form_of(image)
    at, text = _placed(image, symbols, "DT_SYMTAB"), _placed(image, strings, "DT_STRTAB")
    count = dynsym_count(image, view, image.tag(c.DT_HASH), image.tag(c.DT_GNU_HASH))
    yield from _symbols(image, view, at, count * form.symbol.size, Strings(view[text : text + size]))


def dynsym_count(head: ElfHead, view: memoryview, hashed: int | None, gnu_hashed: int | None) -> int:
    """How many dynamic symbols there are, from the linked addresses of DT_HASH and DT_GNU_HASH. The former's nchain
    says it; of the latter it is the end of the longest chain (Oracle's "GNU Hash ELF Sections"). Raises ElfError."""
    form = form_of(head)
    try:
        if hashed is not None:
            # 32-bit words in both classes, but for s390x and Alpha, where they are of 64 bits.
            wide = head.header.machine in (c.EM_S390, c.EM_ALPHA) and form.bits == 64
            return int(
                struct.unpack_from(form.order + ("QQ" if wide else "II"), view, _placed(head, hashed, "DT_HASH"))[1]
            )
        return 0 if gnu_hashed is None else _gnu_count(form, view, _placed(head, gnu_hashed, "DT_GNU_HASH"))
    except struct.error as error:
        raise Fault("hash table outside of the file", None, "DT_GNU_HASH").error(head.name) from error


def _gnu_count(form: Form, view: memoryview, at: int) -> int:
    buckets, first, words, _ = struct.unpack_from(form.order + "IIII", view, at)
    chains = at + 16 + words * (form.bits // 8) + buckets * 4
    if chains > len(view):
        raise struct.error("buckets outside of the file")
    last = max(struct.unpack_from(f"{form.order}{buckets}I", view, chains - buckets * 4), default=0)
    if last < first:
        return int(first)
    link = struct.Struct(form.order + "I")
    while not link.unpack_from(view, chains + (last - first) * 4)[0] & 1:
        last += 1
    return int(last) + 1


def _placed(head: ElfHead, address: int, field: str) -> FileOffset:
    offset = head.file_offset(LinkedAddress(address))
    if offset is None or offset >= head.size:
        expected = "an address with bytes in the file"
        raise Fault("dynamic tag leads nowhere", None, field, address, expected).error(head.name)
    return offset


def _symbols(image: ElfImage, view: memoryview, at: int, size: int, strings: Strings) -> Iterator[Symbol]:
    form = form_of(image)
    each = form.symbol.size
    if at + size > len(view):
        expected = f"at most {max(0, len(view) - at) // each} symbols"
        raise Fault("symbol table outside of the file", at, "st_name", size // each, expected).error(image.name)
    for start in range(at + each, at + size // each * each, each):
        row = form.symbol.unpack_from(view, start)
        # Elf32_Sym has st_value and st_size before st_info.
        name, info, other, shndx, value, length = row if form.bits == 64 else (row[0], *row[3:], *row[1:3])
        called = strings.at(name, start, "st_name")
        if isinstance(called, Fault):
            raise called.error(image.name)
        yield Symbol(called, LinkedAddress(value), length, info & 15, info >> 4, other & 3, shndx)
