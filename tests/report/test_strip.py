"""report.strip and report.columns: what a terminal shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.report.columns import Ink, columns, plain, size, wrapped
from elfolio.report.strip import strip
from elfolio.span import Span


def test_a_letter_a_page_where_they_fit() -> None:
    """Each page has its own letter, and what no mark covers the rest's."""
    marks = [(Span(0, 8192), "r"), (Span(12288, 16384), "x")]
    assert strip(marks, Span(0, 20480), 4096, 80, "xr") == ("rr.x.", 4096)


def test_the_letter_that_matters_wins_a_shared_place() -> None:
    """Where a letter stands for several pages, the first in the order is shown."""
    marks = [(Span(0, 40960), "r"), (Span(8192, 12288), "x")]
    line, step = strip(marks, Span(0, 40960), 4096, 5, "xr")
    assert (line, step) == ("rxrrr", 8192)


@given(st.integers(1, 1 << 40), st.integers(1, 200), st.sampled_from([4096, 65536]))
def test_a_strip_is_never_wider_than_asked(length: int, width: int, unit: int) -> None:
    """Whatever the length, the line fits, and its letters stand for all of it."""
    line, step = strip([], Span(0, length), unit, width, "")
    assert len(line) <= width
    assert len(line) * step >= length
    assert step % unit == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (4096, "4 KiB"), (3408, "3.3 KiB"), (1 << 21, "2 MiB"), (123 << 20 | 1, "123 MiB")],
)
def test_sizes_are_for_people(value: int, shown: str) -> None:
    """Whole where they are, with one digit where that says something."""
    assert size(value) == shown


def test_columns_stand_under_their_names() -> None:
    """Widths follow the widest field; the last column is not padded; numbers stand to the right."""
    assert columns(("a", "long"), [("1234", "x"), ("5", "y")], right="r ") == ["   a  long", "1234  x", "   5  y"]


def test_a_hostile_name_prints_no_control() -> None:
    """Escape sequences in a file's name reach no terminal."""
    assert plain("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert "\x1b" not in "".join(wrapped("a\x1b[31m b", 40, "  "))
    assert "\x1b" not in "".join(columns(("n",), [("\x1b[2J",)]))


def test_ink_is_shown_only_where_it_is_on() -> None:
    """Nothing is coloured for a pipe."""
    assert Ink(False)("rx", "text") == "text"
    assert Ink(True)("rx", "text") == "\x1b[33mtext\x1b[0m"
