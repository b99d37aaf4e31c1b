"""layout.relink_gnu: where GNU ld puts sections. In: Pieces, GnuLink. Out: the Pieces placed, program headers, size.

Written from the default linker scripts (`ld --verbose`), the manual's DATA_SEGMENT_ALIGN and DATA_SEGMENT_RELRO_END,
and what ld 2.40 to 2.47 do; functions of ld/ldlang.c and ld/ldexp.c are named where a rule comes from one. Scripts of
a user's own are not followed. Program headers and file offsets: `relink_gnu_map`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from elfolio.elf import constants as c
from elfolio.elf.image import Segment
from elfolio.layout.relink_mode import GnuLdVersion
from elfolio.layout.relink_relr import Relr
from elfolio.layout.sections import Piece, Sizes
from elfolio.span import Span, round_down, round_up

__all__ = ["GnuLink", "Region", "addresses", "regions", "script_order"]


class Region(IntEnum):
    """The parts of the default script, between its assignments to the location counter."""

    HEAD = 0
    CODE = 1
    READ_ONLY = 2
    RELRO = 3
    DATA = 4
    LARGE = 5


_READ_ONLY = (
    *(".rodata", ".rodata1", ".eh_frame_hdr", ".eh_frame", ".sframe"),
    *(".gcc_except_table", ".gnu_extab", ".exception_ranges"),
)
_RELRO = (
    *(".eh_frame", ".sframe", ".gnu_extab", ".gcc_except_table", ".exception_ranges", ".tdata", ".tbss"),
    *(".preinit_array", ".init_array", ".fini_array", ".ctors", ".dtors", ".jcr", ".data.rel.ro", ".dynamic", ".got"),
)
_LARGE = (".lrodata", ".ldata")
_SCRIPT = (
    *(".interp", ".note.gnu.build-id", ".hash", ".gnu.hash", ".dynsym", ".dynstr", ".gnu.version"),
    *(".gnu.version_d", ".gnu.version_r", ".rela.dyn", ".rela.plt", ".relr.dyn"),
    *(".init", ".plt", ".plt.got", ".plt.sec", ".text", ".fini"),
)


@dataclass(frozen=True, slots=True)
class GnuLink:
    """All that decides, besides the sections."""

    version: GnuLdVersion
    separate_code: bool
    max_page_size: int
    common_page_size: int
    relro: bool
    now: bool
    base: int
    """The text-segment address of the script: 0, or where a program that cannot move was linked to."""
    machine: int
    sizes: Sizes
    stack: Segment | None
    relr: Relr | None = None


@dataclass(slots=True)
class _DataSegment:
    """What the script's DATA_SEGMENT functions keep from one pass to the next (seg_align_type)."""

    base: int | None = None
    """Where it is to begin; None: where the script alone would have it."""
    save_page: bool = False
    start: int = 0
    relro_end: int = 0
    end: int = 0


def regions(pieces: Sequence[Piece]) -> dict[Piece, Region]:
    """Which part of the script each section with an address stands in, for sections in the linker's order."""
    placed = [piece for piece in pieces if piece.is_alloc]
    code = [at for at, piece in enumerate(placed) if piece.flags & c.SHF_EXECINSTR]
    writable = [at for at, piece in enumerate(placed) if piece.flags & c.SHF_WRITE and at not in code]
    relro = [at for at in writable if placed[at].name in _RELRO or placed[at].flags & c.SHF_TLS]
    named = [at for at, piece in enumerate(placed) if piece.name in _READ_ONLY]
    first_data = writable[0] if writable else len(placed)
    read_only = code[-1] + 1 if code else min([*named, first_data])
    found = {}
    for at, piece in enumerate(placed):
        if piece.name in _LARGE:
            found[piece] = Region.LARGE
        elif at >= first_data:
            found[piece] = Region.RELRO if relro and at <= relro[-1] else Region.DATA
        elif at >= read_only:
            found[piece] = Region.READ_ONLY
        else:
            found[piece] = Region.CODE if code and at >= code[0] else Region.HEAD
    return found


def script_order(piece: Piece) -> tuple[int, ...]:
    """The place in the default script of a section that another linker put elsewhere; others go where the script's
    like them end (lang_add_output_section's orphans, for the usual ones)."""
    if not piece.is_alloc:
        return (6,)
    if piece.flags & c.SHF_EXECINSTR:
        return (1, _index(_SCRIPT, piece.name))
    if not piece.flags & c.SHF_WRITE:
        if piece.name in _READ_ONLY or (piece.type == c.SHT_PROGBITS and piece.name not in _SCRIPT):
            return (2, _index(_READ_ONLY, piece.name))
        note = piece.type == c.SHT_NOTE and piece.name not in _SCRIPT
        return (0, 0 if piece.name == ".interp" else 1, not note, _index(_SCRIPT, piece.name))
    if piece.flags & c.SHF_TLS or piece.name in _RELRO:
        return (3, _index(_RELRO, ".tdata" if piece.flags & c.SHF_TLS else piece.name), piece.is_nobits)
    return (4, piece.is_nobits, _index((".got.plt", ".data", ".bss"), piece.name))


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def addresses(pieces: Sequence[Piece], headers: int, how: GnuLink) -> Span:
    """Gives each section its address (lang_size_sections), `headers` bytes in; returns RELRO's linked addresses."""
    where = regions(pieces)
    segment = _DataSegment()
    _pass(pieces, where, headers, segment, how)
    if how.relro:
        first, wanted = segment.start, round_up(segment.relro_end, how.max_page_size)
        segment.base = _pulled_back(pieces, segment, wanted, how)
        _pass(pieces, where, headers, segment, how)
        if segment.relro_end > wanted:
            segment.base = first
            _pass(pieces, where, headers, segment, how)
        return Span(segment.start, segment.relro_end)
    if _saves_a_page(segment, how):
        segment.save_page = True
        _pass(pieces, where, headers, segment, how)
    return Span(0, 0)


def _pulled_back(pieces: Sequence[Piece], segment: _DataSegment, wanted: int, how: GnuLink) -> int:
    """Where the data segment must begin for RELRO to end with a page (lang_size_relro_segment_1)."""
    offset = _relro_offset(pieces, how)
    end = wanted - offset
    for piece in reversed(pieces):
        if piece.is_alloc and segment.start <= piece.addr < segment.relro_end - offset:
            size = 0 if piece.is_tbss else piece.size
            end = round_down(end - size, piece.addralign)
    return end


def _relro_offset(pieces: Sequence[Piece], how: GnuLink) -> int:
    """The words of .got.plt that are only written at the start are RELRO too."""
    reserved = 3 * how.sizes.word
    size = next((piece.size for piece in pieces if piece.name == ".got.plt"), 0)
    return reserved if not how.now and size >= reserved else 0


def _saves_a_page(segment: _DataSegment, how: GnuLink) -> bool:
    """lang_size_segment: whether beginning on a page of its own lets the data have a page less."""
    page = how.common_page_size
    first, last = -segment.start % page, segment.end % page
    return bool(
        first and last and round_down(segment.start, page) != round_down(segment.end, page) and first + last <= page
    )


def _pass(
    pieces: Sequence[Piece], where: dict[Piece, Region], headers: int, segment: _DataSegment, how: GnuLink
) -> None:
    dot = how.base + headers
    region = Region.HEAD
    offset = _relro_offset(pieces, how)
    for piece in pieces:
        if not piece.is_alloc:
            continue
        dot = _advance(dot, region, where[piece], segment, offset, how)
        region = where[piece]
        if region == Region.LARGE:
            dot = round_up(dot, how.sizes.word)
            dot = round_up(dot, how.max_page_size) + dot % how.max_page_size
        piece.addr = dot = round_up(dot, piece.addralign)
        if piece.name == ".bss" and piece.size:
            piece.size = round_up(dot + piece.size, how.sizes.word) - dot
        if not piece.is_tbss:
            dot += piece.size
    dot = _advance(dot, region, Region.LARGE, segment, offset, how)
    segment.end = round_up(dot, how.sizes.word)


def _advance(dot: int, at: Region, to: Region, segment: _DataSegment, offset: int, how: GnuLink) -> int:
    """The script's assignments between two of its parts; they stand there even where a part is empty."""
    page = how.max_page_size
    for region in range(at + 1, to + 1):
        if region in {Region.CODE, Region.READ_ONLY} and how.separate_code:
            dot = round_up(dot, page)
        elif region == Region.RELRO:
            dot = segment.start = _data_segment_align(dot, segment, how)
        elif region == Region.DATA:
            segment.relro_end = dot + offset
            if segment.base is not None:
                segment.relro_end = round_up(segment.relro_end, page)
                dot = segment.relro_end - offset
    return dot


def _data_segment_align(dot: int, segment: _DataSegment, how: GnuLink) -> int:
    """fold_segment_align."""
    page, common = how.max_page_size, how.common_page_size
    if segment.base is not None:
        return segment.base
    start = round_up(dot, page)
    if segment.save_page:
        return start + ((dot + common - 1) & (page - common) if common < page else 0)
    return start if how.relro else start + dot % page
