"""report.folios: files' folios for people and for programs. In: CachedFiles, Counts. Out: the command's JSON; text.

The text is made from the object that --json prints.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypedDict

from elfolio.kernel.folio import UNSEEN, Kind
from elfolio.layout.hugepages import BLOCKS
from elfolio.report.columns import PLAIN, Ink, columns, plain, size, wrapped
from elfolio.report.explain_text import OBSTACLES
from elfolio.report.strip import strip
from elfolio.span import Span

if TYPE_CHECKING:
    from elfolio.elf.image import ElfImage
    from elfolio.kernel.backing import Counts
    from elfolio.live.cached import CachedFile

__all__ = [
    "LACKING",
    "BlockRow",
    "FileRow",
    "OrderRow",
    "Problem",
    "Report",
    "as_file",
    "as_json",
    "as_report",
    "as_text",
    "lacking_words",
    "order_lines",
]

_LETTERS = "0123456789ABCDEFGHI"
"""By order; the largest folio there is, hugetlb's of 1 GiB, has order 18 in pages of 4 KiB."""


class OrderRow(TypedDict):
    """The folios of one order; -1: of an order that is hidden."""

    order: int
    folio: int | None
    """Bytes of each."""
    folios: int
    bytes: int


class FileOrderRow(OrderRow):
    """The same of a file."""

    shared: int
    """Bytes in folios of which a process has something mapped."""


class BlockRow(TypedDict):
    """The blocks of one size that one segment touches."""

    perms: str
    offset: int
    bytes: int
    """What is mapped, from that file offset."""
    copied: bool
    """Written at start: what is written to is copied, page by page."""
    block: int
    blocks: int
    could: int
    now: int
    lacking: dict[str, int]
    barred: dict[str, int]


class FileRow(TypedDict):
    """One file. In bytes; null where it cannot be seen."""

    path: str
    size: int
    page: int
    fs: str
    cached: int | None
    dirty: int | None
    writeback: int | None
    shared: int | None
    how: list[str]
    hidden: str
    orders: list[FileOrderRow]
    runs: list[list[int]] | None
    """Offset, bytes, order, folios of each stretch of one order."""
    elf: bool
    segments: list[list[int | str]]
    """Offset, bytes, permissions of each PT_LOAD."""
    policy: str
    blocks: list[BlockRow]


class Problem(TypedDict):
    """A file that could not be looked at."""

    path: str
    reason: str


class Report(TypedDict):
    """The command's object."""

    elfolio: str
    version: int
    files: list[FileRow]
    problems: list[Problem]


def as_json(report: Report) -> str:
    """The object, on one line."""
    return json.dumps(report)


def as_report(files: list[FileRow], problems: list[Problem]) -> Report:
    """The object."""
    return {"elfolio": "folios", "version": 1, "files": files, "problems": problems}


def as_file(
    path: str, fs: str, found: "CachedFile", image: "ElfImage | None", policy: str, blocks: "Sequence[Counts]"
) -> FileRow:
    """A look at a file; `image` and what its blocks come to under a policy, where it is an ELF file."""
    seen = bool(found.runs) and "kpageflags" in found.how
    return {
        "path": path,
        "size": found.size,
        "page": found.page,
        "fs": fs,
        "cached": found.cached,
        "dirty": found.dirty,
        "writeback": found.writeback,
        "shared": sum(r.pages for r in found.runs or () if r.kind & Kind.SHARED) * found.page if seen else None,
        "how": list(found.how),
        "hidden": found.hidden,
        "orders": [_order(found, order, count) for order, count in found.orders().items()],
        "runs": None if found.runs is None else list(_stretches(found)),
        "elf": image is not None,
        "segments": [[s.offset, s.filesz, s.perms] for s in image.loads if s.filesz] if image is not None else [],
        "policy": policy,
        "blocks": [_block(counts) for counts in blocks],
    }


def _order(found: "CachedFile", order: int, count: int) -> FileOrderRow:
    shared = sum(r.pages for r in found.runs or () if r.order == order and r.kind & Kind.SHARED)
    return {
        "order": order,
        "folio": None if order == UNSEEN else found.page << order,
        "folios": found.folios[order],
        "bytes": count,
        "shared": shared * found.page,
    }


def _stretches(found: "CachedFile") -> Iterator[list[int]]:
    """Without what tells a folio's use: the order decides the mapping."""
    at: list[int] = []
    for run in found.runs or ():
        start, length = run.start * found.page, run.pages * found.page
        if at and at[0] + at[1] == start and at[2] == run.order:
            at[1] += length
            at[3] += run.folios
            continue
        if at:
            yield at
        at = [start, length, run.order, run.folios]
    if at:
        yield at


def _block(counts: "Counts") -> BlockRow:
    run = counts.run
    return {
        "perms": run.vma.perms,
        "offset": run.vma.offset,
        "bytes": run.vma.size,
        "copied": any(block.writable for block in run.blocks),
        "block": run.size,
        "blocks": len(run.blocks),
        "could": counts.could,
        "now": counts.now,
        "lacking": {name.value: count for name, count in counts.lacking.items()},
        "barred": {name.value: count for name, count in counts.barred.items()},
    }


def as_text(row: FileRow, width: int, ink: Ink = PLAIN) -> str:
    """One file, for a terminal of that many columns."""
    return "\n".join(_lines(row, width, ink))


def _lines(row: FileRow, width: int, ink: Ink) -> Iterator[str]:
    yield ink("strong", plain(row["path"]))
    yield from wrapped(_summary(row), width, "  ")
    if row["hidden"]:
        yield from wrapped(f"not seen: {row['hidden']}", width, "  ")
    if row["orders"]:
        yield ""
        yield from order_lines(row["orders"], ink)
    if row["runs"]:
        yield ""
        yield from _map(row, width, ink)
    if row["blocks"]:
        yield ""
        yield from _blocks(row, ink)


def _summary(row: FileRow) -> str:
    words = [f"{size(row['size'])}{' on ' + row['fs'] if row['fs'] else ''}"]
    if row["cached"] is not None:
        words.append(f"{size(row['cached'])} cached{_share(row['cached'], row['size'])}")
    if row["shared"]:
        words.append(f"{size(row['shared'])} in folios that processes map")
    words += [f"{size(count)} {name}" for name in ("dirty", "writeback") if (count := row[name])]
    return ", ".join(words)


def _share(part: int, whole: int) -> str:
    return f" ({min(100.0, 100 * part / whole):.0f}%)" if whole else ""


def order_lines(rows: Sequence[OrderRow], ink: Ink) -> Iterator[str]:
    """Folios by order, with their share of all bytes."""
    whole = sum(one["bytes"] for one in rows)
    cells = [
        (
            "?" if one["folio"] is None else str(one["order"]),
            "" if one["folio"] is None else size(one["folio"]),
            "" if one["folio"] is None else str(one["folios"]),
            size(one["bytes"]),
            f"{100 * one['bytes'] / whole:.1f}%",
            "#" * round(30 * one["bytes"] / whole),
        )
        for one in rows
    ]
    yield from columns(("order", "folio", "folios", "bytes", "share", ""), cells, right="rrrrr", ink=ink)


def _map(row: FileRow, width: int, ink: Ink) -> Iterator[str]:
    """The file from its beginning to its end, and where its segments lie in it."""
    page, whole = row["page"], Span(0, row["size"]).pages(row["page"])
    marks = [
        (Span(at, at + length), "?" if order < 0 else _LETTERS[order]) for at, length, order, _ in row["runs"] or ()
    ]
    room = max(20, width - 10)
    unit = page
    while unit * room < whole.size:  # a power of two: no folio that fits into a letter's stretch lies in two
        unit *= 2
    line, step = strip(marks, whole, unit, room, f"{_LETTERS}?")
    yield f"folios    {_coloured(line, row, ink)}"
    letters = {"r": "r", "rx": "x", "rw": "w", "rwx": "#"}
    parts = [
        (Span(int(at), int(at) + int(length)).pages(page), letters.get(str(perms).replace("-", ""), "-"))
        for at, length, perms in row["segments"]
    ]
    if parts:
        yield f"segments  {strip(parts, whole, unit, room, '#xwr-', rest=' ')[0].rstrip()}"
    said = f"each letter {size(step)}: the smallest order of folio there, . not cached"
    yield ink("soft", f"          {said}; segments: r read, x execute, w write" if parts else f"          {said}")


def _coloured(line: str, row: FileRow, ink: Ink) -> str:
    if not ink.on:
        return line
    huge = (BLOCKS[row["page"]][1] // row["page"]).bit_length() - 1

    def name(letter: str) -> str:
        order = _LETTERS.find(letter)
        return "soft" if order < 0 else "good" if order >= huge else "bad" if order == 0 else "warn"

    return "".join(ink(color, "".join(letters)) for color, letters in groupby(line, name))


def _blocks(row: FileRow, ink: Ink) -> Iterator[str]:
    """A line for each segment and size of block; those that are copied when written to are left out."""
    kept = [one for one in row["blocks"] if not one["copied"]]
    if not kept:
        return
    yield ink("strong", f"Blocks of its segments under {row['policy']}")
    cells = [
        (
            one["perms"],
            f"{one['offset']:#x}",
            size(one["bytes"]),
            size(one["block"]),
            str(one["blocks"]),
            str(one["could"]),
            str(one["now"]),
            "; ".join(lacking_words(one["lacking"], one["barred"])),
        )
        for one in kept
    ]
    head = ("perms", "offset", "bytes", "block", "blocks", "could", "now", "the others")
    yield from columns(head, cells, right=" rrrrrr", ink=ink)


LACKING = {"smaller": "in smaller folios", "absent": "not cached, or in part", "unseen": "in folios of hidden size"}
"""kernel.backing.Backing, in words."""


def lacking_words(lacking: Mapping[str, int], barred: Mapping[str, int]) -> list[str]:
    """What keeps blocks from being huge, how many by what; as in BlockRow."""
    said = [f"{count} {LACKING[name]}" for name, count in lacking.items()]
    return said + [f"{count} not: {OBSTACLES[name]}" for name, count in barred.items()]
