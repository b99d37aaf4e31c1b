"""layout.relink_origin: who linked a file, and from what address. In: ElfImage, a few of its bytes. Out: Origin.

lld and mold write their names into .comment; else the order of the program headers tells them apart, because each
linker always writes its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage
from elfolio.layout.relink_mode import GnuLdVersion, Linker, LldVersion
from elfolio.layout.sections import RELRO_PADDING, Sizes
from elfolio.span import is_power_of_two, round_down

__all__ = ["NEWEST_LD", "NEWEST_LLD", "Origin", "common_page_size", "image_base", "origin", "own_max_page_size"]

NEWEST_LLD = LldVersion(23)
NEWEST_LD = GnuLdVersion((2, 47))
_FIRST_WITH_PADDING, _LAST_WITHOUT_PADDING, _LAST_WITHOUT_SPLITS = LldVersion(18), LldVersion(17), LldVersion(16)
_LAST_WITHOUT_PLACES = GnuLdVersion((2, 44))

_LLD = re.compile(rb"LLD (\d+)\.")
_OTHERS = re.compile(rb"(mold|GNU gold) ")

_BASES: dict[tuple[Linker, int], int] = {
    ("lld", c.EM_X86_64): 0x200000,
    ("lld", c.EM_AARCH64): 0x200000,
    ("lld", c.EM_386): 0x400000,
    ("lld", c.EM_PPC64): 0x10000000,
    ("lld", c.EM_S390): 0x1000000,
    ("ld", c.EM_X86_64): 0x400000,
    ("ld", c.EM_AARCH64): 0x400000,
    ("ld", c.EM_386): 0x8048000,
}
"""Where a program begins that cannot move: lld/ELF/Arch (defaultImageBase), ld's emulparams (TEXT_START_ADDR)."""
_OTHER_BASE = 0x10000
_SMALLEST_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Origin:
    """The linker, as far as the file tells."""

    linker: Linker | None
    """None: gold, mold, or one that is not known here."""
    lld: LldVersion = NEWEST_LLD
    ld: GnuLdVersion = NEWEST_LD
    exact: bool = False
    """The version is written in the file; else it is one that could have made it."""

    def others(self) -> "tuple[Origin, ...]":
        """Itself, and where the file does not say the version, the other ones that could have made it."""
        if self.exact or self.linker is None:
            return (self,)
        if self.linker == "ld":
            return (self, replace(self, ld=_LAST_WITHOUT_PLACES))
        older = _FIRST_WITH_PADDING if self.lld.pads_relro else _LAST_WITHOUT_SPLITS
        return (self, replace(self, lld=older))


def origin(image: ElfImage, data: bytes | memoryview) -> Origin:
    """`data` is the file, or nothing; then .comment is not looked at."""
    comment = image.section(".comment")
    text = b"" if comment is None else bytes(data[comment.file.start : comment.file.end])
    padded = image.section(RELRO_PADDING) is not None
    # A linker's name stands in the objects' compilers' strings too, where one was linked into them with -r.
    versions = [int(match[1]) for match in _LLD.finditer(text) if int(match[1]) < 10000]
    if versions and not _OTHERS.search(text):
        return Origin("lld", LldVersion(max(versions)), exact=True)
    if padded:
        return Origin("lld")
    if _OTHERS.search(text):
        return Origin(None)
    types = [s.type for s in image.segments]
    if _is_lld_order(types):
        has_relro = c.PT_GNU_RELRO in types
        return Origin("lld", _LAST_WITHOUT_PADDING if has_relro else NEWEST_LLD)
    return Origin("ld" if _is_ld_order(types) else None)


def _is_lld_order(types: Sequence[int]) -> bool:
    """PT_PHDR first, always; PT_GNU_PROPERTY and PT_NOTE last."""
    order = [c.PT_PHDR, c.PT_INTERP, c.PT_LOAD, c.PT_TLS, c.PT_DYNAMIC, c.PT_GNU_RELRO]
    order += [c.PT_GNU_EH_FRAME, c.PT_GNU_STACK, c.PT_GNU_PROPERTY, c.PT_NOTE]
    return types[:1] == [c.PT_PHDR] and _follows(types, order)


def _is_ld_order(types: Sequence[int]) -> bool:
    order = [c.PT_PHDR, c.PT_INTERP, c.PT_LOAD, c.PT_DYNAMIC, c.PT_NOTE, c.PT_TLS, c.PT_GNU_PROPERTY]
    order += [c.PT_GNU_EH_FRAME, c.PT_GNU_STACK, c.PT_GNU_RELRO]
    return _follows(types, order)


def _follows(types: Sequence[int], order: Sequence[int]) -> bool:
    places = [order.index(type_) for type_ in types if type_ in order]
    return len(places) == len(types) and places == sorted(places)


def own_max_page_size(image: ElfImage) -> int:
    """What it was linked with: each PT_LOAD has it as p_align, or more where a section asks for more."""
    return min((s.align for s in image.loads if is_power_of_two(s.align)), default=4096)


def common_page_size(machine: int, max_page_size: int, asked: int | None) -> int:
    """The linkers' default is 4 KiB but for LoongArch (16 KiB), and it is never above max-page-size."""
    return min(max_page_size, asked or (16384 if machine == c.EM_LOONGARCH else 4096))


def image_base(image: ElfImage, linker: Linker, made_by: Linker | None) -> int:
    """The ELF header's address: as it is where the same linker made the file, else that linker's default."""
    moves = image.header.type != c.ET_EXEC
    if linker != made_by or not image.loads:
        return 0 if moves else _BASES.get((linker, image.header.machine), _OTHER_BASE)
    if linker == "lld":
        first = min(image.loads, key=lambda s: s.vaddr)
        return max(0, first.vaddr - first.offset)
    # GNU ld's first segment begins at a multiple of max-page-size, below where the script began.
    sizes = Sizes.of(image)
    headers = sizes.ehdr + image.header.phnum * sizes.phdr
    lowest = min((s.addr for s in image.sections if s.flags & c.SHF_ALLOC), default=0)
    return max(0, round_down(lowest - headers, _SMALLEST_PAGE))
