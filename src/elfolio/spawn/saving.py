"""spawn.saving: what a warm start saves, measured. In: a template that is warm, argv. Out: Measured.

It runs the program, on /dev/null, as often as it was asked to. Cold, warm, and cold once more take turns, so that
what else the machine does meets all of them; the two cold ones say what a difference of nothing looks like.
"""

import time
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING

from elfolio.spawn.options import SpawnKeywords
from elfolio.spawn.streams import DEVNULL

if TYPE_CHECKING:
    from elfolio.spawn.template import Arguments, SpawnTemplate

__all__ = ["Measured", "measured"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Starts in turn: cold, warm, and cold again as a control, each from before the spawn until its end was seen."""

    cold_us: tuple[float, ...]
    warm_us: tuple[float, ...]
    control_us: tuple[float, ...]
    missed: int
    """Rounds left out because the start that should have been warm was cold."""

    @property
    def saved_us(self) -> float:
        """The median of what each round saved."""
        return median(c - w for c, w in zip(self.cold_us, self.warm_us, strict=True))

    @property
    def noise_us(self) -> float:
        """The same for the two cold starts of each round, which should be 0."""
        return median(c - a for c, a in zip(self.cold_us, self.control_us, strict=True))

    @property
    def spread_us(self) -> tuple[float, float]:
        """The first and the third quartile of what the rounds saved."""
        saved = [c - w for c, w in zip(self.cold_us, self.warm_us, strict=True)]
        if len(saved) < 2:
            return saved[0], saved[0]
        low, _, high = quantiles(saved, n=4, method="inclusive")
        return low, high


def measured(template: "SpawnTemplate", argv: "Arguments", rounds: int, keywords: SpawnKeywords) -> Measured | None:
    """`rounds` rounds. Each kind begins a round as often as the others. None if no start was warm."""
    target = template.target if isinstance(template.target, str) else template._current().original_fd
    make, tuned = type(template), template.tuned
    samples: list[tuple[float, ...]] = []
    with (
        make(target, temperature="cold", tuned=tuned) as cold,
        make(target, temperature="cold", tuned=tuned) as control,
    ):
        kinds = (cold, template, control)
        for turn in range(rounds):
            times, warm = [0.0] * 3, False
            for i in (turn % 3, (turn + 1) % 3, (turn + 2) % 3):
                times[i], temperature = _timed(kinds[i], argv, keywords)
                warm = temperature == "warm" if kinds[i] is template else warm
            if warm:
                samples.append(tuple(times))
    if not samples:
        return None
    cold_us, warm_us, control_us = zip(*samples, strict=True)
    return Measured(cold_us, warm_us, control_us, rounds - len(samples))


def _timed(template: "SpawnTemplate", argv: "Arguments", keywords: SpawnKeywords) -> tuple[float, str]:
    """Microseconds from before a start until its end was seen, and its temperature."""
    began = time.perf_counter_ns()
    child = template.spawn(argv, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, **keywords)
    try:
        child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    return (time.perf_counter_ns() - began) / 1000, child.temperature
