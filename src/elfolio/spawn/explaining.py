"""spawn.explaining: what a template would do, and why. In: a template, options. Out: Explanation.

Nothing is decided here: the thermostat and the C core decide, and this looks at what they look at. Only a measurement
runs the program, and only on request.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elfolio import _native
from elfolio.errors import InvalidArgument
from elfolio.spawn.entry import NotWarm
from elfolio.spawn.footprint import footprint, standbys
from elfolio.spawn.inspection import examine, loader_variable
from elfolio.spawn.linked import key_now
from elfolio.spawn.options import Options, SpawnKeywords
from elfolio.spawn.plan import NULL_DEVICE, compile_plan
from elfolio.spawn.reasons import DRIFTS, REASONS, take_apart
from elfolio.spawn.saving import Measured, measured
from elfolio.spawn.warmplan import warm_side

if TYPE_CHECKING:
    from elfolio.spawn.held import Held
    from elfolio.spawn.template import Arguments, SpawnTemplate
    from elfolio.spawn.thermostat import Thermostat
    from elfolio.spawn.warming import Warmth

__all__ = ["UNEQUAL", "Explanation", "TunedCopy", "WarmProcess", "Why", "explain"]

ROUNDS = 20
"""Of a measurement that does not say how many."""
_DRIFT_LIMITS = DRIFTS.index("resource limits")
_PREFIXES = ("LD_", "GLIBC_", "MALLOC_")
"""Variables that the dynamic linker and the C library read without being seen (native/warm_fit.c)."""

UNEQUAL = {
    "layout": "All children of one warm process have its address-space layout and its pointer guard, until it is "
    "replaced: who learns an address in one of them knows it in the others. AT_RANDOM and the stack canary are fresh "
    "in each child (x86-64).",
    "audit": "A warm start is a fork, not an exec: no audit event of an execve is written, and PF_FORKNOEXEC is set "
    "in the child's flags.",
    "constructors": "Constructors of libraries ran once, before the spawn, with the warm process's arguments and not "
    "the child's.",
    "start time": "The start time in /proc/PID/stat is when the standby was forked, perhaps long before the spawn.",
    "children": "While a warm process lives, the caller has children besides those it started: os.wait() and "
    "waitpid(-1) without WNOHANG never say ECHILD.",
    "failed step": "A step that fails in a warm child shows as a SIGCHLD to the caller, beside the exception.",
}
"""What no warm start can make equal to an exec."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why a start would not be warm."""

    reason: str
    """A word of `elfolio.spawn.reasons.REASONS`, always the same for the same cause."""
    detail: str
    """What it is about: a path, a variable, an errno's text; or empty."""
    sentence: str
    mend: str
    """What would change it; empty where nothing would."""
    lasts: bool
    """Whether this template will never be warm, for this program or these options."""


@dataclass(frozen=True, slots=True)
class WarmProcess:
    """The process that stands before `main`."""

    pid: int
    standbys: tuple[int, ...]
    """Children of it, and of this process, that wait to become the program."""
    rss: int | None
    """Bytes resident, of it and its standbys added up; None where the kernel does not tell."""
    pss: int | None
    """The same with shared pages divided among those who share them: what it really costs."""
    age: float
    """Seconds."""
    served: int
    """Children taken from it."""
    start_seconds: float
    """What it took to start."""
    objects: tuple[str, ...]
    """Files and directories that must not change."""
    variables: tuple[str, ...] | None
    """Variables that must be the same in a child; a `*` at the end stands for the rest of a name. None: all of them."""


@dataclass(frozen=True, slots=True)
class TunedCopy:
    """What came of `tuned=True`."""

    path: str
    """The copy, which is what is executed; empty where there is none."""
    why: Why | None
    """Why there is none; its words are those of `elfolio.spawn.tuned.REASONS`."""
    won: int
    """Blocks that can be huge mappings, and could not in the original."""
    blocks: int
    """All that can be."""
    filled: int | None
    """How many of these had a folio of that size when they were last looked at; None where the kernel hides it."""
    random_bits_lost: int
    """Of the load address."""
    consequences: Mapping[str, str]
    """What is not as with the original."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `SpawnTemplate.explain` returns."""

    program: str
    asked: str
    """The temperature that the template was made with."""
    temperature: str
    """What a start would be now: "warm" or "cold"."""
    why: Why | None
    """Why it would not be warm."""
    wait: int | None
    """Cold starts until a warm process is tried for; None where there is one, or never will be."""
    process: WarmProcess | None
    rotate_after: int
    max_age: float
    by_temperature: Mapping[str, int]
    """This program's starts so far, and what was done in the next best way; without those of the measurement."""
    fallbacks: Mapping[str, int]
    unequal: Mapping[str, str]
    """What of a warm start cannot be equal to an exec; empty where this template will never be warm."""
    measured: Measured | None
    tuned: TunedCopy | None = None
    """None where no tuned copy was asked for."""

    @property
    def saved_us(self) -> float | None:
        """Microseconds that a warm start saves, if that was measured."""
        return None if self.measured is None else self.measured.saved_us


def explain(
    template: "SpawnTemplate",
    argv: "Arguments | None",
    measure: bool | int,
    try_warm: bool,
    keywords: SpawnKeywords,
) -> Explanation:
    """See `SpawnTemplate.explain`."""
    rounds = ROUNDS if measure is True else int(measure)
    if rounds < 0 or (rounds and not argv):
        raise InvalidArgument(f"measure={measure} needs an argv and a number above 0")
    options = Options(**keywords)
    held = template._current()
    if not template.rebuild:
        template.check()
        held = template._current()  # of another copy, perhaps
    heat = template._heat
    totals = template._counts.frozen()
    why = _by_request(template, options)
    if why is None and heat.warm is None and (try_warm or rounds):
        template._kindle(argv[0] if argv else held.name, options.environment)
    why = why or _by_state(heat, options, held.exec_fd)
    saving = None
    if rounds and argv and why is None:
        saving = measured(template, argv, rounds, keywords)
        if saving is None:
            why = _by_misses(template._counts.frozen().fallbacks, totals.fallbacks)
    return Explanation(
        program=str(template.target) if isinstance(template.target, str) else held.files[0],
        asked=template.temperature,
        temperature="cold" if why else "warm",
        why=why,
        wait=None if heat.warm is not None or (why and why.lasts) else heat.wait,
        process=_process(heat),
        rotate_after=heat.limits[0],
        max_age=heat.limits[1],
        by_temperature=totals.by_temperature,
        fallbacks=totals.fallbacks,
        unequal={} if why and why.lasts else UNEQUAL,
        measured=saving,
        tuned=_tuned(template._current()),
    )


def _tuned(held: "Held") -> TunedCopy | None:
    if held.tuned is None:
        return None
    from elfolio.spawn.tuned import CONSEQUENCES
    from elfolio.spawn.tuned import REASONS as WORDS

    found = held.tuned
    if found:
        filled, blocks = found.blocks
        return TunedCopy(found.path, None, found.won, blocks, filled, found.random_bits_lost, CONSEQUENCES)
    known = WORDS[found.reason]
    why = Why(found.reason, found.detail, known.sentence, known.mend, True)
    return TunedCopy("", why, 0, 0, None, 0, {})


# --- why not warm --------------------------------------------------------------------------------------


def _why(text: str, detail: str = "", *, lasts: bool = False) -> Why:
    word, about = take_apart(text)
    known = REASONS[word]
    return Why(word, detail or about, known.sentence, known.mend, lasts)


def _by_request(template: "SpawnTemplate", options: Options) -> Why | None:
    """What the template was made for, and what is asked of this start."""
    heat = template._heat
    if template.audit == "strict":
        return _why("audit strict", lasts=True)
    if template.temperature == "cold":
        return _why("asked cold", lasts=True)
    if heat.wait is None and heat.reason is not None:
        return _why(heat.reason.reason, heat.reason.detail, lasts=True)
    streams = (NULL_DEVICE,) * 3
    side = warm_side(compile_plan(options, streams), options, streams)
    return None if side.native is not None else _why(side.reason, lasts=True)


def _by_state(heat: "Thermostat", options: Options, pinned: int) -> Why | None:
    """What is known of the program, and of the process if there is one."""
    if heat.warm is not None and heat.warmth is not None:
        text = _misfit(heat, heat.warmth, options)
        return None if text is None else _why(text)
    if heat.reason is not None:
        return _why(heat.reason.reason, heat.reason.detail, lasts=heat.reason.lasts)
    try:
        examine(pinned)
    except NotWarm as error:
        return _why(error.reason, error.detail, lasts=error.lasts)
    if loader := loader_variable(_environment(options)):
        return _why("a loader variable", loader)
    return _why("not yet", f"{heat.wait} more") if heat.wait else _why("not tried")


def _misfit(heat: "Thermostat", warmth: "Warmth", options: Options) -> str | None:
    """Why the living process would not serve the next start, by what the C core looks at."""
    state = _state(warmth.pid)
    _, standby, served, _, dead = warmth.warm.facts()
    if dead or (state in ("", "Z", "X") and not standby):
        return "the template's process ended"
    if state in ("T", "t") and not standby:
        return "the template's process does not answer"
    if served >= heat.limits[0] or time.monotonic() - warmth.born > heat.limits[1]:
        return "rotated"
    for path, key in warmth.image:
        if key_now(path) != key:
            return f"changed: {os.fsdecode(path)}"
    try:
        drift = 0 if warmth.surroundings is None else _native.Surroundings().differ(warmth.surroundings)
    except OSError:
        drift = DRIFTS.index("surroundings unreadable")
    if drift and drift != _DRIFT_LIMITS:  # most of these can be set in the child
        return f"drifted: {DRIFTS[drift]}"
    now = [entry for entry in _environment(options) if _counts(entry, warmth.variables)]
    then = [entry for entry in warmth.environment if _counts(entry, warmth.variables)]
    return None if now == then else "a variable read before main differs"


def _by_misses(now: Mapping[str, int], before: Mapping[str, int]) -> Why | None:
    """What was counted meanwhile: the C core sees more than can be looked up here."""
    fresh = [text for text in now if text.startswith("warm: ") and now[text] > before.get(text, 0)]
    return _why(fresh[-1]) if fresh else None


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _environment(options: Options) -> Iterator[bytes]:
    """The strings that a child would get, in order."""
    names = options.env_allow
    if options.env is not None:
        pairs = [(os.fsencode(name), os.fsencode(value)) for name, value in options.env.items()]
    else:
        pairs = [(n, v) for n, v in os.environb.items() if names is None or os.fsdecode(n) in names]
    return (name + b"=" + value for name, value in pairs)


def _counts(entry: bytes, variables: tuple[bytes, ...] | None) -> bool:
    name = entry.partition(b"=")[0]
    return variables is None or name in variables or entry.startswith(tuple(p.encode() for p in _PREFIXES))


# --- the process ---------------------------------------------------------------------------------------


def _process(heat: "Thermostat") -> WarmProcess | None:
    warmth = heat.warmth
    if warmth is None:
        return None
    memory = footprint([warmth.pid])
    names = None
    if warmth.variables is not None:
        names = (*(f"{prefix}*" for prefix in _PREFIXES), *map(os.fsdecode, warmth.variables))
    return WarmProcess(
        pid=warmth.pid,
        standbys=tuple(standbys(warmth.pid)),
        rss=memory.rss,
        pss=memory.pss,
        age=time.monotonic() - warmth.born,
        served=warmth.warm.facts()[2],
        start_seconds=warmth.seconds,
        objects=warmth.objects,
        variables=names,
    )
