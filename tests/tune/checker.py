"""tests.tune.checker: whether a rewritten file is still the same program. In: two files, as Raw. Out: complaints.

What a file promises, checked without any of elfolio's code: memory byte for byte under three page sizes, addresses,
permissions, headers. Sections and the rest of the file are `tests.tune.placement`'s part, what other programs make of
it is `tests.tune.tools`'s. What was wrong before may stay so.
"""

from collections.abc import Iterator
from itertools import pairwise

from tests.tune.memory import Memory, memory, promised
from tests.tune.placement import check_placement
from tests.tune.raw import PF_R, PF_W, PF_X, PT_LOAD, Raw, Segment

PAGES = (4096, 16384, 65536)
_PERMISSIONS = PF_R | PF_W | PF_X
_ONLY_SMALL = {3, 22, 62, 243}
"""Machines whose base pages have 4 KiB and nothing else: i386, s390, x86-64, RISC-V."""
_MOVABLE = {"phoff", "shoff", "shnum", "shstrndx"}
"""Of the ELF header: where the tables are, and how many sections, should the writer add one."""


def check(before: Raw, after: Raw, merged: int = 0) -> list[str]:
    """What does not hold. `merged`: the page size for which segments may have been joined, 0 for none."""
    return [
        *_header(before, after, merged),
        *(_joined(before, after) if merged else _unjoined(before, after)),
        *(line for page in sorted({*pages_of(before), merged} - {0}) for line in _memory(before, after, page, merged)),
        *_order(before, after, merged),
        *check_placement(before, after, merged),
    ]


def pages_of(raw: Raw) -> tuple[int, ...]:
    """Page sizes that the file's machine may have. A file may seem to load under others, by what happens to stand
    beside its segments."""
    return PAGES[:1] if raw.header["machine"] in _ONLY_SMALL else PAGES


def _header(before: Raw, after: Raw, merged: int) -> Iterator[str]:
    if before.data[:16] != after.data[:16]:
        yield f"e_ident: {before.data[:16]!r} became {after.data[:16]!r}"
    for name, value in before.header.items():
        if name not in _MOVABLE and not (merged and name == "phnum") and after.header[name] != value:
            yield f"e_{name}: {value:#x} became {after.header[name]:#x}"
    modern, ancient = (table_address(before, modern=choice) for choice in (True, False))
    if modern is not None and table_address(after, modern=True) != modern:
        yield f"AT_PHDR is no longer {modern:#x}"
    # Linux before 5.18 takes the first segment's bias for the table's (0da1d5002745).
    if modern is not None and ancient == modern and table_address(after, modern=False) != modern:
        yield f"AT_PHDR is no longer {modern:#x} before Linux 5.18"


def table_address(raw: Raw, *, modern: bool) -> int | None:
    """AT_PHDR as a linked address: by the segment that holds the table, or by the first segment."""
    table = raw.header["phoff"]
    if not modern:
        return raw.loads[0].vaddr - raw.loads[0].offset + table if raw.loads else None
    holders = [s.vaddr + table - s.offset for s in raw.loads if s.offset <= table < s.file_end]
    return holders[-1] if holders else None


def _unjoined(before: Raw, after: Raw) -> Iterator[str]:
    """Every program header says the same but for where it lies in the file, and its alignment if it is mapped."""
    if len(before.segments) != len(after.segments):
        yield f"{len(before.segments)} program headers became {len(after.segments)}"
        return
    for old, new in zip(before.segments, after.segments, strict=True):
        kept = ("type", "flags", "vaddr", "paddr", "filesz", "memsz", *(() if old.type == PT_LOAD else ("align",)))
        for name in kept:
            if getattr(old, name) != getattr(new, name):
                yield f"{old}: p_{name} {getattr(old, name):#x} became {getattr(new, name):#x}"


def _joined(before: Raw, after: Raw) -> Iterator[str]:
    """Each mapped segment lies within one that may do what it might; none came to be writable and executable."""
    for old in before.loads:
        owners = [s for s in after.loads if s.vaddr <= old.vaddr and old.vaddr + old.memsz <= s.vaddr + s.memsz]
        if len(owners) != 1 and old.memsz:
            yield f"{old}: {len(owners)} segments hold it"
        for owner in owners:
            if old.memsz and old.flags & _PERMISSIONS & ~owner.flags:
                yield f"{old}: permissions {old.flags} became {owner.flags}"
    if not any(s.flags & PF_W and s.flags & PF_X for s in before.loads):
        yield from (f"{s}: writable and executable" for s in after.loads if s.flags & PF_W and s.flags & PF_X)


def _memory(before: Raw, after: Raw, page: int, merged: int) -> Iterator[str]:
    old, new = memory(before, page), memory(after, page)
    worked = not old.faults and not list(_broken(before, old, before))
    if not (worked or page == merged):
        return  # it did not run under this page size, and need not now
    where = f"pages of {page:#x}: "
    yield from (where + fault for fault in new.faults)
    yield from (where + fault for fault in _broken(before, new, after))
    if not merged and _shape(old) != _shape(new):
        yield where + "other pages are mapped, or with other permissions"


def _broken(before: Raw, found: Memory, after: Raw) -> Iterator[str]:
    """Where memory is not what `before` promises; where its headers lie, `after`'s are wanted."""
    for segment in before.loads:
        for start, size, from_file in promised(segment):
            there = found.read(start, size)
            if there is None:
                yield f"{segment}: not all of it is mapped"
                continue
            at = segment.offset + start - segment.vaddr
            wanted = _with_tables(before.data[at : at + size], there, at, before, after) if from_file else bytes(size)
            if there != wanted:
                yield f"{segment}: {_first_difference(there, wanted, start)}"
            if any(segment.flags & _PERMISSIONS & ~flags for flags in found.flags(start, size)):
                yield f"{segment}: some of it lost permissions"


def _with_tables(wanted: bytes, there: bytes, at: int, before: Raw, after: Raw) -> bytes:
    """`wanted` from offset `at` of `before`, with its ELF header and program headers as `after` has them. What a table
    had beyond the other's length, and section headers, may be anything."""
    out = bytearray(wanted)
    for index, ((old, size), (new, length)) in enumerate(zip(before.tables(), after.tables(), strict=True)):
        for offset in range(max(old, at), min(old + size, at + len(wanted))):
            known = index < 2 and offset - old < length
            out[offset - at] = after.data[new + offset - old] if known else there[offset - at]
    return bytes(out)


def _first_difference(there: bytes, wanted: bytes, start: int) -> str:
    at = next((i for i, (a, b) in enumerate(zip(there, wanted, strict=False)) if a != b), min(len(there), len(wanted)))
    return f"at {start + at:#x} {there[at : at + 8].hex()} instead of {wanted[at : at + 8].hex()}"


def _shape(found: Memory) -> list[tuple[int, int, int]]:
    """What is mapped with which permissions, neighbours joined."""
    runs: list[tuple[int, int, int]] = []
    for piece in found.pieces:
        if runs and runs[-1][1:] == (piece.start, piece.flags):
            runs[-1] = (runs[-1][0], piece.end, piece.flags)
        else:
            runs.append((piece.start, piece.end, piece.flags))
    return runs


def _order(before: Raw, after: Raw, merged: int) -> Iterator[str]:
    """Mapped segments ascend, in memory and in the file, and share neither bytes nor pages they did not share."""
    for name in ("vaddr", "offset"):
        if _ascends(before, name) and not _ascends(after, name):
            yield f"p_{name} of the mapped segments no longer ascends"
    for page in (1, *pages_of(before)):
        if len(before.loads) == len(after.loads) and _collisions(after.loads, page) > _collisions(before.loads, page):
            yield f"segments came to share memory under pages of {page:#x}"
    shared = sum(a.file_end > b.offset for a, b in _neighbours(before.loads))
    if not merged and sum(a.file_end > b.offset for a, b in _neighbours(after.loads)) > shared:
        yield "segments came to share bytes of the file"
    by_address = {s.vaddr: s for s in before.loads}
    for new in after.loads:
        old = by_address.get(new.vaddr, new)
        if new.align & (new.align - 1):
            yield f"{new}: p_align {new.align:#x} is no power of two"
        elif _is_congruent(old) and not _is_congruent(new):
            yield f"{new}: its offset {new.offset:#x} is not its address modulo p_align {new.align:#x}"


def _is_congruent(segment: Segment) -> bool:
    return (segment.offset - segment.vaddr) % max(1, segment.align) == 0


def _ascends(raw: Raw, name: str) -> bool:
    values = [getattr(s, name) for s in raw.loads if s.memsz and (name == "vaddr" or s.filesz)]
    return values == sorted(values)


def _neighbours(loads: tuple[Segment, ...]) -> list[tuple[Segment, Segment]]:
    kept = sorted((s for s in loads if s.filesz), key=lambda s: s.offset)
    return list(pairwise(kept))


def _collisions(loads: tuple[Segment, ...], page: int) -> int:
    kept = sorted((s for s in loads if s.memsz), key=lambda s: s.vaddr)
    return sum(-(-(a.vaddr + a.memsz) // page) > b.vaddr // page for a, b in pairwise(kept))
