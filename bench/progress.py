"""bench.progress: what is being measured just now. In: a line. Out: the line on a terminal, in place."""

import sys

__all__ = ["progress"]


def progress(text: str) -> None:
    """An empty line removes the last one. Says nothing where standard error is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
