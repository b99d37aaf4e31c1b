"""spawn.counts: what happened to each program's spawns. In: events. Out: frozen totals for `elfolio.stats()`."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Stats:
    """What `elfolio.stats()` returns."""

    programs: Mapping[str, ProgramStats]
    standard: Mapping[str, int]
    """Starts that the drop-ins left to the standard library, by reason."""


class ProgramCounts:
    """The running totals of one program. Every method may be called from any thread."""

    __slots__ = ("_failures", "_fallbacks", "_lock", "_rebuilds", "_temperatures", "_times")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._temperatures: Counter[str] = Counter()
        self._fallbacks: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._rebuilds = 0
        self._times = [0, 0, 0]

    def started(self, temperature: str, check_ns: int, launch_ns: int, fallbacks: tuple[str, ...]) -> None:
        with self._lock:
            self._temperatures[temperature] += 1
            self._times[0] += check_ns
            self._times[1] += launch_ns
            for reason in fallbacks:
                self._fallbacks[reason] += 1

    def failed(self, reason: str) -> None:
        with self._lock:
            self._failures[reason] += 1

    def rebuilt(self) -> None:
        with self._lock:
            self._rebuilds += 1

    def ended(self, life_ns: int) -> None:
        with self._lock:
            self._times[2] += life_ns

    def frozen(self) -> ProgramStats:
        with self._lock:
            return ProgramStats(
                sum(self._temperatures.values()),
                dict(self._temperatures),
                dict(self._fallbacks),
                dict(self._failures),
                self._rebuilds,
                *self._times,
            )


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


def stats() -> Stats:
    """Totals of this process: every program that was started, and what was left to the standard library."""
    with _lock:
        programs = dict(_programs)
        standard = dict(_standard)
    return Stats({name: counts.frozen() for name, counts in programs.items()}, standard)
