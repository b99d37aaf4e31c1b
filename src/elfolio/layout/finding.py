"""layout.finding: what is worth saying of a file. In: sentences and sizes. Out: Finding, frozen, and their order."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["SEVERITIES", "Finding", "Severity", "counted", "ranked", "size_text"]

Severity = Literal["error", "warning", "cost", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "cost", "note")
"""The worst first: it does not run, or wrongly, somewhere; it is less guarded than it could be; it takes memory, time
or address randomness; something to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a file, and what mends it."""

    id: str
    """For programs: stays as it is."""
    severity: Severity
    bytes: int
    """What it costs or concerns; 0 where it is no matter of size."""
    message: str
    remedy: str = ""
    """Options to link with, or what else to do; "" where there is nothing to do."""


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity, then by bytes, the most first."""
    return tuple(sorted(findings, key=lambda x: (SEVERITIES.index(x.severity), -x.bytes, x.id)))


def size_text(size: int) -> str:
    """`2 MiB`, `64 KiB`, `100 bytes`: the largest unit that leaves a whole number."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return "1 byte" if size == 1 else f"{size} bytes"


def counted(count: int, thing: str) -> str:
    """`1 page`, `2 pages`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
