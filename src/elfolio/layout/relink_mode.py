"""layout.relink_mode: what a program is linked with, in a what-if. In: a line of options. Out: LinkMode, frozen.

The words are the linkers' own: ld.lld(1), ld(1). What a line does not say stays as the file has it, or is the
linker's default; which one, stands at each field.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from elfolio.elf import constants as c
from elfolio.errors import InvalidArgument
from elfolio.span import is_power_of_two

__all__ = ["LARGEST_PAGE", "CodeSeparation", "GnuLdVersion", "LinkMode", "Linker", "LldVersion"]

Linker = Literal["lld", "ld"]
CodeSeparation = Literal["noseparate-code", "separate-code", "separate-loadable-segments"]

LARGEST_PAGE = 64 << 20
"""The largest max-page-size that is taken: twice the largest page-table level that any proposal aligns to."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


@dataclass(frozen=True, slots=True, order=True)
class LldVersion:
    """Where lld's versions differ in what is computed here; each switch says its change (LLVM's repository)."""

    major: int

    @property
    def aligns_tbss(self) -> bool:
        """Threads' zeros, where they begin PT_TLS, have a file offset that fits their alignment: from 14
        (computeFileOffset of 14.0.6; 13.0.1 was tried)."""
        return self.major >= 14

    @property
    def begins_at_zero(self) -> bool:
        """The ELF header's file offset is 0 even where max-page-size does not divide its address; before, the whole
        file is put that much further on: from 14 (assignFileOffsets of 14.0.6; 13.0.1 was tried)."""
        return self.major >= 14

    @property
    def pads_code_to_max_page(self) -> bool:
        """Where code may share no page, its end is rounded up to max-page-size; before, to common-page-size: from 14
        (assignFileOffsets and writeTrapInstr of 14.0.6; 13.0.1 was tried)."""
        return self.major >= 14

    @property
    def splits_behind_nobits(self) -> bool:
        """Bytes behind zeros begin a PT_LOAD of their own, and large sections have places of their own: from 17
        (createPhdrs and getSectionRank in lld/ELF/Writer.cpp of 16.0.6 and 17.0.6)."""
        return self.major >= 17

    @property
    def pads_relro(self) -> bool:
        """A NOBITS section .relro_padding fills RELRO's last page; before, PT_GNU_RELRO's p_memsz alone is rounded
        up: from 18 (setPhdrs of 17.0.6, RelroPaddingSection of 18.1.8)."""
        return self.major >= 18

    @property
    def joins_flags(self) -> bool:
        """With --no-rosegment a read-only segment is executable only if code is in it; before, always: from 19
        (computeFlags of 18.1.8, createPhdrs of 19.1.7)."""
        return self.major >= 19


@dataclass(frozen=True, slots=True, order=True)
class GnuLdVersion:
    """Where GNU ld's versions differ in what is computed here."""

    numbers: tuple[int, ...]

    @property
    def places_zeros(self) -> bool:
        """Zeros that have no bytes in the file have the file offset that their address asks for, be it behind the
        file's end: seen in 2.47, and not in 2.44."""
        return self.numbers >= (2, 45)

    @property
    def leaves_zero_unmapped(self) -> bool:
        """A program that cannot move begins at max-page-size at the lowest, where the script's address would have
        rounded down to 0: seen in 2.47, and not in 2.40."""
        return self.numbers >= (2, 45)


@dataclass(frozen=True, slots=True)
class LinkMode:
    """The options that decide where sections go."""

    linker: Linker = "lld"
    version: tuple[int, ...] | None = None
    """The linker's; None: the one that made the file where it can be told, or else the newest that is known."""
    code: CodeSeparation | None = None
    """None: the linker's default, noseparate-code for lld and separate-code for GNU ld on x86 Linux."""
    rosegment: bool = True
    """Whether read-only data has a segment of its own; --no-rosegment is lld's alone."""
    max_page_size: int | None = None
    """In bytes. None: as in the file, whose PT_LOAD segments have it as their smallest p_align."""
    common_page_size: int | None = None
    """In bytes, never taken larger than `max_page_size`. None: the machine's default."""
    relro: bool | None = None
    """None: as in the file."""

    def separates_code(self, machine: int) -> bool:
        """What GNU ld takes `code` for; on x86 Linux separate-code is its default (--enable-separate-code)."""
        return machine in {c.EM_X86_64, c.EM_386} if self.code is None else self.code == "separate-code"

    @classmethod
    def parse(cls, text: str) -> "LinkMode":
        """From words separated by commas: `separate-code,max-page-size=64K`. Later words win.

        Words: lld, lld=14, ld, ld=2.40; noseparate-code, separate-code, separate-loadable-segments; rosegment,
        no-rosegment; relro, norelro; max-page-size=N, common-page-size=N with N in bytes, 0x.., or K or M.
        InvalidArgument names the word that is wrong and what it could be.
        """
        mode = cls()
        for word in filter(None, (part.strip() for part in text.split(","))):
            mode = _apply(mode, word)
        return _checked(mode)

    def __str__(self) -> str:
        version = "=" + ".".join(map(str, self.version)) if self.version else ""
        words = [
            self.linker + version,
            self.code,
            None if self.rosegment else "no-rosegment",
            {None: None, True: "relro", False: "norelro"}[self.relro],
            self.max_page_size and f"max-page-size={_size(self.max_page_size)}",
            self.common_page_size and f"common-page-size={_size(self.common_page_size)}",
        ]
        return ",".join(word for word in words if word)


def _apply(mode: LinkMode, word: str) -> LinkMode:
    name, _, value = word.partition("=")
    if name in get_args(Linker):
        linker: Linker = "lld" if name == "lld" else "ld"
        return replace(mode, linker=linker, version=_version(word, value) if "=" in word else None)
    if name == "max-page-size":
        return replace(mode, max_page_size=_page_size(word, value))
    if name == "common-page-size":
        return replace(mode, common_page_size=_page_size(word, value))
    for code in get_args(CodeSeparation):
        if word == code:
            return replace(mode, code=code)
    if word in {"rosegment", "no-rosegment"}:
        return replace(mode, rosegment=word == "rosegment")
    if word in {"relro", "norelro"}:
        return replace(mode, relro=word == "relro")
    raise InvalidArgument(
        f"link mode: {word!r} is no option; there are {', '.join(get_args(CodeSeparation))}, max-page-size=N, "
        "common-page-size=N, rosegment, no-rosegment, relro, norelro, lld[=VERSION], ld[=VERSION]"
    )


def _version(word: str, value: str) -> tuple[int, ...]:
    parts = value.split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise InvalidArgument(f"link mode: {word!r}: a version is numbers with points between, as in lld=14 or ld=2.40")
    return tuple(map(int, parts))


def _page_size(word: str, value: str) -> int:
    digits, unit = (value[:-1], value[-1:].upper()) if value[-1:].upper() in {"K", "M"} else (value, "")
    try:
        size = int(digits, 0) * _UNITS[unit]
    except ValueError:
        size = 0
    if not is_power_of_two(size) or size > LARGEST_PAGE:
        raise InvalidArgument(
            f"link mode: {word!r}: a page size is a power of two up to 64M, as in 4096, 0x1000 or 64K"
        )
    return size


def _checked(mode: LinkMode) -> LinkMode:
    if mode.linker == "ld" and mode.code == "separate-loadable-segments":
        raise InvalidArgument("link mode: 'separate-loadable-segments' is an option of lld, not of ld")
    if mode.linker == "ld" and not mode.rosegment:
        raise InvalidArgument("link mode: 'no-rosegment' is an option of lld, not of ld; say noseparate-code")
    return mode


def _size(size: int) -> str:
    for letter, unit in (("M", 1 << 20), ("K", 1 << 10)):
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)
