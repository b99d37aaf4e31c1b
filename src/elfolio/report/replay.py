"""report.replay: a trace through the model. In: Lanes that have followed it, what the reader said. Out: its JSON.

Every other rendering of the command, text and HTML, is made from this object.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypedDict

from elfolio.kernel import merging
from elfolio.kernel.merging import Rule
from elfolio.report.columns import columns

if TYPE_CHECKING:
    from elfolio.kernel.replaying import Ending, Lane
    from elfolio.kernel.trace import Log
    from elfolio.kernel.trace_steps import Steps

__all__ = [
    "CaseRow",
    "Cases",
    "LaneReport",
    "Program",
    "Reason",
    "Report",
    "as_cases_json",
    "as_cases_text",
    "as_json",
    "as_report",
    "reasons",
]


class Reason(TypedDict):
    """A rule that keeps neighbours apart."""

    text: str
    source: str


class Program(TypedDict):
    """All processes that ended as this program."""

    path: str
    processes: int
    operations: int
    peak: int
    """VMAs, of the one that had most; so the next three."""
    vmas: int
    """At its end."""
    mergeable: int
    """Bytes with KSM's flag at the end."""
    mapped: int
    """Bytes at the end."""
    merged: int
    missed: dict[str, int]
    """Merges that did not come about when something changed, by rule."""
    apart: dict[str, int]
    """Neighbours that touch and were two at the end, by rule; `chance`: nothing but the lack of an occasion."""
    checked: int
    """Processes whose real VMAs at the end the trace shows."""
    equal: int
    """Those of them whose VMAs are the model's."""


class Moved(TypedDict):
    """What mremap moved, as if every page had been there: entries of page tables by level."""

    calls: int
    puds: int
    pmds: int
    ptes: int


class Difference(TypedDict):
    """A call that the model would have answered otherwise."""

    line: int
    operation: str
    traced: int
    modelled: int


class LaneReport(TypedDict):
    """The trace under one policy."""

    policy: str
    version: str
    touching: str
    """Which memory counts as written: as `traced`, `none`, `all`."""
    memory_merge: bool
    """Whether every program runs as if under PR_SET_MEMORY_MERGE."""
    own: bool
    """Whether it is the kernel that was traced."""
    operations: int
    peak: int
    """VMAs of all processes together."""
    merged: int
    missed: dict[str, int]
    moved: Moved
    different: int
    differences: list[Difference]
    """The first of them."""
    assumed_bytes: int
    """Of images that the trace does not show."""
    points: list[list[int]]
    """Operations so far, VMAs of all processes."""
    programs: list[Program]


class Report(TypedDict):
    """Everything."""

    elfolio: str
    version: int
    trace: str
    format: str
    lines: int
    unreadable: int
    problems: list[str]
    calls: int
    left_out: dict[str, int]
    """Calls that the model has nothing for, by name."""
    assumed_openings: int
    """File mappings of which the trace does not say which opening of the file it was."""
    assumed_threads: int
    """Calls of clone3 of which the trace does not say what they made: taken for threads."""
    foreign: int
    """Programs of another architecture, which a recorder cannot follow."""
    faults: str
    """Which page faults the trace knows: `all`, those of `user` code, `none`."""
    lost_faults: int
    seconds: float
    """That reading and replaying took."""
    lanes: list[LaneReport]
    reasons: dict[str, Reason]


def reasons() -> dict[str, Reason]:
    """Each rule of merging by its name."""
    rules = [value for value in vars(merging).values() if isinstance(value, Rule)]
    return {rule.name: Reason(text=rule.text, source=rule.source) for rule in rules}


def as_report(lanes: Sequence["Lane"], log: "Log", steps: "Steps", *, form: str, own: str, seconds: float) -> Report:
    """`own`: the name of the policy of the kernel that was traced, empty where it is not known."""
    lost = log.facts.get("lost", 0)
    return Report(
        elfolio="replay",
        version=1,
        trace=log.name,
        format=form,
        lines=log.lines,
        unreadable=log.unreadable,
        problems=[str(problem) for problem in log],
        calls=steps.calls,
        left_out=steps.left_out,
        assumed_openings=steps.assumed_openings,
        assumed_threads=log.assumed_threads,
        foreign=log.foreign,
        faults=str(log.facts.get("faults", "none")),
        lost_faults=lost if isinstance(lost, int) else 0,
        seconds=seconds,
        lanes=[_lane(lane, own) for lane in lanes],
        reasons=reasons(),
    )


def as_json(report: Report) -> str:
    """One line."""
    return json.dumps(report, ensure_ascii=True)


def _lane(lane: "Lane", own: str) -> LaneReport:
    return LaneReport(
        policy=lane.policy.name,
        version=".".join(map(str, lane.policy.version)),
        touching=lane.touching,
        memory_merge=lane.memory_merge,
        own=lane.policy.name == own,
        operations=lane.operations,
        peak=lane.peak,
        merged=lane.merged,
        missed=_counted(lane.missed),
        moved=Moved(calls=lane.moves.calls, puds=lane.moves.puds, pmds=lane.moves.pmds, ptes=lane.moves.ptes),
        different=lane.different,
        differences=[
            Difference(line=d.line, operation=repr(d.operation), traced=d.traced, modelled=d.modelled)
            for d in lane.differences
        ],
        assumed_bytes=lane.assumed,
        points=[list(point) for point in lane.points],
        programs=_programs(lane.endings),
    )


def _programs(endings: Iterable["Ending"]) -> list[Program]:
    by_path: dict[str, list[Ending]] = {}
    for ending in endings:
        by_path.setdefault(ending.path, []).append(ending)
    found = [_program(path, of_path) for path, of_path in by_path.items()]
    return sorted(found, key=lambda program: -program["peak"])


def _program(path: str, endings: Sequence["Ending"]) -> Program:
    most = max(endings, key=lambda ending: ending.peak)
    missed: Counter[str] = Counter()
    for ending in endings:
        missed.update(ending.missed)
    return Program(
        path=path,
        processes=len(endings),
        operations=sum(ending.operations for ending in endings),
        peak=most.peak,
        vmas=most.vmas,
        mergeable=most.mergeable,
        mapped=most.mapped,
        merged=sum(ending.merged for ending in endings),
        missed=_counted(missed),
        apart=_counted(most.apart),
        checked=sum(ending.equal is not None for ending in endings),
        equal=sum(ending.equal is True for ending in endings),
    )


def _counted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


class CaseRow(TypedDict):
    """A case held against a policy."""

    suite: str
    name: str
    passed: bool | None
    """None: a model cannot say, and `reason` is why."""
    reason: str
    """The first check that does not hold."""


class Cases(TypedDict):
    """All of them."""

    elfolio: str
    version: int
    cases: list[CaseRow]


def as_cases_json(rows: list[CaseRow]) -> str:
    """One line."""
    return json.dumps(Cases(elfolio="replay", version=1, cases=rows), ensure_ascii=True)


def as_cases_text(rows: list[CaseRow]) -> str:
    """What failed, what cannot be decided, and how many passed."""
    found = [(_VERDICTS[row["passed"]], f"{row['suite']}/{row['name']}", row["reason"]) for row in rows]
    lines = columns(("", "case", "reason"), [row for row in found if row[0] != "passed"])
    passed, failed = (sum(row["passed"] is verdict for row in rows) for verdict in (True, False))
    return "\n".join([*lines, "", f"{passed} passed, {failed} failed, {len(rows) - passed - failed} not decided"])


_VERDICTS = {True: "passed", False: "FAILED", None: "-"}
