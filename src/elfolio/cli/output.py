"""cli.output: what standard output is. In: nothing. Out: its width, and whether it shows colours."""

import os
import sys

from elfolio.report.columns import Ink

__all__ = ["width_and_ink"]

_PIPE, _UNKNOWN = 120, 80


def width_and_ink() -> tuple[int, Ink]:
    """A terminal's columns, and its colours unless NO_COLOR is set (no-color.org); a pipe has room, and none."""
    if sys.stdout is None or not sys.stdout.isatty():  # None: it was closed before we began
        return _PIPE, Ink(False)
    return os.get_terminal_size(sys.stdout.fileno()).columns or _UNKNOWN, Ink("NO_COLOR" not in os.environ)
