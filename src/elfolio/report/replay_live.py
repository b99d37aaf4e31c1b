"""report.replay_live: `elfolio replay --live` for people and programs. In: LiveReplay. Out: LiveReport, text, JSON."""

import json
from errno import errorcode
from typing import TYPE_CHECKING, TypedDict

from elfolio.report.columns import columns, plain

if TYPE_CHECKING:
    from elfolio.measure.live_replay import LiveDifference, LiveReplay
    from elfolio.measure.oracle import Shown

__all__ = ["LiveReport", "Reported", "Side", "as_live_json", "as_live_report", "as_live_text"]


class Side(TypedDict):
    """The model, or the kernel, where they parted."""

    result: str
    vmas: list[str]
    """Those that the other has not."""


class Parted(TypedDict):
    """The first difference."""

    line: int
    operation: str
    model: Side
    kernel: Side


class LeftOut(TypedDict):
    """What was not done live."""

    why: str
    count: int


class Reported(TypedDict):
    """A trace done again."""

    kernel: str
    policy: str
    operations: int
    spaces: int
    otherwise: int
    left_out: list[LeftOut]
    difference: Parted | None


class LiveReport(TypedDict):
    """The whole answer."""

    elfolio: str
    version: int
    unreadable: int
    problems: list[str]
    live: Reported


def as_live_report(found: "LiveReplay", kernel: str, policy: str, problems: list[str], unreadable: int) -> LiveReport:
    """As plain values. `kernel` is the running one's release, `policy` the model's."""
    live = Reported(
        kernel=kernel,
        policy=policy,
        operations=found.operations,
        spaces=found.spaces,
        otherwise=found.otherwise,
        left_out=[LeftOut(why=why, count=count) for why, count in found.left_out.most_common()],
        difference=None if found.difference is None else _parted(found.difference),
    )
    return LiveReport(elfolio="replay", version=1, unreadable=unreadable, problems=problems, live=live)


def as_live_json(report: LiveReport) -> str:
    """One line."""
    return json.dumps(report, ensure_ascii=True)


def as_live_text(report: LiveReport) -> str:
    """What was compared, what was left out, and where the two parted."""
    live = report["live"]
    spaces = f"{live['spaces']} address space{'s' if live['spaces'] != 1 else ''}"
    lines = [
        f"Linux {live['kernel']} beside the model of {live['policy']}: {live['operations']} operations"
        f" in {spaces}, results and VMAs compared after each"
    ]
    if live["otherwise"]:
        lines.append(f"{live['otherwise']} were answered otherwise than in the trace")
    if live["left_out"]:
        rows = [(str(row["count"]), plain(row["why"])) for row in live["left_out"]]
        lines += ["", *columns(("times", "not done live"), rows, right="r ")]
    parted = live["difference"]
    lines.append("")
    if parted is None:
        lines.append("no difference")
    else:
        lines.append(f"line {parted['line']}: {plain(parted['operation'])}")
        for name, side in (("model", parted["model"]), ("kernel", parted["kernel"])):
            lines.append(f"  {name}: {side['result']}")
            lines += [f"    only here: {vma}" for vma in side["vmas"]]
    if report["problems"]:
        lines += ["", "Not read", *(f"  {plain(problem)}" for problem in report["problems"])]
        if report["unreadable"] > len(report["problems"]):
            lines.append(f"  and {report['unreadable'] - len(report['problems'])} more")
    return "\n".join(lines)


def _parted(found: "LiveDifference") -> Parted:
    return Parted(
        line=found.line,
        operation=repr(found.operation),
        model=Side(result=_result(found.model), vmas=[_vma(vma) for vma in found.only_model]),
        kernel=Side(result=_result(found.kernel), vmas=[_vma(vma) for vma in found.only_kernel]),
    )


def _result(number: int) -> str:
    return errorcode.get(-number, str(number)) if number < 0 else f"{number:#x}" if number else "0"


def _vma(vma: "Shown") -> str:
    start, end, perms, offset, flags = vma
    return f"{start:x}-{end:x} {perms} {offset:x} {' '.join(sorted(flags))}"
