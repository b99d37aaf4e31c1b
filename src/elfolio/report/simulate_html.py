"""report.simulate_html: `elfolio simulate folios` as a page. In: its Report, cells. Out: one HTML file's text."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby

from elfolio.kernel.buddy import BLOCK, PAGE, PMD_ORDER
from elfolio.kernel.memory_life import CELLS
from elfolio.report import page
from elfolio.report.columns import size
from elfolio.report.page import Cell, Markup
from elfolio.report.simulate import GROUPS, LoadRow, PolicyRow, Report, calibration, checked, groups

__all__ = ["as_html"]


def _paler(name: str) -> str:
    return f"color-mix(in srgb, var({name}) 45%, var(--paper))"


_COLOURS = {
    **{"F": "var(--good)", "f": "var(--o-huge)", "B": "var(--accent)", "C": "var(--warn)", "A": "var(--rx)"},
    **{"x": "var(--o-small)", "k": "var(--bad)", "h": "var(--rwx)"},
    **{"b": _paler("--accent"), "c": "var(--o-middle)", "a": _paler("--rx")},
}
_LINES = ("var(--accent)", "var(--rx)", "var(--good)", "var(--none)", "var(--rwx)", "var(--bad)")
_WIDE, _MOST, _SIDE = 128, 4096, 6


def as_html(report: Report, cells: Mapping[str, str]) -> str:
    """The whole page; `cells` has a letter for each page block after the last load, by policy."""
    parts = [*_answers(report), *_curves(report)]
    for policy in report["policies"]:
        parts += _policy(policy, cells[policy["name"]])
    parts += _notes(report)
    title = f"simulate folios: {size(report['memory'])}, a file of {size(report['file'])}"
    return page.render(title, _lead(report), parts)


def _lead(report: Report) -> str:
    shares = (f"{one['loads'][-1]['huge']:.0%} under {one['name']}" for one in report["policies"])
    return f"Of the file in folios of 2 MiB, at the end: {', '.join(shares)}."


def _answers(report: Report) -> Iterator[Markup]:
    if report["answers"]:
        yield page.heading("What the discussion asked")
        rows = [
            (Cell(one["question"], mark="prose"), Cell(one["asked"]), Cell(one["answer"], mark="prose"))
            for one in report["answers"]
        ]
        yield page.table("Each answered by these runs of one seed", ("question", "asked by", "answer"), rows)


def _curves(report: Report) -> Iterator[Markup]:
    """The share in folios of 2 MiB over the moment of the load: a line for each policy."""
    width, height, left = 640, 220, 36
    ticks = [one["tick"] for one in report["policies"][0]["loads"]]
    last = ticks[-1] or 1
    parts = [_rule(left, width, height, share) for share in (0, 0.25, 0.5, 0.75, 1)]
    for policy, colour in zip(report["policies"], _LINES, strict=False):
        points = [
            (left + one["tick"] / last * (width - left - 8), _level(one["huge"], height)) for one in policy["loads"]
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{escape(policy["name"])}, tick '
            f"{one['tick']}: {one['huge']:.0%}</title></circle>"
            for (x, y), one in zip(points, policy["loads"], strict=True)
        ]
    yield page.heading("Over the moment of the load")
    names = [(one["name"], colour) for one, colour in zip(report["policies"], _LINES, strict=False)]
    yield _key(names)
    caption = f"Share of the file in folios of 2 MiB, by the tick after which it is loaded: 0 to {ticks[-1]}."
    yield page.figure(_svg(width, height, "".join(parts), caption), caption)


def _level(share: float, height: int) -> float:
    return 8 + (1 - share) * (height - 16)


def _rule(left: int, width: int, height: int, share: float) -> str:
    y = _level(share, height)
    return (
        f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
        f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end" font-size="10" fill="var(--soft)">{share:.0%}</text>'
    )


def _svg(width: int, height: int, inside: str, label: str) -> Markup:
    box = f'viewBox="0 0 {width} {height}" style="width: 100%"'
    return Markup(f'<svg {box} role="img" aria-label="{escape(label)}">{inside}</svg>')


def _key(entries: Sequence[tuple[str, str]]) -> Markup:
    items = "".join(f'<li><i style="background: {colour}"></i>{escape(words)}</li>' for words, colour in entries)
    return Markup(f'<ul class="key">{items}</ul>\n')


def _policy(policy: PolicyRow, cells: str) -> Iterator[Markup]:
    yield page.heading(policy["name"])
    yield page.paragraph(f"{policy['meaning'].capitalize()}.")
    yield _key([(words, _COLOURS[letter]) for letter, words in CELLS.items() if letter in cells])
    yield _picture(cells, policy["name"])
    head = (
        "tick",
        *(name for name, _, _ in GROUPS),
        "free",
        "free 2M",
        "reclaimed",
        "others lost",
        "moved",
        "stalls",
        "failed 2M",
    )
    rows = [_row(one) for one in policy["loads"]]
    yield page.table("The file's shares by size of folio, and what they cost", head, rows)


def _picture(cells: str, name: str) -> Markup:
    step = -(-len(cells) // _MOST)
    shown = cells[::step]
    rows = [shown[at : at + _WIDE] for at in range(0, len(shown), _WIDE)]
    parts = []
    for y, row in enumerate(rows):
        x = 0
        for letter, group in groupby(row):
            long = sum(1 for _ in group)
            parts.append(
                f'<rect x="{x * _SIDE}" y="{y * _SIDE}" width="{long * _SIDE - 0.5}" height="{_SIDE - 0.5}" '
                f'style="fill: {_COLOURS[letter]}"><title>{escape(CELLS[letter])}: {long * step} blocks</title></rect>'
            )
            x += long
    caption = f"Memory after the last load, from the bottom: a cell is {size(step * BLOCK * PAGE)}"
    caption += f", as its first block of {size(BLOCK * PAGE)} is." if step > 1 else "."
    drawn = _svg(_WIDE * _SIDE, len(rows) * _SIDE, "".join(parts), f"{name}: memory after the load")
    return page.figure(drawn, caption)


def _row(one: LoadRow) -> tuple[Cell, ...]:
    reclaimed = one["reclaimed_background"] + one["reclaimed_direct"]
    failed, tried = one["failed"][PMD_ORDER], one["tried"][PMD_ORDER]
    return (
        Cell(str(one["tick"]), one["tick"]),
        *(Cell(f"{share:.0%}", share) for share in groups(one)),
        Cell(size(one["free"]), one["free"]),
        Cell(str(one["free_huge"]), one["free_huge"]),
        Cell(size(reclaimed), reclaimed),
        Cell(size(one["lost"]), one["lost"]),
        Cell(str(one["moved"]), one["moved"]),
        Cell(str(one["stalls"]), one["stalls"]),
        Cell(f"{failed} of {tried}", failed),
    )


def _notes(report: Report) -> Iterator[Markup]:
    yield page.heading("Not faithful")
    for one in report["left_out"]:
        yield page.paragraph(f"{one.capitalize()}.")
    yield page.paragraph(calibration(report))
    yield page.paragraph(checked(report["check"]))
