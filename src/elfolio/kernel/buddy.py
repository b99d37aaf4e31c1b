"""kernel.buddy: the buddy allocator as a model. In: pages, requests. Out: who has which blocks. Never this machine's.

One zone, in pages of 4 KiB: free lists by order and migrate type, page blocks of 2 MiB, fallback and claiming,
watermarks, reclaim of clean page cache in the order in which it was read, and compaction. The arrays and the rules are
in native/buddy.c, since a machine of 64 GiB has 16 million pages; nothing there knows of any memory but the model's.

Rules: mm/page_alloc.c, mm/compaction.c, mm/readahead.c of Linux 6.12 to 7.2, named in native/buddy.h.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import sub
from typing import NamedTuple

from elfolio._native import Buddy

__all__ = [
    "BLOCK",
    "LEFT_OUT",
    "ORDERS",
    "PAGE",
    "PMD_ORDER",
    "Kind",
    "MigrateType",
    "PageBlock",
    "Work",
    "Zone",
    "expected_free",
]

PAGE = 4096
ORDERS = 11
"""Orders 0 to 10: MAX_PAGE_ORDER."""
PMD_ORDER = 9
BLOCK = 1 << PMD_ORDER
"""Pages of a page block: pageblock_order, with huge pages of 2 MiB."""

LEFT_OUT = (
    "per-cpu lists: pages change hands one by one, not in batches",
    "zones and nodes: all memory is one zone, without ALLOC_NOFRAGMENT, HighAtomic, CMA and watermark boosts",
    "swap: anonymous memory is never reclaimed, page cache goes by age (no active list or generations)",
    "dirty pages and writeback: all page cache is clean",
    "proactive compaction; kswapd and kcompactd run at once when they are woken: every second and every tenth time",
    "locks that others hold: compaction gives up by chance, as often as it did on the machine it was calibrated on",
    "time: nothing else runs during the load, and costs are counted in pages moved, not in seconds",
)
"""What is not faithful."""


class MigrateType(IntEnum):
    """Which list a page block's free pages are in: enum migratetype."""

    UNMOVABLE = 0
    MOVABLE = 1
    RECLAIMABLE = 2


class Kind(IntEnum):
    """What memory is used for."""

    KERNEL = 4
    """Unmovable."""
    SLAB = 5
    """Of reclaimable page blocks; pins its page as the kernel's does."""
    ANON = 6
    CACHE = 7
    FILE = 8
    """The page cache of the file that is looked at."""
    HELD = 9
    """Reserved: neither moved nor reclaimed."""


class PageBlock(NamedTuple):
    """2 MiB. In pages, but for `type`, `largest` and `folio`."""

    type: MigrateType
    largest: int
    """The largest free order in it; -1: nothing is free."""
    folio: int
    """The largest order in use; -1: nothing is."""
    free: int
    kernel: int
    slab: int
    anon: int
    cache: int
    file: int
    held: int


@dataclass(frozen=True, slots=True)
class Work:
    """What was done so far, or between two moments. In pages unless named otherwise."""

    background: int
    """Reclaimed by kswapd."""
    direct: int
    """Reclaimed by who asked for memory."""
    moved: int
    """By compaction."""
    scanned: int
    """Blocks that compaction looked at."""
    stalls: int
    """Requests that had to reclaim or compact for their order."""
    compactions: int
    skipped: int
    """Compactions not begun, because too few pages were free for what would move."""
    claimed: int
    """Page blocks taken over by another migrate type."""
    stolen: int
    """Requests met from another type's page block."""
    refused: int
    """Requests for one page that could not be met."""
    tried: tuple[int, ...]
    """Requests by order."""
    failed: tuple[int, ...]
    lost: int
    """Page cache of others that was reclaimed."""

    def since(self, before: "Work") -> "Work":
        """What was done after `before`."""
        numbers = (getattr(self, name) - getattr(before, name) for name in _NUMBERS)
        tried, failed = (tuple(map(sub, *pair)) for pair in ((self.tried, before.tried), (self.failed, before.failed)))
        return _work((*numbers, *tried, *failed), self.lost - before.lost)


_NUMBERS = Work.__slots__[:10]
_READAHEAD = 1 | 2
"""BUDDY_DIRECT, BUDDY_NOFS."""


def _work(done: Sequence[int], lost: int) -> Work:
    """From struct buddy_counts: ten numbers, then requests tried and failed by order."""
    background, direct, moved, scanned, stalls, compactions, skipped, claimed, stolen, refused = done[:10]
    tried, failed = tuple(done[10 : 10 + ORDERS]), tuple(done[10 + ORDERS : 10 + 2 * ORDERS])
    return Work(
        background, direct, moved, scanned, stalls, compactions, skipped, claimed, stolen, refused, tried, failed, lost
    )


class Zone:
    """Memory of so many pages (rounded down to 4 MiB), all free. The same seed: the same course."""

    def __init__(self, pages: int, seed: int = 0) -> None:
        self._buddy = Buddy(pages & ~1023, seed)
        self.pages = pages & ~1023

    def take(self, kind: Kind, owner: int, pages: int, *, order: int = 0, direct: bool = False) -> int:
        """Memory in blocks of `order`, single pages where there are none. `direct`: reclaims and compacts for them.
        How many pages it got: fewer only when memory has run out. ValueError: an order or owner out of range."""
        return self._buddy.take(order, kind, owner, pages, int(direct))

    def read(
        self, kind: Kind, owner: int, pages: int, *, start: int = 0, order: int = 0, window: int = 32, again: int = 0
    ) -> int:
        """Pages of a file, from `start`, into the page cache, as readahead with a window of so many pages has them:
        folios grow by two orders from window to window up to `order`, and from the first window on where it holds two
        of them (MADV_HUGEPAGE); a request that fails leaves the rest of its window to single pages. `again`: how often
        (up to 7 times) it is used when it is the oldest, and so kept. Pages read."""
        return self._buddy.read(kind, owner, start, pages, order, window, _READAHEAD | again << 2)

    def drop(self, owner: int, share: float = 1.0) -> int:
        """Frees this share, by chance, of what the owner has outside of the page cache. Pages freed."""
        return self._buddy.drop(owner, round(1000 * share))

    def forget(self, kind: Kind, owner: int) -> None:
        """Drops an owner's page cache."""
        self._buddy.forget(kind, owner)

    def pin(self, page: int, order: int, kind: Kind, owner: int) -> bool:
        """Takes exactly this block; False where it is not free."""
        return self._buddy.pin(page, order, kind, owner)

    def lay(self, flags: bytes | bytearray, unused: int, used: int) -> None:
        """Memory as /proc/kpageflags shows it, 8 bytes a page: what is in use belongs to the owner `used`, and what is
        free to `unused`, which drops it when page blocks have their types."""
        self._buddy.map(flags, unused, used)

    def retype(self, block: int, kind: MigrateType) -> None:
        """Changes the type of a page block that is in use as a whole."""
        self._buddy.retype(block, kind)

    def compact(self) -> None:
        """All of it, as a write to /proc/sys/vm/compact_memory does."""
        self._buddy.compact()

    def copy(self) -> "Zone":
        """One that goes its own way."""
        other = object.__new__(Zone)
        other._buddy, other.pages = self._buddy.copy(), self.pages
        return other

    @property
    def free(self) -> int:
        """Pages."""
        return self._buddy.levels()[0]

    @property
    def watermarks(self) -> tuple[int, int, int]:
        """min, low and high, in pages."""
        return self._buddy.levels()[1:]

    @watermarks.setter
    def watermarks(self, levels: tuple[int, int, int]) -> None:
        self._buddy.watermarks(*levels)

    def free_blocks(self) -> dict[MigrateType, tuple[int, ...]]:
        """How many of each order, by migrate type: /proc/pagetypeinfo."""
        counts = self._buddy.free_counts()
        return {kind: counts[kind * ORDERS : (kind + 1) * ORDERS] for kind in MigrateType}

    def free_huge(self) -> int:
        """Blocks of order 9 that could be had at once."""
        return sum(counts[9] + 2 * counts[10] for counts in self.free_blocks().values())

    def folios(self, kind: Kind, owner: int = -1) -> tuple[int, ...]:
        """Blocks in use by order."""
        return self._buddy.orders(kind, owner)

    def blocks(self) -> Iterator[PageBlock]:
        """Every page block, from the bottom."""
        words = memoryview(self._buddy.blocks()).cast("H")
        for at in range(0, len(words), 8):
            first, *pages = words[at : at + 8]
            yield PageBlock(MigrateType(first & 15), (first >> 4 & 15) - 1, (first >> 8 & 15) - 1, *pages)

    def work(self) -> Work:
        """Since the beginning."""
        done = self._buddy.done()
        return _work(done, done[10 + 2 * ORDERS + Kind.CACHE])


def expected_free(blocks: int, share: float, order: int) -> float:
    """Of so many blocks of order 9, how many are free where random aligned blocks of `order` hold this share of
    memory: each of its 2^(9-order) places is free with probability 1 - share."""
    return float(blocks * (1 - share) ** (1 << (PMD_ORDER - order)))
