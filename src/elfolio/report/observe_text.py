"""report.observe_text: `elfolio observe` for a terminal or a pipe. In: its Report, a width. Out: text."""

from collections import Counter
from collections.abc import Iterator, Sequence

from elfolio.report.columns import PLAIN, Ink, columns, plain, size, wrapped
from elfolio.report.folios import order_lines
from elfolio.report.observe import Mapping, Process, Report
from elfolio.report.observe_files import FileRow, why
from elfolio.report.observe_folios import Folios

__all__ = ["as_table", "as_text", "behind", "by_order", "summary"]


def as_text(report: Report, width: int = 100, ink: Ink = PLAIN) -> str:
    """Each process whole: its VMAs, its folios, what keeps files off huge pages, why neighbours are two."""
    lines: list[str] = []
    for process in report["processes"]:
        lines += ["", ink("strong", f"{process['pid']} {plain(process['name'])}"), *summary(process, width), ""]
        lines += [*_mappings(process, ink), *_orders(process, ink)]
        lines += [*_reasons(process, ink)] if len(report["processes"]) > 1 else []
    lines += _files(report, width, ink)
    if len(report["processes"]) == 1:
        lines += _reasons(report["processes"][0], ink)
    return "\n".join(lines[1:] if lines and not lines[0] else lines)


def as_table(report: Report, width: int = 100, ink: Ink = PLAIN) -> str:
    """Many processes, a line each, and the files that lose most."""
    rows = [
        (
            str(one["pid"]),
            str(one["vmas"]),
            size(one["rss"]),
            size(one["folios"]["anonymous"]),
            size(one["folios"]["file"]),
            size(one["huge"]),
            size(one["lost"]),
            size(one["page_tables"]),
            by_order(one["folios"]),
            one["name"],
        )
        for one in report["processes"]
    ]
    head = ("pid", "VMAs", "there", "anonymous", "file", "huge", "lost", "tables", "folios by order", "name")
    lines = columns(head, rows, right="rrrrrrrr", ink=ink)
    return "\n".join([*lines, *_files(report, width, ink), *_left_out(report, width)])


def summary(process: Process, width: int) -> Iterator[str]:
    """What it has, in sums."""
    limit = f" of at most {process['max_map_count']}" if process["max_map_count"] else ""
    yield from wrapped(
        f"{process['vmas']} VMAs{limit}; {process['touching']} pairs touch and are two; {size(process['mapped'])} "
        f"mapped, {size(process['rss'])} there, {size(process['huge'])} by huge pages; page tables "
        f"{size(process['page_tables'])}",
        width,
        "  ",
    )
    yield from wrapped(behind(process["folios"]), width, "  ")
    if not process["huge_pages"]:
        yield "  it has switched huge pages off for itself (PR_SET_THP_DISABLE)"
    yield from wrapped(_ksm(process), width, "  ")
    if process["hidden"]:
        yield from wrapped(f"not seen: {process['hidden']}", width, "  ")
    hidden = Counter(m["hidden"] for m in process["mappings"] or () if m["hidden"])
    if hidden:
        said = "; ".join(f"{count} ({reason})" for reason, count in hidden.most_common())
        yield from wrapped(f"not seen: the files behind mappings: {said}", width, "  ")


def behind(found: Folios) -> str:
    """By what kind of page and what kind of mapping."""
    kinds = [f"{size(found['anonymous'])} anonymous", f"{size(found['file'])} of files"]
    kinds += [f"{size(value)} {words}" for words, value in (
        ("of these in shared memory", found["shmem"]), ("the zero page", found["zero"]),
        ("swapped out", found["swapped"]), ("mapped more than once", found["shared"] or 0),
    ) if value]  # fmt: skip
    by = [f"{size(found['pte'])} by PTEs", f"{size(found['pmd'])} by PMDs"]
    by[1:1] = [f"{size(found['contpte'])} by contiguous PTEs"] if found["contpte"] else []
    return f"{', '.join(kinds)}; mapped {', '.join(by)}"


def _ksm(process: Process) -> str:
    ksm = process["ksm"]
    said = {None: "PR_SET_MEMORY_MERGE not known", True: "PR_SET_MEMORY_MERGE on", False: "PR_SET_MEMORY_MERGE off"}
    more = (
        "" if ksm["merging_pages"] is None else f"; {ksm['merging_pages']} pages merged, profit {ksm['profit']} bytes"
    )
    vmas = f"{ksm['mergeable_vmas']} VMAs, {size(ksm['mergeable_bytes'])} may merge"
    return f"KSM: {said[ksm['merge_any']]}; {vmas}{more}"


def _mappings(process: Process, ink: Ink) -> list[str]:
    rows = [_row(mapping) for mapping in process["mappings"] or ()]
    names = ("addresses", "perms", "offset", "size", "there", "anonymous", "huge", "folios by order", "blocks", "KSM")
    return columns((*names, "two because", "name"), rows, right="  rrrrr  r", ink=ink)


def _row(m: Mapping) -> tuple[str, ...]:
    below = m["below"]
    because = ""
    if below is not None:
        because = f"{below['rule']} {' '.join(below['differ'])}".strip() + ("" if below["certain"] else "?")
    return (
        f"{m['start']:x}-{m['end']:x}",
        m["perms"],
        f"{m['offset']:#x}",
        size(m["end"] - m["start"]),
        size(m["rss"]),
        size(m["anonymous"]),
        size(m["huge"]) if m["huge"] else "",
        by_order(m["folios"]),
        _blocks(m),
        size(m["ksm"]) if m["ksm"] else "yes" if m["mergeable"] else "",
        because,
        m["name"],
    )


def by_order(found: Folios) -> str:
    """`9:85% 0:15%`, most bytes first; ? for an order that is hidden. What is less than 1% is not said."""
    whole = sum(one["bytes"] for one in found["orders"])
    most = sorted(found["orders"], key=lambda one: -one["bytes"])
    kept = [one for one in most if 100 * one["bytes"] >= whole][:3]
    said = [f"{'?' if one['folio'] is None else one['order']}:{100 * one['bytes'] / whole:.0f}%" for one in kept]
    return " ".join(said) + (" .." if len(most) > len(kept) else "")


def _blocks(m: Mapping) -> str:
    """`3/5`: whole blocks of the huge page's size mapped as one, and all."""
    found = [one for one in m["blocks"] if not one["copied"]]
    if not found:
        return ""
    one = max(found, key=lambda each: each["block"])
    whole = one["blocks"] - one["barred"].get("edge", 0) - one["barred"].get("end", 0)
    return f"{one['mapped']}/{whole}" if whole else ""


def _orders(process: Process, ink: Ink) -> Iterator[str]:
    rows = process["folios"]["orders"]
    if any(one["bytes"] for one in rows):
        yield ""
        yield from order_lines(rows, ink)


_MOST_FILES = 20


def _files(report: Report, width: int, ink: Ink) -> Iterator[str]:
    """Those that lose most, and what to do."""
    if not report["files"]:
        return
    yield ""
    title = f"Whole blocks of {size(report['huge_page'])} of files under {report['policy']}, the most lost first"
    yield ink("strong", title)
    shown = report["files"][:_MOST_FILES]
    head = ("lost", "blocks", "mapped", "could", "folio", "there", "in", "file")
    yield from columns(head, [_file(one) for one in shown], right="rrrrrrr", ink=ink)
    if len(report["files"]) > len(shown):
        yield f"  and {len(report['files']) - len(shown)} more"
    yield from _keeping(shown, width, ink)


def _file(one: FileRow) -> Sequence[str]:
    counts = (one["blocks"], one["mapped"], one["could"], one["now"])
    return (size(one["lost"]), *map(str, counts), size(one["there"]), str(one["processes"]), one["path"])


def _keeping(files: Sequence[FileRow], width: int, ink: Ink) -> Iterator[str]:
    lossy = [one for one in files if one["lost"]]
    if lossy:
        yield ""
        yield ink("strong", "What keeps them on small pages")
    for one in lossy:
        yield from wrapped(f"{one['path']}: {why(one)}", width, "  ")
        if one["remedy"]:
            yield from wrapped(f"-> {one['remedy']}", width, "     ")


def _reasons(process: Process, ink: Ink) -> Iterator[str]:
    reasons = {m["below"]["rule"]: m["below"] for m in process["mappings"] or () if m["below"] is not None}
    if not reasons:
        return
    yield from ("", ink("strong", "Why neighbours are two"))
    counts = process["unmerged"]
    table = [
        (name, str(counts[name]), "" if one["certain"] else "perhaps", one["because"], one["source"])
        for name, one in sorted(reasons.items(), key=lambda pair: -counts[pair[0]])
    ]
    yield from columns(("rule", "pairs", "", "because", "source"), table, right=" r", ink=ink)


def _left_out(report: Report, width: int) -> Iterator[str]:
    said = [f"{count} {what}" for what, count in report["left_out"].items() if count]
    reasons = Counter(one["reason"] for one in report["problems"])
    said += [f"{count} not seen: {reason}" for reason, count in reasons.most_common()]
    if said:
        yield ""
        yield from wrapped(f"Left out: {'; '.join(said)}", width, "")
