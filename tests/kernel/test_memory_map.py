"""kernel.memory_map: memory as page flags show it, with flags made up here."""

from array import array

import pytest

from elfolio.kernel.buddy import BLOCK, Kind, MigrateType, Zone
from elfolio.kernel.memory_map import MemoryZone, mapped

REFERENCED, LRU, ACTIVE, SLAB, BUDDY, ANON, SWAPBACKED, HEAD, TAIL, HUGE, NOPAGE = (
    1 << bit for bit in (2, 5, 6, 7, 10, 12, 14, 15, 16, 17, 20)
)
PAGES = 4096
NONE: dict[MigrateType, int] = {}


def zone_of(flags: dict[range, int], **options: object) -> Zone:
    """Free memory but for these."""
    words = array("Q", [BUDDY] * PAGES)
    for pages, its in flags.items():
        for page in pages:
            words[page] = its
    return mapped(words.tobytes(), options.pop("zones", ()), options.pop("blocks", NONE), **options)  # type: ignore[arg-type]


def test_free_pages_are_joined_to_the_largest_blocks() -> None:
    """One page in use leaves the rest of its 4 MiB as one block of each order, and all else in the largest."""
    zone = zone_of({range(5, 6): ANON | LRU})
    assert zone.free_blocks()[MigrateType.MOVABLE] == (1,) * 10 + (3,)
    assert zone.free == PAGES - 1


def test_folios_keep_their_orders_and_kinds() -> None:
    """A huge page, page cache in a folio of 16 pages, the kernel's, slab's, tmpfs's and a hole: each as what it is."""
    zone = zone_of(
        {
            range(0, 1): ANON | LRU | HEAD,
            range(1, 512): ANON | LRU | TAIL,
            range(512, 513): LRU | HEAD,
            range(513, 528): LRU | TAIL,
            range(1024, 1030): 0,
            range(1030, 1032): SLAB,
            range(1032, 1034): LRU | SWAPBACKED,
            range(1034, 1035): NOPAGE,
            range(2048, 2560): HUGE | HEAD | ANON,
        }
    )
    assert zone.folios(Kind.ANON) == (0,) * 9 + (1, 0)
    assert zone.folios(Kind.CACHE) == (0,) * 4 + (1,) + (0,) * 6
    assert (sum(zone.folios(Kind.KERNEL)), sum(zone.folios(Kind.SLAB))) == (6, 2)
    assert sum(zone.folios(Kind.HELD)) == 2 + 1 + 512
    assert zone.free == PAGES - 512 - 16 - 6 - 2 - 3 - 512


def test_a_folio_that_cannot_be_is_single_pages() -> None:
    """Three pages, or four that are not aligned: they changed while they were read."""
    zone = zone_of(
        {range(0, 1): LRU | HEAD, range(1, 3): LRU | TAIL, range(6, 7): LRU | HEAD, range(7, 10): LRU | TAIL}
    )
    assert zone.folios(Kind.CACHE) == (7,) + (0,) * 10


def test_what_is_known_beyond_the_flags_is_believed() -> None:
    """Pinned frames are held; free ones that wait in a processor's list are free."""
    zone = zone_of({range(0, 2): ANON | LRU, range(2, 4): 0}, pinned=[1], free=[2, 3])
    assert sum(zone.folios(Kind.ANON)) == sum(zone.folios(Kind.HELD)) == 1
    assert zone.free == PAGES - 2


def test_pages_that_wait_are_those_that_lie_alone() -> None:
    """Of pages that nothing is told of as many as wait in processors' lists are free: first where there are fewest."""
    zone = zone_of({range(0, 9): 0, range(BLOCK + 3, BLOCK + 4): 0}, waiting=1)
    assert sum(zone.folios(Kind.KERNEL)) == 9
    assert [one.kernel for one in zone.blocks()][:2] == [9, 0]


def test_lower_zones_keep_what_they_must() -> None:
    """Of the lower zone its watermark and what is protected there are held; the watermarks are the highest zone's, with
    the boost that it has just now."""
    lower = MemoryZone("DMA32", 0, 2048, min=10, low=20, high=30, boost=0, protected=90)
    upper = MemoryZone("Normal", 2048, 2048, min=16, low=32, high=48, boost=5, protected=0)
    zone = zone_of({range(0, 7): ANON | LRU}, zones=(lower, upper))
    assert sum(zone.folios(Kind.HELD)) == 100
    assert zone.watermarks == (21, 37, 53)


def test_page_blocks_with_most_of_the_kernels_are_the_unmovable_ones() -> None:
    """As many as the counts say; those with slab are reclaimable."""
    blocks = {MigrateType.UNMOVABLE: 1, MigrateType.RECLAIMABLE: 1, MigrateType.MOVABLE: 6}
    zone = zone_of({range(0, 9): 0, range(BLOCK, BLOCK + 9): SLAB, range(2 * BLOCK, 2 * BLOCK + 1): 0}, blocks=blocks)
    types = [one.type for one in zone.blocks()]
    assert types == [MigrateType.UNMOVABLE, MigrateType.RECLAIMABLE, *[MigrateType.MOVABLE] * 6]


def test_active_page_cache_is_reclaimed_last() -> None:
    """What is not active, or active and not used again, goes first."""
    zone = zone_of({range(0, 512): LRU | ACTIVE | REFERENCED, range(512, 4096): LRU})
    zone.read(Kind.FILE, 2, 1000)
    assert next(one.cache for one in zone.blocks()) == BLOCK


def test_flags_that_do_not_fit_are_refused() -> None:
    """More pages than the zone has: an error, not a write beside it."""
    with pytest.raises(ValueError, match="out of range"):
        Zone(1024).lay(bytes(8 * 2048), 5, 6)


def test_what_a_lower_zone_keeps_for_itself_is_what_fits_no_large_request() -> None:
    """100 pages are held: those of the page block with the fewest free pages first, and no other is touched."""
    lower = MemoryZone("DMA32", 0, 2048, min=10, low=20, high=30, boost=0, protected=90)
    upper = MemoryZone("Normal", 2048, 2048, min=16, low=32, high=48, boost=0, protected=0)
    zone = zone_of({range(1024, 1400): ANON | LRU}, zones=(lower, upper))
    assert [block.held for block in zone.blocks()] == [0, 0, 100, 0, 0, 0, 0, 0]
