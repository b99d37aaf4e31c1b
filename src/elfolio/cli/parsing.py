"""cli.parsing: what all commands need to read their options. In: words. Out: values, or Failure.

`ArgumentParser` with its habits changed: an error is one line, options are never abbreviated, and the help
has one width, so that the reference in docs/ comes out the same everywhere.
"""

import argparse
import os
from typing import NoReturn

__all__ = ["Failure", "Parser", "assignment", "byte_count", "niceness", "octal", "one_line", "positive", "seconds"]

_SUFFIXES = {"": 0, "K": 10, "M": 20, "G": 30}


class Failure(Exception):
    """Ends a command: one line for stderr, and the exit status."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


class Parser(argparse.ArgumentParser):
    """A command's parser; `prog` is what it is called by."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, add_help=False, allow_abbrev=False, formatter_class=_Help)
        self.color = False  # Python 3.14 would colour the help by the terminal
        # Answered before the words are parsed: argparse would let errors of writing pass (_print_message).
        self.add_argument("--help", action="store_true", help="show this and exit")

    def error(self, message: str) -> NoReturn:
        """Raises Failure: `argument --timeout: ...` or the like, and where to look."""
        raise Failure(f"{message.removeprefix('argument ')}; see {self.prog} --help")


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)


def one_line(text: str) -> str:
    """The text, with what a terminal would not print written as escapes."""
    from elfolio.report.columns import plain

    return plain(text)


def seconds(text: str) -> float:
    """A time above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def byte_count(text: str) -> int:
    """A number of bytes, perhaps with K, M or G for the powers of 1024."""
    digits = text.rstrip("KMGkmg")
    suffix = text[len(digits) :].upper()
    if not (digits.isascii() and digits.isdigit() and suffix in _SUFFIXES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, such as 4096, 64K or 1M")
    return int(digits) << _SUFFIXES[suffix]


def positive(text: str) -> int:
    """A count above zero."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def niceness(text: str) -> int:
    """An increment. From end to end the scale has 40 steps."""
    try:
        value = int(text)
    except ValueError:
        value = 41
    if abs(value) > 40:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from -40 to 40")
    return value


def octal(text: str) -> int:
    """A umask."""
    if not 1 <= len(text) <= 4 or set(text) - set("01234567") or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a mask in octal, such as 022")
    return int(text, 8)


def assignment(text: str) -> tuple[bytes, bytes]:
    """NAME=VALUE."""
    name, equals, value = os.fsencode(text).partition(b"=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
