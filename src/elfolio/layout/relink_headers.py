"""layout.relink_headers: program headers while a linker works. In: Pieces, placed. Out: Segments.

What lld and GNU ld have in common: a header covers a run of sections, from the first one to the last.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from elfolio.elf import constants as c
from elfolio.elf.image import Segment
from elfolio.layout.sections import Piece
from elfolio.span import FileOffset, LinkedAddress

__all__ = ["Placed", "Run", "note_runs", "segment_of", "stack_run"]


@dataclass(slots=True, eq=False)
class Run:
    """A program header and the sections that it covers, in order."""

    type: int
    flags: int
    align: int = 0
    pieces: list[Piece] = field(default_factory=list)
    filesz: int = 0
    memsz: int = 0
    vaddr: int = 0
    """Of a PT_LOAD that covers the headers and no section."""

    def add(self, piece: Piece) -> None:
        """One section more; p_align is the largest alignment."""
        self.pieces.append(piece)
        self.align = max(self.align, piece.addralign)

    @property
    def first(self) -> Piece:
        return self.pieces[0]

    @property
    def last(self) -> Piece:
        return self.pieces[-1]

    def measure(self) -> None:
        """Sizes in the file and in memory, from where the first and the last section went."""
        first, last = self.first, self.last
        self.filesz = last.offset - first.offset + (0 if last.is_nobits else last.size)
        self.memsz = last.addr + last.size - first.addr


@dataclass(frozen=True, slots=True)
class Placed:
    """What a linker's second half comes to."""

    pieces: tuple[Piece, ...]
    segments: tuple[Segment, ...]
    size: int
    """Of the file, in bytes."""


def segment_of(run: Run) -> Segment:
    """The program header; one that covers nothing (PT_GNU_STACK) has zeros for its place."""
    offset, addr = (run.first.offset, run.first.addr) if run.pieces else (0, 0)
    return Segment(
        run.type, run.flags, FileOffset(offset), LinkedAddress(addr), addr, run.filesz, run.memsz, run.align
    )  # fmt: skip


def note_runs(pieces: Iterable[Piece]) -> list[Run]:
    """A PT_NOTE for each group of SHT_NOTE sections that follow each other and are aligned alike."""
    runs: list[Run] = []
    open_ = False
    for piece in pieces:
        is_note = piece.type == c.SHT_NOTE and piece.is_alloc
        if is_note and not (open_ and runs[-1].last.addralign == piece.addralign):
            runs.append(Run(c.PT_NOTE, c.PF_R))
        if is_note:
            runs[-1].add(piece)
        open_ = is_note
    return runs


def stack_run(stack: Segment | None, align: int) -> list[Run]:
    """PT_GNU_STACK as the file has it: -z execstack, nognustack and stack-size decide it, and no section does."""
    return [] if stack is None else [Run(c.PT_GNU_STACK, stack.flags, align, memsz=stack.memsz)]
