"""What mremap moves: predicted page tables against VmPTE of the running kernel, and the rule that moves them whole."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfolio.kernel.abi import ADVICE
from elfolio.kernel.calls import Madvise, Mmap, Mremap, Munmap, Touch
from elfolio.kernel.case_host import fresh
from elfolio.kernel.model import apply
from elfolio.kernel.pages import Side, Tables, moves, realigns
from elfolio.kernel.policy import policy
from tests.kernel.oracle import Live, twin

_K, _M, _G = 1 << 10, 1 << 20, 1 << 30
_OLD, _NEW = 1 << 44, (1 << 44) + 64 * _G
_SIX_18 = policy("linux-6.18")
_MOVE_AND_KEEP = 1 | 2 | 4


@pytest.mark.skipif(os.sysconf("SC_PAGESIZE") != 4096, reason="the sizes are those of tables of 4 KiB pages")
@pytest.mark.parametrize("seed", range(6))
def test_tables_made_are_those_predicted(mm_driver: Path, seed: int) -> None:
    """After each of 25 random moves, aligned and not, with and without something below, sparse and full, the page
    tables of the process have grown by what the model says. MREMAP_DONTUNMAP keeps the source's, so that growth shows
    which were made and which were moved."""
    source = random.Random(seed)
    with Live(mm_driver) as live:
        mm = twin(live)
        tables = Tables(mm.policy)
        mm.watchers = (tables,)
        grown = 0
        for _ in range(25):
            operations, old, new, length = _scene(source)
            for operation in operations:
                assert live.apply(operation) == apply(mm, operation)
            move = Mremap(old, length, length, _MOVE_AND_KEEP, new)
            before, modelled = live.page_tables(), tables.bytes
            assert live.apply(move) == apply(mm, move) == new
            assert live.page_tables() - before == tables.bytes - modelled, (operations, move, tables.moved_entries)
            grown += tables.bytes - modelled
            for start in (_OLD - 64 * _M, _NEW - 64 * _M):
                gone = Munmap(start, 8 * _G)
                assert live.apply(gone) == apply(mm, gone) == 0
        assert grown > 25 * 4096


def _scene(source: random.Random) -> tuple[list[Mmap | Madvise | Touch], int, int, int]:
    """A mapping, its pages, what lies below source and destination; and the move."""
    offset = source.choice((0, 0, 4 * _K, 12 * _K, _M, 2 * _M - 4 * _K, 2 * _M, 5 * _M))
    other = offset if source.random() < 0.6 else source.choice((0, 4 * _K, _M, 3 * _M))
    length = source.choice((4 * _K, 512 * _K, _M, 2 * _M, 2 * _M + 4 * _K, 5 * _M, 40 * _M, _G, 3 * _G))
    before = source.choice((0, 0, 0, 4 * _K, 256 * _K))
    old, new = _OLD + offset, _NEW + other
    made: list[Mmap | Madvise | Touch] = [
        Mmap(old - before, length + before, 3, 0x4032),
        Madvise(old - before, length + before, ADVICE["NOHUGEPAGE"]),
    ]
    step = source.choice((4 * _K, 64 * _K, 2 * _M)) if length <= 5 * _M else source.choice((8 * _M, 33 * _M, 700 * _M))
    made += [Touch(old + at, 1, True) for at in range(0, length, step)]
    if before:
        made.append(Touch(old - before, 1, True))
    for address in (old - before, new):
        if source.random() < 0.3:
            made += [Mmap(address - 256 * _K, 128 * _K, 7, 0x4032), Touch(address - 256 * _K, 1, True)]
    return made, old, new, length


_offsets = st.integers(0, 3 * 512).map(lambda pages: pages * 4096)
_lengths = st.integers(1, 5 * 512).map(lambda pages: pages * 4096)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(old=_offsets, new=_offsets, length=_lengths)
def test_counts_are_those_of_the_tables(old: int, new: int, length: int) -> None:
    """The count of a fully populated move is what the model of the tables moves, entry by entry."""
    mm = fresh(_SIX_18)
    tables = Tables(_SIX_18)
    mm.watchers = (tables,)
    for operation in (Mmap(_OLD + old, length, 3, 0x32), Touch(_OLD + old, length)):
        assert apply(mm, operation) >= 0
    assert apply(mm, Mremap(_OLD + old, length, length, 3, _NEW + new)) == _NEW + new
    counted = moves(_SIX_18, Side(_OLD + old, _OLD + old), Side(_NEW + new, _NEW + new), length)
    # A table that moves whole counts once, also where only a part of it is populated.
    assert tables.moved_entries[:3] == counted[:3]
    assert tables.moved_entries.realigned == counted.realigned


def _side(address: int) -> Side:
    return Side(address, address)


def test_the_optimisation_in_entries() -> None:
    """256 MiB: aligned, 128 entries; with a mutual offset of 12 KiB, 128 with the optimisation of 6.7 and 637 without;
    with different offsets, each of 65,536 pages."""
    before = _SIX_18.switched(realign_pmd=False)
    size = 256 * _M
    aligned = moves(_SIX_18, _side(_OLD), _side(_NEW), size)
    assert (aligned.entries, aligned.realigned) == (128, False)
    mutual = _side(_OLD + 12 * _K), _side(_NEW + 12 * _K)
    assert moves(_SIX_18, *mutual, size)[:3] == (0, 128, 3)
    assert moves(before, *mutual, size)[:3] == (0, 127, 512)
    assert moves(_SIX_18, _side(_OLD), _side(_NEW + 12 * _K), size)[:3] == (0, 0, 65536)


def test_whole_directories_move() -> None:
    """1 GiB at a boundary of 1 GiB is one entry from 5.11 on, and 512 before."""
    assert moves(_SIX_18, _side(_OLD), _side(_NEW), _G)[:3] == (1, 0, 0)
    assert moves(policy("linux-5.10"), _side(_OLD), _side(_NEW), _G)[:3] == (0, 512, 0)
    assert moves(policy("linux-4.19"), _side(_OLD), _side(_NEW), _G)[:3] == (0, 0, 262144)


@pytest.mark.parametrize(
    ("old", "new", "length", "why"),
    [
        (Side(_OLD + _M, _OLD), _side(_NEW + _M), 2 * _M, "the source begins inside its mapping"),
        (
            _side(_OLD + _M),
            Side(_NEW + _M, _NEW + _M, _NEW + _M),
            2 * _M,
            "something ends where the destination begins",
        ),
        (Side(_OLD + _M, _OLD + _M, _OLD + 4 * _K), _side(_NEW + _M), 2 * _M, "something lies below in the same table"),
        (_side(_OLD + _M), _side(_NEW + 2 * _M), 2 * _M, "the offsets differ"),
        (_side(_OLD + _M), _side(_NEW + _M), _M - 4 * _K, "it does not reach the next boundary"),
    ],
)
def test_what_lies_below_is_never_touched(old: Side, new: Side, length: int, why: str) -> None:
    """A move does not begin below its range where something else may be in that table, or where it would not help."""
    assert not realigns(_SIX_18, old, new, length), why


def test_it_begins_below_where_nothing_is() -> None:
    """With nothing below down to the boundary on either side, a move begins there."""
    floor = _OLD, _NEW
    old, new = Side(_OLD + _M, _OLD + _M, floor[0]), Side(_NEW + _M, _NEW + _M, floor[1])
    assert realigns(_SIX_18, old, new, _M)
    assert not realigns(policy("linux-6.6"), old, new, _M)


def test_the_exec_stack_hardly_ever_gains() -> None:
    """exec moves its stack down within one mapping, where beginning inside is allowed; but the stack ends one page
    below a boundary, so that a stack that lies in one table never reaches it, wherever it is moved to."""
    top = (1 << 47) - 4096
    for pages in (33, 100, 500, 510):
        start = top - pages * 4096
        for shift in (4096, 12 * _K, _M, 2 * _M, 8 * _M):
            new = Side(start - shift, start - shift)
            assert not realigns(_SIX_18, Side(start, start - shift), new, top - start, for_stack=True)


def test_the_stack_may_begin_inside() -> None:
    """Within one mapping, exec's move may begin at the boundary below, and a mremap may not."""
    old, new = Side(_OLD + 3 * _M, _OLD), Side(_OLD + _M, _OLD)
    assert realigns(_SIX_18, old, new, 4 * _M, for_stack=True)
    assert not realigns(_SIX_18, old, new, 4 * _M)
