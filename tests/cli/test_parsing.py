"""The values that options take."""

import argparse
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.cli.parsing import assignment, byte_count, octal, one_line, seconds


@given(st.integers(0, 2**40), st.sampled_from(["", "K", "M", "G", "k", "m", "g"]))
def test_byte_counts(number: int, suffix: str) -> None:
    """A number with a suffix is that many powers of 1024."""
    assert byte_count(f"{number}{suffix}") == number * 1024 ** " KMG".index(suffix.upper() or " ")


@given(st.text(max_size=6))
def test_any_text_is_taken_or_refused(text: str) -> None:
    """No text makes a parser fail in another way than by its own refusal."""
    for parse in (byte_count, octal, assignment, seconds):
        with suppress(argparse.ArgumentTypeError):
            parse(text)


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    """What is printed of any text is one printable line, and plain text is printed as it is."""
    line = one_line(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    if text.isprintable():
        assert line == text


@pytest.mark.parametrize("text", ["1_0", "١", "1e3", "0x10", "KK", "1KK", "K", ""])  # noqa: RUF001
def test_odd_numbers_are_refused(text: str) -> None:
    """Only digits make a number of bytes: nothing that int() takes beyond them."""
    with pytest.raises(argparse.ArgumentTypeError):
        byte_count(text)
