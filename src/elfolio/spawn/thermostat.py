"""spawn.thermostat: when a template is warm. In: its starts, and what came of them. Out: one to ask, or the reason.

A process is started when enough starts have been seen to pay for it (auto), or at the first one (warm). It ends
when what it stands for is no more: an upgraded library, other surroundings for good, its age. It never decides about
one start: the C core does (native/warm*.c), and any doubt of its makes that start a cold one, which is counted here.
"""

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from elfolio import _native
from elfolio.spawn import warming
from elfolio.spawn.counts import ProgramCounts
from elfolio.spawn.entry import NotWarm
from elfolio.spawn.inspection import examine
from elfolio.spawn.linked import Image, key_now
from elfolio.spawn.reasons import DRIFTS, outcome_reason
from elfolio.spawn.refusals import object_error
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
    idle = 2.0
    """Seconds without a start after which the process of an `auto` template ends by itself: so long, and no longer,
    a host waits that waits for all its children."""
    eager = False
    """Whether `auto` is warm from the first start."""


policy = Policy()

_REPLACED = frozenset(
    (_native.WARM_GONE, _native.WARM_FROZEN, _native.WARM_BARREN, _native.WARM_STALE, _native.WARM_WORN)
)
_PAUSE_MOST = 256
"""Cold starts between two tries at most, where processes die young."""
_REAPED = "a host that waits for any child"
# Busy: a child that is killed between the owner's word and its program keeps its slot.
_MISSED = frozenset((_native.WARM_DRIFTED, _native.WARM_ENVIRONMENT, _native.WARM_BUSY))


class Thermostat:
    """One template's temperature. `warm` is the process to ask, or None."""

    def __init__(
        self,
        temperature: Temperature,
        counts: ProgramCounts,
        rotate_after: int,
        max_age: float,
        rebuild: bool = True,
    ) -> None:
        self.temperature = temperature
        self.warm: _native.Warm | None = None
        self.warmth: Warmth | None = None
        self.reason: NotWarm | None = None
        """Why there is none, where one was tried for."""
        self.started = 0
        """How many processes have been started."""
        self.counts = counts
        self.flags = _native.LAUNCH_WHOLE if temperature == "warm" and not rebuild else 0
        """Whether the whole image is held: a changed object refuses the start."""
        self.image: Image | None = None
        """That image, once there has been a process of it. Another one's must be the same."""
        self.limits = rotate_after, max_age
        """Children and seconds, after which a process is replaced."""
        self._until = 0 if temperature == "warm" else policy.starts
        """Cold starts until one is tried for."""
        self._pause = policy.starts
        self._idle = policy.idle if temperature == "auto" else 0.0
        self._missed = 0
        self._never = temperature == "cold"
        self._lock = threading.Lock()
        """Held while a process is being started."""
        self._swap = threading.Lock()
        self._closed = False

    @property
    def wait(self) -> int | None:
        """Cold starts until a process is tried for; None: there will be none."""
        return None if self._never else max(0, self._until)

    def due(self) -> bool:
        """Whether a process should be started before the next start. Called where `warm` is None; raises StaleTemplate
        where the whole image is held and has changed."""
        if self.image is not None:
            self.stand()
        if self._never:
            return False
        self._until -= 1
        return self._until < 0 or (policy.eager and self.started == 0 and self.reason is None)

    def forbid(self, reason: str) -> None:
        """There will be no process, for this reason."""
        self.reason, self._never = NotWarm(reason), True

    def stand(self) -> None:
        """Raises StaleTemplate where the whole image is held and has changed."""
        for path, key in self.image or ():
            now = key_now(path)
            if now != key:
                raise object_error(os.fsdecode(path), key, now)

    def refuse(self, reason: str) -> None:
        """A start that is cold because of what it asks for."""
        self.stand()
        self.counts.fell_back((f"warm: {reason}",))

    def kindle(self, pinned: int, launch: Launch, name: str | bytes) -> None:
        """Starts the process, unless another thread is at it; `pinned` is the program's descriptor. What fails is
        remembered, not raised."""
        before = self.started
        if self._lock.locked():
            return
        with self._lock:  # in this form, because an interrupt behind a call to acquire() would leave it held
            if self.started == before:  # else another thread has tried, since the caller looked
                self._try(pinned, launch, name)

    def _try(self, pinned: int, launch: Launch, name: str | bytes) -> None:
        try:
            if self.warm is not None:
                return
            if self.temperature == "auto" and self.counts.elsewhere >= policy.reaped:
                raise NotWarm(_REAPED)
            _cool_idle()
            self.started += 1
            _tried.add(self)
            warmth = warming.start(examine(pinned), launch, name, *self.limits, self._idle)
            if drift := warmth.warm.drift():  # at once: what cannot even be asked here, such as kcmp(2)
                warmth.warm.close()
                raise NotWarm("surroundings", DRIFTS[drift], lasts=False)
            if self.image not in (None, warmth.image):
                warmth.warm.close()
                raise NotWarm("changing", "what it is linked with", lasts=False)
            if self.flags:
                self.image = warmth.image
            self._adopt(warmth)
        except NotWarm as error:
            # Not the exception itself: its frames hold the files that the template lets go of.
            self.reason = NotWarm(error.reason, error.detail, lasts=error.lasts)
            self._never = self._never or error.lasts
            self.counts.fell_back((f"warm: {error.reason}",))
            self._wait_longer()
        except OSError as error:
            self.reason = NotWarm("resources", str(error), lasts=False)
            self._wait_longer()

    def _adopt(self, warmth: Warmth) -> None:
        with self._swap:
            if not self._closed:
                self.warmth = warmth
                self.warm, self.reason = warmth.warm, None
                return
        warmth.warm.close()

    def _wait_longer(self) -> None:
        self._until = self._pause
        self._pause = min(self._pause * 2, _PAUSE_MOST)

    def learn(self, outcome: int, detail: int) -> None:
        """What the C core says of a start that it made cold."""
        if outcome == _native.WARM_STARTED:
            self._missed = 0
            if self.counts.elsewhere >= policy.reaped and self.temperature == "auto":
                self.forbid(_REAPED)
                self.cool()
            return
        image = self.warmth.image if self.warmth is not None else []
        self.counts.fell_back((f"warm: {outcome_reason(outcome, detail, image)}",))
        warmth = self.warmth
        if warmth is None:
            return
        if outcome == _native.WARM_IDLE:
            self._replace(warmth, policy.starts, worn=True)
        # What is said of a process that another thread has replaced meanwhile is not about its successor.
        if outcome in _REPLACED and warmth.dead:
            self._replace(warmth, 0, outcome == _native.WARM_WORN)
        elif outcome in _MISSED or outcome == _native.WARM_STALE:
            self._missed += 1
            if self._missed >= policy.misses:
                self._replace(warmth, policy.misses)

    def learn_failure(self, step: int) -> None:
        """A start that failed: of its own steps, or with the process."""
        warmth = self.warmth
        if step == _native.STEP_WARM and warmth is not None and warmth.dead:
            self._replace(warmth, 0)

    def _replace(self, warmth: Warmth, after: int, worn: bool = False) -> None:
        """A process that dies young again and again is waited for longer each time."""
        if not self._let_go(warmth):
            return
        self._missed = 0
        if not worn and time.monotonic() - warmth.born < 1.0:
            self._wait_longer()
        else:
            self._pause = policy.starts
            self._until = after

    def _let_go(self, warmth: Warmth | None) -> bool:
        """Whether it was this thread that ended it."""
        with self._swap:
            if warmth is None or self.warmth is not warmth:
                return False
            self.warm = self.warmth = None
        warmth.warm.close()
        return True

    def rest(self) -> None:
        """It has not been asked for a while: it is to be earned again."""
        if self.warmth is not None:
            self._replace(self.warmth, policy.starts, worn=True)

    def cool(self) -> None:
        """Ends the process, if there is one; children live on. The next start may make another."""
        self._let_go(self.warmth)

    def close(self) -> None:
        """Ends it for good, also one that another thread is just starting."""
        self._closed = self._never = True
        self.cool()


_tried: "weakref.WeakSet[Thermostat]" = weakref.WeakSet()
"""Those that have tried for a process."""


def _have_tried() -> list[Thermostat]:
    # A set that another thread adds to meanwhile says so; it is small, and that is soon over.
    while True:
        with suppress(RuntimeError):
            return list(_tried)


def _cool_idle() -> None:
    """Those that have ended by themselves are to be reaped. Done when another is started, which takes longer."""
    for heat in _have_tried():
        warm = heat.warm
        if warm is not None and warm.idle():
            heat.rest()


def standing() -> Iterator[tuple[ProgramCounts, Warmth]]:
    """What stands ready in this process, by program, whoever's template it is of: its processes are children of the
    host."""
    return ((heat.counts, warmth) for heat in _have_tried() if (warmth := heat.warmth) is not None)


def cool() -> None:
    """Ends all that stands ready. Children that were started live on, and templates may be made warm again."""
    for heat in _have_tried():
        heat.cool()


os.register_at_fork(after_in_child=_tried.clear)
"""They are the parent's."""
