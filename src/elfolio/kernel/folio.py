"""kernel.folio: what stands behind pages, as values. In: what a probe has read. Out: Run, Sum; bytes by order.

A folio is what the kernel keeps and maps as one: 2 to the power of its *order* pages, neighbours in memory, aligned to
their size there and in the file. Sources: Documentation/admin-guide/mm/pagemap.rst, mm/folio in the kernel's glossary.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import IntFlag
from typing import NamedTuple

from elfolio.layout.hugepages import BLOCKS

__all__ = ["UNSEEN", "Kind", "Run", "Sum", "bytes_by_order", "contpte_pages", "joined", "unpack_runs", "unpack_sums"]

UNSEEN = -1
"""The order of what cannot be seen."""


class Kind(IntFlag):
    """What is known of a page. The numbers are those of native/folios.h."""

    FILE = 1 << 0
    ANON = 1 << 1
    SHMEM = 1 << 2
    """Beside FILE: of tmpfs, a memfd, shared anonymous memory."""
    ZERO = 1 << 3
    """The kernel's own page of zeros, small or huge; smaps counts it nowhere."""
    SWAPPED = 1 << 4
    """Not there: swapped out, or for a moment on its way from one place in memory to another."""
    KSM = 1 << 5
    DIRTY = 1 << 6
    WRITEBACK = 1 << 7
    PMD = 1 << 8
    """Mapped by one entry of the PMD level (PAGEMAP_SCAN: from 6.7)."""
    CONTPTE = 1 << 9
    """In a block that arm64 could map by contiguous PTEs; whether it does is shown nowhere."""
    SHARED = 1 << 10
    """Mapped more than once: by another process, or twice by this one. In a file's runs: by anybody."""
    HUGETLB = 1 << 11


class Run(NamedTuple):
    """Neighbouring pages whose folios are alike."""

    start: int
    """The first page, counted from the beginning of the file or of the address space."""
    pages: int
    order: int
    """Of each folio; UNSEEN where it cannot be told."""
    kind: Kind
    folios: int
    """How many are first seen in this run: one whose pages fall into two runs counts in the first. 0 where the order
    is UNSEEN and frames are hidden."""

    @property
    def end(self) -> int:
        """The page behind it."""
        return self.start + self.pages


class Sum(NamedTuple):
    """All pages of one order and kind."""

    pages: int
    folios: int
    order: int
    kind: Kind
    share: int
    """Bytes << 12, each page's divided by how often it is mapped: Pss, before it is rounded. 0 where that is hidden."""


_RUN, _SUM = struct.Struct("=qqiIq"), struct.Struct("=qqiIQ")
"""struct folio_run, struct folio_sum (native/folios.h)."""


def unpack_runs(packed: bytes) -> Iterator[Run]:
    """From the C core's bytes."""
    for start, pages, order, kind, folios in _RUN.iter_unpack(packed):
        yield Run(start, pages, order, Kind(kind), folios)


def unpack_sums(packed: bytes) -> Iterator[Sum]:
    """From the C core's bytes, most pages first."""
    found = (
        Sum(pages, folios, order, Kind(kind), share) for pages, folios, order, kind, share in _SUM.iter_unpack(packed)
    )
    yield from sorted(found, reverse=True)


def joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Neighbours that are equal as one."""
    last: Run | None = None
    for run in runs:
        if last is not None and (last.end, last.order, last.kind) == (run.start, run.order, run.kind):
            last = last._replace(pages=last.pages + run.pages, folios=last.folios + run.folios)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def bytes_by_order(found: Iterable[Run | Sum], page: int) -> dict[int, int]:
    """Bytes that are there, by the order of their folios, ascending; UNSEEN first. Zero pages and what is swapped out
    have none."""
    counts: Counter[int] = Counter()
    for one in found:
        if not one.kind & (Kind.ZERO | Kind.SWAPPED):
            counts[one.order] += one.pages * page
    return dict(sorted(counts.items()))


def contpte_pages(machine: str, page: int) -> int:
    """Pages of a contiguous run of PTEs; 0 where the machine has none."""
    return BLOCKS[page][0] // page if machine == "aarch64" else 0
