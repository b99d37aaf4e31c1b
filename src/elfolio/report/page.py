"""report.page: one HTML file that needs no network. In: parts, as values. Out: the page's text.

A part is made by one of the functions below and is `Markup`: text that is safe to stand in the page as it is. What
comes from elsewhere, a path or a message, is escaped where a part is made.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NewType

from elfolio.report.assets import SCRIPT, STYLE

__all__ = ["Cell", "Markup", "code", "comparison", "facts", "figure", "heading", "paragraph", "render", "table", "text"]

Markup = NewType("Markup", str)


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of a table: what it shows, and the number that it sorts by where it is one."""

    shown: str
    key: float | None = None
    mark: str | None = None
    """A class of the style: `good`, `warn`, `bad`, or a permission's."""
    mono: bool = False


def text(value: object) -> Markup:
    """Anything, escaped."""
    return Markup(escape(str(value)))


def heading(words: str) -> Markup:
    """A section's title; the page's contents are linked to it."""
    return Markup(f'<h2 id="{_anchor(words)}">{escape(words)}</h2>\n')


def paragraph(words: str) -> Markup:
    """Plain words."""
    return Markup(f"<p>{escape(words)}</p>\n")


def code(words: str) -> Markup:
    """A command or code to type, on lines of its own."""
    return Markup(f"<pre><code>{escape(words)}</code></pre>\n")


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Names and values, side by side."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return Markup(f'<dl class="facts">{rows}</dl>\n')


def figure(picture: Markup, caption: str) -> Markup:
    """A picture with its words."""
    return Markup(f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>\n")


def comparison(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A row for each figure, named in its first field, and a column for each of what is compared; a figure that differs
    from the first is marked."""
    head = "".join(
        f'<th scope="col"{_numeric(at > 0)}>{escape(name) or "<span></span>"}</th>' for at, name in enumerate(columns)
    )
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_compared(value, values[0]) for value in values)}</tr>\n'
        for name, *values in rows
    )
    return _scrolled(caption, head, lines)


def _compared(value: str, first: str) -> str:
    return _cell(Cell(value, mark=None if value in (first, "-") else "warn"), True)


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> Markup:
    """A table that a click on a column's name sorts; a column of numbers stands to the right."""
    body = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    numeric = [bool(body) and all(row[i].key is not None for row in body) for i in range(len(columns))]
    head = "".join(
        f'<th scope="col"{_numeric(right)}><button type="button">{escape(name)}</button></th>'
        for name, right in zip(columns, numeric, strict=True)
    )
    lines = "".join(
        f"<tr>{''.join(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))}</tr>\n" for row in body
    )
    return _scrolled(caption, head, lines)


def _scrolled(caption: str, head: str, lines: str) -> Markup:
    return Markup(
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table></div>\n"
    )


def _cell(cell: Cell, right: bool) -> str:
    names = " ".join(name for name in (cell.mark, "mono" if cell.mono else None, "number" if right else None) if name)
    attributes = f' class="{names}"' if names else ""
    key = f' data-key="{cell.key:.17g}"' if cell.key is not None else ""
    return f"<td{attributes}{key}>{escape(cell.shown)}</td>"


def _numeric(right: bool) -> str:
    return ' class="number"' if right else ""


def _anchor(words: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in words.lower())


def render(title: str, lead: str, parts: Iterable[Markup]) -> str:
    """The whole file: `title` is its name, `lead` the one sentence that says what it found."""
    # The policy is what keeps "needs no network" true: a browser would refuse to fetch.
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>\n'
        f"{''.join(parts)}</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
