"""kernel.memory_map: a zone as a machine's own page flags show memory. In: flags, its zones, page blocks. Out: a Zone.

Flags tell of each page whether it is free, and what has it otherwise, in folios of which order. Free blocks follow: the
kernel joins what can be joined. They do not tell which pages are pinned for long, how old page cache is, or the type of
each page block: as many as the counts say are not movable, those with the most pages of the kernel's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from elfolio.kernel.buddy import BLOCK, MigrateType, PageBlock, Zone

__all__ = ["MemoryZone", "mapped"]

_FREE, _USED = 5, 6
_BUDDY, _RESERVED = 1 << 10, 1 << 32
"""KPF_BUDDY, KPF_RESERVED: include/uapi/linux/kernel-page-flags.h."""


class MemoryZone(NamedTuple):
    """From /proc/zoneinfo. In pages."""

    name: str
    start: int
    """Its first frame."""
    spanned: int
    min: int
    low: int
    high: int
    boost: int
    """Added to the three watermarks for a while, after page blocks changed hands."""
    protected: int
    """What requests that could be met from higher zones must leave here: lowmem_reserve."""


def mapped(
    flags: bytes,
    zones: Sequence[MemoryZone],
    blocks: Mapping[MigrateType, int],
    *,
    pinned: Iterable[int] = (),
    free: Iterable[int] = (),
    waiting: int = 0,
    seed: int = 1,
) -> Zone:
    """One zone of all memory: `flags` has 8 bytes for each frame, as /proc/kpageflags. What a zone but the highest must
    keep free is held; the watermarks are the highest's. `pinned`: frames that cannot be moved, where that is known;
    `free`: those that are free for sure: in the lists of one processor they look like the kernel's. `waiting`: how many
    there are in such lists."""
    own = bytearray(flags)
    words = memoryview(own).cast("Q")
    for frame in pinned:
        words[frame] = _RESERVED
    for frame in free:
        if not words[frame]:
            words[frame] = _BUDDY
            waiting -= 1
    for frame in _stray(words, waiting):
        words[frame] = _BUDDY
    for zone in zones[:-1]:
        _hold_back(words, zone)
    found = Zone(len(words) + 1023, seed)
    found.lay(own, _FREE, _USED)
    for at, kind in _types(list(found.blocks()), blocks).items():
        found.retype(at, kind)
    found.drop(_FREE)
    if zones:
        last = zones[-1]
        found.watermarks = (last.min + last.boost, last.low + last.boost, last.high + last.boost)
    return found


def _hold_back(words: "memoryview[int]", zone: MemoryZone) -> None:
    """The kernel only counts: what stays is what fits no large request. So it is taken where least is free."""
    left = zone.min + zone.protected
    by_block = []
    for start in range(zone.start, min(zone.start + zone.spanned, len(words)), BLOCK):
        free = [at for at in range(start, min(start + BLOCK, len(words))) if words[at] & _BUDDY]
        by_block.append((len(free), free))
    for _, free in sorted(by_block):
        for frame in free[: max(0, left)]:
            words[frame] = _RESERVED
        left -= len(free)


def _stray(words: "memoryview[int]", most: int) -> list[int]:
    """Pages that nothing is told of, by page blocks with the fewest: the kernel's own lie together, and those that wait
    in a processor's list lie anywhere."""
    if most <= 0:
        return []
    by_block = []
    for start in range(0, len(words), BLOCK):
        count = words[start : start + BLOCK].tolist().count(0)
        if count:
            by_block.append((count, start))
    found: list[int] = []
    for count, start in sorted(by_block):
        if len(found) + count > most:
            break
        found += [at for at in range(start, min(start + BLOCK, len(words))) if not words[at]]
    return found


def _types(found: Sequence[PageBlock], blocks: Mapping[MigrateType, int]) -> dict[int, MigrateType]:
    """Of those that are not movable."""
    unmovable, slab = blocks.get(MigrateType.UNMOVABLE, 0), blocks.get(MigrateType.RECLAIMABLE, 0)
    most = sorted(range(len(found)), key=lambda at: found[at].kernel + found[at].slab, reverse=True)
    fixed = [at for at in most[: unmovable + slab] if found[at].kernel + found[at].slab]
    fixed.sort(key=lambda at: found[at].slab - found[at].kernel)
    return {at: MigrateType.UNMOVABLE if i < unmovable else MigrateType.RECLAIMABLE for i, at in enumerate(fixed)}
