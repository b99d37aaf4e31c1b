"""kernel.backing: whether folios are there for a file's blocks. In: Runs of a file, BlockRuns. Out: Backing, Counts.

A block that could be one mapping becomes one when the page cache has one folio that covers it. Folios are aligned to
their size in the file, and so are blocks: a folio at least as large, anywhere in the block, covers all of it
(filemap_map_pmd, mm/filemap.c; contpte_set_ptes, arch/arm64/mm/contpte.c).
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

from elfolio.kernel.blocks import Obstacle, Way
from elfolio.kernel.folio import UNSEEN, Run
from elfolio.kernel.prediction import BlockRun

__all__ = ["Backing", "Counts", "backing", "counted"]


class Backing(StrEnum):
    """What the page cache has of a block."""

    FOLIO = "folio"
    """One folio covers it."""
    SMALLER = "smaller"
    """All of it is cached, in more than one folio."""
    ABSENT = "absent"
    """A part of it is not cached."""
    UNSEEN = "unseen"
    """All of it is cached, in folios whose size is hidden."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The blocks of one size that one mapping of a file touches."""

    run: BlockRun
    could: int
    """That could be one mapping, where a folio is."""
    now: int
    """Of these the ones with such a folio."""
    lacking: dict[Backing, int]
    """Of these the others, by what the page cache has."""
    barred: dict[Obstacle, int]
    """Those that could not be one mapping, whatever the page cache has."""


def backing(runs: Sequence[Run], first: int, pages: int) -> Backing:
    """What a file's runs, in its order, have of the block of so many pages at page `first`, a multiple of `pages`."""
    at, end, smallest = first, first + pages, pages
    index = bisect_right(runs, first, key=attrgetter("start")) - 1
    for number in range(max(index, 0), len(runs)):
        run = runs[number]
        if run.start > at or at >= end:
            break
        if run.end > at:
            smallest = min(smallest, 0 if run.order == UNSEEN else 1 << run.order)
            at = run.end
    if at < end:
        return Backing.ABSENT
    if not smallest:
        return Backing.UNSEEN
    return Backing.FOLIO if smallest >= pages else Backing.SMALLER


def counted(found: BlockRun, runs: Sequence[Run], page: int) -> Counts:
    """A mapping's blocks, each held against the file's runs. A folio where the file system was thought to give none
    is taken for what it is."""
    now = 0
    lacking: Counter[Backing] = Counter()
    barred: Counter[Obstacle] = Counter()
    for block in found.blocks:
        offset = block.offset - (block.part.start - block.memory.start)
        there = backing(runs, offset // page, found.size // page)
        if block.way is Way.NONE and not (block.obstacle is Obstacle.FILESYSTEM and there is Backing.FOLIO):
            barred[block.obstacle] += 1
        elif there is Backing.FOLIO:
            now += 1
        else:
            lacking[there] += 1
    return Counts(found, now + lacking.total(), now, dict(lacking), dict(barred))
