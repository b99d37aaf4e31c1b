"""report.replay_text: `elfolio replay` for a terminal or a pipe. In: its Report, a width. Out: text."""

from collections.abc import Iterator, Mapping, Sequence

from elfolio.report.columns import PLAIN, Ink, columns, plain, size, wrapped
from elfolio.report.replay import LaneReport, Reason, Report

__all__ = ["as_text", "bounds", "differences", "gaps", "lane_name", "lane_names", "side_by_side", "why"]

TOUCHING = {"traced": "", "none": ", none written", "all": ", all written"}
"""Which memory counts as written, behind a policy's name."""
_MOST = 10


def as_text(report: Report, width: int = 100, ink: Ink = PLAIN) -> str:
    """All lanes side by side, then each program, then what was wrong."""
    lines = list(_head(report, width, ink))
    names, *rows = side_by_side(report)
    lines += ["", *columns(names, rows, right=" " + "r" * (len(names) - 1), ink=ink)]
    lines += ["", *_programs(report["lanes"][0], ink)]
    lines += ["", *_why(report, ink)]
    for lane in report["lanes"]:
        if lane["own"] and lane["different"]:
            lines += ["", *_differences(lane, width, ink)]
    if report["problems"]:
        lines += ["", ink("strong", "Not read")]
        lines += [f"  {plain(problem)}" for problem in report["problems"][:_MOST]]
        if report["unreadable"] > _MOST:
            lines.append(f"  and {report['unreadable'] - _MOST} more")
    return "\n".join(lines)


def lane_name(lane: LaneReport) -> str:
    """Its policy, and what it takes for granted."""
    return f"{lane['policy']}{' with KSM' if lane['memory_merge'] else ''}{TOUCHING[lane['touching']]}"


def lane_names(lanes: Sequence[LaneReport]) -> str:
    """Those of several that have the same to show, `either way` for both bounds of one."""
    names = list(map(lane_name, lanes))
    for name in names[:]:
        other = name.removesuffix(TOUCHING["none"]) + TOUCHING["all"]
        if name.endswith(TOUCHING["none"]) and other in names:
            names[names.index(name)] = name.removesuffix(TOUCHING["none"]) + ", either way"
            names.remove(other)
    return " and ".join(names)


def side_by_side(report: Report) -> list[tuple[str, ...]]:
    """A row of names, then one for each figure, with a column for each lane; without the second of two bounds that
    agree in everything."""
    return _narrow(_all_lanes(report))


def _all_lanes(report: Report) -> list[tuple[str, ...]]:
    lanes = report["lanes"]
    first = [lane["programs"] for lane in lanes]
    rows: list[tuple[str, ...]] = [("", *map(lane_name, lanes))]
    rows.append(("peak, VMAs of all processes", *(str(lane["peak"]) for lane in lanes)))
    rows.append(("most in one process", *(str(max((p["peak"] for p in of), default=0)) for of in first)))
    rows.append(("VMAs of that one at its end", *(str(of[0]["vmas"]) if of else "0" for of in first)))
    rows.append(("merged", *(str(lane["merged"]) for lane in lanes)))
    for name in dict.fromkeys(name for lane in lanes for name in lane["missed"]):
        rows.append((f"not merged: {name}", *(str(lane["missed"].get(name, 0)) for lane in lanes)))
    if any(lane["moved"]["calls"] for lane in lanes):
        rows.append(("moves of mappings by mremap", *(str(lane["moved"]["calls"]) for lane in lanes)))
        rows.append(("entries moved, PUD + PMD + PTE", *map(_entries, lanes)))
    rows.append(("KSM may look at", *(size(max((p["mergeable"] for p in of), default=0)) for of in first)))
    rows.append(("calls answered otherwise", *(str(lane["different"]) for lane in lanes)))
    if any(p["checked"] for of in first for p in of):
        rows.append(("processes with the real VMAs at the end", *map(_verdict, lanes)))
    if any(lane["assumed_bytes"] for lane in lanes):
        rows.append(("not shown, taken for private memory", *(size(lane["assumed_bytes"]) for lane in lanes)))
    return rows


def _entries(lane: LaneReport) -> str:
    moved = lane["moved"]
    return f"{moved['puds']} + {moved['pmds']} + {moved['ptes']}"


def _narrow(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    columns_ = list(zip(*rows, strict=True))
    kept = [columns_[0]]
    for column in columns_[1:]:
        name, *figures = column
        if name.endswith(TOUCHING["all"]) and figures == list(kept[-1][1:]):
            kept[-1] = (name.removesuffix(TOUCHING["all"]) + ", either way", *figures)
        else:
            kept.append(column)
    return list(zip(*kept, strict=True))


def _verdict(lane: LaneReport) -> str:
    """Of how many processes the model has the real VMAs; nothing was real under a flag that was not set."""
    if lane["memory_merge"]:
        return "-"
    checked = sum(program["checked"] for program in lane["programs"])
    return f"{sum(program['equal'] for program in lane['programs'])} of {checked}"


def _head(report: Report, width: int, ink: Ink) -> Iterator[str]:
    yield ink("strong", plain(report["trace"]))
    read = f"{report['format']}, {report['lines']} lines, {report['calls']} calls that concern memory"
    yield from wrapped("; ".join([read, *gaps(report)]), width, "  ")
    for words in bounds(report):
        yield from wrapped(words, width, "  ")


def gaps(report: Report) -> list[str]:
    """What the trace does not have, or does not say: a clause each."""
    clauses = {
        "{} lines could not be read": report["unreadable"],
        "left out: {}": _counts(report["left_out"]),
        "of {} file mappings it is not said which opening they are of": report["assumed_openings"],
        "{} calls of clone3 are taken for threads: what they made is not said": report["assumed_threads"],
        "programs of another architecture, not recorded: {}": report["foreign"],
        "{} page faults were lost": report["lost_faults"],
    }
    return [clause.format(value) for clause, value in clauses.items() if value]


def bounds(report: Report) -> list[str]:
    """What it does not say of written memory, and what is done about that."""
    found = []
    if report["faults"] == "none" and any(lane["touching"] == "none" for lane in report["lanes"]):
        found.append(_BOUNDS)
    if report["faults"] == "user":
        found.append(_USER)
    return found


_BOUNDS = (
    "Merging depends on which memory was written, and the trace does not say: each policy is tried with nothing "
    "written and with everything, and the truth lies between. elfolio replay --record knows."
)
_USER = (
    "What the kernel wrote for the program, into the buffer of a read say, is not known: to sample that takes "
    "CAP_PERFMON, or vm.perf_event_paranoid at 1."
)


def _programs(lane: LaneReport, ink: Ink) -> Iterator[str]:
    yield ink("strong", f"Programs under {lane['policy']}")
    rows = [
        (
            str(p["processes"]),
            str(p["operations"]),
            str(p["peak"]),
            str(p["vmas"]),
            str(p["merged"]),
            str(sum(p["missed"].values())),
            size(p["mapped"]),
            p["path"] or "not seen to begin",
        )
        for p in lane["programs"][:_MOST]
    ]
    head = ("processes", "operations", "peak", "at the end", "merged", "not merged", "mapped", "program")
    yield from columns(head, rows, right="rrrrrrr", ink=ink)
    if len(lane["programs"]) > _MOST:
        yield f"and {len(lane['programs']) - _MOST} more"


def why(lane: LaneReport, reasons: Mapping[str, Reason]) -> list[tuple[str, int, int, str, str]]:
    """Each rule that kept neighbours apart: its name, merges that it hindered, pairs that it keeps apart at the end of
    the process with most VMAs, what it says, its source."""
    names = dict.fromkeys([*lane["missed"], *(name for p in lane["programs"] for name in p["apart"])])
    largest = lane["programs"][0]["apart"] if lane["programs"] else {}
    known = {name: reasons.get(name, Reason(text=_CHANCE, source="")) for name in names}
    return [
        (name, lane["missed"].get(name, 0), largest.get(name, 0), known[name]["text"], known[name]["source"])
        for name in names
    ]


def _why(report: Report, ink: Ink) -> Iterator[str]:
    yield ink("strong", "Why neighbours are two")
    rows = [tuple(map(str, row)) for row in why(report["lanes"][0], report["reasons"])]
    yield from columns(("rule", "missed", "in the largest", "because", "source"), rows, right=" rr", ink=ink)


_CHANCE = "nothing does: they became alike after they were made, and only a change makes Linux look"


def _differences(lane: LaneReport, width: int, ink: Ink) -> Iterator[str]:
    yield ink("warning", f"{lane['different']} calls that {lane['policy']} would have answered otherwise")
    for words in differences(lane)[:_MOST]:
        yield from wrapped(words, width, "  ")


def differences(lane: LaneReport) -> list[str]:
    """The first calls that the model would have answered otherwise."""
    return [
        f"line {d['line']}: {d['operation']}: {_answer(d['traced'])}, in the model {_answer(d['modelled'])}"
        for d in lane["differences"]
    ]


def _answer(value: int) -> str:
    return f"errno {-value}" if -4096 < value < 0 else f"{value:#x}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
