"""report.observe: a running process's mappings. In: ProcessMemory, why neighbours are two. Out: JSON, text."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

from elfolio.kernel.vmflags import VmFlags
from elfolio.report.columns import PLAIN, Ink, columns, plain, size, wrapped

if TYPE_CHECKING:
    from elfolio.kernel.neighbours import Apart
    from elfolio.live.vmas import ProcessMemory, VmaUse

__all__ = ["Report", "as_json", "as_report", "as_text"]


class Unmerged(TypedDict):
    """Why a VMA and the one below it, which it touches, are two."""

    rule: str
    because: str
    source: str
    certain: bool
    differ: list[str]
    """Flags that one has and the other has not, as smaps names them."""


class Mapping(TypedDict):
    """A VMA. Sizes in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    name: str
    rss: int
    anonymous: int
    swap: int
    huge: int
    ksm: int
    mergeable: bool
    """Whether it has KSM's flag."""
    below: Unmerged | None
    """None where it touches none below."""


class Ksm(TypedDict):
    """Same-page merging. None: the kernel does not say."""

    merge_any: bool | None
    """prctl(PR_SET_MEMORY_MERGE)."""
    mergeable_vmas: int
    mergeable_bytes: int
    merging_pages: int | None
    zero_pages: int | None
    profit: int | None
    """Bytes saved, less what it costs to keep account."""


class Report(TypedDict):
    """Everything."""

    elfolio: str
    version: int
    pid: int
    name: str
    policy: str
    vmas: int
    max_map_count: int
    touching: int
    """Pairs of neighbours that touch."""
    unmerged: dict[str, int]
    """Those, by rule."""
    mapped: int
    rss: int
    huge: int
    page_tables: int
    ksm: Ksm
    mappings: list[Mapping]


def as_report(memory: "ProcessMemory", found: "Sequence[Apart]", policy: str) -> Report:
    """`found` counts VMAs as `memory` has them."""
    below = {one.lower + 1: one for one in found}
    counts = Counter(one.rule for one in found)
    return Report(
        elfolio="observe",
        version=1,
        pid=memory.pid,
        name=memory.name,
        policy=policy,
        vmas=len(memory.uses),
        max_map_count=memory.max_map_count,
        touching=len(found),
        unmerged=dict(counts.most_common()),
        mapped=sum(use.vma.size for use in memory.uses),
        rss=sum(use.rss for use in memory.uses),
        huge=sum(use.huge for use in memory.uses),
        page_tables=memory.page_tables,
        ksm=_ksm(memory),
        mappings=[_mapping(use, below.get(index)) for index, use in enumerate(memory.uses)],
    )


def _ksm(memory: "ProcessMemory") -> Ksm:
    marked = [use for use in memory.uses if use.vma.flags & VmFlags.MERGEABLE]
    any_ = memory.ksm.get("ksm_merge_any")
    return Ksm(
        merge_any=None if any_ is None else bool(any_),
        mergeable_vmas=len(marked),
        mergeable_bytes=sum(use.vma.size for use in marked),
        merging_pages=_known(memory, "ksm_merging_pages"),
        zero_pages=_known(memory, "ksm_zero_pages"),
        profit=_known(memory, "ksm_process_profit"),
    )


def _known(memory: "ProcessMemory", name: str) -> int | None:
    value = memory.ksm.get(name)
    return None if value is None else int(value)


def _mapping(use: "VmaUse", below: "Apart | None") -> Mapping:
    vma = use.vma
    return Mapping(
        start=vma.start,
        end=vma.end,
        perms=vma.perms,
        offset=vma.offset,
        name=vma.name,
        rss=use.rss,
        anonymous=use.anonymous,
        swap=use.swap,
        huge=use.huge,
        ksm=use.ksm,
        mergeable=bool(vma.flags & VmFlags.MERGEABLE),
        below=None if below is None else _unmerged(below),
    )


def _unmerged(one: "Apart") -> Unmerged:
    return Unmerged(rule=one.rule, because=one.because, source=one.source, certain=one.certain, differ=list(one.differ))


def as_json(report: Report) -> str:
    """One line."""
    return json.dumps(report, ensure_ascii=True)


def as_text(report: Report, width: int = 100, ink: Ink = PLAIN) -> str:
    """What it has, the VMAs, and why neighbours are two."""
    lines = [ink("strong", f"{report['pid']} {plain(report['name'])}"), *_summary(report, width), ""]
    rows = [_row(mapping) for mapping in report["mappings"]]
    head = ("addresses", "perms", "offset", "size", "there", "anonymous", "huge", "KSM", "two because", "name")
    lines += columns(head, rows, right="  rrrrrr", ink=ink)
    reasons = {m["below"]["rule"]: m["below"] for m in report["mappings"] if m["below"] is not None}
    if reasons:
        lines += ["", ink("strong", "Why neighbours are two")]
        table = [
            (name, str(report["unmerged"][name]), "" if one["certain"] else "perhaps", one["because"], one["source"])
            for name, one in sorted(reasons.items(), key=lambda pair: -report["unmerged"][pair[0]])
        ]
        lines += columns(("rule", "pairs", "", "because", "source"), table, right=" r", ink=ink)
    return "\n".join(lines)


def _summary(report: Report, width: int) -> Iterator[str]:
    limit = f" of at most {report['max_map_count']}" if report["max_map_count"] else ""
    yield from wrapped(
        f"{report['vmas']} VMAs{limit}; {report['touching']} pairs touch and are two; {size(report['mapped'])} mapped, "
        f"{size(report['rss'])} there, {size(report['huge'])} by huge pages; page tables {size(report['page_tables'])}",
        width,
        "  ",
    )
    ksm = report["ksm"]
    said = {None: "PR_SET_MEMORY_MERGE not known", True: "PR_SET_MEMORY_MERGE on", False: "PR_SET_MEMORY_MERGE off"}
    more = (
        "" if ksm["merging_pages"] is None else f"; {ksm['merging_pages']} pages merged, profit {ksm['profit']} bytes"
    )
    yield from wrapped(
        f"KSM: {said[ksm['merge_any']]}; {ksm['mergeable_vmas']} VMAs, {size(ksm['mergeable_bytes'])} may merge{more}",
        width,
        "  ",
    )


def _row(m: Mapping) -> tuple[str, ...]:
    below = m["below"]
    why = ""
    if below is not None:
        why = f"{below['rule']} {' '.join(below['differ'])}".strip() + ("" if below["certain"] else "?")
    return (
        f"{m['start']:x}-{m['end']:x}",
        m["perms"],
        f"{m['offset']:#x}",
        size(m["end"] - m["start"]),
        size(m["rss"]),
        size(m["anonymous"]),
        size(m["huge"]) if m["huge"] else "",
        size(m["ksm"]) if m["ksm"] else "yes" if m["mergeable"] else "",
        why,
        m["name"],
    )
