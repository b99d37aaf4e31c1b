"""kernel.buddy: the model against arithmetic, against its own invariants, and the rules one by one."""

import math
import random

import pytest

from elfolio.kernel.buddy import BLOCK, ORDERS, Kind, MigrateType, Zone, expected_free

G = 1 << 18
"""Pages of a GiB."""


def accounted(zone: Zone) -> int:
    """Pages that are in a free list or in use, each counted once."""
    free = sum(count << order for counts in zone.free_blocks().values() for order, count in enumerate(counts))
    assert free == zone.free
    return free + sum(count << order for kind in Kind for order, count in enumerate(zone.folios(kind)))


@pytest.mark.parametrize("order", [0, 2, 4, 9])
def test_random_pinned_memory_leaves_as_many_huge_blocks_as_the_arithmetic_says(order: int) -> None:
    """Where 1% of 8 GiB is pinned at random, free blocks of 2 MiB are as many as expected, within four deviations."""
    zone, chance = Zone(8 * G), random.Random(order)
    for place in chance.sample(range(zone.pages >> order), zone.pages // 100 >> order):
        assert zone.pin(place << order, order, Kind.KERNEL, 1)
    blocks = zone.pages // BLOCK
    expected = expected_free(blocks, 0.01, order)
    deviation = math.sqrt(expected * (1 - expected / blocks))
    assert abs(zone.free_huge() - expected) <= 4 * deviation + 1
    assert accounted(zone) == zone.pages


def test_the_arithmetic_gives_the_published_counts_for_64_gib() -> None:
    """The expectation itself: 191, 9,052, 23,756 and 32,440 of 32,768 blocks at 1% for orders 0, 2, 4 and 9."""
    found = [round(expected_free(32768, 0.01, order)) for order in (0, 2, 4, 9)]
    assert found == [191, 9052, 23756, 32440]


@pytest.mark.parametrize("seed", range(3))
def test_no_page_is_lost_or_had_twice(seed: int) -> None:
    """Whatever is asked of a zone in whatever order, each page is in one list or one block in use."""
    zone, chance = Zone(G // 8, seed), random.Random(seed)
    for step in range(1500):
        _random_step(zone, chance)
        if step % 50 == 0:
            assert accounted(zone) == zone.pages
            assert sum(sum(one[3:]) for one in zone.blocks()) == zone.pages
    assert zone.work().moved > 0
    assert zone.work().direct > 0


def _random_step(zone: Zone, chance: random.Random) -> None:
    match chance.randrange(8):
        case 0 | 1:
            kind = chance.choice((Kind.KERNEL, Kind.SLAB))
            zone.take(kind, chance.randrange(8), chance.randrange(1, 30), order=chance.choice((0, 0, 1, 3)))
        case 2 | 3:
            order = chance.choice((0, 9))
            zone.take(Kind.ANON, 8 + chance.randrange(8), chance.randrange(1, 1500), order=order, direct=True)
        case 4 | 5:
            zone.read(Kind.CACHE, 20, chance.randrange(1, 3000), order=chance.choice((0, 5)))
        case 6:
            zone.read(Kind.FILE, 21, chance.randrange(1, 3000), order=9, window=1024)
        case _:
            zone.drop(chance.randrange(16), chance.choice((1.0, 0.4)))
            if chance.random() < 0.1:
                zone.compact()


def test_all_that_is_freed_merges_again() -> None:
    """Memory taken in single pages and freed is in blocks of the largest order, as before."""
    zone = Zone(G // 16)
    before = zone.free_blocks()
    zone.take(Kind.ANON, 1, zone.pages // 2)
    zone.read(Kind.CACHE, 2, zone.pages // 4)
    zone.drop(1)
    zone.forget(Kind.CACHE, 2)
    assert zone.free_blocks() == before


def test_unmovable_memory_claims_whole_blocks_while_there_are_any() -> None:
    """Mobility grouping: on free memory the kernel's pages lie in blocks of their own, not beside others'."""
    zone = Zone(G // 4)
    for _ in range(2000):
        zone.take(Kind.KERNEL, 1, 1)
        zone.take(Kind.ANON, 2, 3)
    mixed = [one for one in zone.blocks() if one.kernel and one.anon]
    assert sum(one.kernel for one in zone.blocks()) == 2000
    assert not mixed


def test_a_movable_request_leaves_small_blocks_of_others_their_type() -> None:
    """Without movable memory left, single pages are stolen from the kernel's blocks, which stay the kernel's."""
    zone = Zone(1024 * 4)
    zone.take(Kind.KERNEL, 1, 300)
    zone.take(Kind.ANON, 2, zone.pages)
    assert zone.work().stolen > 0
    assert MigrateType.UNMOVABLE in {one.type for one in zone.blocks() if one.anon}


def test_readahead_folios_grow_by_two_orders_from_window_to_window() -> None:
    """With 128 KiB windows a file of 1 MiB has folios of orders 0, 2, 4 and then 5 (page_cache_ra_order)."""
    zone = Zone(G // 16)
    zone.read(Kind.FILE, 1, 256, order=5)
    assert zone.folios(Kind.FILE)[:6] == (32, 0, 8, 0, 2, 5)


def test_a_huge_window_reads_huge_folios_from_its_first_page() -> None:
    """MADV_HUGEPAGE: two blocks of 2 MiB a window, all of order 9, but for the file's end."""
    zone = Zone(G // 16)
    zone.read(Kind.FILE, 1, 3 * BLOCK + 5, order=9, window=2 * BLOCK)
    assert zone.folios(Kind.FILE) == (1, 0, 1, 0, 0, 0, 0, 0, 0, 3, 0)


def test_a_failed_request_leaves_the_rest_of_its_window_to_single_pages() -> None:
    """With one page pinned in each 2 MiB nothing huge can be had: all of the file is in single pages."""
    zone = Zone(G // 16)
    for block in range(zone.pages // BLOCK):
        zone.pin(block * BLOCK + 100, 0, Kind.KERNEL, 1)
    zone.read(Kind.FILE, 2, 4 * BLOCK, order=9, window=2 * BLOCK)
    assert zone.folios(Kind.FILE)[0] == 4 * BLOCK
    assert zone.work().failed[9] == 2


def test_reclaim_frees_the_oldest_cache_and_never_applications() -> None:
    """A file as large as half of memory pushes out page cache read before it, and no anonymous page."""
    zone = Zone(G // 4)
    zone.take(Kind.ANON, 1, zone.pages // 4)
    zone.read(Kind.CACHE, 2, zone.pages)
    zone.read(Kind.FILE, 3, zone.pages // 2)
    assert zone.folios(Kind.ANON)[0] == zone.pages // 4
    assert zone.folios(Kind.FILE)[0] == zone.pages // 2
    assert zone.work().lost > 0


def test_cache_that_is_used_again_outlives_what_was_read_after_it() -> None:
    """A file used again stays, the one read after it goes; used once, it goes when it is the oldest once more."""
    zone = Zone(G // 16)
    zone.read(Kind.CACHE, 1, 2000, again=1)
    zone.read(Kind.CACHE, 2, zone.pages - zone.free - 2000 + zone.pages // 2)
    zone.read(Kind.FILE, 3, zone.free)
    assert sum(zone.folios(Kind.CACHE, 1)) == 2000
    assert sum(zone.folios(Kind.CACHE, 2)) < zone.pages // 2
    zone.read(Kind.FILE, 4, 2 * zone.pages)
    assert sum(zone.folios(Kind.CACHE, 1)) == 0


def test_compaction_makes_huge_blocks_of_scattered_free_pages_and_counts_its_moves() -> None:
    """Half of the pages freed here and there: before little of it is in blocks of 2 MiB, afterwards most."""
    zone = Zone(G // 4, 3)
    zone.take(Kind.ANON, 1, zone.pages - 8192)
    zone.drop(1, 0.5)
    before, free = zone.free_huge(), zone.free
    zone.compact()
    assert before * BLOCK < free // 4
    assert zone.free_huge() * BLOCK > free * 3 // 4
    assert zone.work().moved > 0
    assert zone.free == free


def test_compaction_without_free_pages_is_not_begun() -> None:
    """Below the low watermark and room for what would move (compaction_suitable) a request for 2 MiB fails at once."""
    zone = Zone(G // 16)
    zone.take(Kind.ANON, 1, zone.pages - zone.watermarks[0] - 40)
    zone.read(Kind.FILE, 2, 2 * BLOCK, order=9, window=2 * BLOCK)
    work = zone.work()
    assert work.failed[9] == work.skipped == 1
    assert work.compactions == work.moved == 0


@pytest.mark.parametrize(("kind", "moved"), [(Kind.ANON, True), (Kind.CACHE, False)])
def test_compaction_for_readahead_leaves_page_cache_where_it_is(kind: Kind, moved: bool) -> None:
    """Readahead allocates as a file system does (memalloc_nofs_save): its own compaction moves anonymous memory alone,
    and page cache only moves when kcompactd runs, which the first requests do not wake."""
    zone = Zone(G // 16, 4)
    for block in range(zone.pages // BLOCK):
        zone.pin(block * BLOCK + 17, 0, kind, 1)
    # Used again, it is not what kswapd reclaims.
    zone.read(Kind.FILE, 2, BLOCK, order=9, window=2 * BLOCK)
    assert (zone.work().moved > 0) is moved


def test_kcompactd_moves_page_cache_in_the_end() -> None:
    """Requests that fail wake kswapd, and now and then kcompactd: page cache that lies in the way is moved."""
    zone = Zone(G // 4, 4)
    for block in range(zone.pages // BLOCK):
        zone.pin(block * BLOCK + 17, 0, Kind.HELD if block % 4 else Kind.CACHE, 1)
    zone.read(Kind.FILE, 2, 100 * BLOCK, order=9, window=2 * BLOCK)
    assert zone.work().moved > 0
    assert zone.folios(Kind.FILE)[9] > 0


def test_a_page_block_tells_its_largest_free_and_used_orders() -> None:
    """A huge page, a block of order 3 beside free memory, and free memory: as they were taken."""
    zone = Zone(1024 * 2)
    zone.pin(0, 9, Kind.ANON, 1)
    zone.pin(512, 3, Kind.KERNEL, 1)
    shown = [(one.largest, one.folio, one.free, one.anon, one.kernel) for one in zone.blocks()]
    assert shown == [(-1, 9, 0, 512, 0), (8, 3, 504, 0, 8), (10, -1, 512, 0, 0), (10, -1, 512, 0, 0)]


def test_a_copy_goes_its_own_way() -> None:
    """What is done to a copy is not seen in the zone it was made from, and the same done to both gives the same."""
    zone = Zone(G // 16, 5)
    zone.take(Kind.ANON, 1, 5000)
    copy = zone.copy()
    copy.drop(1, 0.5)
    assert zone.folios(Kind.ANON)[0] == 5000
    zone.drop(1, 0.5)
    assert zone.free_blocks() == copy.free_blocks()


@pytest.mark.parametrize("call", [(11, Kind.ANON, 1), (0, 3, 1), (0, Kind.ANON, 65536)])
def test_what_is_out_of_range_is_refused(call: tuple[int, int, int]) -> None:
    """An order, a kind or an owner that the arrays have no room for is an error, not a write elsewhere."""
    order, kind, owner = call
    with pytest.raises(ValueError, match="out of range"):
        Zone(4096).take(kind, owner, 1, order=order)  # type: ignore[arg-type]


def test_orders_are_the_kernels() -> None:
    """Eleven orders: 0 to 10."""
    assert ORDERS == 11
    assert Zone(4096).free_blocks()[MigrateType.MOVABLE] == (0,) * 10 + (4,)


def test_compaction_that_finds_nothing_is_put_off() -> None:
    """Every page block has a page that cannot be moved: after some passes in vain most requests for huge folios fail
    without another one."""
    zone = Zone(128 * BLOCK, 1)
    for block in range(128):
        assert zone.pin(block * BLOCK + 7, 0, Kind.HELD, 1)
    for owner in range(2, 2 + 400):
        zone.read(Kind.FILE, owner, 2 * BLOCK, order=9, window=2 * BLOCK)
        zone.forget(Kind.FILE, owner)
    work = zone.work()
    assert work.failed[9] == 400
    assert work.compactions < 200
