"""layout.segments: PT_LOAD segments over the pages of one size. In: ElfHead, a page size. Out: Layout, frozen.

Addresses are linked ones, offsets are the file's, all in bytes. How a mapping follows from a segment is mmap(2)'s
rule: whole pages, and an offset that is a multiple of the page size (gABI chapter 5, "Program Loading").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from elfolio.elf import constants
from elfolio.elf.image import ElfHead, Segment
from elfolio.span import Span, is_power_of_two, round_down, round_up

__all__ = ["PAGE_SIZES", "Gap", "Layout", "Load", "Meeting", "congruence", "is_valid_align"]

PAGE_SIZES = (4096, 16384, 65536)
"""The page sizes that Linux has on x86-64 and aarch64."""

WHOLE = 1 << 64
"""The congruence of a segment whose address is its offset: equal modulo anything."""


def is_valid_align(align: int) -> bool:
    """Whether p_align is one of the values that the gABI allows: 0, 1 or a power of two."""
    return align in (0, 1) or is_power_of_two(align)


def congruence(vaddr: int, offset: int) -> int:
    """The largest power of two modulo which both are equal; WHOLE (2 to the 64) where they are the same."""
    difference = abs(vaddr - offset)
    return difference & -difference or WHOLE


@dataclass(frozen=True, slots=True)
class Load:
    """A PT_LOAD segment, and the pages of one size that it takes."""

    index: int
    """Its place among all program headers."""
    segment: Segment
    page: int

    @property
    def memory(self) -> Span:
        """The pages that it touches in memory; empty for a segment without a size."""
        memory = self.segment.memory
        return memory.pages(self.page) if memory.size else Span(memory.start, memory.start)

    @property
    def mapped(self) -> Span:
        """Those of its pages that the file backs; empty where p_filesz is 0."""
        start = self.segment.vaddr
        return Span(start, start + self.segment.filesz).pages(self.page) if self.segment.filesz else Span(start, start)

    @property
    def file(self) -> Span:
        """The file's pages behind `mapped`; they begin at no page boundary where the segment is not congruent."""
        return self.mapped.shifted(self.segment.offset - self.segment.vaddr)

    @property
    def zero(self) -> Span:
        """What must read as zero without standing in the file: from p_filesz to p_memsz."""
        return Span(self.segment.vaddr + self.segment.filesz, self.segment.vaddr + self.segment.memsz)

    @property
    def anonymous(self) -> Span:
        """The pages behind the file's, for what of `zero` does not fit into the last page of the file."""
        end = round_up(self.segment.vaddr + self.segment.memsz, self.page)
        start = min(self.mapped.end if self.segment.filesz else self.memory.start, end)
        return Span(start, end) if self.segment.memsz else Span(start, start)

    @property
    def foreign(self) -> int:
        """Bytes of the file's pages that are mapped and not the segment's own: before it, and behind it where no zero
        fill clears them."""
        before = self.segment.vaddr - self.mapped.start
        behind = 0 if self.zero.size else self.mapped.end - self.segment.vaddr - self.segment.filesz
        return before + behind if self.segment.filesz else 0

    @property
    def is_congruent(self) -> bool:
        """Whether address and offset are equal modulo the page size; mmap gives EINVAL where they are not."""
        return (self.segment.vaddr - self.segment.offset) % self.page == 0

    @property
    def is_bss_only(self) -> bool:
        """Memory without a byte in the file."""
        return self.segment.filesz == 0 and self.segment.memsz > 0

    @property
    def is_empty(self) -> bool:
        """p_memsz is 0."""
        return self.segment.memsz == 0

    @property
    def is_writable(self) -> bool:
        """PF_W."""
        return bool(self.segment.flags & constants.PF_W)

    @property
    def is_executable(self) -> bool:
        """PF_X."""
        return bool(self.segment.flags & constants.PF_X)


@dataclass(frozen=True, slots=True)
class Gap:
    """Pages between two segments, in address order, that belong to neither."""

    before: Load
    after: Load
    memory: Span


@dataclass(frozen=True, slots=True)
class Meeting:
    """Two segments, in address order, that want the same pages."""

    first: Load
    second: Load
    pages: Span
    """In the file, or in memory: whole pages, that both have."""


@dataclass(frozen=True)
class Layout:
    """A file's PT_LOAD segments over pages of one size."""

    image: ElfHead
    page: int
    """In bytes, a power of two."""

    def __post_init__(self) -> None:
        if not is_power_of_two(self.page):
            raise ValueError(f"page size {self.page} is no power of two")

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """In the file's order."""
        return tuple(
            Load(i, segment, self.page)
            for i, segment in enumerate(self.image.segments)
            if segment.type == constants.PT_LOAD
        )

    @cached_property
    def in_memory(self) -> tuple[Load, ...]:
        """Those that have a size, by address."""
        return tuple(sorted((x for x in self.loads if not x.is_empty), key=lambda x: x.segment.memory))

    @cached_property
    def in_file(self) -> tuple[Load, ...]:
        """Those that have bytes in the file, by offset."""
        return tuple(sorted((x for x in self.loads if x.segment.filesz), key=lambda x: x.segment.file))

    @property
    def memory(self) -> Span:
        """From the lowest page to the highest: what a loader reserves for the whole file."""
        if not self.in_memory:
            return Span(0, 0)
        return Span(self.in_memory[0].memory.start, max(x.memory.end for x in self.in_memory))

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """Where the page size is smaller than the one that the file was linked for, mostly."""
        ends = accumulate((x.memory.end for x in self.in_memory), max)
        return tuple(
            Gap(a, b, Span(end, b.memory.start))
            for (a, b), end in zip(pairwise(self.in_memory), ends, strict=False)
            if end < b.memory.start
        )

    @cached_property
    def shared(self) -> tuple[Meeting, ...]:
        """File pages that two segments map: what one shows with its permissions, the other shows with its own."""
        return tuple(_reached((x, x.file) for x in self.in_file))

    @cached_property
    def collisions(self) -> tuple[Meeting, ...]:
        """Memory pages that two segments want: the one mapped later has them, permissions and all."""
        return tuple(_meetings((x, x.memory) for x in self.in_memory))

    @property
    def descending(self) -> tuple[Load, ...]:
        """Those that stand behind one with a higher address; the gABI asks for ascending p_vaddr."""
        return tuple(b for a, b in pairwise(self.loads) if b.segment.vaddr < a.segment.vaddr)

    @property
    def beyond(self) -> tuple[Load, ...]:
        """Those that end behind the file's end: a page that lies there whole gives SIGBUS."""
        return tuple(x for x in self.in_file if x.segment.file.end > self.image.size)

    @property
    def file_padding(self) -> int:
        """Bytes of the file between its segments' that belong to none of them."""
        ends = accumulate((x.segment.file.end for x in self.in_file), max)
        return sum(max(0, x.segment.offset - end) for x, end in zip(self.in_file[1:], ends, strict=False))

    @property
    def memory_padding(self) -> int:
        """Bytes of the segments' pages that belong to no segment."""
        return sum(x.memory.size - x.segment.memsz for x in self.in_memory)

    @property
    def congruence(self) -> int:
        """The largest power of two modulo which each segment's address equals its offset: no page can be larger."""
        return min((congruence(x.segment.vaddr, x.segment.offset) for x in self.in_file), default=WHOLE)

    @property
    def align(self) -> int:
        """The largest valid p_align of a segment, 1 at least: what a kernel aligns the load address to."""
        return max((x.segment.align for x in self.loads if is_power_of_two(x.segment.align)), default=1)

    @property
    def is_congruent(self) -> bool:
        """Whether each segment's address and offset are equal modulo the page (mmap's rule), and p_align is a multiple
        of it (glibc 2.31 refuses a library otherwise; 2.36 does not)."""
        return self.congruence >= self.page and all(
            is_power_of_two(x.segment.align) and x.segment.align >= self.page for x in self.loads
        )

    @property
    def is_ready(self) -> bool:
        """Whether pages of this size can map it as it is: congruent, and no page wanted by two segments."""
        return self.is_congruent and not self.collisions

    @property
    def moves(self) -> bool:
        """Whether its addresses are relative to a load address: ET_DYN."""
        return self.image.header.type == constants.ET_DYN

    @property
    def origin(self) -> int:
        """The linked address that comes to lie at the load address: the first PT_LOAD's page; 0 where nothing moves."""
        return round_down(self.loads[0].segment.vaddr, self.page) if self.loads and self.moves else 0


def _reached(pages: Iterator[tuple[Load, Span]]) -> Iterator[Meeting]:
    """Of sorted spans each with the one before it that reaches furthest: the pages add up to what any two share."""
    reach: tuple[Load, Span] | None = None
    for load, span in pages:
        if reach is not None and reach[1].common(span).size:
            yield Meeting(reach[0], load, reach[1].common(span))
        if reach is None or span.end > reach[1].end:
            reach = load, span


def _meetings(pages: Iterator[tuple[Load, Span]]) -> Iterator[Meeting]:
    """Of sorted spans each page's neighbours: one after the other there, in order. What the first of many shows
    otherwise than the last, some neighbours show otherwise too; and there are at most two meetings a span."""
    before: list[tuple[Load, Span]] = []  # those that a later one can still meet: the latest ends first
    for load, span in pages:
        while before and before[-1][1].end <= span.start:
            before.pop()
        while before:
            first, reach = before[-1]
            yield Meeting(first, load, reach.common(span))
            if reach.end > span.end:
                break
            before.pop()
        before.append((load, span))
