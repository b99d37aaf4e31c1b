"""report.observe_html: `elfolio observe` as a page to look at. In: its Report, pictures. Out: one HTML file's text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from elfolio.kernel.folio import UNSEEN, Kind, Run
from elfolio.report import observe as rows
from elfolio.report import page
from elfolio.report.columns import size
from elfolio.report.explain_text import kind
from elfolio.report.observe_files import FileRow, why
from elfolio.report.observe_text import behind, by_order
from elfolio.report.page import Cell, Markup
from elfolio.report.rails import Area, Rail, draw_alone
from elfolio.span import Span

if TYPE_CHECKING:
    from elfolio.live.observed import Picture

__all__ = ["SHADES", "as_html"]

_MOST_RAILS = 120
"""Objects that are drawn; the table has all."""


class _Sizes(NamedTuple):
    """In bytes."""

    page: int
    huge: int


def as_html(report: rows.Report, pictures: "Mapping[int, Sequence[Picture]]") -> str:
    """The whole page."""
    parts: list[Markup] = []
    if report["processes"] and report["processes"][0]["mappings"] is None:
        parts += _table(report)
    parts += _files(report)
    sizes = _Sizes(report["page"], report["huge_page"])
    for process in report["processes"]:
        if process["mappings"] is not None:
            parts += _process(process, process["mappings"], pictures.get(process["pid"], ()), sizes)
    return page.render(f"observe {_title(report)}", _lead(report), parts)


def _title(report: rows.Report) -> str:
    if len(report["processes"]) > 3:
        return f"{len(report['processes'])} processes"
    return ", ".join(f"{one['pid']} {one['name']}" for one in report["processes"])


def _lead(report: rows.Report) -> str:
    """The one sentence: huge pages had, and lost."""
    there, huge, lost = (sum(one[name] for one in report["processes"]) for name in ("rss", "huge", "lost"))
    said = f"{size(huge)} of {size(there)} are mapped by huge pages; whole blocks of files that are not: {size(lost)}."
    worst = report["files"][0] if report["files"] and report["files"][0]["lost"] else None
    return f"{said} Most of it: {worst['path']}." if worst else said


def _process(
    process: rows.Process, mappings: Sequence[rows.Mapping], pictures: "Sequence[Picture]", sizes: _Sizes
) -> Iterator[Markup]:
    found = process["folios"]
    yield page.heading(f"Process {process['pid']} {process['name']}")
    yield page.paragraph(f"{behind(found)}.")
    if process["hidden"]:
        yield page.paragraph(f"Not seen: {process['hidden']}.")
    yield page.facts(
        [
            ("VMAs", f"{process['vmas']} of at most {process['max_map_count']}"),
            ("mapped", size(process["mapped"])),
            ("there", size(process["rss"])),
            ("by huge pages", size(process["huge"])),
            ("page tables", size(process["page_tables"])),
            ("lost", size(process["lost"])),
        ]
    )
    yield from _pictures(mappings, pictures, sizes)
    yield _orders(process)
    yield _mappings(mappings)


SHADES = (
    ("page", "folios of one page"),
    ("small", "up to 32 KiB"),
    ("middle", "64 KiB and more"),
    ("huge", "as large as a huge page"),
    ("pmd", "and mapped as one"),
    ("unseen", "order hidden"),
    ("zero", "the zero page"),
    ("swapped", "swapped out"),
    ("absent", "nothing there"),
)
"""A style's name, and its words."""


def _shade(run: Run | None, sizes: _Sizes) -> str:
    if run is None:
        return "absent"
    for bit, name in ((Kind.SWAPPED, "swapped"), (Kind.ZERO, "zero"), (Kind.PMD, "pmd")):
        if run.kind & bit:
            return name
    if run.order == UNSEEN:
        return "unseen"
    folio = sizes.page << run.order
    if run.order == 0:
        return "page"
    return "huge" if folio >= sizes.huge else "middle" if folio >= 65536 else "small"


def _pictures(mappings: Sequence[rows.Mapping], pictures: "Sequence[Picture]", sizes: _Sizes) -> Iterator[Markup]:
    """A rail for each object: neighbours of one name, with the gaps between them."""
    if not pictures:
        return
    groups = [
        list(group) for _, group in groupby(zip(mappings, pictures, strict=True), key=lambda pair: pair[0]["name"])
    ]
    ranked = sorted(groups, key=lambda group: -sum(m["rss"] for m, _ in group))
    kept = {id(group) for group in ranked[:_MOST_RAILS]}
    widest = max((sum(m["end"] - m["start"] for m, _ in group) for group in groups), default=1)
    yield _key()
    rails = []
    for group in (one for one in groups if id(one) in kept):
        whole = sum(m["end"] - m["start"] for m, _ in group)
        name = group[0][0]["name"] or "anonymous"
        rail = Rail(f"{group[0][0]['start']:x}  {name}, {size(whole)}", tuple(_area(m, p, sizes) for m, p in group))
        rails.append(
            draw_alone(rail, max(0.12, (whole / widest) ** 0.5), f"{name}: {len(group)} mappings and their folios")
        )
    caption = "The address space from its beginning: each object's mappings by permission, below them their folios by "
    caption += "order. Lengths grow with the square root of the size."
    if len(groups) > len(rails):
        caption += f" The {len(rails)} objects with most there; {len(groups) - len(rails)} more are in the table."
    yield page.figure(Markup("".join(rails)), caption)


def _key() -> Markup:
    permissions = (("--r", "r--"), ("--rx", "r-x"), ("--rw", "rw-"), ("--none", "---"))
    folios = [(f"--o-{name}", words) for name, words in SHADES]
    return Markup(_entries("Mappings, above:", permissions) + _entries("Folios, below:", folios))


def _entries(title: str, entries: Iterable[tuple[str, str]]) -> str:
    items = "".join(f'<li><i style="background: var({name})"></i>{escape(words)}</li>' for name, words in entries)
    return f'<ul class="key"><li>{title}</li>{items}</ul>\n'


def _area(m: rows.Mapping, picture: "Picture", sizes: _Sizes) -> Area:
    whole = Span(m["start"], m["end"])
    note = f"{m['start']:x}-{m['end']:x} {m['perms']} {m['name']}: {size(whole.size)}, {size(m['rss'])} there"
    orders = by_order(m["folios"])
    note += f"; by order {orders}" if orders else ""
    note += "".join(
        f"; blocks of {size(one['block'])}: {why(one)}" for one in m["blocks"] if not one["copied"] and why(one)
    )
    return Area(whole, kind(m["perms"]), f"{m['perms']} {size(whole.size)}", note, tuple(_bands(m, picture, sizes)))


def _bands(m: rows.Mapping, picture: "Picture", sizes: _Sizes) -> Iterator[tuple[Span, str, str]]:
    """Neighbouring cells of one shade as one."""
    words = dict(SHADES)
    at = m["start"]
    for shade, group in groupby(picture.runs, key=lambda run: _shade(run, sizes)):
        end = min(m["end"], at + sum(1 for _ in group) * picture.cell)
        yield Span(at, end), f"o-{shade}", f"{at:x}, {size(end - at)}: {words[shade]}"
        at = end


def _orders(process: rows.Process) -> Markup:
    whole = sum(one["bytes"] for one in process["folios"]["orders"]) or 1
    found = [
        (
            Cell("hidden" if one["folio"] is None else str(one["order"]), one["order"]),
            Cell("" if one["folio"] is None else size(one["folio"]), one["folio"] or 0),
            Cell(str(one["folios"]), one["folios"]),
            Cell(size(one["bytes"]), one["bytes"]),
            Cell(f"{100 * one['bytes'] / whole:.1f}%", one["bytes"]),
        )
        for one in process["folios"]["orders"]
    ]
    return page.table("Folios behind its mappings", ("order", "folio", "folios", "bytes", "share"), found)


def _mappings(mappings: Sequence[rows.Mapping]) -> Markup:
    found = [
        (
            Cell(f"{m['start']:x}-{m['end']:x}", m["start"], mono=True),
            Cell(m["perms"], mono=True),
            Cell(f"{m['offset']:#x}", m["offset"], mono=True),
            Cell(size(m["end"] - m["start"]), m["end"] - m["start"]),
            Cell(size(m["rss"]), m["rss"]),
            Cell(size(m["anonymous"]), m["anonymous"]),
            Cell(size(m["huge"]), m["huge"]),
            Cell(by_order(m["folios"])),
            Cell(m["below"]["rule"] if m["below"] is not None else ""),
            Cell(m["name"]),
        )
        for m in mappings
    ]
    names = ("addresses", "perms", "offset", "size", "there", "anonymous", "huge", "folios by order", "two because")
    return page.table("Mappings", (*names, "name"), found)


def _files(report: rows.Report) -> Iterator[Markup]:
    if not report["files"]:
        return
    yield page.heading(f"Whole blocks of {size(report['huge_page'])} of files")
    names = ("file", "lost", "blocks", "mapped", "could", "folio there", "processes", "what keeps them", "remedy")
    yield page.table(f"Under {report['policy']}, the most lost first", names, [_file(one) for one in report["files"]])


def _file(one: FileRow) -> tuple[Cell, ...]:
    return (
        Cell(one["path"], mark="prose"),
        Cell(size(one["lost"]), one["lost"], mark="warn" if one["lost"] else "good"),
        Cell(str(one["blocks"]), one["blocks"]),
        Cell(str(one["mapped"]), one["mapped"]),
        Cell(str(one["could"]), one["could"]),
        Cell(str(one["now"]), one["now"]),
        Cell(str(one["processes"]), one["processes"]),
        Cell(why(one), mark="prose"),
        Cell(one["remedy"], mark="prose"),
    )


def _table(report: rows.Report) -> Iterator[Markup]:
    names = ("pid", "name", "VMAs", "there", "anonymous", "files", "huge", "lost", "page tables", "folios by order")
    found = [
        (
            Cell(str(one["pid"]), one["pid"]),
            Cell(one["name"]),
            Cell(str(one["vmas"]), one["vmas"]),
            Cell(size(one["rss"]), one["rss"]),
            Cell(size(one["folios"]["anonymous"]), one["folios"]["anonymous"]),
            Cell(size(one["folios"]["file"]), one["folios"]["file"]),
            Cell(size(one["huge"]), one["huge"]),
            Cell(size(one["lost"]), one["lost"]),
            Cell(size(one["page_tables"]), one["page_tables"]),
            Cell(by_order(one["folios"])),
        )
        for one in report["processes"]
    ]
    yield page.heading("Processes")
    yield page.table("Those with memory, by number", names, found)
