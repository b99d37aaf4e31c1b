"""elf.reader: an ELF file, read and checked. In: bytes of any buffer. Out: ElfImage, or ElfError."""

import struct
from typing import Literal

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage, Header, Note, Section, Segment
from elfolio.errors import ElfError
from elfolio.span import FileOffset, LinkedAddress

__all__ = ["read"]

_SEGMENT_ORDER = {64: (0, 1, 2, 3, 4, 5, 6, 7), 32: (0, 6, 1, 2, 3, 4, 5, 7)}
"""Where Segment's fields stand in a program header: ELF32 has p_flags behind p_memsz."""


def read(data: bytes | memoryview, name: str = "") -> ElfImage:
    """Headers, dynamic section and notes; symbols and contents are not touched."""
    try:
        return _read(memoryview(data), name)
    except (struct.error, IndexError, UnicodeDecodeError, StopIteration) as error:
        raise ElfError(name, f"truncated or malformed: {error}") from error


def _read(data: memoryview, name: str) -> ElfImage:
    header, order = _header(data, name)
    segments = []
    form = struct.Struct(order + ("IIQQQQQQ" if header.bits == 64 else "8I"))
    for i in range(header.phnum):
        fields = form.unpack_from(data, header.phoff + i * header.phentsize)
        segments.append(Segment(*(fields[at] for at in _SEGMENT_ORDER[header.bits])))
    sections = _sections(data, header, order)
    interp = next((s for s in segments if s.type == c.PT_INTERP), None)
    dynamic = next((s for s in segments if s.type == c.PT_DYNAMIC), None)
    tags: list[tuple[int, int]] = []
    if dynamic is not None:
        pair = struct.Struct(order + ("qQ" if header.bits == 64 else "iI"))
        body = data[dynamic.offset : dynamic.offset + dynamic.filesz // pair.size * pair.size]
        for tag, value in pair.iter_unpack(body):
            if tag == c.DT_NULL:
                break
            tags.append((tag, value))
    notes: list[Note] = []
    for segment in segments:
        if segment.type == c.PT_NOTE:
            notes.extend(_notes(data, segment, order))
    return ElfImage(
        name=name,
        size=len(data),
        header=header,
        segments=tuple(segments),
        sections=sections,
        interpreter=None
        if interp is None
        else bytes(data[interp.offset : interp.offset + interp.filesz])
        .rstrip(b"\0")
        .decode("utf-8", "surrogateescape"),
        dynamic=tuple(tags),
        notes=tuple(notes),
    )


def _header(data: memoryview, name: str) -> tuple[Header, str]:
    ident = bytes(data[:16])
    if ident[:4] != c.ELFMAG or len(ident) < 16:
        raise ElfError(name, "no ELF file", offset=0, field="e_ident", found=ident[:4], expected=repr(c.ELFMAG))
    bits: Literal[32, 64] = 64 if ident[4] == c.ELFCLASS64 else 32
    byteorder: Literal["little", "big"] = "little" if ident[5] == c.ELFDATA2LSB else "big"
    order = "<" if byteorder == "little" else ">"
    type_, machine, _, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize, shnum, shstrndx = (
        struct.unpack_from(order + ("HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"), data, 16)
    )
    header = Header(
        bits, byteorder, ident[7], ident[8], type_, machine, LinkedAddress(entry), FileOffset(phoff), FileOffset(shoff),
        flags, ehsize, phentsize, phnum, shentsize, shnum, shstrndx,
    )  # fmt: skip
    return header, order


def _sections(data: memoryview, header: Header, order: str) -> tuple[Section, ...]:
    if header.shoff == 0:
        return ()
    form = struct.Struct(order + ("IIQQQQIIQQ" if header.bits == 64 else "10I"))
    rows = [form.unpack_from(data, header.shoff + i * header.shentsize) for i in range(header.shnum)]
    strings = b""
    if header.shstrndx < len(rows):
        offset, size = rows[header.shstrndx][4:6]
        strings = bytes(data[offset : offset + size])
    return tuple(
        Section(strings[row[0] : strings.find(b"\0", row[0])].decode("utf-8", "surrogateescape"), *row[1:])
        for row in rows
    )


def _notes(data: memoryview, segment: Segment, order: str) -> list[Note]:
    notes = []
    at, end = segment.offset, FileOffset(segment.offset + segment.filesz)
    step = 8 if segment.align == 8 else 4
    while at + 12 <= end:
        namesz, descsz, type_ = struct.unpack_from(order + "III", data, at)
        name_end = at + 12 + namesz
        desc = segment.offset + -(-(name_end - segment.offset) // step) * step
        owner = bytes(data[at + 12 : name_end]).rstrip(b"\0").decode("utf-8", "surrogateescape")
        notes.append(Note(owner, type_, bytes(data[desc : desc + descsz]), at))
        at = FileOffset(segment.offset + -(-(desc + descsz - segment.offset) // step) * step)
    return notes
