"""report.temperature: what a template would do, and why. In: Explanation. Out: text or a table, one JSON object.

Nothing is looked up here: what is printed is what the explanation holds.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, TypedDict

from elfolio.report.columns import plain

if TYPE_CHECKING:
    from elfolio.spawn.explaining import Explanation, TunedCopy, WarmProcess
    from elfolio.spawn.explaining import Why as Reasoned
    from elfolio.spawn.saving import Measured

__all__ = ["Report", "as_json", "as_report", "as_table", "as_text"]

_NARROWEST = 40
"""Columns for the values, however narrow the terminal."""


class Why(TypedDict):
    """Why a start would be cold."""

    reason: str
    detail: str
    sentence: str
    mend: str
    lasts: bool


class Process(TypedDict):
    """The process that stands before `main`."""

    pid: int
    standbys: list[int]
    rss_bytes: int | None
    pss_bytes: int | None
    age_seconds: float
    start_seconds: float
    served: int
    objects: list[str]
    variables: list[str] | None
    """None: all of them must be the same."""


class Tuned(TypedDict):
    """The copy that is executed, or why none is."""

    path: str
    why: Why | None
    won: int
    blocks: int
    filled: int | None
    """Of `blocks`; None: hidden."""
    random_bits_lost: int
    consequences: dict[str, str]


class Saving(TypedDict):
    """A measurement; every sample, in the order of the rounds."""

    saved_us: float
    saved_quartiles_us: list[float]
    noise_us: float
    """What two cold starts of a round differ by: the median."""
    missed: int
    cold_us: list[float]
    warm_us: list[float]
    control_us: list[float]


class Report(TypedDict):
    """The object of `elfolio run --explain --json`."""

    elfolio: str
    version: int
    argv: list[str]
    path: str
    asked: str
    temperature: str
    why: Why | None
    wait: int | None
    process: Process | None
    rotate_after: int
    max_age_seconds: float
    by_temperature: dict[str, int]
    fallbacks: dict[str, int]
    unequal: dict[str, str]
    measured: Saving | None
    tuned: Tuned | None
    """None where it was not asked for."""


def as_json(argv: Sequence[object], explanation: "Explanation") -> str:
    """The object, on one line."""
    return json.dumps(as_report(argv, explanation))


def as_report(argv: Sequence[object], explanation: "Explanation") -> Report:
    """What `as_json` writes."""
    why, process, measured = explanation.why, explanation.process, explanation.measured
    return {
        "elfolio": "run",
        "version": 1,
        "argv": [str(word) for word in argv],
        "path": explanation.program,
        "asked": explanation.asked,
        "temperature": explanation.temperature,
        "why": None if why is None else _why(why),
        "wait": explanation.wait,
        "process": None if process is None else _process(process),
        "rotate_after": explanation.rotate_after,
        "max_age_seconds": explanation.max_age,
        "by_temperature": dict(explanation.by_temperature),
        "fallbacks": dict(explanation.fallbacks),
        "unequal": dict(explanation.unequal),
        "measured": None if measured is None else _saving(measured),
        "tuned": None if explanation.tuned is None else _tuned(explanation.tuned),
    }


def _why(why: "Reasoned") -> Why:
    return {
        "reason": why.reason,
        "detail": why.detail,
        "sentence": why.sentence,
        "mend": why.mend,
        "lasts": why.lasts,
    }


def _tuned(copy: "TunedCopy") -> Tuned:
    return {
        "path": copy.path,
        "why": None if copy.why is None else _why(copy.why),
        "won": copy.won,
        "blocks": copy.blocks,
        "filled": copy.filled,
        "random_bits_lost": copy.random_bits_lost,
        "consequences": dict(copy.consequences),
    }


def _process(process: "WarmProcess") -> Process:
    return {
        "pid": process.pid,
        "standbys": list(process.standbys),
        "rss_bytes": process.rss,
        "pss_bytes": process.pss,
        "age_seconds": round(process.age, 6),
        "start_seconds": round(process.start_seconds, 6),
        "served": process.served,
        "objects": list(process.objects),
        "variables": None if process.variables is None else list(process.variables),
    }


def _saving(measured: "Measured") -> Saving:
    return {
        "saved_us": measured.saved_us,
        "saved_quartiles_us": list(measured.spread_us),
        "noise_us": measured.noise_us,
        "missed": measured.missed,
        "cold_us": list(measured.cold_us),
        "warm_us": list(measured.warm_us),
        "control_us": list(measured.control_us),
    }


# --- for people ------------------------------------------------------------------------------------------


def as_text(explanation: "Explanation") -> str:
    """One line for each thing: its name, a colon, and what there is to say; a name may come again."""
    return "\n".join(f"{name}: {plain(value)}" for name, value in _rows(explanation))


def as_table(explanation: "Explanation", width: int) -> str:
    """Two columns, within `width` columns of a terminal; a name that comes again is not repeated."""
    rows = list(_rows(explanation))
    left = max(len(name) for name, _ in rows) + 2
    lines = []
    previous = ""
    for name, value in rows:
        wrapped = textwrap.wrap(plain(value), max(_NARROWEST, width - left), break_on_hyphens=False) or [""]
        first = "" if name == previous else name
        lines += [f"{head:{left}}{line}" for head, line in zip((first, *[""] * len(wrapped)), wrapped, strict=False)]
        previous = name
    return "\n".join(lines)


def _rows(explanation: "Explanation") -> Iterator[tuple[str, str]]:
    """Names and values, in the order in which they are read."""
    yield "program", explanation.program
    yield "temperature", f"{explanation.temperature} (asked for: {explanation.asked})"
    why = explanation.why
    if why is not None:
        yield from _why_rows("why not warm", why)
    if explanation.tuned is not None:
        yield from _tuned_rows(explanation.tuned)
    if explanation.wait:
        yield "tried again", f"after {explanation.wait} cold starts"
    yield "saves", _savings(explanation)
    if explanation.process is not None:
        yield from _process_rows(explanation.process, explanation)
    if explanation.by_temperature:
        yield "starts so far", _counted(explanation.by_temperature)
    for text, count in explanation.fallbacks.items():
        yield "done otherwise", f"{text} ({count})"
    for text in explanation.unequal.values():
        yield "never equal", text


def _savings(explanation: "Explanation") -> str:
    m = explanation.measured
    if m is None:
        return "not measured" if explanation.why else "not measured; --measure N runs it N times warm, 2N times cold"
    low, high = m.spread_us
    missed = f"; rounds left out, which were not warm: {m.missed}" if m.missed else ""
    return (
        f"{m.saved_us:.0f} us a start, the median of {len(m.warm_us)} rounds (half of them {low:.0f} to {high:.0f}): "
        f"cold {median(m.cold_us):.0f} us, warm {median(m.warm_us):.0f} us, from spawn to end; "
        f"two cold starts differ by {m.noise_us:.0f} us{missed}"
    )


def _process_rows(process: "WarmProcess", explanation: "Explanation") -> Iterator[tuple[str, str]]:
    standbys = ", ".join(map(str, process.standbys)) or "none yet"
    yield "warm process", f"pid {process.pid}, standbys {standbys}; started in {process.start_seconds * 1000:.1f} ms"
    if process.pss is not None and process.rss is not None:
        yield "its memory", f"{process.pss / 1024:.0f} KiB, of {process.rss / 1024:.0f} KiB most of which is shared"
    served = f"{process.served} of {explanation.rotate_after} children"
    yield "its life", f"{served}, {process.age:.1f} of {explanation.max_age:.0f} seconds"
    for path in process.objects:
        yield "must not change", path
    variables = process.variables
    yield "must be the same", "every variable" if variables is None else f"the variables {', '.join(variables)}"


def _why_rows(name: str, why: "Reasoned") -> Iterator[tuple[str, str]]:
    yield name, f"{why.reason}: {why.detail}" if why.detail else why.reason
    yield name, why.sentence
    if why.mend:
        yield "what helps", why.mend


def _tuned_rows(copy: "TunedCopy") -> Iterator[tuple[str, str]]:
    why = copy.why
    if why is not None:
        yield from _why_rows("why not tuned", why)
        return
    yield "tuned copy", copy.path
    filled = "the kernel hides how many are" if copy.filled is None else f"{copy.filled} are"
    blocks = f"{copy.blocks} blocks can be huge mappings, {copy.won} of them could not before; {filled} in huge folios"
    bits = f"; {copy.random_bits_lost} bits fewer of its address are random" if copy.random_bits_lost else ""
    yield "tuned copy", blocks + bits
    for text in copy.consequences.values():
        yield "not as before", text


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
