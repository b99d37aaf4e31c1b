"""survey.rows: what a survey says of each file. In: an examined file's facts. Out: Row, its columns, its ranks."""

from collections.abc import Callable
from typing import NamedTuple

from elfolio.layout.summary import Summary

__all__ = ["COLUMNS", "COSTS", "Problem", "Row", "ranked", "values"]


class Problem(NamedTuple):
    """A file that has no row, and why."""

    path: str
    kind: str
    """"unreadable"; "malformed" for what begins as an ELF file; "gone" for what was there when it was listed. All of
    them gone, on a cluster, is a cluster that does not see the files."""
    reason: str


class Row(NamedTuple):
    """One ELF file; sizes in bytes."""

    path: str
    size: int
    links: int
    """Names that it has; only this one has a row."""
    device: int
    inode: int
    kind: str
    """"exec" (ET_EXEC), "pie" (ET_DYN with an interpreter or DF_1_PIE), "shared" (other ET_DYN), "object", "core"."""
    bits: int
    byteorder: str
    machine: str
    linker: str
    """A word of elf.linker.Linker."""
    linker_version: str | None
    confidence: str
    """A word of elf.linker.Confidence."""
    summary: Summary

    @property
    def huge_win(self) -> int:
        """Huge pages of 2 MiB that text gains by the cheapest remedy that gains any."""
        s = self.summary
        return 0 if s.tier is None else (s.text_aligned, s.text_relaid, s.text_relinked)[s.tier] - s.text_had

    @property
    def huge_possible(self) -> int:
        """Huge pages that text could have by any remedy."""
        s = self.summary
        return max(s.text_had, s.text_aligned, s.text_relaid, s.text_relinked)

    @property
    def executable_stack(self) -> bool:
        """PT_GNU_STACK asks for it. What a file without that header gets is its machine's rule, and not told here."""
        return "x" in self.summary.stack


_IDENTITY = tuple(name for name in Row._fields if name not in ("summary", "device", "inode"))
_DERIVED = ("huge_win", "huge_possible", "executable_stack")
COLUMNS: tuple[str, ...] = (*_IDENTITY, *_DERIVED, *Summary._fields)
"""The names of what `values` gives."""

COSTS: dict[str, tuple[str, Callable[[Row], tuple[int, ...]]]] = {
    "huge": (
        "huge pages that text gains by the cheapest remedy",
        lambda row: (row.huge_win, row.huge_possible, row.summary.text_bytes),
    ),
    "possible": (
        "huge pages that text could have by any remedy",
        lambda row: (row.huge_possible, row.huge_win, row.summary.text_bytes),
    ),
    "pages": (
        "pages of 16 and 64 KiB cannot map it as it is",
        lambda row: (not row.summary.ready_16k, not row.summary.ready_64k, row.summary.memory_bytes),
    ),
    "relro": (
        "bytes of RELRO that stay writable at 64 KiB, 16 KiB, 4 KiB",
        lambda row: (row.summary.relro_exposed_64k, row.summary.relro_exposed_16k, row.summary.relro_exposed_4k),
    ),
    "exposed": (
        "segments both writable and executable, then executable stacks",
        lambda row: (row.summary.rwx, row.executable_stack, row.summary.text_bytes),
    ),
    "padding": (
        "bytes of padding in the file and in memory",
        lambda row: (row.summary.file_padding + row.summary.memory_padding, row.summary.file_padding),
    ),
    "shared": ("bytes of file pages that two segments map", lambda row: (row.summary.shared_bytes, row.size)),
    "size": ("the file's size", lambda row: (row.size,)),
}
"""What rows can be ranked by: a sentence, and the key, the largest first."""


def values(row: Row) -> tuple[object, ...]:
    """The row's values, in the order of COLUMNS."""
    return (
        *row[:3], *row[5:12],
        row.huge_win, row.huge_possible, row.executable_stack,
        *row.summary,
    )  # fmt: skip


def ranked(rows: list[Row], cost: str) -> list[Row]:
    """The rows with the highest cost first; by path where two cost the same."""
    key = COSTS[cost][1]
    return sorted(sorted(rows, key=lambda row: row.path), key=key, reverse=True)
