"""spawn.counts: what happened to each program's spawns. In: events. Out: frozen totals for `elfolio.stats()`."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from elfolio import _native

if TYPE_CHECKING:
    from elfolio.spawn.footprint import Footprint

__all__ = ["ProgramCounts", "ProgramStats", "Stats", "counts_for", "standard_path", "stats"]

_PROGRAMS_KEPT = 1024
_lock = threading.Lock()
_programs: "OrderedDict[str, ProgramCounts]" = OrderedDict()
_standard: Counter[str] = Counter()


@dataclass(frozen=True, slots=True)
class ProgramStats:
    """Totals of one program over all its templates in this process."""

    spawns: int
    """Children started, by temperature."""
    by_temperature: Mapping[str, int]
    fallbacks: Mapping[str, int]
    """What had to be done in the next best way, and how often."""
    failures: Mapping[str, int]
    stale_rebuilds: int
    check_ns: int
    """Nanoseconds spent in revalidation, in clone to exec, and in children's lives, waited for."""
    launch_ns: int
    life_ns: int
    standing: "Footprint | None" = None
    """What stands ready for it, where that was asked for: processes, and bytes of memory."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What `elfolio.stats()` returns."""

    programs: Mapping[str, ProgramStats]
    standard: Mapping[str, int]
    """Starts that the drop-ins left to the standard library, by reason."""


class ProgramCounts(_native.Counts):
    """The running totals of one program: the common ones in C, what is rare here. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fallbacks: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._rebuilds = 0

    def fell_back(self, reasons: Iterable[str]) -> None:
        with self._lock:
            self._fallbacks.update(reasons)

    def failed(self, reason: str) -> None:
        with self._lock:
            self._failures[reason] += 1

    def rebuilt(self) -> None:
        with self._lock:
            self._rebuilds += 1

    def frozen(self) -> ProgramStats:
        with self._lock:
            return ProgramStats(
                spawns=self.started,
                by_temperature=_nonzero({"cold": self.started - self.warm, "warm": self.warm}),
                fallbacks=dict(self._fallbacks),
                failures=dict(self._failures),
                stale_rebuilds=self._rebuilds,
                check_ns=self.check_ns,
                launch_ns=self.launch_ns,
                life_ns=self.life_ns,
            )


def _nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def counts_for(program: str) -> ProgramCounts:
    """The totals of `program`, which outlive its templates; the longest unused go beyond 1,024 programs."""
    with _lock:
        counts = _programs.setdefault(program, ProgramCounts())
        _programs.move_to_end(program)
        if len(_programs) > _PROGRAMS_KEPT:
            _programs.popitem(last=False)
        return counts


def standard_path(reason: str) -> None:
    """Counts a start that a drop-in left to the standard library."""
    with _lock:
        _standard[reason] += 1


def stats(*, memory: bool = False) -> Stats:
    """Totals of this process: every program that was started, and what was left to the standard library.

    `memory`: look too at what stands ready for warm starts (`standing`), which reads some files of /proc for each.
    """
    with _lock:
        programs = dict(_programs)
        standard = dict(_standard)
    totals = {name: counts.frozen() for name, counts in programs.items()}
    if memory:
        from elfolio.spawn.footprint import footprint
        from elfolio.spawn.thermostat import standing

        ready = [(whose, warmth.pid) for whose, warmth in standing()]
        for name, counts in programs.items():
            if pids := [pid for whose, pid in ready if whose is counts]:
                totals[name] = replace(totals[name], standing=footprint(pids))
    return Stats(totals, standard)
