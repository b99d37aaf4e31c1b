"""bench.table: rows as text. In: headings and cells. Out: aligned columns, or Markdown. Never measures."""

import sys
from collections.abc import Sequence

__all__ = ["show"]

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """A table whose first column is text and whose other columns are figures."""
    return _markdown(title, headings, rows) if markdown else _aligned(title, headings, rows)


def _markdown(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in headings[1:])]
    lines = ("| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows))
    return f"**{title}**\n\n" + "\n".join(lines) + "\n"


def _aligned(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cells[column]) for cells in (headings, *rows)) for column in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join((first, *rest)).rstrip()

    on, off = (_BOLD, _PLAIN) if sys.stdout.isatty() else ("", "")
    return "\n".join((f"{on}{title}{off}", line(headings), *map(line, rows))) + "\n"
