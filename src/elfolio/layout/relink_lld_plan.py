"""layout.relink_lld_plan: lld's order of sections, and its program headers. In: Pieces, LldLink. Out: LldPlan.

The first half of lld's second half: which sections there are, in which order, and which of them share a segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from elfolio.elf import constants as c
from elfolio.elf.image import Segment
from elfolio.layout.relink_headers import Run, note_runs, stack_run
from elfolio.layout.relink_mode import CodeSeparation, LldVersion
from elfolio.layout.relink_relr import Relr
from elfolio.layout.sections import RELRO_PADDING, SHF_X86_64_LARGE, Piece, Sizes

__all__ = ["LldLink", "LldPlan", "planned", "rank", "with_padding"]

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
class LldPlan:
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


def rank(piece: Piece, how: LldLink) -> tuple[int, ...]:
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


def planned(pieces: Sequence[Piece], how: LldLink) -> LldPlan:
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
    return LldPlan(runs, ehdr, phdrs, {run.first: run for run in loads if run.first is not ehdr})


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
