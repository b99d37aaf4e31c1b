"""layout.hugepages: which blocks of a file's segments could be huge pages, and after what change. In: Layout, a block
size. Out: Ladder, frozen.

A block is what one entry of a page table or of the TLB can map at once: a PMD's, or a contiguous run of PTEs. By file
and address alone it needs two things (mm/memory.c, do_set_pmd and filemap_map_pmd; mm/huge_mm.h,
thp_vma_suitable_order; arch/arm64/mm/contpte.c): address and offset equal modulo the block; the whole block inside
one mapping. Whether the page cache then has such a folio is not the file's to say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

from elfolio.elf import constants
from elfolio.elf.image import Segment
from elfolio.layout.segments import Layout, Load
from elfolio.span import Span, round_down, round_up

__all__ = ["BLOCKS", "Ladder", "Rung", "Tier", "climb", "huge_span", "is_both_aligned"]

PMD = 2 << 20
"""What a PMD maps where pages have 4 KiB."""

BLOCKS = {4096: (64 << 10, 2 << 20), 16384: (2 << 20, 32 << 20), 65536: (2 << 20, 512 << 20)}
"""By page size: what a run of contiguous PTEs maps (CONT_PTE_SIZE, arch/arm64), and what a PMD maps (PMD_SIZE). x86-64
has the PMD's with 4 KiB alone."""


class Tier(IntEnum):
    """How far a file must be changed for a block to be possible; each step includes those before it."""

    AS_IS = -1
    """Not at all."""
    ALIGN = 0
    """Edit p_align, so that the load address is a multiple of the block."""
    RELAY = 1
    """Move the segment's bytes in the file, to an offset that equals the address modulo the block."""
    RELINK = 2
    """Link again, with the segment's address at a multiple of the block."""
    MERGE = 2
    """The same number: what `tune --merge` does in its place, joining segments at the addresses that they have."""


@dataclass(frozen=True, slots=True)
class Rung:
    """What the file-backed bytes of one segment come to, if the file is changed as far as each tier says."""

    load: Load
    block: int
    blocks: tuple[int, int, int, int]
    """Whole blocks that could be huge: as it is, after ALIGN, after RELAY, after RELINK; never descending."""

    def at(self, tier: Tier) -> int:
        """Blocks at this tier."""
        return self.blocks[tier + 1]

    @property
    def bytes(self) -> int:
        """The pages that the file backs, in bytes."""
        return self.load.mapped.size

    @property
    def lost(self) -> dict[str, int]:
        """Bytes that are on no huge page, by what keeps them off; with the blocks had, they make `bytes`."""
        had, aligned, relaid, relinked = (n * self.block for n in self.blocks)
        return {
            "p_align": aligned - had,
            "skewed": relaid - aligned,
            "misplaced": relinked - relaid,
            "remainder": self.bytes - relinked,
        }


@dataclass(frozen=True, slots=True)
class Ladder:
    """A file's segments, and the runs of neighbours that one mapping could hold."""

    page: int
    block: int
    rungs: tuple[Rung, ...]
    """A segment with bytes in the file each, writable ones too, in the file's order."""
    merged: tuple[tuple[Span, int], ...]
    """Neighbours in memory without PF_W, two at least: their linked addresses from first to last page, and the whole
    blocks there, were they one segment. Its price: what was only readable can be executed."""

    def blocks(self, tier: Tier, *, writable: bool = False) -> int:
        """Blocks of all segments at this tier; of those without PF_W unless asked otherwise. A writable segment's
        blocks are huge until they are first written to."""
        return sum(rung.at(tier) for rung in self.rungs if writable or not rung.load.is_writable)


def huge_span(segment: Segment, block: int, page: int, *, bias: int = 0, relaid: bool = False) -> Span:
    """The mapped addresses of a segment that could be huge pages of `block` bytes, at this load bias; perhaps empty.
    `relaid` asks as if the bytes stood at an offset that fits."""
    start = round_down(segment.vaddr, page) + bias
    if segment.filesz == 0 or (not relaid and (bias + segment.vaddr - segment.offset) % block):
        return Span(start, start)
    end = round_up(segment.vaddr + segment.filesz, page) + bias
    return Span(start, max(start, end)).whole_blocks(block)


def climb(layout: Layout, block: int = PMD) -> Ladder:
    """What every segment could have, tier by tier.

    AS_IS counts what holds at every load address: a PIE or shared object is placed at a multiple of its largest
    p_align (kernel: from 5.10; glibc: from 2.35), its first PT_LOAD's page there.
    """
    bias = -layout.origin
    rungs = []
    for load in layout.loads:
        if load.segment.filesz:
            congruent = huge_span(load.segment, block, layout.page, bias=bias).size // block
            relaid = huge_span(load.segment, block, layout.page, bias=bias, relaid=True).size // block
            had = congruent if not layout.moves or layout.align >= block else 0
            # A linker that puts the segment's start at a block's leaves only the rest at its end outside.
            rungs.append(Rung(load, block, (had, congruent, relaid, load.mapped.size // block)))
    return Ladder(layout.page, block, tuple(rungs), tuple(_merged(layout, block, bias)))


def _merged(layout: Layout, block: int, bias: int) -> Iterator[tuple[Span, int]]:
    """One segment in place of neighbours: an edit that moves bytes in the file, and no address."""
    for writable, group in groupby(layout.in_memory, key=lambda load: load.is_writable):
        run = [load for load in group if load.segment.filesz]
        if not writable and len(run) > 1:
            span = Span(run[0].memory.start, run[-1].memory.end)
            yield span, span.shifted(bias).whole_blocks(block).size // block


def is_both_aligned(segment: Segment, block: int) -> bool:
    """Whether the base-alignment proposals would take the segment into account: p_vaddr and p_offset both multiples of
    the block, a block's bytes at least, not writable."""
    return (
        not segment.flags & constants.PF_W
        and segment.filesz >= block
        and (segment.vaddr | segment.offset) & (block - 1) == 0
    )
