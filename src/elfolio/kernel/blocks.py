"""kernel.blocks: which blocks of file mappings can be huge mappings. In: VMAs, file size, Policy. Out: Blocks.

A block is what one page-table entry of the PMD level maps, or, on arm64, a contiguous run of PTEs. It becomes one
mapping at a fault, if the page cache has a folio that covers it; or when khugepaged or MADV_COLLAPSE makes such a
folio.

Rules: do_set_pmd and filemap_map_pmd (mm/memory.c, mm/filemap.c), thp_vma_suitable_order and file_thp_enabled
(include/linux/huge_mm.h, mm/huge_memory.c), contpte_set_ptes (arch/arm64/mm/contpte.c).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from elfolio.kernel.policy import Policy
from elfolio.kernel.space import Vma
from elfolio.kernel.vmflags import VmFlags
from elfolio.layout.hugepages import BLOCKS
from elfolio.span import Span, round_down, round_up

__all__ = ["Block", "Obstacle", "Stretch", "Way", "block_sizes", "blocks", "stretches"]


class Way(StrEnum):
    """How a block can become one mapping."""

    FAULT = "fault"
    """By a page fault, where the page cache has a folio of this size at this place."""
    COLLAPSE = "collapse"
    """Only by khugepaged, or MADV_COLLAPSE (6.1), which write a new folio: READ_ONLY_THP_FOR_FS."""
    NONE = "none"
    """Not under this policy."""


class Obstacle(StrEnum):
    """Why not."""

    NOTHING = ""
    SKEWED = "skewed"
    """The file has these bytes at an offset that differs from their linked address modulo the block."""
    BASE = "base"
    """It would fit, but the load address is no multiple of the block."""
    EDGE = "edge"
    """A part of the block lies outside of the mapping."""
    END = "end"
    """The file ends before the block does. (Where both end together, 74207de2ba10 refuses the block in the attempt
    that maps pages around the fault, and so leaves it to finish_fault, which maps it: tried on 6.18.)"""
    FILESYSTEM = "filesystem"
    """The file system's largest folio is smaller, and this kernel collapses no pages of such files."""
    NOT_EXEC = "not-exec"
    """Before 6.8 only executable mappings are collapsed, and this one is not."""
    WRITER = "writer"
    """Somebody has the file open for writing: nothing is collapsed."""
    NEVER = "never"
    """Transparent huge pages are switched off, which a collapse needs."""
    ADVICE = "advice"
    """The mapping is marked MADV_NOHUGEPAGE."""
    PROCESS = "process"
    """The process has switched huge pages off for itself: prctl(PR_SET_THP_DISABLE)."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block that a mapping touches."""

    memory: Span
    """Mapped addresses of the whole block: where the mapping has it, or would, if it reached so far."""
    part: Span
    """What of it the mapping has."""
    offset: int
    """The file offset of the part's first byte."""
    way: Way
    obstacle: Obstacle
    writable: bool
    """The first write to it copies a page, and a huge mapping of it is then split."""

    @property
    def size(self) -> int:
        """Bytes of the whole block."""
        return self.memory.size

    @property
    def lost(self) -> int:
        """Bytes of the mapping that this block keeps on small pages."""
        return 0 if self.way is Way.FAULT else self.part.size


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring blocks of a mapping to which the same applies."""

    file: Span
    """File offsets, both multiples of the block."""
    way: Way
    obstacle: Obstacle


def block_sizes(policy: Policy) -> tuple[int, ...]:
    """Bytes of each kind of block that the machine has, ascending; the largest is the PMD's."""
    contpte, pmd = BLOCKS[policy.page_size]
    return (contpte, pmd) if policy.machine == "aarch64" else (pmd,)


def blocks(
    vma: Vma,
    policy: Policy,
    size: int,
    *,
    file_size: int,
    linked_skew: int,
    open_for_writing: bool = False,
    anywhere: bool = False,
) -> Iterator[Block]:
    """Every block of `size` bytes of the file that a mapping touches, in order. Options: as stretches has them."""
    if vma.file is None:
        return
    shift, writable = vma.start - vma.offset, bool(vma.flags & VmFlags.WRITE)
    alike = stretches(
        vma,
        policy,
        size,
        file_size=file_size,
        linked_skew=linked_skew,
        open_for_writing=open_for_writing,
        anywhere=anywhere,
    )
    for stretch in alike:
        for file in stretch.file.blocks(size):
            memory = file.shifted(shift)
            part = vma.span.common(memory)
            yield Block(memory, part, part.start - shift, stretch.way, stretch.obstacle, writable)


def stretches(
    vma: Vma,
    policy: Policy,
    size: int,
    *,
    file_size: int,
    linked_skew: int,
    open_for_writing: bool = False,
    anywhere: bool = False,
    switched_off: bool = False,
) -> Iterator[Stretch]:
    """The same as few values, of a mapping of terabytes too: a folio has its place in the file, so that blocks are
    counted there, and an address that is no multiple of the block says that it cannot be mapped as one.

    `file_size` is in bytes. `linked_skew` is the linked address minus the file offset of any byte of the mapping,
    which tells a load address that is at fault (BASE) from a file that is (SKEWED). `anywhere`: it may come to lie at
    any page, so that its address here says nothing, and is no multiple of the block but by chance. `switched_off`: the
    process wants no huge pages.
    """
    if vma.file is None:
        return
    way, barred = _way(vma, policy, size, open_for_writing=open_for_writing, switched_off=switched_off)
    if (vma.start - vma.offset) % size or anywhere:
        way, barred = Way.NONE, Obstacle.SKEWED if linked_skew % size else Obstacle.BASE
    mapped = Span(vma.offset, vma.offset + vma.size)
    whole, touched = mapped.whole_blocks(size), mapped.pages(size)
    if whole.size == 0:
        yield Stretch(touched, Way.NONE, Obstacle.EDGE)
        return
    if touched.start < whole.start:
        yield Stretch(Span(touched.start, whole.start), Way.NONE, Obstacle.EDGE)
    last = max(whole.start, min(whole.end, round_down(round_up(file_size, policy.page_size), size)))
    if whole.start < last:
        yield Stretch(Span(whole.start, last), way, barred)
    if last < whole.end:
        yield Stretch(Span(last, whole.end), Way.NONE, Obstacle.END)
    if whole.end < touched.end:
        yield Stretch(Span(whole.end, touched.end), Way.NONE, Obstacle.EDGE)


def _way(vma: Vma, policy: Policy, size: int, *, open_for_writing: bool, switched_off: bool) -> tuple[Way, Obstacle]:
    """What the file system, the kernel, the process and the mapping allow, wherever the block may lie."""
    unwanted = _unwanted(vma, switched_off=switched_off) if size == policy.pmd_size else Obstacle.NOTHING
    if policy.largest_folio >= size:
        if unwanted is not Obstacle.NOTHING and policy["set_pmd_asks_advice"]:
            return Way.NONE, unwanted
        return Way.FAULT, Obstacle.NOTHING
    if size != policy.pmd_size or not policy.read_only_thp or not policy["read_only_thp_for_fs"]:
        return Way.NONE, Obstacle.FILESYSTEM
    if unwanted is not Obstacle.NOTHING:
        return Way.NONE, unwanted
    if policy["read_only_thp_needs_exec"] and not vma.flags & VmFlags.EXEC:
        return Way.NONE, Obstacle.NOT_EXEC
    if open_for_writing:
        return Way.NONE, Obstacle.WRITER
    if policy.thp == "never" and not policy["madvise_collapse"]:
        return Way.NONE, Obstacle.NEVER
    return Way.COLLAPSE, Obstacle.NOTHING


def _unwanted(vma: Vma, *, switched_off: bool) -> Obstacle:
    """vma_thp_disabled."""
    if vma.flags & VmFlags.NOHUGEPAGE:
        return Obstacle.ADVICE
    return Obstacle.PROCESS if switched_off else Obstacle.NOTHING
