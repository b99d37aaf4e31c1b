"""layout.relink_lld: where lld puts sections. In: Pieces, LldLink. Out: the Pieces placed, program headers, size.

Written from what lld 13 to 23 do (`tests/layout` holds it against them) and from lld/ELF/Writer.cpp and
LinkerScript.cpp, whose functions are named where a rule comes from one. Linker scripts are not followed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from elfolio.elf import constants as c
from elfolio.elf.image import Segment
from elfolio.layout.relink_headers import Placed, Run, note_runs, segment_of, stack_run
from elfolio.layout.relink_mode import CodeSeparation, LldVersion
from elfolio.layout.relink_relr import Relr
from elfolio.layout.sections import RELRO_PADDING, SHF_X86_64_LARGE, Piece, Sizes
from elfolio.span import round_up

__all__ = ["LldLink", "link", "with_padding"]

_MOST_PASSES = 30
"""lld too gives up then (finalizeAddressDependentContent)."""

_RELRO_TYPES = frozenset({c.SHT_INIT_ARRAY, c.SHT_FINI_ARRAY, c.SHT_PREINIT_ARRAY})
_RELRO_NAMES = frozenset(
    (
        *(".got", ".toc", ".dynamic", ".data.rel.ro", ".bss.rel.ro", ".ctors", ".dtors", ".jcr", ".eh_frame"),
        *(".init_array", ".fini_array", ".preinit_array", RELRO_PADDING),
    )
)


@dataclass(frozen=True, slots=True)
class LldLink:
    """All that decides, besides the sections."""

    version: LldVersion
    code: CodeSeparation
    rosegment: bool
    max_page_size: int
    common_page_size: int
    relro: bool
    now: bool
    """-z now: .got.plt is RELRO too."""
    base: int
    """The address of the ELF header: 0, or where a program that cannot move was linked to."""
    machine: int
    sizes: Sizes
    stack: Segment | None
    relr: Relr | None = None

    @property
    def code_page(self) -> int:
        """What the end of code is rounded up to."""
        return self.max_page_size if self.version.pads_code_to_max_page else self.common_page_size


@dataclass(slots=True)
class _Plan:
    """The program headers, and the sections that begin a PT_LOAD."""

    runs: list[Run]
    ehdr: Piece
    phdrs: Piece
    jumps: dict[Piece, Run] = field(default_factory=dict)

    @property
    def loads(self) -> list[Run]:
        return [run for run in self.runs if run.type == c.PT_LOAD]

    @property
    def tls(self) -> Run | None:
        return next((run for run in self.runs if run.type == c.PT_TLS), None)


def link(pieces: Sequence[Piece], how: LldLink) -> Placed:
    """Sorts the sections, of `with_padding`, makes the program headers, gives addresses and file offsets."""
    ordered = sorted(pieces, key=lambda piece: _rank(piece, how))
    plan = _headers(ordered, how)
    _settle(ordered, plan, how)
    _drop_empty_loads(plan)
    size = _offsets(ordered, plan, how)
    _measure(plan, how)
    return Placed(tuple(ordered), tuple(segment_of(run) for run in plan.runs), size)


def _is_relro(piece: Piece, how: LldLink) -> bool:
    """Whether PT_GNU_RELRO covers it (isRelroSection)."""
    if not how.relro or not piece.is_alloc or not piece.flags & c.SHF_WRITE:
        return False
    if piece.flags & c.SHF_TLS or piece.type in _RELRO_TYPES or piece.name in _RELRO_NAMES:
        return True
    return piece.name == ".got.plt" and how.now


def with_padding(pieces: Sequence[Piece], how: LldLink) -> list[Piece]:
    """The sections that this version would have, with `relro` set in each."""
    kept = [p for p in pieces if p.name != RELRO_PADDING]
    for piece in kept:
        piece.relro = _is_relro(piece, how)
    # Zeros of threads have no PT_LOAD, so that nothing would be behind the padding (adjustOutputSections).
    if how.version.pads_relro and any(p.relro and not p.is_tbss for p in kept):
        source = next((p.source for p in pieces if p.name == RELRO_PADDING), None)
        kept.append(Piece(RELRO_PADDING, c.SHT_NOBITS, c.SHF_ALLOC | c.SHF_WRITE, 0, 1, source, relro=True))
    return kept


def _rank(piece: Piece, how: LldLink) -> tuple[int, ...]:
    """Smaller goes first, equals stay as they are (getSectionRank)."""
    if not piece.is_alloc:
        return (1,)
    write, code = bool(piece.flags & c.SHF_WRITE), bool(piece.flags & c.SHF_EXECINSTR)
    large = how.machine == c.EM_X86_64 and how.version.splits_behind_nobits and bool(piece.flags & SHF_X86_64_LARGE)
    if code:
        return (0, 1 + write)
    if write:
        not_tls = not piece.flags & c.SHF_TLS
        return (0, 3, large, not piece.relro, not_tls, piece.is_nobits, _riscv_small(piece, how))
    kind = (piece.name != ".interp") + (piece.name != ".interp" and piece.type != c.SHT_NOTE)
    if kind == 2 and piece.type == c.SHT_PROGBITS:
        kind = 3 if large else 4
    return (0, 0, kind, piece.is_nobits)


def _riscv_small(piece: Piece, how: LldLink) -> bool:
    """Small data stands next to small zeros, so that one register reaches both."""
    if how.machine != c.EM_RISCV or not how.version.splits_behind_nobits:
        return False
    return piece.name == ".sdata" or (piece.is_nobits and piece.name != ".sbss")


def _headers(pieces: Sequence[Piece], how: LldLink) -> _Plan:
    """The program headers in lld's order (createPhdrs)."""
    ehdr = Piece("", c.SHT_NULL, c.SHF_ALLOC, how.sizes.ehdr, 1)
    phdrs = Piece("", c.SHT_NULL, c.SHF_ALLOC, 0, how.sizes.word)
    runs = [Run(c.PT_PHDR, c.PF_R, pieces=[phdrs], align=phdrs.addralign)]
    named = {piece.name: piece for piece in reversed(pieces)}

    def cover(type_: int, piece: Piece | None, flags: int | None = None) -> None:
        if piece is not None:
            runs.append(Run(type_, piece.perms if flags is None else flags, piece.addralign, [piece]))

    cover(c.PT_INTERP, named.get(".interp"))
    loads = _loads(pieces, ehdr, phdrs, how)
    runs += loads
    thread = [piece for piece in pieces if piece.flags & c.SHF_TLS]
    if thread:
        runs.append(Run(c.PT_TLS, c.PF_R, max(piece.addralign for piece in thread), thread))
    cover(c.PT_DYNAMIC, named.get(".dynamic"))
    protected = [piece for piece in pieces if piece.relro and not piece.is_tbss]
    if protected:
        runs.append(Run(c.PT_GNU_RELRO, c.PF_R, 1, protected))
    cover(c.PT_GNU_EH_FRAME, named.get(".eh_frame_hdr"))
    runs += stack_run(how.stack, 0)
    cover(c.PT_GNU_PROPERTY, named.get(".note.gnu.property"), c.PF_R)
    runs += note_runs(pieces)
    phdrs.size = len(runs) * how.sizes.phdr
    return _Plan(runs, ehdr, phdrs, {run.first: run for run in loads if run.first is not ehdr})


def _loads(pieces: Sequence[Piece], ehdr: Piece, phdrs: Piece, how: LldLink) -> list[Run]:
    """PT_LOAD: a new one where permissions change, behind RELRO, and where bytes follow zeros."""
    one_text = not how.rosegment
    always_x = one_text and not how.version.joins_flags
    flags = c.PF_R | (c.PF_X if always_x else 0)
    loads = [Run(c.PT_LOAD, flags, how.max_page_size)]
    loads[0].add(ehdr)
    loads[0].add(phdrs)
    was_relro = False
    for piece in pieces:
        if not piece.is_alloc or piece.is_tbss:
            continue
        perms = piece.perms | (c.PF_X if always_x and not piece.perms & c.PF_W else 0)
        differs = flags ^ perms
        if one_text and how.version.joins_flags and not perms & c.PF_W:
            differs &= ~c.PF_X
        split = how.version.splits_behind_nobits and loads[-1].last.is_nobits and not piece.is_nobits
        if differs or split or (was_relro and not piece.relro):
            loads.append(Run(c.PT_LOAD, perms, how.max_page_size))
            flags = perms
        loads[-1].add(piece)
        loads[-1].flags |= perms
        was_relro = piece.relro
    return loads


def _settle(pieces: Sequence[Piece], plan: _Plan, how: LldLink) -> None:
    """Addresses; where a section's size depends on them, again until it no longer grows."""
    if how.relr is not None:
        how.relr.section.size = 0
    for _ in range(_MOST_PASSES):
        _addresses(pieces, plan, how)
        if how.relr is None or (needed := how.relr.size()) <= how.relr.section.size:
            return
        how.relr.section.size = needed


def _addresses(pieces: Sequence[Piece], plan: _Plan, how: LldLink) -> None:
    """assignAddresses and assignOffsets."""
    plan.ehdr.addr, plan.phdrs.addr = how.base, how.base + plan.ehdr.size
    dot = plan.phdrs.addr + plan.phdrs.size
    tbss_end = 0
    before = plan.loads[0]
    for piece in pieces:
        if not piece.is_alloc:
            continue
        if piece.is_tbss:
            piece.addr = round_up(tbss_end or dot, piece.addralign)
            tbss_end = piece.addr + piece.size
            continue
        if (run := plan.jumps.get(piece)) is not None:
            dot = _next_segment(dot, run, before, plan, how)
            before = run
        piece.addr = round_up(dot, piece.addralign)
        if piece.name == RELRO_PADDING:
            # It has a size, but what follows is placed as if it had none.
            piece.size = round_up(piece.addr, how.common_page_size) - piece.addr
            dot = piece.addr
        else:
            dot = piece.addr + piece.size


def _next_segment(dot: int, run: Run, before: Run, plan: _Plan, how: LldLink) -> int:
    """Where a PT_LOAD begins (fixSectionAlignments): on a page of its own, or, to have no padding in the file, as
    far into the next page as the one before ended in its own."""
    page = how.max_page_size
    start = round_up(dot, page)
    changes_code = bool((before.flags ^ run.flags) & c.PF_X)
    if how.code == "separate-loadable-segments" or (how.code == "separate-code" and changes_code):
        return start
    into = dot % page
    # Dynamic loaders that do not heed p_vaddr modulo p_align of PT_TLS need it to be 0.
    tls = plan.tls
    if tls is not None and tls.first is run.first:
        into = round_up(into, tls.align)
    return start + into


def _drop_empty_loads(plan: _Plan) -> None:
    """removeEmptyPTLoad; the room for their program headers stays."""
    empty = [run for run in plan.loads if run.last.addr + run.last.size == run.first.addr]
    plan.runs = [run for run in plan.runs if run not in empty]
    for run in empty:
        plan.jumps.pop(run.first, None)


def _offsets(pieces: Sequence[Piece], plan: _Plan, how: LldLink) -> int:
    """File offsets of all sections, and the file's size (assignFileOffsets, computeFileOffset)."""
    load_of = {piece: run for run in plan.loads for piece in run.pieces}
    code = [run for run in plan.loads if run.flags & c.PF_X]
    tls = plan.tls
    plan.ehdr.offset = 0 if how.version.begins_at_zero else plan.ehdr.addr % plan.loads[0].align
    plan.phdrs.offset = plan.ehdr.offset + how.sizes.ehdr
    off = plan.phdrs.offset + plan.phdrs.size
    for piece in pieces:
        if not piece.is_alloc:
            continue
        off = _offset(piece, off, load_of.get(piece), tls if how.version.aligns_tbss else None)
        piece.offset = off
        if not piece.is_nobits:
            off += piece.size
        # What follows the code in the file must not be mapped with it.
        if how.code != "noseparate-code" and code and code[-1].last is piece:
            off = round_up(off, how.code_page)
    count = 1
    for piece in pieces:
        count += 1
        if not piece.is_alloc:
            piece.offset = round_up(off, piece.addralign)
            off = piece.offset + piece.size
    return round_up(off, how.sizes.word) + count * how.sizes.shdr


def _offset(piece: Piece, off: int, load: Run | None, tls: Run | None) -> int:
    if load is not None and load.first is piece:
        return off + (piece.addr - off) % load.align
    if piece.is_nobits and not (tls is not None and tls.first is piece):
        return off
    if load is None:
        return round_up(off, piece.addralign)
    return load.first.offset + piece.addr - load.first.addr


def _measure(plan: _Plan, how: LldLink) -> None:
    """setPhdrs, and what writeTrapInstr does to a last segment of code."""
    for run in plan.runs:
        if run.pieces:
            run.measure()
        if run.type == c.PT_GNU_RELRO and not how.version.pads_relro:
            # Loaders round RELRO's end down, so that its last page would stay writable.
            run.memsz = round_up(run.first.offset + run.memsz, how.common_page_size) - run.first.offset
    last = plan.loads[-1] if plan.loads else None
    if last is not None and last.flags & c.PF_X and how.code != "noseparate-code":
        last.filesz = last.memsz = round_up(last.filesz, how.code_page)
