"""report.explain_html: `elfolio explain` as a page to look at. In: its Report. Out: one HTML file's text."""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from elfolio.kernel.policy import SWITCHES
from elfolio.report import page
from elfolio.report.columns import size
from elfolio.report.explain import BlockRow, FindingRow, Report, Segment, Under
from elfolio.report.explain_text import OBSTACLES, bias_sentence, counted_blocks, kind, side_by_side
from elfolio.report.page import Cell, Markup
from elfolio.report.rails import Area, Link, Rail, draw
from elfolio.span import Span

__all__ = ["as_html"]

_GRAVITY = {"error": "bad", "warning": "warn", "cost": "warn", "note": "none"}
_STYLE = {"fault": "good-fill", "collapse": "good-fill", "none": "bad-fill"}


def as_html(report: Report) -> str:
    """The whole page."""
    parts = [*_file(report)]
    if report["compared"]:
        parts += [page.heading("Side by side"), _side_by_side(report)]
    for under in (report, *report["compared"]):
        parts += _under(under, report)
    if report["relink"]:
        parts += _relinked(report)
    if report["verify"] is not None:
        parts += _verified(report)
    return page.render(f"explain {report['path']}", _lead(report), parts)


def _side_by_side(report: Report) -> Markup:
    names, *rows = side_by_side(report)
    rules = [(*row, SWITCHES[row[0]].what if row[0] in SWITCHES else "") for row in rows]
    return page.table("What differs", (*names, "the rule"), rules)


def _lead(report: Report) -> str:
    """The one sentence: huge pages had, and the first thing to do."""
    readable, could = counted_blocks(report["blocks"], report["rules"]["huge_page"])
    huge = size(report["rules"]["huge_page"])
    said = f"{could} of {len(readable)} blocks of {huge} could be huge mappings under {report['policy']}."
    first = next((f for f in report["findings"] if f["severity"] != "note"), None)
    return f"{said} {first['message']}" if first else said


def _file(report: Report) -> Iterator[Markup]:
    yield page.facts(
        [
            ("type", f"{report['bits']}-bit {report['machine']}, {report['type']}"),
            ("size", size(report["size"])),
            ("linker", report["linker"]),
            ("linked as", report["linked_as"]),
            ("interpreter", report["interpreter"] or "none"),
            ("build id", report["build_id"] or "none"),
        ]
    )


def _under(under: Under, report: Report) -> Iterator[Markup]:
    rules = under["rules"]
    yield page.heading(f"Under {under['policy']}")
    yield page.paragraph(bias_sentence(under))
    yield page.figure(_picture(under, report), _CAPTION)
    yield _key()
    yield page.facts(
        [
            ("pages", f"{size(rules['page_size'])}, huge {size(rules['huge_page'])}"),
            ("file system", f"{rules['fs']}, folios up to {size(rules['largest_folio'])}"),
            ("C library", rules["libc"]),
            ("random bits of the load bias", "none" if under["random_bits"] is None else str(under["random_bits"])),
        ]
    )
    if under["findings"]:
        yield Markup("<h3>Findings</h3>")
        yield from map(_finding, under["findings"])
    yield _segments(under)
    yield _mappings(under)
    if under["blocks"]:
        yield _block_table(under)


_CAPTION = (
    "Above, the file by offset; below, the program in memory by address; each to scale within an area. The band below "
    "memory shows each block of a huge page's size."
)


def _key() -> Markup:
    entries = (
        ("--r", "r--"), ("--rx", "r-x"), ("--rw", "rw-"), ("--none", "no segment; no huge mapping"),
        ("--good", "could be a huge mapping"),
    )  # fmt: skip
    items = "".join(f'<li><i style="background: var({name})"></i>{escape(words)}</li>' for name, words in entries)
    return Markup(f'<ul class="key">{items}</ul>\n')


def _picture(under: Under, report: Report) -> Markup:
    segments = [s for s in under["segments"] if s["memsz"]]
    file = Rail("file offset", tuple(_file_areas(segments, report["size"])))
    memory = Rail("mapped address", tuple(_memory_areas(under, segments)))
    links = [
        Link(
            Span(s["offset"], s["offset"] + s["filesz"]), Span(s["mapped"], s["mapped"] + s["filesz"]), kind(s["perms"])
        )
        for s in segments
        if s["filesz"]
    ]
    said = f"{len(segments)} segments of {report['path']}, from the file to memory"
    return draw(file, memory, links, said)


def _file_areas(segments: Sequence[Segment], file_size: int) -> Iterator[Area]:
    at = 0
    for s in sorted((s for s in segments if s["filesz"]), key=lambda s: s["offset"]):
        start, end = max(s["offset"], at), s["offset"] + s["filesz"]
        if at < start:
            yield Area(Span(at, start), "none", "", f"padding, {size(start - at)}")
        if start < end:
            note = f"segment {s['index']}, {s['perms']}: offset {s['offset']:#x}, {size(s['filesz'])} in the file"
            yield Area(Span(start, end), kind(s["perms"]), f"{s['perms']} {size(end - start)}", note)
            at = end
    if at < file_size:
        yield Area(Span(at, file_size), "none", "not loaded", f"not loaded, {size(file_size - at)}")


def _memory_areas(under: Under, segments: Sequence[Segment]) -> Iterator[Area]:
    at = 0
    for s in sorted(segments, key=lambda s: s["mapped"]):
        start, end = max(s["mapped"], at), s["mapped"] + s["memsz"]
        if start >= end:
            continue
        names = ", ".join(s["sections"])
        note = f"segment {s['index']}, {s['perms']}: {s['mapped']:#x}, {size(s['memsz'])} in memory; {names}"
        yield Area(
            Span(start, end),
            kind(s["perms"]),
            f"{s['perms']} {size(end - start)}",
            note,
            tuple(_bands(under, Span(start, end))),
        )
        at = end


def _bands(under: Under, span: Span) -> Iterator[tuple[Span, str, str]]:
    """Neighbouring blocks of the same kind as one, so that a large program's picture stays small."""
    huge = under["rules"]["huge_page"]
    rows = [b for b in under["blocks"] if b["size"] == huge and span.covers((b["part"][0] + b["part"][1]) // 2)]
    for (way, obstacle), group in groupby(rows, key=lambda b: (b["way"], b["obstacle"])):
        run = list(group)
        if len(run) > 64 or way == "none":
            yield _band(run, span, way, obstacle)
        else:
            for one in run:
                yield _band([one], span, way, obstacle)


def _band(run: Sequence[BlockRow], span: Span, way: str, obstacle: str) -> tuple[Span, str, str]:
    part = Span(run[0]["part"][0], run[-1]["part"][1]).common(span)
    many = f"{len(run)} blocks of {size(run[0]['size'])}" if len(run) > 1 else f"a block of {size(run[0]['size'])}"
    return part, _STYLE[way], f"{many}: {OBSTACLES[obstacle]}"


def _finding(finding: FindingRow) -> Markup:
    cost = f", {size(finding['bytes'])}" if finding["bytes"] else ""
    remedy = f"<pre><code>{escape(finding['remedy'])}</code></pre>" if finding["remedy"] else ""
    return Markup(
        f'<div class="finding {_GRAVITY[finding["severity"]]}"><p>{escape(finding["message"])}</p>'
        f'<p class="cost">{escape(finding["severity"] + cost)}</p>{remedy}</div>\n'
    )


def _segments(under: Under) -> Markup:
    names = ("segment", "perms", "file offset", "in file", "linked", "in memory", "p_align", "mapped", "sections")
    rows = [
        (
            Cell(str(s["index"]), s["index"]),
            Cell(s["perms"], mono=True),
            Cell(f"{s['offset']:#x}", s["offset"], mono=True),
            Cell(size(s["filesz"]), s["filesz"]),
            Cell(f"{s['vaddr']:#x}", s["vaddr"], mono=True),
            Cell(size(s["memsz"]), s["memsz"]),
            Cell(size(s["align"]), s["align"]),
            Cell(f"{s['mapped']:#x}", s["mapped"], mono=True),
            Cell(" ".join(s["sections"])),
        )
        for s in under["segments"]
    ]
    return page.table("PT_LOAD segments", names, rows)


def _mappings(under: Under) -> Markup:
    rows = [
        (
            Cell(when),
            Cell(f"{m['start']:x}-{m['end']:x}", mono=True),
            Cell(m["perms"], mono=True),
            Cell(f"{m['offset']:#x}", m["offset"], mono=True),
            Cell(size(m["end"] - m["start"]), m["end"] - m["start"]),
            Cell(m["name"]),
        )
        for when, mappings in (("first instruction", under["vmas"]), ("linked", under["linked"]))
        for m in mappings
    ]
    return page.table("Mappings", ("at", "addresses", "perms", "file offset", "size", "name"), rows)


_MOST_ROWS = 2000


def _block_table(under: Under) -> Markup:
    rows = [
        (
            Cell(f"{b['start']:#x}", b["start"], mono=True),
            Cell(size(b["size"]), b["size"]),
            Cell(b["perms"], mono=True),
            Cell(f"{b['offset']:#x}", b["offset"], mono=True),
            Cell({"fault": "by a fault", "collapse": "by a collapse", "none": "no"}[b["way"]]),
            Cell(OBSTACLES[b["obstacle"]]),
            Cell(size(b["lost"]), b["lost"]),
        )
        for b in under["blocks"][:_MOST_ROWS]
    ]
    left = len(under["blocks"]) - len(rows)
    caption = "Blocks" if left <= 0 else f"Blocks, the first {_MOST_ROWS}; {left} more are in the JSON"
    names = ("address", "block", "perms", "file offset", "huge mapping", "why", "kept on small pages")
    return page.table(caption, names, rows)


def _relinked(report: Report) -> Iterator[Markup]:
    yield page.heading("Linked otherwise, from the same sections")
    rows = [
        (Cell(one["mode"]), Cell(size(one["size"]), one["size"]), Cell(f"{one['size'] - report['size']:+d}"))
        for one in report["relink"]
    ]
    yield page.table("File sizes", ("mode", "file", "bytes against now"), rows)
    for doubt in dict.fromkeys(doubt for one in report["relink"] for doubt in one["uncertain"]):
        yield page.paragraph(f"Uncertain: {doubt}")


def _verified(report: Report) -> Iterator[Markup]:
    verify = report["verify"]
    yield page.heading("Held against a real process")
    if verify is not None and verify["equal"]:
        yield page.paragraph(f"All {verify['vmas']} mappings are as predicted.")
    elif verify is not None:
        yield page.code("\n".join(verify["differences"]))
