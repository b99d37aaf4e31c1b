"""report.replay_html: `elfolio replay` as a page to look at. In: its Report. Out: one HTML file's text."""

from collections.abc import Iterator, Sequence
from html import escape

from elfolio.report import page
from elfolio.report.columns import size
from elfolio.report.page import Cell, Markup
from elfolio.report.replay import LaneReport, Report
from elfolio.report.replay_text import lane_name, side_by_side

__all__ = ["as_html"]

_COLOURS = ("--rx", "--r", "--rw", "--rwx", "--accent", "--none")
_WIDTH, _HEIGHT, _LEFT, _BELOW = 1000, 260, 60, 24


def as_html(report: Report) -> str:
    """The whole page."""
    return page.render(f"replay {report['trace']}", _lead(report), _parts(report))


def _lead(report: Report) -> str:
    peaks = ", ".join(f"{lane['peak']} under {lane_name(lane)}" for lane in report["lanes"])
    return f"{report['calls']} calls that concern memory. The most VMAs at a time: {peaks}."


def _parts(report: Report) -> Iterator[Markup]:
    yield page.facts(
        [
            ("format", report["format"]),
            ("lines", str(report["lines"])),
            ("not read", str(report["unreadable"])),
            ("page faults known", report["faults"]),
        ]
    )
    yield page.heading("VMAs over time")
    yield page.figure(_chart(report["lanes"]), "VMAs of all processes together, by operation.")
    yield _key(report["lanes"])
    yield page.heading("Side by side")
    names, *rows = side_by_side(report)
    yield page.table("Policies", names, rows)
    for lane in report["lanes"]:
        yield page.heading(lane_name(lane))
        yield _programs(lane)
        yield _why(lane, report)
    if report["problems"]:
        yield page.heading("Not read")
        yield page.code("\n".join(report["problems"]))


def _chart(lanes: Sequence[LaneReport]) -> Markup:
    most = max((lane["peak"] for lane in lanes), default=1) or 1
    last = max((lane["operations"] for lane in lanes), default=1) or 1
    parts = [
        f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH}" y2="{y:.1f}" stroke="var(--line)"/>'
        f'<text class="soft" x="0" y="{y + 4:.1f}" font-size="12">{round(most * part)}</text>'
        for part in (0, 0.5, 1)
        for y in [_y(most * part, most)]
    ]
    for at, lane in enumerate(lanes):
        points = " ".join(f"{_x(x, last):.1f},{_y(y, most):.1f}" for x, y in lane["points"])
        parts.append(
            f'<polyline fill="none" stroke="var({_COLOURS[at % len(_COLOURS)]})" stroke-width="2" points="{points}">'
            f"<title>{escape(lane_name(lane))}: at most {lane['peak']}</title></polyline>"
        )
    parts.append(f'<text class="soft" x="{_LEFT}" y="{_HEIGHT - 6}" font-size="12">0</text>')
    label = (
        f'<text class="soft" x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end" font-size="12">{last} operations</text>'
    )
    said = f"the number of VMAs over {last} operations, at most {most}"
    return Markup(f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">{"".join(parts)}{label}</svg>')


def _x(value: float, last: float) -> float:
    return _LEFT + (_WIDTH - _LEFT) * value / last


def _y(value: float, most: float) -> float:
    return 10 + (_HEIGHT - _BELOW - 20) * (1 - value / most)


def _key(lanes: Sequence[LaneReport]) -> Markup:
    items = "".join(
        f'<li><i style="background: var({_COLOURS[at % len(_COLOURS)]})"></i>{escape(lane_name(lane))}</li>'
        for at, lane in enumerate(lanes)
    )
    return Markup(f'<ul class="key">{items}</ul>\n')


def _programs(lane: LaneReport) -> Markup:
    names = (
        "program",
        "processes",
        "operations",
        "peak",
        "at the end",
        "merged",
        "not merged",
        "mapped",
        "KSM may look at",
    )
    rows = [
        (
            Cell(p["path"] or "not seen to begin"),
            Cell(str(p["processes"]), p["processes"]),
            Cell(str(p["operations"]), p["operations"]),
            Cell(str(p["peak"]), p["peak"]),
            Cell(str(p["vmas"]), p["vmas"]),
            Cell(str(p["merged"]), p["merged"]),
            Cell(str(sum(p["missed"].values())), sum(p["missed"].values())),
            Cell(size(p["mapped"]), p["mapped"]),
            Cell(size(p["mergeable"]), p["mergeable"]),
        )
        for p in lane["programs"]
    ]
    return page.table("Programs", names, rows)


def _why(lane: LaneReport, report: Report) -> Markup:
    known = report["reasons"]
    rows = [
        (
            Cell(name),
            Cell(str(count), count),
            Cell(known[name]["text"] if name in known else ""),
            Cell(known[name]["source"] if name in known else "", mono=True),
        )
        for name, count in lane["missed"].items()
    ]
    return page.table("Merges that did not come about", ("rule", "times", "because", "source"), rows)
