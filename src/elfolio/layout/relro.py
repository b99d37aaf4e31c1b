"""layout.relro: what PT_GNU_RELRO costs, and how much of it a page size protects. In: Layout, page sizes. Out: Relro.

After relocation the dynamic linker makes the range read-only, in whole pages, and rounds both ends down (glibc
elf/dl-reloc.c, _dl_protect_relro; musl ldso/dynlink.c, reloc_all); bionic rounds the end up.
"""

from dataclasses import dataclass

from elfolio.elf import constants
from elfolio.elf.image import ElfImage
from elfolio.layout.segments import Layout, Load
from elfolio.span import Span, round_down, round_up

__all__ = ["Relro", "RelroCost", "protected_span", "relro"]


def protected_span(vaddr: int, memsz: int, page: int) -> Span:
    """The linked addresses that glibc and musl make read-only of a PT_GNU_RELRO; empty where no whole page is left."""
    start = round_down(vaddr, page)
    return Span(start, max(start, round_down(vaddr + memsz, page)))


@dataclass(frozen=True, slots=True)
class RelroCost:
    """The file's writable segments over pages, or huge pages, of one size, with RELRO and without."""

    page: int
    protected: Span
    """Linked addresses that become read-only: those of whole pages."""
    writable_pages: int
    """Pages of the writable segments that stay writable."""
    apart: int
    """The fewest pages that hold what is protected and what is not, in pages of their own."""
    together: int
    """The fewest pages that hold the same bytes without RELRO."""
    exposed: int
    """Bytes of PT_GNU_RELRO that stay writable, because its end is rounded down to a page."""
    caught: int
    """Bytes of PT_LOADs before PT_GNU_RELRO that become read-only with it, because its start is rounded down."""

    @property
    def protected_pages(self) -> int:
        """Pages that become read-only."""
        return self.protected.size // self.page

    @property
    def is_whole(self) -> bool:
        """Whether pages of this size protect PT_GNU_RELRO and nothing else: the file was linked for them."""
        return self.exposed == 0 and self.caught == 0

    @property
    def pages(self) -> int:
        """What the writable segments take: of this file where it was linked for such pages, else of one that is."""
        return self.protected_pages + self.writable_pages if self.is_whole else self.apart

    @property
    def cost(self) -> int:
        """Pages beyond what the same bytes take without RELRO; the file's own padding is among them."""
        return self.pages - self.together

    @property
    def least_cost(self) -> int:
        """What RELRO costs however the file is linked: 0 or 1."""
        return self.apart - self.together


@dataclass(frozen=True, slots=True)
class Relro:
    """A PT_GNU_RELRO with bytes in it."""

    memory: Span
    """Linked addresses, as the header says."""
    padding: int
    """Bytes of it that hold nothing: with a section table, what no section covers and `.relro_padding`; without one,
    what the file does not back."""
    costs: tuple[RelroCost, ...]
    """By page size, in the order asked for."""

    def at(self, page: int) -> RelroCost:
        """Of this page size; KeyError where it was not asked for."""
        for cost in self.costs:
            if cost.page == page:
                return cost
        raise KeyError(page)


def relro(layout: Layout, pages: tuple[int, ...] = (4096, 16384, 65536, 2 << 20)) -> Relro | None:
    """RELRO of a file at each of these page or block sizes; None where there is none. At a size that the file was not
    linked for, `protected` is what a machine with such pages would do."""
    found = [s for s in layout.image.segments if s.type == constants.PT_GNU_RELRO]
    if not found or found[-1].memsz == 0:
        return None
    segment = found[-1]  # of several, loaders keep the last
    padding = _padding(layout, segment.memory, segment.filesz)
    return Relro(segment.memory, padding, tuple(_cost(layout, segment.memory, padding, page) for page in pages))


def _cost(layout: Layout, memory: Span, padding: int, page: int) -> RelroCost:
    writable = [load for load in layout.in_memory if load.is_writable]
    protected = protected_span(memory.start, memory.size, page)
    held = memory.size - padding
    rest = sum(load.segment.memsz - load.segment.memory.common(memory).size for load in writable)
    before = Span(protected.start, min(memory.start, protected.end))
    return RelroCost(
        page=page,
        protected=protected,
        writable_pages=_touched(writable, page) - _touched(writable, page, protected),
        apart=round_up(held, page) // page + round_up(rest, page) // page,
        together=round_up(held + rest, page) // page,
        exposed=max(0, memory.end - max(memory.start, protected.end)),
        caught=sum(load.segment.memory.common(before).size for load in layout.in_memory),
    )


def _touched(loads: list[Load], page: int, within: Span | None = None) -> int:
    """Pages that the segments touch, each counted once; only those in a range of whole pages, if one is given."""
    count, reached = 0, 0
    for load in loads:  # ascending
        span = load.segment.memory.pages(page)
        span = span if within is None else span.common(within)
        count += max(0, span.end - max(span.start, reached)) // page
        reached = max(reached, span.end)
    return count


def _padding(layout: Layout, memory: Span, filesz: int) -> int:
    """lld fills up to the page's end: in PT_GNU_RELRO's size alone up to version 17, later with a section too."""
    covered, reached = 0, int(memory.start)
    known = layout.image.sections if isinstance(layout.image, ElfImage) else ()
    sections = sorted(section.memory for section in known if _holds(section.flags, section.type, section.name))
    if not sections:
        return memory.size - min(filesz, memory.size)
    for section in sections:
        part = Span(max(section.start, reached), section.end).common(memory)
        covered += part.size
        reached = max(reached, part.end)
    return memory.size - covered


def _holds(flags: int, type_: int, name: str) -> bool:
    """Whether a section takes memory of its own: .tbss takes none, and .relro_padding is nothing but padding."""
    is_tbss = type_ == constants.SHT_NOBITS and flags & constants.SHF_TLS
    return bool(flags & constants.SHF_ALLOC) and not is_tbss and name != ".relro_padding"
