"""bench.samples: what can be said of latencies. In: samples in nanoseconds, by round. Out: medians, spreads, ratios."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Rounds", "Spread", "quantile", "ratio", "spread"]

Rounds = Sequence[Sequence[int]]
"""One subject's samples: a sequence for each round, in order."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A middle and what lies around it."""

    low: float
    middle: float
    high: float


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie, interpolated between neighbours."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def spread(rounds: Rounds) -> Spread:
    """Tenth percentile, median and ninetieth percentile of all samples, in nanoseconds."""
    every = [sample for samples in rounds for sample in samples]
    return Spread(quantile(every, 0.1), statistics.median(every), quantile(every, 0.9))


def ratio(subject: Rounds, base: Rounds) -> Spread:
    """Median and quartiles of the rounds' ratios. Both had their turns in the same rounds, so that what slows
    the machine down for a while cancels out."""
    each = [statistics.median(mine) / statistics.median(theirs) for mine, theirs in zip(subject, base, strict=True)]
    return Spread(quantile(each, 0.25), statistics.median(each), quantile(each, 0.75))
