"""report.simulate: simulated loads for people and for programs. In: Loads, Answers. Out: the command's JSON; text."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from elfolio.kernel.buddy import LEFT_OUT, PAGE, PMD_ORDER
from elfolio.kernel.real_check import GROUPS, LAST, RealCheck
from elfolio.report.columns import PLAIN, Ink, columns, size, wrapped

if TYPE_CHECKING:
    from elfolio.kernel.folio_questions import Answer
    from elfolio.kernel.memory_life import Load, Setting
    from elfolio.live.freelists import HostMemory

__all__ = [
    "GROUPS",
    "PUBLISHED",
    "LoadRow",
    "PolicyRow",
    "Report",
    "as_json",
    "as_report",
    "as_text",
    "calibration",
    "checked",
    "groups",
]

PUBLISHED = (0.07, 0.34)
"""Unmovable memory's share of all memory and of 2 MiB blocks, as found in Meta's fleet: the calibration pair."""

COMPACTED = "large folios for the big file alone, after compacting all of memory"


class LoadRow(TypedDict):
    """One load. Bytes and counts."""

    tick: int
    orders: list[int]
    """Bytes of the file in folios of each order."""
    huge: float
    """Share of it in folios of 2 MiB."""
    free: int
    free_huge: int
    reclaimed_background: int
    reclaimed_direct: int
    moved: int
    """Pages that compaction moved: each costs a copy of 4 KiB and new page-table entries."""
    scanned: int
    stalls: int
    compactions: int
    skipped: int
    tried: list[int]
    failed: list[int]
    lost: int
    """Others' page cache that was reclaimed for the file."""
    unmovable: float
    """Share of memory."""
    unmovable_blocks: float
    """Share of 2 MiB blocks with at least one unmovable page."""


class PolicyRow(TypedDict):
    """One policy's curve."""

    name: str
    meaning: str
    loads: list[LoadRow]


class AnswerRow(TypedDict):
    """A question of the discussion."""

    question: str
    asked: str
    answer: str


class HostRow(TypedDict):
    """This machine, and the simulation beside it."""

    memory: int
    free: int
    unmovable: float
    unmovable_blocks: float | None
    free_huge: float
    """Share of free memory in blocks of 2 MiB and more."""
    simulated_unmovable_blocks: float
    now: LoadRow | None
    """The file, loaded onto this machine's own free lists; null where they are hidden."""


class CheckedRow(TypedDict):
    """One level of fragmentation: shares of the file in folios of 4 KiB, to 32 KiB, to 1 MiB, and of 2 MiB."""

    whole: float
    order: int
    pinned: float
    got: list[float]
    simulated: list[float]


class CheckRow(TypedDict):
    """How far the simulation was from a real machine whose memory was fragmented on purpose."""

    machine: str
    date: str
    off: float
    """The largest difference of a group, as a share of the file."""
    levels: list[CheckedRow]


class Report(TypedDict):
    """The command's object."""

    elfolio: str
    version: int
    what: str
    memory: int
    file: int
    unmovable: float
    seed: int
    policies: list[PolicyRow]
    answers: list[AnswerRow]
    published: list[float]
    simulated: list[float]
    """Unmovable share of memory and of blocks at the last load of the first policy: beside `published`."""
    check: CheckRow
    host: HostRow | None
    left_out: list[str]


def as_json(report: Report) -> str:
    """The object, on one line."""
    return json.dumps(report)


def load_row(one: "Load", memory: int) -> LoadRow:
    """One load; `memory` in pages."""
    work = one.work
    return {
        "tick": one.tick,
        "orders": [pages * PAGE for pages in one.orders],
        "huge": one.huge,
        "free": one.free * PAGE,
        "free_huge": one.free_huge,
        "reclaimed_background": work.background * PAGE,
        "reclaimed_direct": work.direct * PAGE,
        "moved": work.moved,
        "scanned": work.scanned,
        "stalls": work.stalls,
        "compactions": work.compactions,
        "skipped": work.skipped,
        "tried": list(work.tried),
        "failed": list(work.failed),
        "lost": work.lost * PAGE,
        "unmovable": one.blocks.pages / memory,
        "unmovable_blocks": one.blocks.unmovable / one.blocks.all,
    }


def as_report(
    setting: "Setting",
    found: "Mapping[str, Sequence[Load]]",
    meanings: Mapping[str, str],
    answers: "Sequence[Answer]" = (),
    host: HostRow | None = None,
) -> Report:
    """The object."""
    policies: list[PolicyRow] = [
        {
            "name": name,
            "meaning": meanings.get(name, COMPACTED),
            "loads": [load_row(one, setting.memory) for one in loads],
        }
        for name, loads in found.items()
    ]
    last = policies[0]["loads"][-1]
    return {
        "elfolio": "simulate",
        "version": 1,
        "what": "folios",
        "memory": setting.memory * PAGE,
        "file": setting.file * PAGE,
        "unmovable": setting.unmovable,
        "seed": setting.seed,
        "policies": policies,
        "answers": [{"question": one.question, "asked": one.asked, "answer": one.answer} for one in answers],
        "published": list(PUBLISHED),
        "simulated": [last["unmovable"], last["unmovable_blocks"]],
        "check": check_row(LAST),
        "host": host,
        "left_out": list(LEFT_OUT),
    }


def check_row(last: RealCheck) -> CheckRow:
    """The last check against a machine."""
    return {
        "machine": last.machine,
        "date": last.date,
        "off": last.off,
        "levels": [
            {
                "whole": level.whole,
                "order": level.order,
                "pinned": level.pinned,
                "got": list(level.got),
                "simulated": list(level.simulated),
            }
            for level in last.levels
        ],
    }


def host_row(host: "HostMemory", simulated: "Load", now: "Load | None") -> HostRow:
    """This machine beside the simulation's end, and the load onto its free lists."""
    return {
        "memory": host.total * host.page,
        "free": host.free * host.page,
        "unmovable": host.unmovable_share,
        "unmovable_blocks": host.unmovable_blocks,
        "free_huge": host.free_in(PMD_ORDER),
        "simulated_unmovable_blocks": simulated.blocks.unmovable / simulated.blocks.all,
        "now": load_row(now, host.total) if now is not None else None,
    }


def groups(one: LoadRow) -> list[float]:
    """The file's shares by GROUPS."""
    whole = sum(one["orders"]) or 1
    return [sum(one["orders"][first : last + 1]) / whole for _, first, last in GROUPS]


def as_text(report: Report, width: int = 120, ink: Ink = PLAIN) -> str:
    """For people."""
    lines = [
        f"{size(report['memory'])} of memory, {report['unmovable']:.1%} unmovable; a file of {size(report['file'])}, "
        f"loaded at each of these ticks (seed {report['seed']})"
    ]
    for policy in report["policies"]:
        lines += ["", ink("strong", policy["name"]) + f"  {policy['meaning']}", *_table(policy, ink)]
    if report["answers"]:
        lines += ["", ink("strong", "What the discussion asked, from these runs of one seed")]
        for one in report["answers"]:
            lines += [f"{one['question']} ({one['asked']})", *wrapped(one["answer"], width, "  ")]
    lines += ["", *wrapped(calibration(report), width, ""), *wrapped(checked(report["check"]), width, "")]
    if report["host"] is not None:
        lines += ["", *_host(report["host"], ink)]
    lines += ["", "Not faithful:", *(line for one in report["left_out"] for line in wrapped(one, width, "  "))]
    return "\n".join(lines)


def _table(policy: PolicyRow, ink: Ink) -> list[str]:
    head = (
        "tick",
        *(name for name, _, _ in GROUPS),
        "free",
        "free 2M",
        "reclaimed",
        "others lost",
        "moved",
        "stalls",
        "failed 2M",
    )
    rows = [
        (
            str(one["tick"]),
            *(f"{share:.0%}" for share in groups(one)),
            size(one["free"]),
            str(one["free_huge"]),
            size(one["reclaimed_background"] + one["reclaimed_direct"]),
            size(one["lost"]),
            str(one["moved"]),
            str(one["stalls"]),
            f"{one['failed'][PMD_ORDER]} of {one['tried'][PMD_ORDER]}",
        )
        for one in policy["loads"]
    ]
    return columns(head, rows, right="r" * len(head), ink=ink)


def calibration(report: Report) -> str:
    """The published pair beside the simulated one."""
    memory, blocks = report["simulated"]
    return (
        f"Unmovable memory at the end: {memory:.1%} of all, in {blocks:.0%} of 2 MiB blocks; published of one fleet: "
        f"under {report['published'][0]:.0%}, in {report['published'][1]:.0%}. The workload is synthetic: "
        "only that pair was used to set it."
    )


def checked(check: CheckRow) -> str:
    """The error, in one sentence."""
    if not check["levels"]:
        return "Against a real machine: not yet; bench/fragment.py does it."
    shares = ", ".join(f"{one['got'][-1]:.0%} ({one['simulated'][-1]:.0%})" for one in check["levels"])
    return (
        f"Against a real machine ({check['machine']}, {check['date']}): a file of 1 GiB into memory fragmented on "
        f"purpose, at {len(check['levels'])} levels, had {shares} in folios of 2 MiB (in brackets: simulated); at most "
        f"{100 * check['off']:.0f} points off in any group of orders. bench/fragment.py repeats it."
    )


def _host(host: HostRow, ink: Ink) -> list[str]:
    blocks = "hidden (root sees it)" if host["unmovable_blocks"] is None else f"{host['unmovable_blocks']:.0%}"
    lines = [
        ink("strong", "This machine"),
        f"{size(host['memory'])}, {size(host['free'])} free, "
        f"{host['free_huge']:.0%} of that in blocks of 2 MiB or more; "
        f"{host['unmovable']:.1%} unmovable. Page blocks not of movable type: {blocks}; 2 MiB blocks with unmovable "
        f"pages, simulated: {host['simulated_unmovable_blocks']:.0%}",
    ]
    if host["now"] is not None:
        shares = ", ".join(
            f"{share:.0%} {name}" for share, (name, _, _) in zip(groups(host["now"]), GROUPS, strict=True)
        )
        lines.append(f"The file onto its own free lists, now: {shares}; {host['now']['moved']} page moves")
    return lines
