"""report.replay_html: `elfolio replay` as a page to look at. In: its Report. Out: one HTML file's text.

Policies that have the same to show share a line of the chart, and a section.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape

from elfolio.report import page
from elfolio.report.columns import size
from elfolio.report.page import Cell, Markup
from elfolio.report.replay import LaneReport, Reason, Report
from elfolio.report.replay_text import bounds, differences, gaps, lane_name, lane_names, side_by_side, why

__all__ = ["as_html"]

_COLOURS = ("--rx", "--r", "--rw", "--rwx", "--accent", "--none")
_HEIGHT, _LEFT, _BELOW, _ABOVE = 260, 60, 34, 10
_WIDTHS = {"wide": 1000, "narrow": 400}
"""Of the chart, by the class that shows it on a screen of that kind: letters shrink with a picture."""


def as_html(report: Report) -> str:
    """The whole page."""
    return page.render(f"replay {report['trace']}", _lead(report), _parts(report))


def _lead(report: Report) -> str:
    peaks = ", ".join(
        f"{lanes[0]['peak']} under {lane_names(lanes)}" for lanes in _alike(report["lanes"], lambda lane: lane["peak"])
    )
    return f"{report['calls']} calls that concern memory. The most VMAs at a time: {peaks}."


def _alike(lanes: Sequence[LaneReport], shown: Callable[[LaneReport], object]) -> list[list[LaneReport]]:
    """Lanes by what they show, in order of the first of each."""
    found: list[list[LaneReport]] = []
    for lane in lanes:
        same = next((one for one in found if shown(one[0]) == shown(lane)), None)
        if same is None:
            found.append([lane])
        else:
            same.append(lane)
    return found


def _parts(report: Report) -> Iterator[Markup]:
    yield page.facts(
        [
            ("format", report["format"]),
            ("lines", str(report["lines"])),
            ("not read", str(report["unreadable"])),
            ("page faults known", report["faults"]),
        ]
    )
    if clauses := gaps(report):
        yield page.paragraph(f"Of this trace: {'; '.join(clauses)}.")
    for words in bounds(report):
        yield page.paragraph(words)
    yield page.heading("VMAs over time")
    courses = _alike(report["lanes"], lambda lane: lane["points"])
    charts = "".join(_chart(courses, kind, width) for kind, width in _WIDTHS.items())
    yield page.figure(Markup(charts), "VMAs of all processes together, by operation.")
    yield _key(courses)
    yield page.heading("Side by side")
    names, *rows = side_by_side(report)
    yield page.comparison("What differs from the first is marked", names, rows)
    for lanes in _alike(report["lanes"], lambda lane: (lane["programs"], lane["missed"])):
        yield page.heading(lane_names(lanes))
        yield _programs(lanes[0])
        yield from _why(lanes[0], report["reasons"])
    for lane in report["lanes"]:
        if lane["own"] and lane["different"]:
            yield page.heading(f"{lane['different']} calls that {lane_name(lane)} would have answered otherwise")
            yield page.code("\n".join(differences(lane)))
    if report["problems"]:
        yield page.heading("Not read")
        more = report["unreadable"] - len(report["problems"])
        yield page.code("\n".join([*report["problems"], *([f"and {more} more"] if more else [])]))


def _chart(courses: Sequence[Sequence[LaneReport]], kind: str, width: int) -> str:
    lanes = [of[0] for of in courses]
    most = max((lane["peak"] for lane in lanes), default=1) or 1
    last = max((lane["operations"] for lane in lanes), default=1) or 1
    parts = [
        f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{width}" y2="{y:.1f}" stroke="var(--line)"/>'
        f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" font-size="12">{tick}</text>'
        for tick in _ticks(most)
        for y in [_y(tick, most)]
    ]
    for at, of in enumerate(courses):
        points = " ".join(f"{_LEFT + (width - _LEFT) * x / last:.1f},{_y(y, most):.1f}" for x, y in of[0]["points"])
        # Where lines lie on one another the first is seen on both sides of those above it.
        stroke = f'stroke="var({_COLOURS[at % len(_COLOURS)]})" stroke-width="{2 + 2 * (len(courses) - 1 - at)}"'
        parts.append(
            f'<polyline fill="none" stroke-linejoin="round" {stroke} points="{points}">'
            f"<title>{escape(lane_names(of))}: at most {of[0]['peak']}</title></polyline>"
        )
    for x, anchor, words in ((_LEFT, "start", "0"), (width, "end", f"{last} operations")):
        parts.append(
            f'<text class="soft" x="{x}" y="{_HEIGHT - 8}" text-anchor="{anchor}" font-size="12">{words}</text>'
        )
    said = f"the number of VMAs over {last} operations, at most {most}"
    return f'<svg class="{kind}" viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def _ticks(most: int) -> list[int]:
    """Round numbers from 0 to at most `most`, about four."""
    step = next(step for power in range(20) for step in (10**power, 2 * 10**power, 5 * 10**power) if most < 5 * step)
    return list(range(0, most + 1, step))


def _y(value: float, most: float) -> float:
    return _ABOVE + (_HEIGHT - _BELOW - _ABOVE) * (1 - value / most)


def _key(courses: Sequence[Sequence[LaneReport]]) -> Markup:
    items = "".join(
        f'<li><i style="background: var({_COLOURS[at % len(_COLOURS)]})"></i>{escape(lane_names(of))}</li>'
        for at, of in enumerate(courses)
    )
    return Markup(f'<ul class="key">{items}</ul>\n')


_PROGRAMS = ("program", "processes", "operations", "peak", "at the end", "merged", "not merged", "mapped",
             "KSM may look at")  # fmt: skip


def _programs(lane: LaneReport) -> Markup:
    rows = [
        (
            Cell(p["path"] or "not seen to begin"),
            *map(_number, (p["processes"], p["operations"], p["peak"], p["vmas"], p["merged"])),
            _number(sum(p["missed"].values())),
            Cell(size(p["mapped"]), p["mapped"]),
            Cell(size(p["mergeable"]), p["mergeable"]),
        )
        for p in lane["programs"]
    ]
    caption = "Programs; peak, at the end, mapped and KSM are of the process that had most VMAs"
    return page.table(caption, _PROGRAMS, rows)


def _number(value: int) -> Cell:
    return Cell(str(value), value)


def _why(lane: LaneReport, reasons: dict[str, Reason]) -> Iterator[Markup]:
    rows = [
        (Cell(name), _number(missed), _number(largest), Cell(text), Cell(source, mono=True))
        for name, missed, largest, text, source in why(lane, reasons)
    ]
    if rows:
        names = ("rule", "missed", "in the largest", "because", "source")
        yield page.table("Why neighbours are two: merges missed, pairs apart at the end of the largest", names, rows)
