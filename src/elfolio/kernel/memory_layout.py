"""kernel.memory_layout: memory with given free lists. In: counts of free blocks, page blocks, used pages. Out: a Zone.

The counts do not say where blocks lie, or in which folios used memory is: free blocks are spread at random over page
blocks of their type, and what is used is in single pages.
"""

import random
from collections.abc import Mapping, Sequence

from elfolio.kernel.buddy import BLOCK, ORDERS, PMD_ORDER, Kind, MigrateType, Zone

__all__ = ["laid_out"]

_FREE, _USED = 5, 6


def laid_out(
    pages: int,
    free: Mapping[MigrateType, Sequence[int]],
    blocks: Mapping[MigrateType, int],
    cache: int,
    *,
    seed: int = 1,
) -> Zone:
    """A zone of so many pages with these free blocks by type and order, page blocks of these types, and so many pages
    of page cache among what is used of movable ones. Free blocks for which no place is found are left out."""
    chance, zone = random.Random(seed), Zone(pages, seed)
    types = _types(zone.pages >> PMD_ORDER, free, blocks, chance)
    used, holes = _places(types, free, chance)
    for page, order in holes:
        zone.pin(page, order, Kind.HELD, _FREE)
    movable = [(page, at) for page, at in used if types[page >> PMD_ORDER] is MigrateType.MOVABLE]
    share = cache / (sum(size for _, size in movable) or 1)
    _fill(zone, [one for one in used if types[one[0] >> PMD_ORDER] is not MigrateType.MOVABLE], 0, chance, Kind.KERNEL)
    _fill(zone, movable, share, chance, Kind.ANON)
    for block, kind in enumerate(types):
        zone.retype(block, kind)
    zone.drop(_FREE)
    return zone


def _types(
    count: int, free: Mapping[MigrateType, Sequence[int]], blocks: Mapping[MigrateType, int], chance: random.Random
) -> list[MigrateType]:
    """Of each page block; neighbours in pairs, so that free blocks of order 10 find room."""
    whole = sum(blocks.values()) or 1
    rest = [
        kind
        for kind in (MigrateType.UNMOVABLE, MigrateType.RECLAIMABLE)
        for _ in range(count * blocks[kind] // whole // 2)
    ]
    pairs = rest + [MigrateType.MOVABLE] * (count // 2 - len(rest))
    chance.shuffle(pairs)
    return [kind for kind in pairs for _ in range(2)]


def _places(
    types: Sequence[MigrateType], free: Mapping[MigrateType, Sequence[int]], chance: random.Random
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Runs in use as (page, pages), and free blocks as (page, order)."""
    used: list[tuple[int, int]] = []
    holes: list[tuple[int, int]] = []
    for kind in MigrateType:
        mine = [block for block, its in enumerate(types) if its is kind]
        even = [block for block in mine if block % 2 == 0]
        chance.shuffle(even)
        pairs, even = even[: free[kind][10]], even[free[kind][10] :]
        holes += [(block * BLOCK, 10) for block in pairs]
        # The other half of a pair stays in use, or both would be one block of order 10.
        singles, rest = even[: free[kind][9]], [block for one in even[free[kind][9] :] for block in (one, one + 1)]
        holes += [(block * BLOCK, 9) for block in singles]
        _spread(rest + [block + 1 for block in singles], free[kind], chance, used, holes)
    return used, holes


def _spread(
    blocks: list[int],
    free: Sequence[int],
    chance: random.Random,
    used: list[tuple[int, int]],
    holes: list[tuple[int, int]],
) -> None:
    """Each free block has the other half of its pair in use, so that it stays as large as it is."""
    filled = dict.fromkeys(blocks, 0)
    for order in range(PMD_ORDER - 1, -1, -1):
        room = [block for block in blocks if filled[block] + (2 << order) <= BLOCK]
        for _ in range(free[order]):
            while room:
                at = chance.randrange(len(room))
                block = room[at]
                if filled[block] + (2 << order) <= BLOCK:
                    break
                room[at] = room[-1]
                room.pop()
            if not room:
                break
            page = block * BLOCK + filled[block]
            holes.append((page, order))
            used.append((page + (1 << order), 1 << order))
            filled[block] += 2 << order
    used += [(block * BLOCK + at, BLOCK - at) for block, at in filled.items() if at < BLOCK]


def _fill(zone: Zone, runs: list[tuple[int, int]], share: float, chance: random.Random, kind: Kind) -> None:
    """In single pages; the page cache has no order of age that follows addresses."""
    chance.shuffle(runs)
    for start, size in runs:
        for page in range(start, start + size):
            zone.pin(page, 0, Kind.CACHE if share and chance.random() < share else kind, _USED)


assert ORDERS == 11  # the two largest are placed by hand above
