"""kernel.folio and kernel.backing: runs as values, and which blocks they cover."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.kernel.backing import Backing, backing, counted
from elfolio.kernel.blocks import Block, Obstacle, Way
from elfolio.kernel.folio import (
    UNSEEN,
    Kind,
    Run,
    Sum,
    bytes_by_order,
    contpte_pages,
    joined,
    unpack_runs,
    unpack_sums,
)
from elfolio.kernel.prediction import BlockRun
from elfolio.kernel.space import Vma, VmFlags
from elfolio.span import FileOffset, MappedAddress, Span

FILE = Kind.FILE
P = 4096


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ([], Backing.ABSENT),
        ([Run(512, 512, 9, FILE, 1)], Backing.FOLIO),
        ([Run(0, 4096, 9, FILE, 8)], Backing.FOLIO),
        ([Run(0, 4096, 11, FILE, 2)], Backing.FOLIO),
        ([Run(512, 512, 8, FILE, 2)], Backing.SMALLER),
        ([Run(512, 256, 8, FILE, 1), Run(768, 256, 4, FILE, 16)], Backing.SMALLER),
        ([Run(512, 511, 0, FILE, 511)], Backing.ABSENT),
        ([Run(513, 511, 0, FILE, 511)], Backing.ABSENT),
        ([Run(512, 100, 0, FILE, 100), Run(613, 411, 0, FILE, 411)], Backing.ABSENT),
        ([Run(512, 512, UNSEEN, FILE, 0)], Backing.UNSEEN),
        ([Run(0, 512, 9, FILE, 1), Run(1024, 512, 9, FILE, 1)], Backing.ABSENT),
    ],
)
def test_a_block_is_covered_by_a_folio_as_large(runs: list[Run], found: Backing) -> None:
    """One folio at least as large; what is missing, hidden or in pieces is told apart."""
    assert backing(runs, 512, 512) is found


orders = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40)


@given(orders)
def test_backing_is_what_a_page_by_page_reading_says(folios: list[tuple[int, bool]]) -> None:
    """Over random files of aligned folios and holes, each block's answer is that of looking at every page."""
    runs: list[Run] = []
    pages: list[tuple[int, int] | None] = []
    for order, cached in folios:
        while len(pages) % (1 << order):
            pages.append(None)
        if cached:
            runs.append(Run(len(pages), 1 << order, order, FILE, 1))
        pages += [(len(pages), order) if cached else None] * (1 << order)
    for first in range(0, len(pages) + 32, 16):
        block = (pages + [None] * 64)[first : first + 16]
        expected = Backing.FOLIO if len(set(block)) == 1 else Backing.SMALLER
        if None in block:
            expected = Backing.ABSENT
        assert backing(list(joined(runs)), first, 16) is expected


def block(number: int, way: Way, obstacle: Obstacle = Obstacle.NOTHING) -> Block:
    start = 0x4000_0000 + (number << 21)
    memory = Span(start, start + (2 << 20))
    part = memory if obstacle is not Obstacle.EDGE else Span(memory.start + P, memory.end)
    return Block(memory, part, (number << 21) + part.start - memory.start, way, obstacle, False)


def test_each_block_is_counted_once() -> None:
    """Blocks that could be huge by whether a folio is there, the others by what bars them, and a folio that the file
    system was not thought to give is believed."""
    found = (
        block(0, Way.NONE, Obstacle.EDGE),
        block(1, Way.FAULT),
        block(2, Way.FAULT),
        block(3, Way.FAULT),
        block(4, Way.NONE, Obstacle.FILESYSTEM),
        block(5, Way.NONE, Obstacle.FILESYSTEM),
    )
    vma = Vma(MappedAddress(0x4000_1000), MappedAddress(0x40C0_0000), VmFlags.READ, None, FileOffset(P))
    runs = [Run(512, 512, 9, FILE, 1), Run(1024, 512, 0, FILE, 512), Run(2048, 512, 9, FILE, 1)]
    counts = counted(BlockRun(vma, 2 << 20, found), runs, P)
    assert (counts.could, counts.now) == (4, 2)
    assert counts.lacking == {Backing.SMALLER: 1, Backing.ABSENT: 1}
    assert counts.barred == {Obstacle.EDGE: 1, Obstacle.FILESYSTEM: 1}


def test_equal_neighbours_become_one() -> None:
    """Runs that touch and are alike are joined, their folios added; others are left."""
    runs = [Run(0, 2, 1, FILE, 1), Run(2, 2, 1, FILE, 1), Run(4, 1, 0, FILE, 1), Run(6, 1, 0, FILE, 1)]
    assert list(joined(runs)) == [Run(0, 4, 1, FILE, 2), Run(4, 1, 0, FILE, 1), Run(6, 1, 0, FILE, 1)]


def test_bytes_by_order_leave_out_what_is_not_there() -> None:
    """Zero pages and swapped ones have no bytes; unseen orders come first."""
    there = [Run(0, 4, 2, FILE, 1), Run(4, 1, UNSEEN, FILE, 0)]
    absent = [Run(5, 9, 0, Kind.ZERO, 1), Run(14, 1, UNSEEN, Kind.SWAPPED, 0)]
    assert bytes_by_order(there + absent, P) == {UNSEEN: P, 2: 4 * P}


def test_the_core_s_bytes_are_read() -> None:
    """The layouts of struct folio_run and struct folio_sum, the sums with most pages first."""
    assert list(unpack_runs(struct.pack("=qqiIq", 7, 8, -1, 1, 2))) == [Run(7, 8, -1, FILE, 2)]
    packed = struct.pack("=qqiIQ", 1, 1, 0, 2, 3) + struct.pack("=qqiIQ", 5, 1, 2, 1, 4)
    assert list(unpack_sums(packed)) == [Sum(5, 1, 2, FILE, 4), Sum(1, 1, 0, Kind.ANON, 3)]


@pytest.mark.parametrize(
    ("machine", "page", "pages"),
    [("x86_64", 4096, 0), ("aarch64", 4096, 16), ("aarch64", 16384, 128), ("aarch64", 65536, 32)],
)
def test_contiguous_ptes_by_page_size(machine: str, page: int, pages: int) -> None:
    """CONT_PTES of arm64: 64 KiB with pages of 4 KiB, 2 MiB with 16 and 64 KiB (asm/pgtable-hwdef.h)."""
    assert contpte_pages(machine, page) == pages
