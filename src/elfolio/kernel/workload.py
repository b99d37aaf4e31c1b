"""kernel.workload: what a simulated machine runs. In: parsed JSON. Out: Workload. Never reads a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["DEFAULT", "Application", "Workload", "WorkloadError", "parsed"]


class WorkloadError(ValueError):
    """A workload that cannot be run; one line."""


@dataclass(frozen=True, slots=True)
class Application:
    """A program that starts, fills memory, and ends. Shares are of the machine's memory."""

    name: str
    anon: float
    """Its own memory, freed when it ends."""
    cache: float
    """Files that it reads; what is cached of them stays."""
    life: int
    """Ticks that it runs."""
    file: int = 64
    """Pages of a file that it reads, in the mean of the logarithm."""
    huge: bool = False
    """Asks for huge pages for its own memory."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One application of these starts each tick."""

    applications: tuple[Application, ...]
    ticks: int = 40
    spike: float = 0.65
    """How far unmovable memory rises above its mean from time to time, in parts of it; it falls back page by page. 0.65
    is what brings 7% of 16 GiB into about 34% of 2 MiB blocks at the end: 24% to 55% with six seeds, mean 34%."""
    spikes: int = 5
    """Ticks from one such rise to the next."""
    again: float = 0.0
    """Share of files that are used again, three times, when they are the oldest in the page cache."""
    moments: tuple[int, ...] = field(default=())
    """Ticks after which the file is loaded; empty: about eight of them, denser at the start."""

    def when(self) -> tuple[int, ...]:
        """Ticks after which the file is loaded; the last is the end."""
        if self.moments:
            return self.moments
        return tuple(sorted({0, *(round(self.ticks * part / 40) for part in (1, 2, 5, 10, 20, 30, 40))}))


DEFAULT = Workload(
    (
        Application("small", 0.01, 0.02, 12),
        Application("browser", 0.04, 0.03, 8, file=16),
        Application("media", 0.02, 0.08, 4, file=512),
        Application("service", 0.02, 0.02, 20),
        Application("worker", 0.04, 0.01, 6, huge=True),
    )
)

_NUMBERS: Mapping[str, tuple[float, float]] = {"anon": (0, 0.5), "cache": (0, 2), "life": (1, 1000), "file": (1, 65536)}


def parsed(value: object) -> Workload:
    """`{"applications": [{"name", "anon", "cache", "life", "file", "huge"}...], "ticks", "spike", "spikes", "again",
    "moments"}`: as Workload has them; all but the first may be left out. WorkloadError says what is wrong."""
    known = {"applications", "ticks", "spike", "spikes", "again", "moments"}
    table = _table(value, "the workload", known)
    found = table.get("applications")
    if not isinstance(found, list) or not found:
        raise WorkloadError('"applications" must be a list of at least one')
    rest = {name: _number(table, name, *limits) for name, limits in _LIMITS.items() if name in table}
    ticks = int(rest.get("ticks", DEFAULT.ticks))
    return Workload(
        tuple(_application(one, f"applications[{i}]") for i, one in enumerate(found)),
        ticks,
        float(rest.get("spike", DEFAULT.spike)),
        int(rest.get("spikes", DEFAULT.spikes)),
        float(rest.get("again", DEFAULT.again)),
        _moments(table.get("moments", []), ticks),
    )


_LIMITS = {"ticks": (1.0, 10000.0), "spike": (0.0, 20.0), "spikes": (1.0, 10000.0), "again": (0.0, 1.0)}


def _table(value: object, what: str, known: set[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise WorkloadError(f"{what} must be an object")
    for name in value:
        if name not in known:
            raise WorkloadError(f"{what} has an unknown field {name!r}; known: {', '.join(sorted(known))}")
    return value


def _number(table: Mapping[str, object], name: str, least: float, most: float) -> float:
    value = table[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise WorkloadError(f'"{name}" must be a number from {least:g} to {most:g}')
    return value


def _application(value: object, what: str) -> Application:
    table = _table(value, what, {"name", "huge", *_NUMBERS})
    for name in ("anon", "cache", "life"):
        if name not in table:
            raise WorkloadError(f'{what} has no "{name}"')
    numbers = {name: _number(table, name, *limits) for name, limits in _NUMBERS.items() if name in table}
    return Application(
        str(table.get("name", what)),
        numbers["anon"],
        numbers["cache"],
        int(numbers["life"]),
        int(numbers.get("file", 64)),
        table.get("huge") is True,
    )


def _moments(value: object, ticks: int) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or not all(type(one) is int and 0 <= one <= ticks for one in value):
        raise WorkloadError(f'"moments" must be a list of ticks from 0 to {ticks}')
    return tuple(sorted(set(value)))
