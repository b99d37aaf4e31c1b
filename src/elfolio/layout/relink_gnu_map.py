"""layout.relink_gnu_map: GNU ld's program headers and file offsets. In: Pieces, GnuLink. Out: Placed.

BFD decides by addresses which sections share a PT_LOAD. Functions of bfd/elf.c are named where a rule comes from one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from elfolio.elf import constants as c
from elfolio.elf.image import Segment
from elfolio.layout.relink_gnu import GnuLink, addresses
from elfolio.layout.relink_headers import Placed, Run, note_runs, segment_of, stack_run
from elfolio.layout.sections import Piece
from elfolio.span import FileOffset, LinkedAddress, Span, round_down, round_up

__all__ = ["link"]

_MOST_TRIES = 10
"""ldelf_map_segments'; the number of program headers moves sections, and these may change the number."""
_STACK_ALIGN = 16


@dataclass(slots=True)
class _Plan:
    loads: list[Run]
    headers: Run | None
    """The PT_LOAD that maps the ELF header and the program headers."""
    others: list[Run]
    has_relro: bool
    has_phdr: bool
    relro: Span

    @property
    def count(self) -> int:
        return len(self.loads) + len(self.others) + self.has_relro + self.has_phdr


def link(pieces: Sequence[Piece], how: GnuLink) -> Placed:
    """Gives sections, in the linker's order, addresses and file offsets, and makes the program headers."""
    if how.relr is not None:
        how.relr.section.size = 0
    plan = _settled(pieces, how)
    segments, end = _offsets(plan, how)
    return Placed(tuple(pieces), segments, _rest(pieces, end, how))


def _settled(pieces: Sequence[Piece], how: GnuLink) -> _Plan:
    count, tries = _estimate(pieces, how), _MOST_TRIES
    while True:
        relro = addresses(pieces, how.sizes.ehdr + count * how.sizes.phdr, how)
        plan = _map(pieces, relro, count, how)
        again = False
        if how.relr is not None and (needed := how.relr.size()) > how.relr.section.size:
            how.relr.section.size, again = needed, True
        if plan.count != count and (tries > 6 or plan.count > count):
            count, again = plan.count, True
        tries -= 1
        if not again or not tries:
            return plan


def _estimate(pieces: Sequence[Piece], how: GnuLink) -> int:
    """get_program_header_size: two PT_LOAD, and what the sections' names ask for."""
    names = {piece.name for piece in pieces if piece.size and piece.is_alloc}
    count = 2 + 2 * (".interp" in names) + (".dynamic" in names) + how.relro + (".eh_frame_hdr" in names)
    count += (how.stack is not None) + (".note.gnu.property" in names) + len(note_runs(pieces))
    return count + any(piece.flags & c.SHF_TLS for piece in pieces)


def _map(pieces: Sequence[Piece], relro: Span, count: int, how: GnuLink) -> _Plan:
    """_bfd_elf_map_sections_to_segments."""
    placed = sorted((piece for piece in pieces if piece.is_alloc), key=_by_address)
    headers = how.sizes.ehdr + count * how.sizes.phdr
    loads, first = _loads(placed, headers, how)
    named = {piece.name: piece for piece in reversed(pieces) if piece.is_alloc}
    others = [
        Run(type_, named[name].perms, named[name].addralign, [named[name]])
        for type_, name in ((c.PT_INTERP, ".interp"), (c.PT_DYNAMIC, ".dynamic"))
        if name in named and named[name].size
    ]
    others += note_runs(pieces)
    thread = [piece for piece in pieces if piece.flags & c.SHF_TLS]
    if thread:
        others.append(Run(c.PT_TLS, c.PF_R, max(piece.addralign for piece in thread), thread))
    for type_, name in ((c.PT_GNU_PROPERTY, ".note.gnu.property"), (c.PT_GNU_EH_FRAME, ".eh_frame_hdr")):
        if name in named and named[name].size:
            others.append(Run(type_, c.PF_R, named[name].addralign, [named[name]]))
    others += stack_run(how.stack, _STACK_ALIGN)
    return _Plan(loads, first, others, _has_relro(loads, relro), ".interp" in named, relro)


def _by_address(piece: Piece) -> tuple[int, bool, int]:
    """elf_sort_sections: zeros last, and empty sections before others at their address."""
    behind = piece.is_nobits and not piece.flags & c.SHF_TLS and piece.size != 0
    return (piece.addr, behind, 0 if piece.is_nobits else piece.size)


def _loads(placed: Sequence[Piece], headers: int, how: GnuLink) -> tuple[list[Run], Run | None]:
    loads = [Run(c.PT_LOAD, c.PF_R)]
    first: Run | None = loads[0]
    page = how.max_page_size
    start = round_down(max(0, placed[0].addr - headers), page) if placed else 0
    if placed and placed[0].addr < headers:
        first = None
    elif placed and how.separate_code and placed[0].perms & c.PF_X:
        # Headers are no code: they get a PT_LOAD of their own, on the page before where the first one has code.
        same_page = round_down(start + headers - 1, page) == round_down(placed[0].addr, page)
        if not same_page or start >= page:
            loads[0].vaddr = start - page if same_page else start
            loads.append(Run(c.PT_LOAD, c.PF_R))
    last: Piece | None = None
    writable = executable = False
    for piece in placed:
        if last is not None and _splits(last, piece, writable, executable, how):
            loads.append(Run(c.PT_LOAD, c.PF_R))
            writable = executable = False
        writable = writable or bool(piece.perms & c.PF_W)
        executable = executable or bool(piece.perms & c.PF_X)
        loads[-1].pieces.append(piece)
        loads[-1].flags |= piece.perms
        last = piece
    if loads[-1].pieces and all(piece.is_tbss for piece in loads[-1].pieces):
        loads.pop()
    return loads, first


def _splits(last: Piece, piece: Piece, writable: bool, executable: bool, how: GnuLink) -> bool:
    """Whether this section begins a PT_LOAD."""
    page = how.max_page_size
    end = last.addr + (0 if last.is_tbss else last.size)
    if piece.addr < end:
        return True
    if round_down(end - 1, page) == round_down(piece.addr, page):
        return False
    if round_up(end, page) + page <= piece.addr:
        return True
    if last.is_nobits and not last.is_tbss and (not piece.is_nobits or piece.is_tbss):
        return True
    if how.separate_code and executable != bool(piece.perms & c.PF_X):
        return True
    return not writable and bool(piece.perms & c.PF_W)


def _has_relro(loads: Sequence[Run], relro: Span) -> bool:
    return any(
        run.pieces and relro.covers(run.first.addr) and any(p.size and not p.is_nobits for p in run.pieces)
        for run in loads
    )


def _offsets(plan: _Plan, how: GnuLink) -> tuple[tuple[Segment, ...], int]:
    """The program headers in BFD's order, and where the last segment ends in the file
    (assign_file_positions_for_load_sections and _for_non_load_sections)."""
    phdrs = plan.count * how.sizes.phdr
    off = how.sizes.ehdr + phdrs
    loads = []
    for run in plan.loads:
        segment, off = _load(run, off, how, headers=run is plan.headers)
        loads.append(segment)
    segments = list(loads)
    if plan.has_phdr:
        at = loads[0].vaddr + how.sizes.ehdr
        place = FileOffset(how.sizes.ehdr)
        segments.insert(0, Segment(c.PT_PHDR, c.PF_R, place, LinkedAddress(at), at, phdrs, phdrs, how.sizes.word))
    for run in plan.others:
        _measure(run)
    interp = [segment_of(run) for run in plan.others if run.type == c.PT_INTERP]
    segments[plan.has_phdr : plan.has_phdr] = interp
    segments += [segment_of(run) for run in plan.others if run.type != c.PT_INTERP]
    if plan.has_relro:
        segments.append(_relro_segment(plan, loads))
    return tuple(segments), off


def _load(run: Run, off: int, how: GnuLink, *, headers: bool) -> tuple[Segment, int]:
    """One PT_LOAD from where the one before ended in the file; and where it ends."""
    page = how.max_page_size
    if not run.pieces:
        return Segment(c.PT_LOAD, run.flags, FileOffset(0), LinkedAddress(run.vaddr), run.vaddr, off, off, page), off
    align = max(page, *(piece.addralign for piece in run.pieces))
    skip = (run.first.addr - off) % align
    off += skip
    empty = all(piece.is_nobits for piece in run.pieces)
    start = FileOffset(0 if headers else off % align if empty and not how.version.places_zeros else off)
    vaddr = run.first.addr - (off if headers else 0)
    filesz = memsz = off if headers else 0
    for piece in run.pieces:
        if not piece.is_tbss:
            gap = piece.addr - (vaddr + memsz)
            memsz += gap + piece.size
            if not piece.is_nobits:
                # Bytes behind zeros: these are written out.
                gap = max(gap, memsz - piece.size - filesz)
                off += gap
                filesz += gap + piece.size
        piece.offset = start + piece.addr - vaddr if piece.is_tbss and how.version.places_zeros else off
        off += 0 if piece.is_nobits else piece.size
    segment = Segment(c.PT_LOAD, run.flags, start, LinkedAddress(vaddr), vaddr, filesz, memsz, align)
    # Zeros alone ask for no room in the file, and their offset points at nothing.
    return segment, off - skip if empty else off


def _measure(run: Run) -> None:
    if not run.pieces:
        return
    stored = [piece for piece in run.pieces if not piece.is_nobits]
    run.filesz = stored[-1].offset + stored[-1].size - run.first.offset if stored else 0
    run.memsz = run.last.addr + run.last.size - run.first.addr


def _relro_segment(plan: _Plan, loads: Sequence[Segment]) -> Segment:
    end = plan.relro.end
    for run, load in zip(plan.loads, loads, strict=True):
        for piece in run.pieces:
            if piece.size and plan.relro.covers(piece.addr):
                memsz = end - piece.addr
                filesz = min(memsz, load.vaddr + load.filesz - piece.addr)
                place = (FileOffset(piece.offset), LinkedAddress(piece.addr), piece.addr)
                return Segment(c.PT_GNU_RELRO, c.PF_R, *place, filesz, memsz, 1)
    return Segment(c.PT_NULL, 0, FileOffset(0), LinkedAddress(0), 0, 0, 0, 0)


def _rest(pieces: Sequence[Piece], end: int, how: GnuLink) -> int:
    """File offsets of what no segment holds, and the file's size."""
    for piece in pieces:
        if not piece.is_alloc:
            piece.offset = round_up(end, piece.addralign)
            end = piece.offset + piece.size
    return round_up(end, how.sizes.word) + (1 + len(pieces)) * how.sizes.shdr
