"""tests.tune.shapes: files like those on which other rewriters failed. In: class and byte order. Out: bytes.

Each is an issue of patchelf's, LIEF's or LLVM's tracker, rebuilt without a linker, or a shape that rewriters are known
to meet. They differ from `plain` in one thing.
"""

from collections.abc import Callable
from dataclasses import replace

from tests import elfwriter as w
from tests.elf.samples import Bits
from tests.elfwriter import Elf, Order, Ph, Sh

R, W, X = 4, 2, 1
EM_PPC, EM_PPC64 = 20, 21
MACHINES: dict[tuple[Bits, Order], int] = {
    (64, "little"): w.EM_X86_64,
    (64, "big"): w.EM_S390,
    (32, "little"): w.EM_386,
    (32, "big"): EM_PPC,
}
Shape = Callable[[Bits, Order], bytes]


def pattern(size: int, seed: int) -> bytes:
    """Bytes that are not like their neighbours, and none of them zero."""
    return bytes((seed * 37 + i * 11 + i // 251) % 255 + 1 for i in range(size))


def plain(bits: Bits, order: Order) -> Elf:
    """A small PIE as GNU ld lays one out: headers, text, constants, data with .tbss, RELRO and .bss."""
    elf = Elf(bits=bits, order=order, machine=MACHINES[bits, order], entry=0x1010)
    notes = elf.note(b"GNU\0", 3, bytes(range(20)))
    dynamic = elf.dynamic((5, 0x480), (10, 64), (30, 8))
    elf.segments = [
        Ph(w.PT_LOAD, R, 0, 0, data=pattern(0x800, 1), align=0x1000),
        Ph(w.PT_LOAD, R | X, 0x1000, 0x1000, data=pattern(0x900, 2), align=0x1000),
        Ph(w.PT_LOAD, R, 0x2000, 0x2000, data=pattern(0x300, 3), align=0x1000),
        Ph(w.PT_LOAD, R | W, 0x2D00, 0x3D00, data=pattern(0x400, 4), memsz=0x1400, align=0x1000),
        Ph(w.PT_INTERP, R, 0x400, data=b"/lib/ld.so\0"),
        Ph(w.PT_NOTE, R, 0x420, data=notes, align=4),
        Ph(w.PT_DYNAMIC, R | W, 0x2E00, 0x3E00, data=dynamic, align=8),
        Ph(w.PT_TLS, R, 0x2D00, 0x3D00, filesz=0x40, memsz=0x80, align=16),
        Ph(w.PT_GNU_RELRO, R, 0x2D00, 0x3D00, filesz=0x300, align=1),
        Ph(w.PT_GNU_STACK, R | W, 0, 0, align=16),
    ]
    elf.sections = [
        Sh(".interp", w.SHT_PROGBITS, 2, 0x400, 0x400, 11),
        Sh(".note.gnu.build-id", w.SHT_NOTE, 2, 0x420, 0x420, len(notes), addralign=4),
        Sh(".text", w.SHT_PROGBITS, 6, 0x1000, 0x1000, 0x900, addralign=16),
        Sh(".rodata", w.SHT_PROGBITS, 2, 0x2000, 0x2000, 0x300, addralign=32),
        Sh(".tdata", w.SHT_PROGBITS, 0x403, 0x3D00, 0x2D00, 0x40, addralign=16),
        Sh(".tbss", w.SHT_NOBITS, 0x403, 0x3D40, 0x2D40, 0x40, addralign=16),
        Sh(".dynamic", w.SHT_DYNAMIC, 3, 0x3E00, 0x2E00, len(dynamic), addralign=8, entsize=len(dynamic) // 4),
        Sh(".data", w.SHT_PROGBITS, 3, 0x4000, 0x3000, 0x100, addralign=8),
        Sh(".bss", w.SHT_NOBITS, 3, 0x4100, 0x3100, 0x1000, addralign=32),
        Sh(".comment", data=b"GCC: (Test) 1\0", flags=0x30, entsize=1),
    ]
    return elf


def plainly(bits: Bits, order: Order) -> bytes:
    """Nothing odd."""
    return plain(bits, order).build()


def _with(change: Callable[[Elf], None]) -> Shape:
    def shape(bits: Bits, order: Order) -> bytes:
        elf = plain(bits, order)
        change(elf)
        return elf.build()

    return shape


def _segment(index: int, **fields: int) -> Shape:
    def change(elf: Elf) -> None:
        elf.segments[index] = replace(elf.segments[index], **fields)  # type: ignore[arg-type]

    return _with(change)


def _appended(tail: bytes) -> Shape:
    return lambda bits, order: plainly(bits, order) + tail


def _marked(at: int, mark: bytes) -> Shape:
    def shape(bits: Bits, order: Order) -> bytes:
        data = bytearray(plainly(bits, order))
        data[at : at + len(mark)] = mark
        return bytes(data)

    return shape


def _section_table_first(bits: Bits, order: Order) -> bytes:
    """Go: section headers right behind the program headers, inside the first segment."""
    elf = plain(bits, order)
    elf.segments[0] = replace(elf.segments[0], data=pattern(0xD00, 1))
    for index, place in ((4, 0xC00), (5, 0xC20)):
        elf.segments[index] = replace(elf.segments[index], offset=place, vaddr=place)
        elf.sections[index - 4] = replace(elf.sections[index - 4], offset=place, addr=place)
    rows = w.SHDR_SIZE[bits] * (len(elf.sections) + 2)
    elf.header = {"e_shoff": w.EHDR_SIZE[bits] + w.PHDR_SIZE[bits] * len(elf.segments)}
    data = elf.build()
    table = data[len(data) - rows :]
    return data[: elf.header["e_shoff"]] + table + data[elf.header["e_shoff"] + rows : len(data) - rows]  # type: ignore[operator, index]


def _contiguous_notes(elf: Elf) -> None:
    """Three notes of unlike alignment, and program headers that cover one, and all of them."""
    first, third = elf.note(b"GNU\0", 1, bytes(16)), elf.note(b"GNU\0", 3, bytes(20))
    second = elf.note(b"GNU\0", 5, bytes(16), 8)
    elf.segments[5] = Ph(w.PT_NOTE, R, 0x424, data=first + bytes(4) + second + third, align=4)
    elf.segments.append(Ph(w.PT_NOTE, R, 0x448, filesz=len(second), align=8))
    elf.segments.append(Ph(w.PT_GNU_PROPERTY, R, 0x448, filesz=len(second), align=8))
    del elf.sections[1]


def _interp_first(elf: Elf) -> None:
    """PT_INTERP begins where a PT_LOAD does, and stands before it in the table."""
    elf.segments[4] = replace(elf.segments[4], offset=0x2000, vaddr=0x2000)
    elf.sections[0] = replace(elf.sections[0], offset=0x2000, addr=0x2000)
    elf.sections[3] = replace(elf.sections[3], offset=0x2020, addr=0x2020, size=0x2E0)
    elf.segments.insert(0, elf.segments.pop(4))


def _headers_at_end(elf: Elf) -> None:
    """The program headers stand behind all else, in a segment of their own, as patchelf puts them."""
    size = w.PHDR_SIZE[elf.bits] * (len(elf.segments) + 2)
    elf.phoff = 0x5000
    elf.segments.insert(4, Ph(w.PT_LOAD, R, 0x5000, 0x8000, filesz=size, align=0x1000))
    elf.segments.insert(0, Ph(w.PT_PHDR, R, 0x5000, 0x8000, filesz=size, align=8))
    elf.size = 0x5000 + size


def _headers_with_text(elf: Elf) -> None:
    """BOLT: the program headers moved to the start of a new segment of text, at 2 MiB."""
    size = w.PHDR_SIZE[elf.bits] * (len(elf.segments) + 2)
    elf.phoff = 0x200000
    text = Ph(w.PT_LOAD, R | X, 0x200000, 0x200000, data=pattern(0x1000, 9), align=0x200000)
    elf.segments.insert(4, text)
    elf.segments.insert(0, Ph(w.PT_PHDR, R, 0x200000, 0x200000, filesz=size, align=8))
    elf.sections[9] = replace(elf.sections[9], offset=0x3100)
    elf.sections.insert(9, Sh(".bolt", flags=6, addr=0x200800, offset=0x200800, size=0x800, addralign=16))


def _constants_first(elf: Elf) -> None:
    """.rodata at the file's start, before .interp."""
    elf.sections.insert(0, Sh(".rodata.first", flags=2, addr=0x3A0, offset=0x3A0, size=0x40, addralign=16))


def _stapsdt(elf: Elf) -> None:
    """Notes that no segment has, behind those that are mapped."""
    elf.sections.insert(9, Sh(".note.stapsdt", w.SHT_NOTE, data=elf.note(b"stapsdt\0", 3, pattern(40, 5)), addralign=4))


def _straddling(elf: Elf) -> None:
    """A section that two adjacent segments have half each."""
    elf.segments[0] = replace(elf.segments[0], data=pattern(0x1000, 1))
    elf.sections.insert(2, Sh(".dynstr", w.SHT_STRTAB, 2, 0xF80, 0xF80, 0x100))
    elf.sections[3] = replace(elf.sections[3], addr=0x1080, offset=0x1080, size=0x880)


def _embedded(elf: Elf) -> None:
    """Bare metal: segments that follow each other in the file, and addresses that know nothing of pages."""
    elf.type = w.ET_EXEC
    elf.segments = [
        Ph(w.PT_LOAD, R, 0x1F4, 0x8004000, data=pattern(0xC0, 1), align=4),
        Ph(w.PT_LOAD, R | X, 0x2B4, 0x80040C0, data=pattern(0x664, 2), align=4),
        Ph(w.PT_LOAD, R | W, 0x924, 0x800A824, data=pattern(0xFF8, 3), align=16),
    ]
    elf.sections = []


def _zeroed(elf: Elf) -> None:
    """A segment without bytes in the file, and one without anything."""
    elf.segments.insert(4, Ph(w.PT_LOAD, R | W, 0x3100, 0x6000, filesz=0, memsz=0x2000, align=0x1000))
    elf.segments.insert(5, Ph(w.PT_LOAD, R, 0, 0x9000, filesz=0, memsz=0, align=0x1000))


def _shared_page(elf: Elf) -> None:
    """Text's end and data's beginning in one page of the file, mapped twice."""
    elf.segments[2] = replace(elf.segments[2], offset=0x1900, vaddr=0x2900)
    elf.sections[3] = replace(elf.sections[3], offset=0x1900, addr=0x2900)
    elf.segments[3] = replace(elf.segments[3], offset=0x1C00, vaddr=0x3C00)
    for index in (6, 7, 8):
        moved = elf.segments[index]
        elf.segments[index] = replace(moved, offset=(moved.offset or 0) - 0x1100, vaddr=(moved.vaddr or 0) - 0x100)
    for index in range(4, 9):
        sh = elf.sections[index]
        elf.sections[index] = replace(sh, offset=(sh.offset or 0) - 0x1100, addr=sh.addr - 0x100)


def _mapped_twice(elf: Elf) -> None:
    """The same bytes of the file at two addresses."""
    elf.segments.insert(4, Ph(w.PT_LOAD, R, 0x1000, 0x8000, filesz=0x900, align=0x1000))


def _interp_outside(elf: Elf) -> None:
    """PT_INTERP's bytes are in no PT_LOAD."""
    elf.segments[4] = Ph(w.PT_INTERP, R, 0x3200, 0, data=b"/lib/ld.so\0", memsz=0)
    elf.sections[0] = Sh(".interp", flags=0, addr=0, offset=0x3200, size=11)


def _one_table(elf: Elf) -> None:
    """Names of sections and of symbols in one string table."""
    elf.sections.append(
        Sh(".symtab", w.SHT_SYMTAB, data=elf.symbol(0, info=0, shndx=0) + elf.symbol(1), link=12, info=1)
    )
    elf.sections[-1].entsize = len(elf.symbol(0))


def _many_sections(elf: Elf) -> None:
    """Counts that stand in section 0."""
    elf.extended = True


def _table_in_memory(elf: Elf) -> None:
    """Names and headers of the sections are part of the last segment's bytes."""
    elf.segments[3] = replace(elf.segments[3], filesz=0xB00, memsz=0x1B00)
    elf.sections[8] = replace(elf.sections[8], addr=0x4800, offset=0x3800)
    elf.size = 0x3800


def _descending(elf: Elf) -> None:
    """PT_LOADs that do not ascend in the table."""
    elf.segments[1], elf.segments[2] = elf.segments[2], elf.segments[1]


def _other_base(elf: Elf) -> None:
    """A PIE that was given an address, as prelink does."""
    elf.entry += 0x7F0000
    moved = [replace(s, vaddr=(s.offset if s.vaddr is None else s.vaddr) + 0x7F0000) for s in elf.segments[:-1]]  # type: ignore[operator]
    elf.segments = [*moved, elf.segments[-1]]
    elf.sections = [replace(s, addr=s.addr + 0x7F0000) if s.flags & 2 else s for s in elf.sections]


def _fixed(elf: Elf) -> None:
    elf.type = w.ET_EXEC
    _other_base(elf)


def _no_headers_mapped(elf: Elf) -> None:
    """ET_EXEC whose headers no segment has: AT_PHDR is nowhere."""
    _fixed(elf)
    del elf.segments[0]
    del elf.segments[3:5]
    del elf.sections[:2]


def _far(name: str) -> Shape:
    """Near 2^64, or 2^32: what is added to that offset does not fit."""

    def change(elf: Elf) -> None:
        index = next(i for i, sh in enumerate(elf.sections) if sh.name == name)
        elf.sections[index] = replace(elf.sections[index], offset=(1 << elf.bits) - 0x1000)

    return _with(change)


def _close_neighbours(elf: Elf) -> None:
    """p_align of 4 KiB, and segments as far apart in the file as in memory: larger pages show them side by side."""
    _fixed(elf)
    elf.machine = EM_PPC if elf.bits == 32 else EM_PPC64
    elf.segments = [elf.segments[index] for index in (0, 1, 4, 5, 9)]
    elf.sections = [elf.sections[index] for index in (0, 1, 2, 9)]


def _alignment(value: int) -> Shape:
    return _segment(1, align=value)


HANDLED: dict[str, Shape] = {
    "plain": plainly,
    "patchelf 457: section headers behind the program headers": _section_table_first,
    "patchelf 275, 289, 255, LIEF 611: contiguous notes": _with(_contiguous_notes),
    "patchelf 531: constants first": _with(_constants_first),
    "patchelf 426, 544, LLVM 220399: program headers at the end": _with(_headers_at_end),
    "patchelf 492, 528: p_align larger than what address and offset share": _segment(3, align=0x200000),
    "LIEF 1349: notes outside of segments": _with(_stapsdt),
    "LIEF 1175: program headers amid data": _with(lambda elf: setattr(elf, "phoff", 0x500)),
    "LLVM 56738: program headers at a segment's start": _with(_headers_with_text),
    "LLVM 79887: PT_INTERP at a segment's start": _with(_interp_first),
    "segments without bytes": _with(_zeroed),
    "segments that share pages of the file": _with(_shared_page),
    "one page mapped twice": _with(_mapped_twice),
    "PT_INTERP outside of segments": _with(_interp_outside),
    "one string table": _with(_one_table),
    "counts in section 0": _with(_many_sections),
    "section headers in memory": _with(_table_in_memory),
    "ET_EXEC": _with(_fixed),
    "headers in no segment": _with(_no_headers_mapped),
    "no sections": _with(lambda elf: elf.sections.clear()),
    "zeros behind the end": _appended(bytes(5000)),
}
"""To be rewritten, or refused with a reason; which of them is told by the test's table."""

REFUSED: dict[str, tuple[Shape, str]] = {
    "patchelf 403: a section in two segments": (_with(_straddling), "straddles"),
    "LLVM 58407: addresses without pages": (_with(_embedded), "incongruent"),
    "AppImage": (_marked(8, b"AI\2"), "payload"),
    "AppImage's file system": (_appended(b"hsqs" + pattern(600, 7)), "payload"),
    "PyInstaller": (_appended(pattern(400, 7) + b"MEI\014\013\012\013\016" + pattern(80, 8)), "payload"),
    "Bun": (_appended(pattern(400, 7) + b"\n---- Bun! ----\n"), "payload"),
    "ZIP": (_appended(b"PK\3\4" + pattern(300, 6) + b"PK\5\6" + bytes(18)), "payload"),
    "shell archive": (_appended(b"#!/bin/sh\nexit 0\n"), "payload"),
    "one byte": (_appended(b"x"), "payload"),
    "module signature": (_appended(pattern(300, 6) + b"~Module signature appended~\n"), "signed"),
    "p_align of 1 TiB": (_alignment(1 << 40), "align-bomb"),
    "p_align of 128 MiB": (_alignment(1 << 27), "align-bomb"),
    "p_align of 3": (_alignment(3), "odd-align"),
    "a segment behind the file's end": (_segment(3, filesz=0x100000, memsz=0x100000), "malformed"),
    "p_filesz larger than p_memsz": (_segment(2, memsz=0x100), "malformed"),
    "p_offset that is not p_vaddr modulo a page": (_segment(1, vaddr=0x1008), "incongruent"),
    "a relocatable file": (_with(lambda elf: setattr(elf, "type", w.ET_REL)), "not-a-program"),
    "a core file": (_with(lambda elf: setattr(elf, "type", w.ET_CORE)), "not-a-program"),
    "no segment": (_with(lambda elf: elf.segments.clear()), "no-segment"),
}
EITHER: dict[str, Shape] = {
    "segments that do not ascend": _with(_descending),
    "a PIE with an address": _with(_other_base),
    "segments that overlap in memory": _segment(2, vaddr=0x1000),
    "segments that overlap in the file": _segment(2, offset=0x1000),
    "section headers of another size": lambda bits, order: (
        _with(lambda elf: elf.header.update(e_shentsize=w.SHDR_SIZE[bits] + 8))(bits, order) + bytes(200)
    ),
    "a section behind the file's end": _with(lambda elf: elf.sections.append(Sh(".far", offset=1 << 30, size=64))),
    "names beyond the table": _with(lambda elf: elf.header.update(e_shstrndx=77)),
}
"""Nobody makes them. Refused, or rewritten without harm."""
FUZZED: dict[str, tuple[Shape, tuple[str, ...]]] = {
    "the same bytes in two segments, to be joined": (_segment(2, offset=0x1000), ("--merge",)),
    "headers' segment with text's bytes, to be joined": (_segment(0, offset=0x1000), ("--merge",)),
    "a section without bytes at an offset near the largest": (_far(".bss"), ("--tier", "1")),
    "a TLS section without bytes at an offset near the largest": (_far(".tbss"), ("--tier", "1")),
    "PT_GNU_STACK at an offset near the largest": (
        lambda bits, order: _segment(9, offset=(1 << bits) - 0x1000, vaddr=0x50000000)(bits, order),
        ("--tier", "1"),
    ),
    "neighbours that one page of 64 KiB shows": (_with(_close_neighbours), ("--tier", "1")),
}
"""What was wrong once, and the options to show it."""
