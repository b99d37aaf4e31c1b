"""report.survey: a survey for people and for programs. In: Survey, or the columns of a query. Out: text, CSV, JSON."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from elfolio.survey.rows import COLUMNS, COSTS, values

if TYPE_CHECKING:
    from elfolio.survey.rows import Row
    from elfolio.survey.run import Survey

__all__ = ["as_csv", "as_json", "as_table", "as_text", "progress_line", "records_json"]

_TIERS = {None: "", 0: "0 p_align", 1: "1 re-lay", 2: "2 relink"}
_HEAD = ("gain", "had", "most", "remedy", "text", "16K", "64K", "RELRO", "flags", "padding", "linker", "path")
_SHOWN = 20
"""Problems of a kind, in the table."""
_LEFT = frozenset(("remedy", "flags", "linker", "path"))


def as_json(found: "Survey", rows: "Iterable[Row]", sort: str) -> str:
    """One object: the rows in the order given, each with COLUMNS."""
    report = {
        "elfolio": "survey",
        "version": 1,
        "roots": found.roots,
        "sort": sort,
        "files": found.files,
        "seconds": round(found.seconds, 6),
        "rows": [dict(zip(COLUMNS, values(row), strict=True)) for row in rows],
        "problems": [problem._asdict() for problem in found.problems],
    }
    return json.dumps(report)


def as_csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A line of names, then one each row (RFC 4180, but for the line's end)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return out.getvalue()


def records_json(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A query's answer: one object with its rows as objects."""
    records = [dict(zip(names, row, strict=True)) for row in rows]
    return json.dumps({"elfolio": "survey", "version": 1, "columns": list(names), "rows": records}, default=str)


def as_text(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A query's answer in columns, numbers to the right."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    numbers = [all(map(_is_number, column)) for column in zip(*cells, strict=True)] or [False] * len(names)
    left = {name for name, is_number in zip(names, numbers, strict=True) if not is_number}
    return _columns(names, cells, left)


def as_table(found: "Survey", rows: "Sequence[Row]", sort: str, top: int | None = None) -> str:
    """The rows in the order given, at most `top`, and below them what they come to."""
    shown = rows if top is None else rows[:top]
    table = _columns(_HEAD, [_cells(row) for row in shown], _LEFT) if shown else ""
    return table + ("\n" if table else "") + "\n".join(_totals(found, rows, len(shown), sort)) + "\n"


def _cells(row: "Row") -> list[str]:
    s = row.summary
    flags = [
        word for word, holds in (("rwx", s.rwx), ("execstack", row.executable_stack), ("cut", s.truncated)) if holds
    ]
    return [
        str(row.huge_win or ""), str(s.text_had or ""), str(row.huge_possible or ""), _TIERS[s.tier],
        _size(s.text_bytes), _ready(s.loads, s.ready_16k), _ready(s.loads, s.ready_64k), _size(s.relro_bytes),
        ",".join(flags), _size(s.file_padding + s.memory_padding),
        row.linker if row.linker_version is None else f"{row.linker} {row.linker_version}", _printable(row.path),
    ]  # fmt: skip


def _totals(found: "Survey", rows: "Sequence[Row]", shown: int, sort: str) -> list[str]:
    gains = {tier: [row for row in rows if row.summary.tier == tier] for tier in (0, 1, 2)}
    lines = [f"{len(rows):,} ELF files of {found.files:,}, by {COSTS[sort][0]}"]
    if shown < len(rows):
        lines[0] += f"; {len(rows) - shown:,} not shown"
    remedies = ("editing p_align", "re-laying the file", "relinking")
    for tier, remedy in enumerate(remedies):
        if gains[tier]:
            pages = sum(row.huge_win for row in gains[tier])
            lines.append(f"{len(gains[tier]):,} gain {pages:,} huge pages for text by {remedy} (tier {tier})")
    linked = [row for row in rows if row.summary.loads]
    unready = [sum(not getattr(row.summary, field) for row in linked) for field in ("ready_16k", "ready_64k")]
    lines.append(f"not ready for pages of 16 KiB: {unready[0]:,}, of 64 KiB: {unready[1]:,}")
    lines.append(
        f"a segment both writable and executable: {sum(row.summary.rwx for row in rows):,}, "
        f"an executable stack: {sum(row.executable_stack for row in rows):,}"
    )
    for kind in ("unreadable", "malformed", "gone"):
        those = [problem for problem in found.problems if problem.kind == kind]
        lines += [f"{kind}: {len(those):,}"] if those else []
        lines += [f"  {_printable(problem.path)}: {_printable(problem.reason)}" for problem in those[:_SHOWN]]
        lines += ["  ... --format json lists them all"] if len(those) > _SHOWN else []
    return lines


def _columns(names: Sequence[str], cells: Sequence[Sequence[str]], left: Iterable[str]) -> str:
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    aligned = [name in left for name in names]
    lines = []
    for row in (names, *cells):
        padded = (c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(row, widths, aligned, strict=True))
        lines.append("  ".join(padded).rstrip() + "\n")
    return "".join(lines)


def _ready(loads: int, ready: bool) -> str:
    """What has no segment is mapped by nothing."""
    return "" if not loads else "yes" if ready else "no"


def _is_number(cell: str) -> bool:
    return not cell or cell.lstrip("-").replace(".", "", 1).isdigit()


def _size(count: int) -> str:
    """Bytes in the largest unit that leaves a number above 1: `3.4M`."""
    amount, unit = float(count), ""
    for larger in "KMG":
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return "" if not count else f"{amount:.1f}{unit}" if unit and amount < 100 else f"{amount:.0f}{unit}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def progress_line(done: int, total: int, elves: int, width: int) -> str:
    """A bar of the terminal's width, less one column: a full line would wrap."""
    counts = f" {done:,} of {total:,} files, {elves:,} ELF"
    room = max(0, min(40, width - len(counts) - 3))
    filled = room * done // total if total else room
    return f"[{'#' * filled}{'.' * (room - filled)}]{counts}"[: max(0, width - 1)]
