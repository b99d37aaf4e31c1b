"""spawn.thermostat: when a template is warm. In: its starts, what came of them. Out: a process to ask, or a reason.

A process is started when enough starts have been seen to pay for it (auto), or at the first one (warm). It ends
when what it stands for is no more: an upgraded library, other surroundings for good, its age. It never decides about
one start: the C core does (native/warm.c), and any doubt of its makes that start a cold one, which is counted here.
"""

import os
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Literal

from elfolio import _native
from elfolio.spawn import warming
from elfolio.spawn.counts import ProgramCounts
from elfolio.spawn.entry import NotWarm
from elfolio.spawn.reasons import outcome_reason
from elfolio.spawn.warming import Launch, Warmth

__all__ = ["Temperature", "Thermostat", "cool", "policy", "standing"]

Temperature = Literal["auto", "warm", "cold"]


class Policy:
    """Numbers that say when warm pays. Those of the process; tests and benchmarks may set them."""

    starts = 32
    """Cold starts of a program after which `auto` makes it warm: bringing a process to its entry costs as much as
    some thirty starts save."""
    misses = 8
    """Starts in a row that a process could not serve, after which it is replaced by one that can."""
    reaped = 4
    """Children of a program that were waited for and whose status somebody else took, at which `auto` stays cold: a
    host that waits for any child waits for what stands ready too, which may be for ever."""
    eager = False
    """Whether `auto` is warm from the first start."""


policy = Policy()

_REPLACED = frozenset(
    (_native.WARM_GONE, _native.WARM_FROZEN, _native.WARM_BARREN, _native.WARM_STALE, _native.WARM_WORN)
)
_REAPED = "a host that waits for any child"
# Busy: a child that is killed between the owner's word and its program keeps its slot.
_MISSED = frozenset((_native.WARM_DRIFTED, _native.WARM_ENVIRONMENT, _native.WARM_BUSY))


class Thermostat:
    """One template's temperature. `warm` is the process to ask, or None."""

    def __init__(self, temperature: Temperature, counts: ProgramCounts, rotate_after: int, max_age: float) -> None:
        self.temperature = temperature
        self.warm: _native.Warm | None = None
        self.warmth: Warmth | None = None
        self.reason: NotWarm | None = None
        """Why there is none, where one was tried for."""
        self.started = 0
        """How many processes have been started."""
        self.counts = counts
        self._limits = rotate_after, max_age
        self._until = 0 if temperature == "warm" else policy.starts
        """Cold starts until one is tried for."""
        self._pause = policy.starts
        self._missed = 0
        self._never = temperature == "cold"
        self._lock = threading.Lock()

    def due(self) -> bool:
        """Whether a process should be started before the next start. Called where `warm` is None."""
        if self._never:
            return False
        self._until -= 1
        return self._until < 0 or (policy.eager and self.started == 0 and self.reason is None)

    def forbid(self, reason: str) -> None:
        """There will be no process, for this reason."""
        self.reason, self._never = NotWarm(reason), True

    def refuse(self, reason: str) -> None:
        """A start that is cold because of what it asks for."""
        self.counts.fell_back((f"warm: {reason}",))

    def kindle(self, pinned: int, launch: Launch, name: str | bytes) -> None:
        """Starts the process, unless another thread is at it; `pinned` is the program's descriptor. What fails is
        remembered, not raised."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self.temperature == "auto" and self.counts.elsewhere >= policy.reaped:
                raise NotWarm(_REAPED)
            self.started += 1
            self.warmth = warming.start(warming.examine(pinned), launch, name, *self._limits)
            self.warm, self.reason = self.warmth.warm, None
            _tried.add(self)
        except NotWarm as error:
            # Not the exception itself: its frames hold the files that the template lets go of.
            self.reason = NotWarm(error.reason, error.detail, lasts=error.lasts)
            self._never = error.lasts
            self._wait_longer()
        except OSError as error:
            self.reason = NotWarm("resources", str(error), lasts=False)
            self._wait_longer()
        finally:
            self._lock.release()

    def _wait_longer(self) -> None:
        self._until = self._pause
        self._pause = min(self._pause * 2, 1 << 20)

    def learn(self, outcome: int, detail: int) -> None:
        """What the C core says of a start that it made cold."""
        if outcome == _native.WARM_STARTED:
            self._missed = 0
            if self.counts.elsewhere >= policy.reaped and self.temperature == "auto":
                self.forbid(_REAPED)
                self.cool()
            return
        objects = self.warmth.objects if self.warmth is not None else ()
        self.counts.fell_back((f"warm: {outcome_reason(outcome, detail, objects)}",))
        if outcome in _MISSED:
            self._missed += 1
            if self._missed >= policy.misses:
                self._replace(policy.misses)
        elif outcome in _REPLACED:
            self._replace(0)

    def learn_failure(self, step: int) -> None:
        """A start that failed: of its own steps, or with the process."""
        if step == _native.STEP_WARM:
            self._replace(0)

    def _replace(self, after: int) -> None:
        """A process that dies young again and again is waited for longer each time."""
        born = self.warmth.born if self.warmth is not None else 0.0
        young = time.monotonic() - born < 1.0
        self.cool()
        self._missed = 0
        if young:
            self._wait_longer()
        else:
            self._pause = policy.starts
            self._until = after

    def cool(self) -> None:
        """Ends the process, if there is one; children live on."""
        warm, self.warm, self.warmth = self.warm, None, None
        if warm is not None:
            warm.close()


class _Tried:
    """Those that have had a process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._lock = threading.Lock()
        self._thermostats: weakref.WeakSet[Thermostat] = weakref.WeakSet()

    def add(self, thermostat: Thermostat) -> None:
        with self._lock:
            self._thermostats.add(thermostat)

    def __iter__(self) -> Iterator[Thermostat]:
        with self._lock:
            return iter(list(self._thermostats))


_tried = _Tried()
# They are the parent's, and the lock may be held by a thread that does not exist in the child.
os.register_at_fork(after_in_child=_tried.clear)


def standing() -> Iterator[Warmth]:
    """What stands ready in this process, whoever's template it is of: its processes are children of the host."""
    return (warmth for heat in _tried if (warmth := heat.warmth) is not None)


def cool() -> None:
    """Ends all that stands ready. Children that were started live on, and templates may be made warm again."""
    for heat in _tried:
        heat.cool()
