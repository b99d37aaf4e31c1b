"""kernel.areas against a plain sorted list: lookups, gaps and neighbours, at sizes that need many blocks."""

import random

import pytest

from elfolio.kernel.areas import Area, Areas

_PAGE = 4096
_GUARD = 256 * _PAGE
_LOWEST = 16 * _PAGE
_GROWSDOWN = 0x100


def _naive_gap(areas: list[Area], length: int, high: int) -> int | None:
    """unmapped_area_topdown, over a list."""
    while True:
        edges = [_LOWEST, *(max(area.end, _LOWEST) for area in areas)]
        tops: list[tuple[int, Area | None]] = [(area.start, area) for area in areas]
        tops.append((1 << 62, None))
        fits = [
            (min(top, high), area)
            for floor, (top, area) in zip(edges, tops, strict=True)
            if min(top, high) - floor >= length
        ]
        if not fits:
            return None
        end, above = fits[-1]
        if above is None or not above.flags & _GROWSDOWN or above.start - _GUARD >= end:
            return end
        high = above.start - _GUARD


def _check(areas: Areas, plain: list[Area], source: random.Random) -> None:
    assert list(areas) == plain
    assert areas.count == len(plain)
    for before, after in zip([None, *plain], [*plain, None], strict=True):
        assert before is None or before.next is after
        assert after is None or after.prev is before
    for _ in range(5):
        address = source.randrange(1 << 14) * _PAGE
        assert areas.find(address) is next((area for area in plain if area.end > address), None)
        assert areas.at_or_below(address) is next((area for area in reversed(plain) if area.start <= address), None)
        length, high = source.choice((1, 2, 3, 9, 40, 400)) * _PAGE, source.randrange(1 << 14) * _PAGE + _LOWEST
        assert areas.highest_gap(length, high) == _naive_gap(plain, length, high)
    assert areas.last() is (plain[-1] if plain else None)


@pytest.mark.parametrize("seed", range(3))
def test_areas_are_a_sorted_list(seed: int) -> None:
    """After any insertion, removal, split and move of an edge, lookups and gaps are those of a plain list, with up to
    hundreds of areas in many blocks."""
    source = random.Random(seed)
    areas, plain = Areas(_GUARD, _LOWEST), list[Area]()
    for step in range(1500):
        _change(areas, plain, source, growing=step < 700 or (step % 3 > 0 and step < 1200))
        if step % 25 == 0:
            _check(areas, plain, source)
    _check(areas, plain, source)


def _change(areas: Areas, plain: list[Area], source: random.Random, *, growing: bool) -> None:
    start = source.randrange(1 << 14) * _PAGE
    area = areas.find(start)
    kind = source.randrange(4)
    if area is None or area.start > start:
        if growing:
            made = Area(start, start + _PAGE, _GROWSDOWN if source.random() < 0.02 else 0, start)
            if area is None or area.start >= made.end:
                areas.insert(made)
                plain.insert(sum(other.start < start for other in plain), made)
    elif kind == 0 or not growing:
        areas.remove(area)
        plain.remove(area)
    elif kind == 1 and area.start < start:
        plain.insert(plain.index(area) + 1, areas.split(area, start))
    elif kind == 2:
        room = area.next.start if area.next is not None else area.end + 8 * _PAGE
        areas.move_end(area, source.randrange(area.start // _PAGE + 1, room // _PAGE + 1) * _PAGE)
    else:
        room = area.prev.end if area.prev is not None else max(0, area.start - 8 * _PAGE)
        areas.move_start(area, source.randrange(room // _PAGE, area.end // _PAGE) * _PAGE)


def test_areas_can_be_filled() -> None:
    """Filling an empty map at once gives what inserting one by one gives."""
    made = [Area(n * 3 * _PAGE, (n * 3 + 2) * _PAGE, 0, 0) for n in range(10, 1000)]
    areas = Areas(_GUARD, _LOWEST)
    areas.fill(made)
    _check(areas, made, random.Random(0))


def test_low_gaps_are_found_upwards() -> None:
    """The search from below finds the first room in the range, and none that a stack keeps free."""
    areas = Areas(_GUARD, _LOWEST)
    areas.insert(Area(20 * _PAGE, 22 * _PAGE, 0, 0))
    areas.insert(Area(30 * _PAGE, 31 * _PAGE, _GROWSDOWN, 0))
    assert areas.lowest_gap(2 * _PAGE, 18 * _PAGE, 1 << 40) == 18 * _PAGE
    assert areas.lowest_gap(3 * _PAGE, 18 * _PAGE, 1 << 40) == 31 * _PAGE
    assert areas.lowest_gap(1 << 40, _LOWEST, 1 << 40) is None
