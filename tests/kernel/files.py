"""Files for the kernel room's tests, built by the tests' own writer and read by the elf room."""

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.kernel.space import AddressSpace
from tests.elfwriter import ET_DYN, PT_INTERP, PT_LOAD, Elf, Ph

PAGE = 4096
R, RX, RW = 4, 5, 6


def load(
    vaddr: int, filesz: int, flags: int = R, *, memsz: int | None = None, offset: int | None = None, align: int = PAGE
) -> Ph:
    """A PT_LOAD with zeroes for contents; its offset equals the address unless given."""
    return Ph(PT_LOAD, flags, vaddr if offset is None else offset, vaddr, None, filesz, memsz, align)


def image(
    *segments: Ph, type: int = ET_DYN, interp: bool = True, size: int | None = None, name: str = "/a", **more: object
) -> ElfImage:
    """A file with these segments, large enough to hold them unless a size is given; with PT_INTERP unless static."""
    named = [Ph(PT_INTERP, R, data=b"/ld\0")] if interp else []
    ends = [(ph.offset or 0) + (ph.filesz or 0) for ph in segments]
    built = Elf(type=type, segments=[*named, *segments], size=max(ends, default=0), **more).build()  # type: ignore[arg-type]
    return read(built if size is None else built[:size], name)


LOADER = image(load(0, 0x1000), load(0x1000, 0x2000, RX), load(0x3000, 0x100, RW), interp=False, name="/ld")
"""A dynamic loader of four pages."""


def lines(space: AddressSpace, name: str | None = None) -> list[str]:
    """`start-end perms offset` for each VMA of that name, or for all with their names."""
    return [
        f"{vma.start:x}-{vma.end:x} {vma.perms} {vma.offset:x}" + (f" {vma.name}" if name is None else "")
        for vma in space
        if name is None or vma.name == name
    ]
