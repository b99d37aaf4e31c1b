"""report.strip: a range as a line of letters. In: spans with a letter each, a width. Out: lines for a terminal.

One letter stands for a page, or a huge page; where there are more than fit, for as many as must share one. Of those
the letter that comes first in `order` is shown, so that what matters is not hidden by what is common.
"""

from collections.abc import Sequence

from elfolio.span import Span, round_up

__all__ = ["strip"]


def strip(
    marks: Sequence[tuple[Span, str]], whole: Span, unit: int, width: int, order: str, rest: str = "."
) -> tuple[str, int]:
    """The line for `whole`, at most `width` letters, and the bytes that a letter stands for: a multiple of `unit`.

    A mark covers a span with its letter; `rest` is shown where none does.
    """
    step = max(unit, round_up(-(-whole.size // max(width, 1)), unit))
    ranks = {letter: rank for rank, letter in enumerate(order)}
    line = [rest] * -(-whole.size // step)
    for span, letter in marks:
        part = span.common(whole)
        for at in range((part.start - whole.start) // step, -(-(part.end - whole.start) // step)):
            if line[at] == rest or ranks.get(letter, len(order)) < ranks.get(line[at], len(order)):
                line[at] = letter
    return "".join(line), step
