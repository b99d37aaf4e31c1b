"""tests.tune.placement: where things lie in a rewritten file. In: two files, as Raw. Out: complaints.

Headers of parts of a segment move with it; sections say the same and hold the same; nothing overlaps that did not, and
bytes that no header describes are not lost.
"""

from collections.abc import Iterator
from itertools import pairwise

from tests.tune.raw import PT_GNU_RELRO, PT_LOAD, PT_NULL, SHF_ALLOC, SHF_TLS, SHT_NOBITS, Raw, Section, Segment

_KEPT = ("text", "type", "flags", "addr", "link", "info", "addralign", "entsize")
Range = tuple[int, int]


def check_placement(before: Raw, after: Raw, merged: int = 0) -> list[str]:
    """What does not hold."""
    return [
        *_parts(before, after),
        *_sections(before, after),
        *_overlaps(before, after, merged),
        *_undescribed(before, after),
    ]


def _parts(before: Raw, after: Raw) -> Iterator[str]:
    """Program headers that are not mapped themselves: the same bytes, and as far from the segment around them."""
    olds, news = ([s for s in raw.segments if s.type not in (PT_LOAD, PT_NULL)] for raw in (before, after))
    if len(olds) != len(news):
        yield f"{len(olds)} program headers that are not mapped became {len(news)}"
    for old, new in zip(olds, news, strict=False):
        # Of RELRO only addresses count, and lld lets it end behind its segment.
        is_table = old.type == PT_GNU_RELRO or _has_tables(before, old)
        if not is_table and before.data[old.offset : old.file_end] != after.data[new.offset : new.file_end]:
            yield f"{old}: it holds other bytes"
        holders = [s for s in before.loads if _holds(s, old) and _bias(s) == _bias(old)]
        after_them = [s for old_load in holders for s in after.loads if s.vaddr <= old_load.vaddr < s.vaddr + s.memsz]
        if old.memsz and holders and not any(_holds(s, new) and _bias(s) == _bias(new) for s in after_them):
            yield f"{old}: it did not move with the segment around it, to {new.offset:#x}"


def _holds(segment: Segment, part: Segment) -> bool:
    """A part without bytes may stand at the end: the head of .tbss is one."""
    return segment.offset <= part.offset and part.file_end <= segment.file_end


def _bias(segment: Segment) -> int:
    return segment.vaddr - segment.offset


def _sections(before: Raw, after: Raw) -> Iterator[str]:
    if len(after.sections) < len(before.sections):
        yield f"{len(before.sections)} sections became {len(after.sections)}"
    names = before.header["shstrndx"]
    # Names that stand within a table change with it.
    is_odd = names < len(before.sections) and _has_tables(before, before.sections[names])
    kept = _KEPT[1:] if is_odd else _KEPT
    for index, (old, new) in enumerate(zip(before.sections, after.sections, strict=False)):
        label = f"section {index} {old.text}"
        for name in kept if index else ("type",):
            if getattr(old, name) != getattr(new, name):
                yield f"{label}: {name} {getattr(old, name)!r} became {getattr(new, name)!r}"
        if index and (old.size != new.size if index != names else old.size > new.size):
            yield f"{label}: size {old.size:#x} became {new.size:#x}"
        if index and not after.content(new).startswith(before.content(old)) and not _has_tables(before, old):
            yield f"{label}: it holds other bytes"
        yield from _section_place(before, after, old, new, label)
    for new in after.sections[len(before.sections) :]:
        if new.flags & SHF_ALLOC:
            yield f"section {new.text} was added, and is part of memory"


def _section_place(before: Raw, after: Raw, old: Section, new: Section, label: str) -> Iterator[str]:
    if old.addralign.bit_count() == 1 and old.offset % old.addralign == 0 and new.offset % old.addralign:
        yield f"{label}: its offset {new.offset:#x} is no multiple of {old.addralign:#x}"
    if _is_beyond(new, after) and not _is_beyond(old, before):
        yield f"{label}: it goes on behind the file's end"
    if old.flags & SHF_ALLOC and old.filesz:
        holders = [s for s in before.loads if s.holds(old.offset, old.filesz) and _at(s, old)]
        if holders and not any(s.holds(new.offset, new.filesz) and _at(s, new) for s in after.loads):
            yield f"{label}: no segment holds it at its address any more"
    nobits = old.type == SHT_NOBITS and old.flags & SHF_ALLOC and not old.flags & SHF_TLS
    # binutils and LLVM place a NOBITS section by its offset: it must not precede the bytes before it in its segment.
    if nobits and all(_in_order(before, old) or [False]) and not any(_in_order(after, new)):
        yield f"{label}: its offset {new.offset:#x} is not where its segment's bytes end"


def _is_beyond(section: Section, raw: Raw) -> bool:
    return bool(section.filesz) and section.offset + section.filesz > len(raw.data)


def _at(segment: Segment, section: Section) -> bool:
    return section.offset - segment.offset == section.addr - segment.vaddr


def _in_order(raw: Raw, section: Section) -> list[bool]:
    """By each segment that has the section: of two that overlap in memory it can be in one's order only."""
    owners = [s for s in raw.loads if s.vaddr <= section.addr and section.addr + section.size <= s.vaddr + s.memsz]
    return [0 <= section.offset - s.offset <= section.addr - s.vaddr for s in owners]


def _has_tables(raw: Raw, part: Section | Segment) -> bool:
    ends = part.offset + part.filesz
    return any(size and start < ends and part.offset < start + size for start, size in raw.tables())


def _pieces(raw: Raw) -> list[Range]:
    """What lies in the file by itself: the tables, and each section's bytes."""
    found = [(start, start + size) for start, size in raw.tables() if size]
    found += [(s.offset, s.offset + s.filesz) for s in raw.sections if s.filesz]
    return sorted(found)


def _overlaps(before: Raw, after: Raw, merged: int) -> Iterator[str]:
    if _collisions(_pieces(after)) > _collisions(_pieces(before)):
        yield "sections or tables came to overlap in the file"
    if merged:
        return  # what stood between two segments is in the one that they became
    outside = _outside(after)
    taken = [(s.offset, s.file_end) for s in after.loads if s.filesz]
    hits = sum(a < d and c < b for a, b in outside for c, d in taken)
    if hits > sum(a < d and c < b for a, b in _outside(before) for c, d in _taken(before)):
        yield "a section that is no part of memory came to lie in a segment"


def _taken(raw: Raw) -> list[Range]:
    return [(s.offset, s.file_end) for s in raw.loads if s.filesz]


def _outside(raw: Raw) -> list[Range]:
    return [(s.offset, s.offset + s.filesz) for s in raw.sections if s.filesz and not s.flags & SHF_ALLOC]


def _collisions(pieces: list[Range]) -> int:
    return sum(a[1] > b[0] for a, b in pairwise(pieces))


def _undescribed(before: Raw, after: Raw) -> Iterator[str]:
    """Bytes that no header describes, if they are more than zeros: a payload, say, which is found by where it lies."""
    for start, end in _gaps(before):
        body = before.data[start:end].strip(b"\0")
        if body and (end == len(before.data) or len(body) > 64) and body not in after.data:
            yield f"{end - start} bytes at {start:#x} that no header describes are gone"


def _gaps(raw: Raw) -> list[Range]:
    known = sorted([*_pieces(raw), *((s.offset, s.file_end) for s in raw.segments if s.filesz)])
    gaps, reached = [], 0
    for start, end in known:
        if start > reached:
            gaps.append((reached, start))
        reached = max(reached, end)
    return [*gaps, *([(reached, len(raw.data))] if reached < len(raw.data) else [])]
