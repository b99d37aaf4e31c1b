"""Small well-formed files of every kind, for tests to break."""

from typing import Any, Literal

from tests import elfwriter as w
from tests.elfwriter import Elf, Ph, Sh

Bits = Literal[32, 64]
KINDS: list[tuple[Bits, w.Order]] = [(64, "little"), (64, "big"), (32, "little"), (32, "big")]
MACHINE = {"little": w.EM_X86_64, "big": w.EM_S390}


def sample(bits: Bits = 64, order: w.Order = "little", **changes: Any) -> Elf:
    """A small well-formed file: two PT_LOADs, interpreter, dynamic section, notes, four sections."""
    elf = Elf(bits=bits, order=order, machine=w.EM_386 if (bits, order) == (32, "little") else MACHINE[order])
    elf.type, elf.entry, elf.flags, elf.osabi = w.ET_DYN, 0x1010, 7, 3
    notes = elf.note(b"GNU\0", 3, bytes(range(20))) + elf.note(b"Go\0", 4, b"id")
    elf.segments = [
        Ph(w.PT_LOAD, 4, 0, 0, filesz=0x800, align=0x1000),
        Ph(w.PT_LOAD, 5, 0x800, 0x1800, data=b"\x90" * 64, memsz=0x100, align=0x1000),
        Ph(w.PT_INTERP, 4, data=b"/lib/ld.so\0"),
        Ph(w.PT_DYNAMIC, 6, data=elf.dynamic((1, 5), (30, 8), (0x6FFFFFFB, 1)), align=8),
        Ph(w.PT_NOTE, 4, data=notes, align=4),
    ]
    elf.sections = [
        Sh(".text", flags=6, addr=0x1800, offset=0x800, data=b"\x90" * 64, addralign=16),
        Sh(".bss", w.SHT_NOBITS, 3, 0x1840, offset=0x840, size=0x1000),
        Sh(".comment", data=b"GCC: (Test) 1\0", flags=0x30, entsize=1),
    ]
    for name, value in changes.items():
        setattr(elf, name, value)
    return elf


def with_symbols(bits: Bits, order: w.Order, count: int = 3, names: bytes = b"\0first\0second\0") -> Elf:
    """A file with a symbol table that is both .symtab and .dynsym, counted by DT_HASH."""
    elf = Elf(bits=bits, order=order, machine=w.EM_386 if bits == 32 else w.EM_PPC64)
    rows = [elf.symbol(1, 0x1234, 5, 0x12, 0, 1), elf.symbol(7, 0xABCD, 6, 0x21, 2, 0)]
    table = elf.symbol(0, info=0, shndx=0) + b"".join(rows)
    elf.contents = {0x400: table, 0x500: names, 0x600: elf.pack("II", 1, count)}
    tags = elf.dynamic((6, 0x1400), (5, 0x1500), (10, len(names)), (4, 0x1600))
    elf.segments = [Ph(w.PT_LOAD, 4, 0, 0x1000, filesz=0x700), Ph(w.PT_DYNAMIC, 6, data=tags)]
    elf.sections = [
        Sh(".symtab", w.SHT_SYMTAB, offset=0x400, size=len(table), link=2, entsize=len(table) // 3),
        Sh(".strtab", w.SHT_STRTAB, offset=0x500, size=len(names)),
    ]
    elf.size = 0x700
    return elf


def with_versions() -> Elf:
    """A file with version records, needed and defined."""
    elf = Elf()
    needed = elf.pack("HHIII", 1, 1, 1, 16, 0) + elf.pack("IHHII", 0, 0, 2, 5, 0)
    defined = elf.pack("HHHHIII", 1, 1, 1, 1, 0, 20, 28) + elf.pack("II", 1, 0)
    defined += elf.pack("HHHHIII", 1, 0, 2, 2, 0, 20, 0) + elf.pack("II", 5, 8) + elf.pack("II", 1, 0)
    elf.contents = {0x400: needed, 0x480: defined, 0x500: b"\0lib\0VERS_1\0"}
    tags = ((0x6FFFFFFE, 0x400), (0x6FFFFFFF, 1), (0x6FFFFFFC, 0x480), (0x6FFFFFFD, 2), (5, 0x500), (10, 12))
    elf.segments = [Ph(w.PT_LOAD, 4, 0, 0, filesz=0x600), Ph(w.PT_DYNAMIC, 6, data=elf.dynamic(*tags))]
    elf.size = 0x600
    return elf
