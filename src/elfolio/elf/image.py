"""elf.image: what stands in an ELF file. In: fields that the reader has checked. Out: ElfImage, frozen.

Names are the ELF specification's (gABI, chapters 4 and 5), without their prefixes: p_vaddr is `Segment.vaddr`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from elfolio.elf import constants
from elfolio.errors import ElfError
from elfolio.span import FileOffset, LinkedAddress, Span

__all__ = ["ElfHead", "ElfImage", "Fault", "Header", "Note", "Section", "Segment"]


@dataclass(frozen=True, slots=True)
class Header:
    """The ELF header (Elf64_Ehdr, Elf32_Ehdr)."""

    bits: Literal[32, 64]
    """EI_CLASS."""
    byteorder: Literal["little", "big"]
    """EI_DATA."""
    osabi: int
    abiversion: int
    type: int
    machine: int
    entry: LinkedAddress
    phoff: FileOffset
    shoff: FileOffset
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    """The true number: where e_phnum is PN_XNUM, section 0 says it."""
    shentsize: int
    shnum: int
    """The true number: where e_shnum is 0 and there is a table, section 0 says it."""
    shstrndx: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header (Elf64_Phdr, Elf32_Phdr); sizes in bytes."""

    type: int
    flags: int
    offset: FileOffset
    vaddr: LinkedAddress
    paddr: int
    filesz: int
    memsz: int
    align: int

    @property
    def file(self) -> Span:
        """File offsets."""
        return Span(self.offset, self.offset + self.filesz)

    @property
    def memory(self) -> Span:
        """Linked addresses."""
        return Span(self.vaddr, self.vaddr + self.memsz)

    @property
    def perms(self) -> str:
        """p_flags as /proc/PID/maps writes them, without the last letter: `r-x`."""
        return "".join(
            letter if self.flags & bit else "-"
            for letter, bit in (("r", constants.PF_R), ("w", constants.PF_W), ("x", constants.PF_X))
        )


@dataclass(frozen=True, slots=True)
class Section:
    """A section header (Elf64_Shdr, Elf32_Shdr), its name looked up; sizes in bytes."""

    name: str
    type: int
    flags: int
    addr: LinkedAddress
    offset: FileOffset
    size: int
    link: int
    info: int
    addralign: int
    entsize: int

    @property
    def file(self) -> Span:
        """File offsets; empty for SHT_NOBITS, which has no bytes there."""
        return Span(self.offset, self.offset + (0 if self.type == constants.SHT_NOBITS else self.size))

    @property
    def memory(self) -> Span:
        """Linked addresses; only meaningful with SHF_ALLOC."""
        return Span(self.addr, self.addr + self.size)


@dataclass(frozen=True, slots=True)
class Note:
    """An entry of a PT_NOTE segment, or of an SHT_NOTE section that is in none."""

    owner: str
    type: int
    desc: bytes
    offset: FileOffset
    """Where its header begins."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A part of the file that is malformed and was left out of the value: a finding, where the kernel would run the
    file all the same. The fields are those of ElfError."""

    why: str
    offset: int | None = None
    field: str | None = None
    found: object = None
    expected: str | None = None

    def error(self, name: str) -> ElfError:
        """The same as an error about the file `name`."""
        return ElfError(name, self.why, offset=self.offset, field=self.field, found=self.found, expected=self.expected)


@dataclass(frozen=True)
class ElfHead:
    """The header and the program headers of one ELF file: all that the kernel looks at."""

    name: str
    """What it was called by whoever had it read; often a path."""
    size: int
    """Of the file, in bytes."""
    header: Header
    segments: tuple[Segment, ...]
    """All program headers, in the file's order."""

    @cached_property
    def loads(self) -> tuple[Segment, ...]:
        """The PT_LOAD segments, in the file's order."""
        return tuple(s for s in self.segments if s.type == constants.PT_LOAD)

    def segment(self, type: int) -> Segment | None:
        """The first one of this type."""
        return next((s for s in self.segments if s.type == type), None)

    def file_offset(self, address: LinkedAddress) -> FileOffset | None:
        """Where in the file the byte of a linked address stands; None where no PT_LOAD has it from the file."""
        for s in self.loads:
            if s.vaddr <= address < s.vaddr + s.filesz:
                return FileOffset(address - s.vaddr + s.offset)
        return None


@dataclass(frozen=True)
class ElfImage(ElfHead):
    """One ELF file, without its contents."""

    sections: tuple[Section, ...]
    """All section headers, the null section with index 0 too; empty where the file has none, or a broken table."""
    interpreter: str | None
    """PT_INTERP's path."""
    dynamic: tuple[tuple[int, int], ...]
    """The dynamic section's tags and values up to DT_NULL."""
    notes: tuple[Note, ...]
    faults: tuple[Fault, ...] = ()
    """What was malformed beyond the header and the program headers' table; empty for a well-formed file."""

    def section(self, name: str) -> Section | None:
        """The first one of this name."""
        return next((s for s in self.sections if s.name == name), None)

    def tag(self, tag: int) -> int | None:
        """The value of the dynamic section's last entry of this tag, which is the one that dynamic loaders keep."""
        return next((value for found, value in reversed(self.dynamic) if found == tag), None)

    @cached_property
    def build_id(self) -> bytes | None:
        """NT_GNU_BUILD_ID's bytes."""
        wanted = ("GNU", constants.NT_GNU_BUILD_ID)
        return next((note.desc for note in self.notes if (note.owner, note.type) == wanted), None)
