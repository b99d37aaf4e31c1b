"""cli.output: where results go. In: nothing, or a page. Out: what standard output is; a written file."""

import os
import sys
from pathlib import Path

from elfolio.cli.parsing import Failure
from elfolio.report.columns import Ink

__all__ = ["width_and_ink", "write_page"]

_PIPE, _UNKNOWN = 120, 80


def width_and_ink() -> tuple[int, Ink]:
    """A terminal's columns, and its colours unless NO_COLOR is set (no-color.org); a pipe has room, and none."""
    if sys.stdout is None or not sys.stdout.isatty():  # None: it was closed before we began
        return _PIPE, Ink(False)
    return os.get_terminal_size(sys.stdout.fileno()).columns or _UNKNOWN, Ink("NO_COLOR" not in os.environ)


def write_page(path: Path, page: str) -> None:
    """What --html asks for. Raises Failure."""
    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
