"""report.rails: ranges over ranges, as a picture. In: rails of areas, and which area leads to which. Out: SVG.

A program has segments of a page beside segments of a hundred megabytes, and gaps between them of terabytes. So a rail
is drawn to scale within an area only: an area's width grows with the square root of its size, and a gap is a notch.
Two pictures are made, for a wide and a narrow window; the style shows one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from elfolio.report.page import Markup
from elfolio.span import Span

__all__ = ["Area", "Link", "Rail", "draw", "draw_alone"]

_WIDE, _NARROW = 1100, 380
_BAR, _BAND, _ROOM = 30, 12, 64
"""Heights: of a rail, of the band of blocks below it, of the space that the links cross."""
_GAP, _LEAST = 10, 7
"""Widths: of a gap, and of the smallest area."""
_LETTER = 7.2
"""About the width of a letter at 12 units."""


@dataclass(frozen=True, slots=True)
class Area:
    """A range of a rail."""

    span: Span
    kind: str
    """r, rx, rw, rwx or none: the style's colour."""
    label: str
    note: str
    """What is shown when it is pointed at, and read aloud."""
    blocks: tuple[tuple[Span, str, str], ...] = ()
    """Ranges of it, ascending, with a style (`good-fill`, `warn-fill`, `bad-fill`) and a note."""


@dataclass(frozen=True, slots=True)
class Rail:
    """Ascending areas that do not overlap, and what their numbers are."""

    name: str
    areas: tuple[Area, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A range of the upper rail that is a range of the lower one; what it is drawn in is the lower area's kind."""

    upper: Span
    lower: Span
    kind: str


def draw(upper: Rail, lower: Rail, links: Sequence[Link], label: str) -> Markup:
    """Both pictures; `label` says in words what is to be seen."""
    return Markup("".join(_svg(upper, lower, links, label, *form) for form in ((_WIDE, "wide"), (_NARROW, "narrow"))))


def draw_alone(rail: Rail, share: float, label: str) -> Markup:
    """One rail by itself, over `share` of the width."""
    parts = []
    for width, name in ((_WIDE, "wide"), (_NARROW, "narrow")):
        scale = _scale(rail, max(1, int(width * share)))
        height = 18 + _BAR + _BAND + 8
        areas = "".join(_area(area, scale, 18) for area in rail.areas)
        words = rail.name if len(rail.name) * _LETTER < width else f"{rail.name[: int(width / _LETTER) - 2]}…"
        parts.append(
            f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
            f'<text class="soft" x="0" y="12" font-size="12">{escape(words)}</text>{areas}</svg>'
        )
    return Markup("".join(parts))


def _svg(upper: Rail, lower: Rail, links: Sequence[Link], label: str, width: int, name: str) -> str:
    above, below = _scale(upper, width), _scale(lower, width)
    top, bottom = 22, 22 + _BAR + _ROOM
    parts = [f'<text class="soft" x="0" y="12" font-size="12">{escape(upper.name)}</text>']
    parts += [_link(link, above, below, top + _BAR, bottom) for link in links]
    parts += [_area(area, above, top) for area in upper.areas]
    parts += [_area(area, below, bottom) for area in lower.areas]
    height = bottom + _BAR + _BAND + 20
    parts.append(f'<text class="soft" x="0" y="{height - 4}" font-size="12">{escape(lower.name)}</text>')
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}'
        "</svg>"
    )


Scale = Callable[[int], float]


def _scale(rail: Rail, width: int) -> Scale:
    """From a position on the rail to one in the picture; piecewise linear."""
    weights = [area.span.size**0.5 for area in rail.areas]
    gaps = [a.span.end < b.span.start for a, b in pairwise(rail.areas)]
    free = width - _GAP * sum(gaps) - _LEAST * len(weights)
    unit = max(free, 0) / (sum(weights) or 1)
    knots: list[tuple[int, float]] = []
    at = 0.0
    for i, area in enumerate(rail.areas):
        knots.append((area.span.start, at))
        at += _LEAST + unit * weights[i]
        knots.append((area.span.end, at))
        if i < len(gaps) and gaps[i]:
            at += _GAP
    shrink = width / at if at > width else 1.0  # so many areas that even the smallest do not fit

    def position(value: int) -> float:
        for (left, x), (right, y) in pairwise(knots):
            if left <= value <= right:
                return shrink * (x + (y - x) * (value - left) / ((right - left) or 1))
        return 0.0 if not knots or value < knots[0][0] else shrink * knots[-1][1]

    return position


def _area(area: Area, scale: Scale, top: int) -> str:
    x, end = scale(area.span.start), scale(area.span.end)
    parts = [f"<title>{escape(area.note)}</title>", _rect(x, end, top, _BAR, f"p-{area.kind} edge")]
    if len(area.label) * _LETTER + 6 <= end - x:
        parts.append(f'<text x="{x + 4:.1f}" y="{top + 20}" font-size="12">{escape(area.label)}</text>')
    group = f'<g class="hot" tabindex="0" role="img" aria-label="{escape(area.note)}">{"".join(parts)}</g>'
    return group + "".join(_blocks(area, scale, top + _BAR + 2))


def _blocks(area: Area, scale: Scale, top: int) -> Iterator[str]:
    for span, style, note in area.blocks:
        rect = _rect(scale(span.start), scale(span.end), top, _BAND, f"{style} edge")
        yield f"<g><title>{escape(note)}</title>{rect}</g>"


def _rect(x: float, end: float, top: int, height: int, style: str) -> str:
    return f'<rect class="{style}" x="{x:.1f}" y="{top}" width="{max(end - x, 0.5):.1f}" height="{height}" rx="2"/>'


def _link(link: Link, above: Scale, below: Scale, top: int, bottom: int) -> str:
    points = (
        (above(link.upper.start), top),
        (above(link.upper.end), top),
        (below(link.lower.end), bottom),
        (below(link.lower.start), bottom),
    )
    return f'<polygon class="p-{link.kind} faint" points="{" ".join(f"{x:.1f},{y}" for x, y in points)}"/>'
