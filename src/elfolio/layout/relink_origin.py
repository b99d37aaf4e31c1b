"""layout.relink_origin: who linked a file, and from what address. In: ElfImage, a few of its bytes. Out: Origin.

Which versions could have made it matters too: lld signs with its version in .comment, GNU ld only when it is asked to.
"""

from dataclasses import dataclass, replace

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage
from elfolio.elf.linker import fingerprint
from elfolio.layout.relink_mode import GnuLdVersion, Linker, LldVersion
from elfolio.layout.sections import RELRO_PADDING, Sizes
from elfolio.span import is_power_of_two, round_down

__all__ = ["NEWEST_LD", "NEWEST_LLD", "Origin", "common_page_size", "image_base", "origin", "own_max_page_size"]

_OLDEST_LLD, NEWEST_LLD = LldVersion(13), LldVersion(23)
NEWEST_LD = GnuLdVersion((2, 47))
_FIRST_WITH_PADDING, _LAST_WITHOUT_PADDING, _LAST_WITHOUT_SPLITS = LldVersion(18), LldVersion(17), LldVersion(16)
_LAST_WITHOUT_PLACES = GnuLdVersion((2, 44))

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
    relro: bool = False
    """-z relro. GNU ld makes room for RELRO even where no section is, and no PT_GNU_RELRO says so."""
    exact: bool = False
    """The version is written in the file; else it is one that could have made it."""

    def others(self) -> "tuple[Origin, ...]":
        """Itself, and where the file does not say all, the other ones that could have made it."""
        if self.linker == "ld":
            versions = (self.ld,) if self.exact else (self.ld, _LAST_WITHOUT_PLACES)
            return tuple(replace(self, ld=ld, relro=relro) for ld in versions for relro in sorted({self.relro, True}))
        if self.exact or self.linker is None:
            return (self,)
        older = (_FIRST_WITH_PADDING,) if self.lld.pads_relro else (_LAST_WITHOUT_SPLITS, _OLDEST_LLD)
        return (self, *(replace(self, lld=version) for version in older))


def origin(image: ElfImage, data: bytes | memoryview) -> Origin:
    """`data` is the file, or nothing; then only its headers speak."""
    found = fingerprint(image, data)
    relro = image.segment(c.PT_GNU_RELRO) is not None
    if found.linker == "GNU ld":
        return Origin("ld", ld=_gnu_ld(found.version), relro=relro, exact=found.version is not None)
    if found.linker != "lld":
        return Origin(None, relro=relro)
    major = (found.version or "").partition(".")[0]
    if major.isdigit() and len(major) < 5:
        return Origin("lld", LldVersion(int(major)), relro=relro, exact=True)
    if image.section(RELRO_PADDING) is None and relro:
        return Origin("lld", _LAST_WITHOUT_PADDING, relro=relro)
    return Origin("lld", relro=relro)


def _gnu_ld(version: str | None) -> GnuLdVersion:
    """Debian's `2.47.50.20261021` has a date behind; numbers compare from the left."""
    numbers = [int(part) for part in (version or "").split(".") if part.isdigit() and len(part) < 10]
    return GnuLdVersion(tuple(numbers)) if numbers else NEWEST_LD


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
    base = max(0, round_down(lowest - headers, _SMALLEST_PAGE))
    default = 0 if moves else _BASES.get((linker, image.header.machine), _OTHER_BASE)
    # From where the script began, newer ones move up to max-page-size.
    return default if base == own_max_page_size(image) > default > 0 else base
