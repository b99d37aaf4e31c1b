"""layout.relink_lld: where lld puts sections. In: Pieces, LldLink. Out: the Pieces placed, program headers, size.

Written from what lld 13 to 23 do (`tests/layout` holds it against them) and from lld/ELF/Writer.cpp and
LinkerScript.cpp, whose functions are named where a rule comes from one. Linker scripts are not followed.
"""

from collections.abc import Sequence

from elfolio.elf import constants as c
from elfolio.layout.relink_headers import Placed, Run, segment_of
from elfolio.layout.relink_lld_plan import LldLink, LldPlan, planned, rank
from elfolio.layout.sections import RELRO_PADDING, Piece
from elfolio.span import round_up

__all__ = ["link"]

_MOST_PASSES = 30
"""lld too gives up then (finalizeAddressDependentContent)."""


def link(pieces: Sequence[Piece], how: LldLink) -> Placed:
    """Sorts the sections, of `with_padding`, makes the program headers, gives addresses and file offsets."""
    ordered = sorted(pieces, key=lambda piece: rank(piece, how))
    plan = planned(ordered, how)
    _settle(ordered, plan, how)
    _drop_empty_loads(plan)
    size = _offsets(ordered, plan, how)
    _measure(plan, how)
    return Placed(tuple(ordered), tuple(segment_of(run) for run in plan.runs), size)


def _settle(pieces: Sequence[Piece], plan: LldPlan, how: LldLink) -> None:
    """Addresses; where a section's size depends on them, again until it no longer grows."""
    if how.relr is not None:
        how.relr.section.size = 0
    for _ in range(_MOST_PASSES):
        _addresses(pieces, plan, how)
        if how.relr is None or (needed := how.relr.size()) <= how.relr.section.size:
            return
        how.relr.section.size = needed


def _addresses(pieces: Sequence[Piece], plan: LldPlan, how: LldLink) -> None:
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


def _next_segment(dot: int, run: Run, before: Run, plan: LldPlan, how: LldLink) -> int:
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


def _drop_empty_loads(plan: LldPlan) -> None:
    """removeEmptyPTLoad; the room for their program headers stays."""
    empty = [run for run in plan.loads if run.last.addr + run.last.size == run.first.addr]
    plan.runs = [run for run in plan.runs if run not in empty]
    for run in empty:
        plan.jumps.pop(run.first, None)


def _offsets(pieces: Sequence[Piece], plan: LldPlan, how: LldLink) -> int:
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


def _measure(plan: LldPlan, how: LldLink) -> None:
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
