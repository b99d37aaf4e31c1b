"""kernel.libc: how C libraries map shared objects. In: a name. Out: Libc, rules as data, each with its source.

Sources: glibc's elf/dl-load.c, elf/dl-map-segments.h and NEWS; musl's ldso/dynlink.c; bionic's linker_phdr.cpp; the
article on section layout for the gaps. What is said of glibc 2.36 and musl 1.2.3 is held against them by the tests.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["LIBCS", "Holes", "Libc", "libc_of"]

Holes = Literal["none", "left", "extended", "unmapped"]
"""What becomes of the gaps between an object's segments: protected to PROT_NONE (glibc), left as they were mapped with
the first segment (musl), covered by the segment before (bionic from 2024, for lack of a VMA to save), unmapped (what
the kernel does for a program)."""


@dataclass(frozen=True, slots=True)
class Libc:
    """One C library's dynamic loader."""

    name: str
    holes: Holes
    aligns: bool
    """Whether an object's base follows p_align where that is above the page size (glibc from 2.35, bug 28676)."""
    thp: bool
    """Whether it has the tunable glibc.elf.thp, which aligns executable segments of its own maps to huge pages."""
    rejects_incongruent: bool
    """p_vaddr and p_offset that differ modulo p_align: ELF load command address/offset not properly aligned."""
    source: str


LIBCS = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Libc("glibc-2.31", "none", False, False, True, "elf/dl-load.c, elf/dl-map-segments.h"),
            Libc("glibc-2.35", "none", True, False, True, "bug 28676; later ones ask for congruence modulo the page"),
            Libc("glibc-2.36", "none", True, False, True, "elf/dl-load.c, elf/dl-map-segments.h"),
            Libc("glibc-2.41", "none", True, False, True, "as 2.36"),
            Libc("glibc-2.43", "none", True, True, True, "the tunable glibc.elf.thp"),
            Libc("musl", "left", False, False, False, "ldso/dynlink.c, map_library"),
            Libc("bionic", "extended", True, False, False, "linker_phdr.cpp, kPageSize extension of 2024"),
            Libc("unmapping", "unmapped", True, False, False, "no library: gaps unmapped, as the kernel does"),
        )
    }
)
"""By name."""


def libc_of(interpreter: str, otherwise: Libc) -> Libc:
    """The C library that a program's PT_INTERP belongs to: musl's and bionic's loaders have names of their own; any
    other is `otherwise`."""
    name = interpreter.rpartition("/")[2]
    if name.startswith("ld-musl-"):
        return LIBCS["musl"]
    return LIBCS["bionic"] if name in ("linker", "linker64") else otherwise
