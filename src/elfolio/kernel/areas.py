"""kernel.areas: the VMAs of a working address space, by address. In: Area values. Out: lookups, gaps, in O(log n).

Linux keeps them in a maple tree whose nodes also know their largest gap (mm/mmap.c, lib/maple_tree.c). Here they stand
in blocks of at most 128, each with its largest gap, and in a doubly linked list, so that a neighbour costs nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from elfolio.kernel.area import Area

__all__ = ["Area", "Areas"]

_FULL = 128
_GROUP = 32
_GROWSDOWN = 0x100


class _Block:
    __slots__ = ("areas", "gap", "gaps", "starts")

    def __init__(self, areas: list[Area], gaps: list[int]) -> None:
        self.areas = areas
        self.starts = [area.start for area in areas]
        self.gaps = gaps
        """Of free bytes below each area."""
        self.gap = max(gaps, default=0)


class Areas:
    """Areas by ascending address; none overlap. Bytes throughout."""

    def __init__(self, guard: int, lowest: int) -> None:
        self._guard = guard
        self._lowest = lowest
        self._blocks: list[_Block] = [_Block([], [])]
        self._heads: list[int] = [0]
        self._groups: list[int] | None = None
        self.count = 0
        self.first: Area | None = None

    def __iter__(self) -> Iterator[Area]:
        area = self.first
        while area is not None:
            yield area
            area = area.next

    # --- looking ----------------------------------------------------------------------------------

    def at_or_below(self, address: int) -> Area | None:
        """The last area that starts at or below `address`."""
        block = self._blocks[bisect_right(self._heads, address, 1) - 1]
        at = bisect_right(block.starts, address) - 1
        return block.areas[at] if at >= 0 else None

    def find(self, address: int) -> Area | None:
        """find_vma: the first area that ends above `address`; it need not contain it."""
        blocks = self._blocks
        # Most processes have one block only, and this is what a replay does most.
        block = blocks[0] if len(blocks) == 1 else blocks[bisect_right(self._heads, address, 1) - 1]
        at = bisect_right(block.starts, address) - 1
        if at < 0:
            return self.first
        area = block.areas[at]
        return area if area.end > address else area.next

    def crossing(self, start: int, end: int) -> Area | None:
        """find_vma_intersection: the first area that overlaps the range."""
        area = self.find(start)
        return area if area is not None and area.start < end else None

    def last(self) -> Area | None:
        """The highest one."""
        areas = self._blocks[-1].areas
        return areas[-1] if areas else None

    # --- changing ---------------------------------------------------------------------------------

    def insert(self, area: Area) -> None:
        """An area where nothing is."""
        start = area.start
        number = bisect_right(self._heads, start, 1) - 1 if len(self._blocks) > 1 else 0
        block = self._blocks[number]
        at = bisect_left(block.starts, start)
        if at:
            before: Area | None = block.areas[at - 1]
            after = block.areas[at - 1].next
        elif block.areas:
            after = block.areas[0]
            before = after.prev
        else:
            before, after = None, self.first
        area.prev, area.next = before, after
        if before is None:
            self.first = area
        else:
            before.next = area
        if after is not None:
            after.prev = area
        block.areas.insert(at, area)
        block.starts.insert(at, start)
        gap = self._gap_below(area)
        block.gaps.insert(at, gap)
        if gap > block.gap:
            self._grown(number, gap)
        self.count += 1
        if after is not None:
            self._set_next_gap(number, at, after)
        if len(block.areas) > _FULL:
            self._halve(number)

    def remove(self, area: Area) -> None:
        """An area that is here."""
        number = bisect_right(self._heads, area.start, 1) - 1
        block = self._blocks[number]
        at = bisect_left(block.starts, area.start)
        del block.areas[at], block.starts[at]
        gone = block.gaps.pop(at)
        before, after = area.prev, area.next
        if before is None:
            self.first = after
        else:
            before.next = after
        if after is not None:
            after.prev = before
        self.count -= 1
        if not block.areas:
            if len(self._blocks) > 1:
                self._drop(number)
                if after is not None:
                    self._refresh(after)
                return
            block.gap = 0
        elif at == 0 and number:
            self._heads[number] = block.starts[0]
        if after is not None:
            self._set_next_gap(number, at - 1, after)
        if gone and gone == block.gap:
            self._shrunk(number)

    def fill(self, areas: list[Area]) -> None:
        """The areas of an empty map, ascending."""
        before: Area | None = None
        for area in areas:
            area.prev, area.next = before, None
            if before is None:
                self.first = area
            else:
                before.next = area
            before = area
        half = _FULL // 2
        blocks = []
        for at in range(0, len(areas), half):
            part = areas[at : at + half]
            blocks.append(_Block(part, [self._gap_below(area) for area in part]))
        self._blocks = blocks or [_Block([], [])]
        self._heads = [0, *(block.starts[0] for block in self._blocks[1:])]
        self._groups = None
        self.count = len(areas)

    def split(self, area: Area, address: int) -> Area:
        """The part from `address` on becomes an area of its own, which is returned."""
        return self.cut(area, address, address)

    def cut(self, area: Area, start: int, end: int) -> Area:
        """What lies between two addresses inside an area goes; what follows is an area of its own, and returned."""
        upper = area.copy()
        by = end - area.start
        upper.start = end
        upper.chain = area.chain
        upper.offset += by
        upper.anon_offset += by
        area.end = start
        number = bisect_right(self._heads, area.start, 1) - 1
        block = self._blocks[number]
        at = bisect_left(block.starts, area.start) + 1
        after = area.next
        upper.prev, upper.next, area.next = area, after, upper
        if after is not None:
            after.prev = upper
        block.areas.insert(at, upper)
        block.starts.insert(at, end)
        gap = self._gap_below(upper)
        block.gaps.insert(at, gap)
        if gap > block.gap:
            self._grown(number, gap)
        self.count += 1
        if len(block.areas) > _FULL:
            self._halve(number)
        return upper

    def move_start(self, area: Area, start: int) -> None:
        """The same area, from another address on; nothing may lie between. Its offset is the caller's to mend."""
        number, at = self._place(area.start)
        self._blocks[number].starts[at] = start
        if at == 0 and number:
            self._heads[number] = start
        area.start = start
        self._set_gap(number, at, self._gap_below(area))

    def move_end(self, area: Area, end: int) -> None:
        """The same area, up to another address."""
        area.end = end
        if area.next is not None:
            number, at = self._place(area.start)
            self._set_next_gap(number, at, area.next)

    # --- gaps -------------------------------------------------------------------------------------

    def highest_gap(self, length: int, high: int) -> int | None:
        """The end of the highest gap of `length` free bytes below `high`, above the lowest address that may be
        mapped; None where there is none (unmapped_area_topdown)."""
        while True:
            found = self._gap_under(length, high)
            if found is None:
                return None
            end, above = found
            if above is None or not above.flags & _GROWSDOWN or above.start - self._guard >= end:
                return end
            # A stack is in the way: what lies within its guard is given up, gaps behind other mappings included.
            high = max(0, above.start - self._guard)

    def _gap_under(self, length: int, high: int) -> tuple[int, Area | None] | None:
        below = self.at_or_below(high - 1)
        above = self.first if below is None else below.next
        floor = self._lowest if below is None or below.end < self._lowest else below.end
        if high - floor >= length:
            return high, above
        if below is None:
            return None
        number, at = self._place(below.start)
        area = self._search(number, at + 1, length)
        return None if area is None else (area.start, area)

    def lowest_gap(self, length: int, low: int, high: int) -> int | None:
        """The start of the lowest gap of `length` free bytes in the range (unmapped_area)."""
        at = low
        area = self.find(low)
        while area is not None and area.start < high:
            if area.start - at >= length and (
                not area.flags & _GROWSDOWN or max(0, area.start - self._guard) >= at + length - 1
            ):
                return at
            at = max(at, area.end)
            area = area.next
        return at if high - at >= length else None

    def _search(self, number: int, upto: int, length: int) -> Area | None:
        blocks = self._blocks
        block = blocks[number]
        if block.gap >= length:
            found = self._within(block, upto, length)
            if found is not None:
                return found
        groups = self._groups if self._groups is not None else self._regroup()
        number -= 1
        while number >= 0:
            if number % _GROUP == _GROUP - 1 and groups[number // _GROUP] < length:
                number -= _GROUP
                continue
            block = blocks[number]
            if block.gap >= length:
                return self._within(block, len(block.gaps), length)
            number -= 1
        return None

    def _within(self, block: _Block, upto: int, length: int) -> Area | None:
        gaps = block.gaps
        for at in range(upto - 1, -1, -1):
            if gaps[at] >= length:
                return block.areas[at]
        return None

    def _gap_below(self, area: Area) -> int:
        floor = area.prev.end if area.prev is not None else 0
        return area.start - (floor if floor > self._lowest else self._lowest)

    def _refresh(self, area: Area) -> None:
        number, at = self._place(area.start)
        self._set_gap(number, at, self._gap_below(area))

    def _set_next_gap(self, number: int, at: int, after: Area) -> None:
        """The gap of the area that follows the one at a place."""
        at += 1
        if at == len(self._blocks[number].areas):
            number, at = number + 1, 0
        self._set_gap(number, at, self._gap_below(after))

    def _set_gap(self, number: int, at: int, gap: int) -> None:
        block = self._blocks[number]
        was = block.gaps[at]
        block.gaps[at] = gap
        if gap > block.gap:
            self._grown(number, gap)
        elif was and was == block.gap and gap != was:
            self._shrunk(number)

    def _grown(self, number: int, gap: int) -> None:
        self._blocks[number].gap = gap
        groups = self._groups
        if groups is not None and groups[number // _GROUP] < gap:
            groups[number // _GROUP] = gap

    def _shrunk(self, number: int) -> None:
        block = self._blocks[number]
        was, now = block.gap, max(block.gaps, default=0)
        if now == was:
            return
        block.gap = now
        groups = self._groups
        if groups is not None and was == groups[number // _GROUP]:
            first = number // _GROUP * _GROUP
            groups[number // _GROUP] = max([block.gap for block in self._blocks[first : first + _GROUP]])

    # --- blocks -----------------------------------------------------------------------------------

    def _place(self, start: int) -> tuple[int, int]:
        number = bisect_right(self._heads, start, 1) - 1 if len(self._blocks) > 1 else 0
        return number, bisect_left(self._blocks[number].starts, start)

    def _halve(self, number: int) -> None:
        block = self._blocks[number]
        middle = len(block.areas) // 2
        upper = _Block(block.areas[middle:], block.gaps[middle:])
        self._blocks[number] = _Block(block.areas[:middle], block.gaps[:middle])
        self._blocks.insert(number + 1, upper)
        self._heads.insert(number + 1, upper.starts[0])
        self._groups = None

    def _drop(self, number: int) -> None:
        del self._blocks[number], self._heads[number]
        self._heads[0] = 0
        self._groups = None

    def _regroup(self) -> list[int]:
        blocks = self._blocks
        groups = [max(b.gap for b in blocks[at : at + _GROUP]) for at in range(0, len(blocks), _GROUP)]
        self._groups = groups
        return groups
