"""report.columns: tables and colours for a terminal, plain text for a pipe. In: rows of text. Out: lines."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["PLAIN", "Ink", "columns", "plain", "size", "wrapped"]

_CODES = {"r": "34", "rx": "33", "rw": "32", "rwx": "35", "none": "90", "good": "32", "warn": "33", "bad": "31"}
_CODES |= {"strong": "1", "soft": "2", "error": "31", "warning": "33", "cost": "33", "note": "2"}


class Ink(NamedTuple):
    """Whether colours are shown."""

    on: bool

    def __call__(self, name: str, text: str) -> str:
        """The text in the colour of that name: a permission's, a severity's, or `strong`, `soft`."""
        return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if self.on and text else text


PLAIN = Ink(False)


def plain(text: str) -> str:
    """With what a terminal would not print, in the name of a file say, written as escapes; a byte that is no UTF-8
    (PEP 383) as itself: `\\xe9`."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(c: str) -> str:
    return f"\\x{ord(c) - 0xDC00:x}" if "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode()


def size(value: int) -> str:
    """Bytes, for people: `4 KiB`, `1.3 MiB`, `17 B`."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= unit:
            number = value / unit
            return f"{number:.0f} {name}" if value % unit == 0 or number >= 100 else f"{number:.1f} {name}"
    return f"{value} B"


def columns(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "", ink: Ink = PLAIN) -> list[str]:
    """Aligned columns below their names. `right` has an `r` for each column that stands to the right: ` r r`.

    The last column is not padded, so that a long path makes no other line longer.
    """
    body = [[plain(field) for field in row] for row in rows]
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    sides = f"{right:{len(head)}}"

    def line(fields: Sequence[str]) -> str:
        parts = (f"{f:>{w}}" if s == "r" else f"{f:{w}}" for f, w, s in zip(fields, widths, sides, strict=True))
        return "  ".join(parts).rstrip()

    return [ink("soft", line(head)), *map(line, body)]


def wrapped(text: str, width: int, indent: str) -> list[str]:
    """Lines of at most `width` columns, `indent` in front of each; a word longer than that keeps its line."""
    import textwrap

    room = max(20, width - len(indent))
    return [indent + line for line in textwrap.wrap(plain(text), room, break_long_words=False, break_on_hyphens=False)]
