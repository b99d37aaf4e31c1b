"""live.maps: a process's address space. In: the text of /proc/PID/maps or smaps. Out: AddressSpace, or MapsError.

maps shows of flags the permissions and MAYSHARE; smaps shows all (its line VmFlags), as two-letter names. Neither shows
anon_vma, close bits or which opening of a file it is: those fields keep their defaults.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from elfolio.kernel.space import AddressSpace, OpenFile, Vma, VmFlags
from elfolio.kernel.vmflags import MNEMONICS
from elfolio.span import FileOffset, MappedAddress

__all__ = ["MapsError", "parse_maps", "parse_smaps", "read_maps", "read_smaps"]

_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)")
_ITEM = re.compile(r"[A-Za-z_]+:")
_PERMS = {"r": VmFlags.READ, "w": VmFlags.WRITE, "x": VmFlags.EXEC, "s": VmFlags.MAYSHARE}
_OCTAL = re.compile(r"\\([0-7]{3})")
_KEPT_SWITCHES = VmFlags.READ | VmFlags.WRITE | VmFlags.EXEC | VmFlags.MAYSHARE


class MapsError(ValueError):
    """A line that is none of maps' or smaps'. `name` is the file, `line` its number from 1."""

    def __init__(self, name: str, line: int, found: str, expected: str) -> None:
        super().__init__(f"{name}:{line}: {found!r} is no {expected}")
        self.name = name
        self.line = line
        self.found = found
        self.expected = expected


def read_maps(pid: int | str, proc: str | Path = "/proc") -> AddressSpace:
    """The VMAs of a process ("self" too) and where its heap and stack begin. Raises ProcessLookupError for one that is
    gone, PermissionError, MapsError."""
    return _read(pid, Path(proc), "maps")


def read_smaps(pid: int | str, proc: str | Path = "/proc") -> AddressSpace:
    """The same with all VmFlags."""
    return _read(pid, Path(proc), "smaps")


def _read(pid: int | str, proc: Path, kind: str) -> AddressSpace:
    path = proc / str(pid) / kind
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "no such process", str(path)) from error
    space = (parse_maps if kind == "maps" else parse_smaps)(text, str(path))
    start_brk, start_stack = _starts(path.parent / "stat")
    return replace(space, start_brk=start_brk, start_stack=start_stack)


def _starts(stat: Path) -> tuple[MappedAddress, MappedAddress]:
    """start_brk and start_stack, fields 47 and 28 of /proc/PID/stat; 0 where they are hidden or not recorded."""
    try:
        fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        return MappedAddress(int(fields[44])), MappedAddress(int(fields[25]))
    except (OSError, IndexError, ValueError):
        return MappedAddress(0), MappedAddress(0)


def parse_maps(text: str, name: str = "maps", page: int = 4096) -> AddressSpace:
    """From the text of maps; `name` is what errors call it. Raises MapsError."""
    return AddressSpace(tuple(_vma(line, number, name, page) for number, line in _lines(text)), page)


def parse_smaps(text: str, name: str = "smaps", page: int = 4096) -> AddressSpace:
    """From the text of smaps: a line of maps, then items, for each. Raises MapsError."""
    vmas: list[Vma] = []
    for number, line in _lines(text):
        if not _ITEM.match(line):
            vmas.append(_vma(line, number, name, page))
        elif not vmas:
            raise MapsError(name, number, line, "line of maps")
        elif line.startswith("VmFlags:"):
            known = _flags(line.split()[1:])
            vmas[-1] = replace(vmas[-1], flags=vmas[-1].flags & _KEPT_SWITCHES | known)
    return AddressSpace(tuple(vmas), page)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines(): a path may contain what Python takes for the end of a line; the kernel escapes \n alone.
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line)


def _flags(words: Iterable[str]) -> VmFlags:
    """Names that this table does not know are of newer kernels, and left out."""
    flags = VmFlags(0)
    for word in words:
        flags |= MNEMONICS.get(word, VmFlags(0))
    return flags


def _vma(line: str, number: int, source: str, page: int) -> Vma:
    found = _LINE.fullmatch(line)
    if found is None:
        raise MapsError(source, number, line, "line of maps")
    start, end, offset, major, minor = (int(found[group], 16) for group in (1, 2, 4, 5, 6))
    inode, name = int(found[7]), _OCTAL.sub(lambda code: chr(int(code[1], 8)), found[8])
    if start >= end:
        raise MapsError(source, number, line, "range of addresses")
    file = OpenFile(name, inode, major, minor) if inode or name.startswith("/") else None
    return Vma(
        MappedAddress(start),
        MappedAddress(end),
        VmFlags(sum(bit for letter, bit in _PERMS.items() if letter in found[3])),
        file,
        FileOffset(offset),
        name,
        anon_pgoff=0 if file is not None else start // page,
    )
