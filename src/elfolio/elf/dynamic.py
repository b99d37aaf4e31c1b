"""elf.dynamic: what the dynamic linker reads of a file. In: bytes of an ELF64 object. Out: Dynamic, or ElfError.

Names are the ELF specification's (System V ABI, chapters 4 and 5) and the GNU hash section's. It shares nothing with
`reader`, because the spawn room imports it with every start: docs/decisions/elf-room.md has the figures.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from elfolio.errors import ElfError

__all__ = ["Dynamic", "Segment", "Symbol", "read_dynamic"]

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ = 1, 5, 6, 10
_DT_RPATH, _DT_RUNPATH, _DT_PREINIT_ARRAY, _DT_GNU_HASH, _DT_HASH = 15, 29, 32, 0x6FFFFEF5, 4

_EHDR = struct.Struct("16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("IIQQQQQQ")
_SYM = struct.Struct("IBBHQQ")


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header; addresses are linked ones, sizes and offsets in bytes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """A dynamic symbol; `value` is a linked address, 0 and not `defined` for an import."""

    value: int
    defined: bool


@dataclass(frozen=True, slots=True)
class Dynamic:
    """One object as the dynamic linker sees it."""

    machine: int
    type: int
    entry: int
    """A linked address."""
    segments: tuple[Segment, ...]
    interpreter: str | None
    needed: tuple[str, ...]
    search_path: tuple[str, ...]
    """DT_RUNPATH's, or else DT_RPATH's directories, as they are written."""
    has_dynamic: bool
    has_preinit: bool
    symbols: dict[str, Symbol]

    def load_bias(self, lowest: int, page: int) -> int:
        """What is added to linked addresses, where the first PT_LOAD was mapped at `lowest`."""
        return lowest - next(s.vaddr for s in self.segments if s.type == PT_LOAD) // page * page


def read_dynamic(data: bytes | memoryview, name: str = "") -> Dynamic:
    """Reads the headers and the dynamic section. Raises ElfError for what is no little-endian ELF64 file, or where
    something points outside of it."""
    try:
        return _read(memoryview(data), name)
    except ElfError:
        raise
    except (struct.error, StopIteration, LookupError, ValueError, OverflowError) as error:
        raise ElfError(name, f"truncated or malformed: {error}") from error


def _read(data: memoryview, name: str) -> Dynamic:
    ident, type_, machine, _, entry, phoff, *_ = _EHDR.unpack_from(data)
    if ident[:6] != b"\x7fELF\x02\x01":
        raise ElfError(name, "not a little-endian ELF64 file")
    phentsize, phnum = struct.unpack_from("HH", data, 54)
    if phnum and phentsize != _PHDR.size:
        raise ElfError(name, "not what the kernel runs", offset=54, field="e_phentsize", found=phentsize)
    segments = []
    for i in range(phnum):
        kind, flags, offset, vaddr, _, filesz, memsz, _ = _PHDR.unpack_from(data, phoff + i * phentsize)
        segments.append(Segment(kind, flags, offset, vaddr, filesz, memsz))
    interp = next((s for s in segments if s.type == PT_INTERP), None)
    interpreter = None if interp is None else _bytes(data, interp).rstrip(b"\0").decode()
    tags = _tags(data, segments)
    strings = _at(data, segments, tags[_DT_STRTAB][0], tags[_DT_STRSZ][0]) if _DT_STRTAB in tags else b""

    def texts(tag: int) -> tuple[str, ...]:
        return tuple(_string(strings, offset) for offset in tags.get(tag, ()))

    path = texts(_DT_RUNPATH) or texts(_DT_RPATH)
    return Dynamic(
        machine=machine,
        type=type_,
        entry=entry,
        segments=tuple(segments),
        interpreter=interpreter,
        needed=texts(_DT_NEEDED),
        search_path=tuple(part for text in path for part in text.split(":")),
        has_dynamic=bool(tags),
        has_preinit=_DT_PREINIT_ARRAY in tags,
        symbols=_symbols(data, segments, tags, strings),
    )


def _bytes(data: memoryview, segment: Segment) -> bytes:
    return bytes(data[segment.offset : segment.offset + segment.filesz])


def _tags(data: memoryview, segments: Iterable[Segment]) -> dict[int, list[int]]:
    dynamic = next((s for s in segments if s.type == PT_DYNAMIC), None)
    tags: dict[int, list[int]] = {}
    if dynamic is not None:
        for tag, value in struct.iter_unpack("qQ", _bytes(data, dynamic)[: dynamic.filesz // 16 * 16]):
            if tag == 0:
                break
            tags.setdefault(tag, []).append(value)
    return tags


def _offset(segments: Iterable[Segment], vaddr: int) -> int:
    """The file offset of a linked address."""
    segment = next(s for s in segments if s.type == PT_LOAD and s.vaddr <= vaddr < s.vaddr + s.filesz)
    return vaddr - segment.vaddr + segment.offset


def _at(data: memoryview, segments: Iterable[Segment], vaddr: int, size: int) -> bytes:
    offset = _offset(segments, vaddr)
    return bytes(data[offset : offset + size])


def _string(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode("utf-8", "surrogateescape")


def _symbols(
    data: memoryview, segments: list[Segment], tags: dict[int, list[int]], strings: bytes
) -> dict[str, Symbol]:
    if _DT_SYMTAB not in tags:
        return {}
    count = _symbol_count(data, segments, tags)
    table = _at(data, segments, tags[_DT_SYMTAB][0], count * _SYM.size)
    found: dict[str, Symbol] = {}
    left = 8 * len(strings) + 4096  # names share tails, but a file cannot ask for more than a few times its size
    for name, _, _, section, value, _ in _SYM.iter_unpack(table[: len(table) // _SYM.size * _SYM.size]):
        text = _string(strings, name)
        left -= len(text)
        if left < 0:
            raise ValueError("strings that overlap too much")
        if section != 0 or text not in found:  # another version of the same name may be an import
            found[text] = Symbol(value, section != 0)
    return found


def _symbol_count(data: memoryview, segments: list[Segment], tags: dict[int, list[int]]) -> int:
    """DT_HASH says it; of a GNU hash table the longest chain does (Oracle's "GNU Hash ELF Sections")."""
    if _DT_HASH in tags:
        (_, chains) = struct.unpack_from("II", data, _offset(segments, tags[_DT_HASH][0]))
        return int(chains)
    if _DT_GNU_HASH not in tags:
        return 0
    at = _offset(segments, tags[_DT_GNU_HASH][0])
    buckets, first, words, _ = struct.unpack_from("IIII", data, at)
    at += 16 + words * 8
    last = max(struct.unpack_from(f"{buckets}I", data, at), default=0)
    if last < first:
        return int(first)
    at += buckets * 4
    while not struct.unpack_from("I", data, at + (last - first) * 4)[0] & 1:
        last += 1
    return int(last) + 1
