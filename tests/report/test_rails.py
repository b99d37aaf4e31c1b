"""report.rails: ranges over ranges."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from elfolio.report.rails import Area, Link, Rail, draw
from elfolio.span import Span

SIZES = st.lists(st.tuples(st.integers(0, 1 << 46), st.integers(1, 1 << 40)), max_size=40)


def rail(parts: list[tuple[int, int]]) -> Rail:
    """Areas of these sizes, each behind a gap."""
    areas = []
    at = 0
    for gap, size in parts:
        at += gap
        areas.append(
            Area(Span(at, at + size), "rx", f"{size}", f"area at {at}", ((Span(at, at + size), "good-fill", "b"),))
        )
        at += size
    return Rail("r", tuple(areas))


def rectangles(svg: str, style: str) -> list[tuple[float, float]]:
    """Left and right edges, in the order of the picture."""
    found = re.findall(rf'<rect class="{style} edge" x="([\d.-]+)" y="\d+" width="([\d.]+)"', svg)
    return [(float(x), float(x) + float(width)) for x, width in found]


@given(SIZES, SIZES)
def test_areas_keep_their_order_and_stay_in_the_picture(
    upper: list[tuple[int, int]], lower: list[tuple[int, int]]
) -> None:
    """However many and however different in size: every area is drawn, none outside, none over the next."""
    above, below = rail(upper), rail(lower)
    svg = draw(above, below, [], "x")
    pictures = svg.split("</svg>")[:2]
    for picture, width in zip(pictures, (1100, 380), strict=True):
        edges = rectangles(picture, "p-rx")
        assert len(edges) == len(upper) + len(lower)
        for row in (edges[: len(upper)], edges[len(upper) :]):
            assert all(0 <= left <= right <= width + 0.6 for left, right in row)
            assert all(a[0] <= b[0] + 0.11 for a, b in pairwise(row))


def test_a_link_leads_from_its_range_above_to_its_range_below() -> None:
    """The four corners of a link are the ends of both ranges."""
    above = rail([(0, 100), (0, 100)])
    below = rail([(0, 100), (50, 100)])
    svg = draw(above, below, [Link(Span(100, 200), Span(150, 250), "rx")], "x").split("</svg>")[0]
    (points,) = re.findall(r'<polygon class="p-rx faint" points="([^"]+)"', svg)
    corners = [float(point.split(",")[0]) for point in points.split()]
    edges = rectangles(svg, "p-rx")
    assert corners == [edges[1][0], edges[1][1], edges[3][1], edges[3][0]]


def test_names_are_escaped() -> None:
    """An area's words are text, in the picture and where they are read aloud."""
    area = Area(Span(0, 10), "r", "<b>", 'a"><script>')
    svg = draw(Rail("<r>", (area,)), Rail("", (area,)), [], "<l>")
    assert "<script>" not in svg
    assert "<b>" not in svg
    assert svg.count("&lt;script&gt;") == 8
