"""pagecache.load_compare: every strategy in turn, cold and warm. In: a path. Out: Trials, every sample kept.

Cold drops this file from the page cache, and no other (posix_fadvise): what is dirty, or mapped by anybody, stays, and
is said. The control is the first strategy, measured a second time as if it were another: what differs between the two
is noise. Rounds, not strategies, come one after the other, so that a machine that slows down slows all of them.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

from elfolio.live.cached import open_quietly
from elfolio.pagecache.load import load
from elfolio.pagecache.load_job import cached_bytes
from elfolio.pagecache.load_report import LoadReport, Strategy
from elfolio.span import Span

__all__ = ["CONTROL", "Trial", "compare", "drop_file"]

CONTROL = "mmap, again"
"""The name of the A/A control."""
_ORDER = tuple((one.value, one.value) for one in Strategy)


@dataclass
class Trial:
    """One strategy, cold or warm."""

    name: str
    warm: bool
    reports: list[LoadReport] = field(default_factory=list)
    error: str = ""
    """Why there is none; empty where there are."""
    stayed: int = 0
    """Bytes that were cached before a cold load all the same; the most of all rounds."""

    @property
    def rate(self) -> float | None:
        """The median, in GB/s."""
        return median(one.rate for one in self.reports) if self.reports else None

    @property
    def processor_per_gb(self) -> float | None:
        """The median, in seconds."""
        return median(one.processor_per_gb for one in self.reports) if self.reports else None


def compare(
    path: str, *, rounds: int = 5, tell: Callable[[int, int], object] = lambda done, total: None
) -> list[Trial]:
    """`tell` is called with the loads that are done and all. Raises OSError where the file cannot be read at all."""
    names = [*_ORDER, (CONTROL, Strategy.MMAP.value)]
    trials = {(name, warm): Trial(name, warm) for warm in (False, True) for name, _ in names}
    total, done = rounds * len(trials), 0
    load(path, strategy="read").close()  # memory that nobody has touched yet costs its first user more
    for turn in range(rounds):
        for warm in (False, True):
            for name, strategy in _rotated(names, turn):
                _try(path, strategy, trials[name, warm])
                done += 1
                tell(done, total)
    return list(trials.values())


def _rotated(names: Sequence[tuple[str, str]], by: int) -> list[tuple[str, str]]:
    at = by % len(names)
    return [*names[at:], *names[:at]]


def _try(path: str, strategy: str, trial: Trial) -> None:
    if trial.warm:
        _fill(path)
    else:
        trial.stayed = max(trial.stayed, drop_file(path))
    try:
        with load(path, strategy=strategy) as loaded:
            trial.reports.append(loaded.report)
    except OSError as error:
        trial.error = str(error.strerror)


def drop_file(path: str) -> int:
    """Takes the file out of the page cache; the bytes that stayed."""
    with open_quietly(path) as fd:
        with suppress(OSError):
            os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return cached_bytes(fd, Span(0, os.fstat(fd).st_size)) or 0


def _fill(path: str) -> None:
    """Warm is what a load leaves that keeps the cache."""
    load(path, strategy="mmap").close()
