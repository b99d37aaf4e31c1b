"""bench.load_tables: samples of loads as tables and verdicts. In: a case, samples. Out: text. Never measures."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from bench.table import show

__all__ = [
    "OURS",
    "Case",
    "Sample",
    "Samples",
    "Standing",
    "against",
    "cost",
    "middle",
    "rate",
    "rows",
    "table",
    "verdict",
]

Sample = dict[str, float]
Samples = dict[str, list[Sample]]
OURS, CONTROL = "elfolio auto", "elfolio auto again (A/A)"
_BASE, _PLAIN = "read() into bytes", "mmap"
_HEADINGS = ("", "GB/s", "of", "CPU s/GB", "first pass GB/s", "random GB/s")


@dataclass(frozen=True, slots=True)
class Case:
    """What was measured, but for the subject."""

    kind: str
    """Of the file system."""
    gib: float
    cold: bool
    way: str
    """`whole`: the file; `by tensor`: a quarter of its tensors, by name."""
    share: float | None
    """Of one processor; None: as much as there is."""
    read_ahead: int | None
    """read_ahead_kb of its device."""

    def __str__(self) -> str:
        said = f"{self.kind}, {self.gib:g} GiB, {'cold' if self.cold else 'warm'}"
        said += ", a quarter of the tensors by name" if self.way == "by tensor" else ""
        said += f", {self.share:.0%} of a processor" if self.share else ""
        return said + (f", read_ahead_kb {self.read_ahead}" if self.read_ahead is not None else "")


def middle(samples: Iterable[Sample], name: str) -> float:
    """The median."""
    return statistics.median(sample[name] for sample in samples)


def rate(samples: list[Sample]) -> float:
    """GB (10**9 bytes) a second, the median."""
    return samples[0]["bytes"] / middle(samples, "seconds") / 1e9


def cost(samples: list[Sample]) -> float:
    """Processor seconds a GB, the median."""
    return middle(samples, "processor") / samples[0]["bytes"] * 1e9


def rows(samples: Samples) -> list[tuple[str, ...]]:
    """Of the table."""
    made: list[tuple[str, ...]] = []
    for subject, found in samples.items():
        size = found[0]["bytes"] / 1e9
        rates = sorted(size / sample["seconds"] for sample in found)
        made.append(
            (
                subject,
                f"{statistics.median(rates):.2f}",
                f"{rates[0]:.2f} to {rates[-1]:.2f}",
                f"{cost(found):.3f}",
                f"{size / middle(found, 'first'):.2f}",
                f"{size / 4 / middle(found, 'random'):.2f}",
            )
        )
    return made


@dataclass(frozen=True, slots=True)
class Standing:
    """How `auto` stands: its rate over the fastest peer's, and over its own measured again; its processor time a GB
    over read's and over plain mmap's."""

    rate: float
    peer: str
    peers_rate: float
    over_peer: float
    control: float | None
    of_read: float
    of_mmap: float


def against(samples: Samples) -> Standing | None:
    """None where a subject that is needed is missing."""
    if not {OURS, _BASE, _PLAIN} <= samples.keys():
        return None
    rates = {name: rate(found) for name, found in samples.items()}
    peer = max((name for name in rates if not name.startswith("elfolio")), key=rates.__getitem__)
    again = rates.get(CONTROL)
    ours = cost(samples[OURS])
    shares = [ours / other if (other := cost(samples[name])) else float("nan") for name in (_BASE, _PLAIN)]
    return Standing(
        rates[OURS], peer, rates[peer], rates[OURS] / rates[peer], rates[OURS] / again if again else None, *shares
    )


def verdict(samples: Samples) -> str:
    """The same in a line; empty where it cannot be said."""
    found = against(samples)
    if found is None:
        return ""
    control = "" if found.control is None else f" ({found.control:.2f} times its own, measured again)"
    return (
        f"auto: {found.over_peer:.2f} times the rate of the fastest peer ({found.peer}){control}; "
        f"{found.of_read:.3f} of read()'s processor time a GB, {found.of_mmap:.3f} of plain mmap's\n"
    )


def table(case: Case, samples: Samples, *, markdown: bool) -> str:
    """With the verdict below it."""
    said = verdict(samples)
    return show(str(case), _HEADINGS, rows(samples), markdown=markdown) + ("\n" if markdown and said else "") + said
