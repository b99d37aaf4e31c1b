"""report.warm: what became of each file's page cache. In: Warmed. Out: text, JSON."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from elfolio.layout.finding import counted
from elfolio.report.columns import Ink, columns, plain, size, wrapped

if TYPE_CHECKING:
    from elfolio.pagecache.warm import Warmed

__all__ = ["as_json", "as_text"]

_FEW = 3
_NAMED = 8
"""Processes, in a sentence."""


def as_json(found: "Sequence[Warmed]", skipped: int, problems: "Sequence[tuple[str, str]]" = ()) -> str:
    """One object: a list of files, how many of a process or package were none for this, and which could not be read."""
    files = [_entry(one) for one in found]
    told = [{"path": path, "reason": why} for path, why in problems]
    return json.dumps({"elfolio": "warm", "version": 1, "skipped": skipped, "files": files, "problems": told})


def _entry(one: "Warmed") -> dict[str, object]:
    return {
        "path": one.path,
        "outcome": one.outcome.value,
        "warm": one.is_warm,
        "why": one.why,
        "remedy": one.remedy,
        "bytes": one.size,
        "huge_page": one.huge,
        "blocks": one.wanted,
        "had": one.had,
        "has": one.has,
        "before": _orders(one.before),
        "after": _orders(one.after),
        "seconds": round(one.seconds, 6),
        "mapped_by": [{"pid": holder.pid, "name": holder.name} for holder in one.holders],
        "all_processes_seen": one.all_seen,
    }


def _orders(found: dict[int, int] | None) -> dict[str, int] | None:
    """JSON has names for keys."""
    return None if found is None else {str(order): count for order, count in found.items()}


def as_text(found: "Sequence[Warmed]", skipped: int, width: int, ink: Ink) -> str:
    """A line a file, then what is to be said of some."""
    lines: list[str] = []
    many = len(found) > _FEW
    refused = [one for one in found if many and one.outcome == "refused"]
    told = [one for one in found if one not in refused]
    if told:
        head = ("before", "after", "blocks", "time", "outcome", "file")
        lines += columns(head, map(_cells, told), right="rrrr", ink=ink)
    for one in told:
        lines += _remarks(one, width, ink, detailed=not many)
    lines += _refused(refused, width, ink)
    if skipped:
        lines.append(f"{skipped:,} other files are no ELF files, or smaller than a huge page")
    return "".join(f"{line}\n" for line in lines)


def _cells(one: "Warmed") -> tuple[str, ...]:
    if not one.wanted:
        return ("", "", "", "", one.outcome.value, one.path)
    known = ("?" if count is None else str(count) for count in (one.had, one.has))
    return (*known, str(one.wanted), f"{one.seconds:.2f} s", one.outcome.value, one.path)


def _remarks(one: "Warmed", width: int, ink: Ink, *, detailed: bool) -> Iterator[str]:
    if detailed and one.page:
        for when, orders in (("before", one.before), ("after", one.after)):
            if orders is not None:
                yield f"  in the page cache {when}: {_sizes(orders, one.page)}"
    if one.why:
        yield from wrapped(f"{plain(one.path)}: {one.why}", width, "  ")
    if one.holders:
        say = "to be started again" if one.outcome == "rewritten" else "mapped by"
        more = len(one.holders) - _NAMED
        named = ", ".join(f"{holder.pid} {plain(holder.name)}" for holder in one.holders[:_NAMED])
        yield from wrapped(f"{say}: {named}{f' and {more} more' if more > 0 else ''}", width, "    ")
    if not one.all_seen:
        yield "    the maps of some processes are hidden from this user"
    if one.remedy:
        yield ink("soft", f"    -> {one.remedy}")


def _refused(found: "Sequence[Warmed]", width: int, ink: Ink) -> Iterator[str]:
    """Of many files: those of one reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in found:
        reasons.setdefault((one.why, one.remedy), []).append(one.path)
    for (why, remedy), paths in reasons.items():
        more = len(paths) - _FEW
        named = ", ".join(map(plain, paths[:_FEW])) + (f" and {more} more" if more > 0 else "")
        yield from wrapped(f"refused, {counted(len(paths), 'file')}: {why}: {named}", width, "")
        if remedy:
            yield ink("soft", f"    -> {remedy}")


def _sizes(orders: dict[int, int], page: int) -> str:
    """The largest folios first."""
    said = [
        f"{size(count)} in folios of {size(page << order)}"
        if order >= 0
        else f"{size(count)} in folios of unknown size"
        for order, count in sorted(orders.items(), reverse=True)
    ]
    return ", ".join(said) or "nothing"
