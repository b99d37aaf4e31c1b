"""layout.relink_doubts: what a linked file does not tell about another link. In: ElfImage, LinkMode. Out: sentences.

Each names a section whose size or place the linker would decide from something that the file no longer holds.
"""

from collections.abc import Iterator, Sequence

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage, Section
from elfolio.layout.relink_mode import LinkMode
from elfolio.layout.relink_origin import Origin

__all__ = ["doubts", "is_now"]

_SHF_COMPRESSED = 0x800
_SHT_ANDROID_REL, _SHT_ANDROID_RELA = 0x60000001, 0x60000002
_REACH = {c.EM_X86_64: 2 << 30, c.EM_AARCH64: 128 << 20, c.EM_PPC64: 32 << 20, c.EM_ARM: 16 << 20}
"""How far a branch reaches, in bytes (the psABIs); beyond, linkers add code."""


def doubts(image: ElfImage, mode: LinkMode, made_by: Origin, sections: Sequence[Section]) -> Iterator[str]:
    """`sections` as they would be placed."""
    if made_by.linker != mode.linker:
        yield (
            f"the file was not made by {mode.linker}, which would make some sections larger or smaller: "
            ".got, .plt, .dynamic, .eh_frame, .comment, the hash and the symbol tables"
        )
    elif mode.linker == "lld" and mode.version and mode.version[0] != made_by.lld.major:
        yield f"the file was made by lld {made_by.lld.major}; another version may write other symbols and .comment"
    had_relro = image.segment(c.PT_GNU_RELRO) is not None
    if mode.linker == "lld" and mode.relro is False and had_relro:
        yield "without RELRO the writable sections stand in the objects' order, which the file does not hold"
    if mode.linker == "ld" and is_now(image):
        relro = had_relro if mode.relro is None else mode.relro
        joins = relro or mode.separates_code(image.header.machine)
        if joins == (image.section(".got.plt") is not None):
            yield "with -z now GNU ld has .got.plt within .got in some modes: these sections would have other sizes"
    yield from _sized_by_addresses(image, sections)


def _sized_by_addresses(image: ElfImage, sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        if section.flags & _SHF_COMPRESSED:
            yield f"{section.name} is compressed, and holds addresses: its size may change"
        if section.type in {_SHT_ANDROID_REL, _SHT_ANDROID_RELA}:
            yield f"{section.name} is packed for Android: its size depends on addresses"
    yield from _sized_code(image, sections)


def _sized_code(image: ElfImage, sections: Sequence[Section]) -> Iterator[str]:
    machine = image.header.machine
    if machine in {c.EM_RISCV, c.EM_LOONGARCH}:
        yield "linker relaxation shortens code whose targets are near: the size of code may change"
    placed = [s.memory for s in sections if s.flags & c.SHF_ALLOC and s.size]
    extent = max((s.end for s in placed), default=0) - min((s.start for s in placed), default=0)
    if extent > _REACH.get(machine, 2 << 30):
        yield "the program is larger than a branch reaches: the linker would add or drop code that reaches further"
    if machine == c.EM_AARCH64 and _text_moved(image, sections):
        yield "with --fix-cortex-a53-843419 code grows by what stands at a page's end: other code would stand there"


def _text_moved(image: ElfImage, sections: Sequence[Section]) -> bool:
    """Some code has another address modulo 4 KiB."""
    before = {s.name: s.addr for s in image.sections if s.flags & c.SHF_EXECINSTR}
    return any((before.get(s.name, s.addr) - s.addr) % 4096 for s in sections if s.flags & c.SHF_EXECINSTR)


def is_now(image: ElfImage) -> bool:
    """-z now, as the dynamic section says."""
    tags = dict(image.dynamic)
    return bool(
        c.DT_BIND_NOW in tags or tags.get(c.DT_FLAGS, 0) & c.DF_BIND_NOW or tags.get(c.DT_FLAGS_1, 0) & c.DF_1_NOW
    )
