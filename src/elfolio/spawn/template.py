"""spawn.template: SpawnTemplate. In: an executable. Out: children that run it and nothing else.

The contract is the kernel proposal's (RFC "exec: add spawn templates", v1), kept in userspace: pin the file,
revalidate it and the caller's authority before every spawn, act in the child, return pid and pidfd.
"""

import errno
import fcntl
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Unpack

from elfolio import _native
from elfolio.errors import InvalidArgument
from elfolio.spawn import names
from elfolio.spawn.capture import Capturing, Completed, RunKeywords
from elfolio.spawn.child import Child, Standing, abandoned, reap_abandoned
from elfolio.spawn.counts import ProgramCounts, counts_for
from elfolio.spawn.held import Held, hold
from elfolio.spawn.options import NO_OPTIONS, Options, SpawnKeywords, StrPath
from elfolio.spawn.plan import INHERITED, NULL_DEVICE, Plan, compile_plan, overwritten, plain_plans
from elfolio.spawn.refusals import foreign_error, refusal_error
from elfolio.spawn.streams import Streams, StreamTarget
from elfolio.spawn.thermostat import Temperature, Thermostat
from elfolio.spawn.warmplan import warm_side

if TYPE_CHECKING:
    from elfolio.spawn.aio import AsyncChild
    from elfolio.spawn.explaining import Explanation

__all__ = ["Arguments", "SpawnTemplate"]

Arguments = list[str | bytes] | tuple[str | bytes, ...] | list[str] | list[bytes]
Audit = Literal["descriptor", "strict"]

_REBUILDS = 16
"""How often one spawn follows a file that keeps changing, before it is stale for good."""
_COPIES = 64
"""How often a template takes another tuned copy for one that was changed, before it goes without."""
_COPY_REFUSED = frozenset((errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EINVAL, errno.EIO, errno.ETXTBSY))
"""What an exec of a copy may say that one of the original would not: rules by path, a device that fails."""
_PLAIN_STREAMS = (NULL_DEVICE, INHERITED, INHERITED)
_PLAIN = compile_plan(NO_OPTIONS, _PLAIN_STREAMS)
_PLAIN_WARM = warm_side(_PLAIN, NO_OPTIONS, _PLAIN_STREAMS).native
ROTATE_AFTER = 1000
"""Children of one template's process, all of which have its address-space layout."""
MAX_AGE = 600.0
"""Seconds that such a process lives."""
MAX_AGE_EVER = 1e9

_DOINGS = (
    (_native.HOW_NO_CLONE3, "clone3 missing or refused"),
    (_native.HOW_PIDFD_OPENED, "pidfd opened after the start"),
    (_native.HOW_NAME_LOST, "task name left to the kernel"),
    (_native.HOW_COPIED_MEMORY, "memory descriptor copied"),
    (_native.HOW_RETRIED_BUSY, "retried after ETXTBSY"),
)


class SpawnTemplate:
    """One executable, pinned, from which children are spawned.

    `target` is an absolute path or an open descriptor. `temperature`: "cold" executes the program at every
    start; "warm" forks from a process of it that stands before `main`, where that is the same (docs/warm.md);
    "auto" is cold until a program has been started often enough for warm to pay. A child of a warm one shares its
    address-space layout with its siblings: after `rotate_after` of them or `max_age` seconds the process is
    replaced. `audit`:
    "descriptor" executes the pinned descriptor; "strict" executes the path, so that AT_EXECFN and audit rules
    on execve are exact, and asks the child afterwards what it runs. `rebuild`: on a changed file, hold the new
    one instead of raising StaleTemplate. `lease`: hold off in-place writers from the check until exec, where
    the kernel allows it (owner of the file or CAP_LEASE); see docs/security.md for the window without.
    `tuned`: execute a copy of the program whose text lies on huge pages, kept in the user's cache, where that wins any
    and the program does not look at its own path (docs/tuned.md); else the program itself, with the reason in
    `explain` and `stats`.

    Raises InvalidArgument (also a ValueError) for a relative path, FileNotFoundError, PermissionError for what
    may not be executed, OSError (`ENOEXEC`) for an unknown format.

    A template belongs to the process that made it: after a fork, in a multiprocessing worker and unpickled it
    refuses with PermissionError. Spawning is safe from any number of threads.
    """

    def __init__(
        self,
        target: StrPath | int,
        *,
        temperature: Temperature = "auto",
        audit: Audit = "descriptor",
        rebuild: bool = False,
        lease: bool = True,
        rotate_after: int = ROTATE_AFTER,
        max_age: float = MAX_AGE,
        tuned: bool = False,
    ) -> None:
        if temperature not in ("auto", "warm", "cold"):
            raise InvalidArgument(f"temperature must be 'auto', 'warm' or 'cold', not {temperature!r}")
        if rotate_after < 1 or not 0 < max_age < MAX_AGE_EVER:
            raise InvalidArgument(f"rotate_after={rotate_after} and max_age={max_age} must be above 0")
        if audit not in ("descriptor", "strict"):
            raise InvalidArgument(f"audit must be 'descriptor' or 'strict', not {audit!r}")
        if audit == "strict" and isinstance(target, int):
            raise InvalidArgument("audit='strict' executes a path: give one, not a descriptor")
        self.temperature = temperature
        self.audit = audit
        self.rebuild = rebuild
        self.tuned = tuned
        self._lease = lease
        self._copies = 0
        self.target: str | int = target if isinstance(target, int) else os.fsdecode(target)
        self._held: Held | None = None
        self._foreign = False
        self._counts: ProgramCounts = counts_for(str(self.target))
        heat: Temperature = temperature if audit != "strict" else "cold"
        self._heat = Thermostat(heat, self._counts, rotate_after, max_age, rebuild)
        self._held = hold(self.target, lease=lease, by_path=audit == "strict", tuned=tuned)
        if isinstance(self.target, int):
            # The caller may close the descriptor given: what is pinned is a copy.
            self._counts = self._heat.counts = counts_for(self._held.name)
        self._count_untuned(self._held)
        if self._held.prefix:
            self._heat.forbid("script")

    def __repr__(self) -> str:
        return f"<SpawnTemplate {self.target!r} {self.temperature}{'' if self._held else ' closed'}>"

    def __reduce__(self) -> tuple[object, ...]:
        """Authority to spawn is not passed on: what is unpickled refuses, and names the program."""
        return _refusing, (self.target,)

    def __enter__(self) -> "SpawnTemplate":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # At the interpreter's end modules are gone, and the process's end closes all there is.
        if getattr(self, "_held", None) is not None and not sys.is_finalizing():
            self.close()

    def close(self) -> None:
        """Lets go of the files. Children live on; a spawn afterwards raises ValueError."""
        held, self._held = self._held, None
        self._heat.close()
        if held is not None:
            names.unlink_for(held.exec_fd)

    def cool(self) -> None:
        """Ends what stands ready for warm starts, if anything does; children that were started live on.

        For a caller that is about to wait for all its children, or to unmount a file system. The template stays usable:
        "warm" makes a new process at the next start, "auto" when it has been earned again.
        """
        if self.temperature == "auto":
            self._heat.rest()
        else:
            self._heat.cool()

    @property
    def leased(self) -> bool:
        """Whether in-place writers are held off during a spawn."""
        return self._current().image.leasable()

    def check(self) -> None:
        """Raises what a spawn would raise: StaleTemplate, PermissionError; nothing if it would start."""
        held = self._current()
        refusal = held.image.check()
        if refusal is not None:
            if held.tuned and self._recopies(held, refusal):
                return self.check()
            raise refusal_error(self.target, held.files, refusal)
        self._heat.stand()

    def spawn(
        self,
        argv: Arguments,
        *,
        stdin: StreamTarget = None,
        stdout: StreamTarget = None,
        stderr: StreamTarget = None,
        **options: Unpack[SpawnKeywords],
    ) -> Child:
        """Starts the program with `argv`, argv[0] included, and returns the running child.

        Streams are descriptors, files, PIPE, DEVNULL or INHERIT, for stderr also STDOUT; a stdin of None is
        /dev/null, outputs of None are the host's. A PIPE gives `child.stdin`, `child.stdout`, `child.stderr`
        as unbuffered binary files. `options`: see `elfolio.spawn.options.Options`.

        Raises StaleTemplate, PermissionError, InvalidArgument, and the OSError of a step that failed in the
        child, with the action's index and the action, or the keyword, in its message. Nothing is left behind.
        """
        if options or stdin is not None or stdout is not None or stderr is not None:
            wanted = Options(**options) if options else NO_OPTIONS  # before there are pipes: it may raise
            return self._spawn(argv, Streams(stdin, stdout, stderr), wanted)
        held = self._held or self._current()
        if not held.direct or not argv or abandoned:
            return self.launch(argv, NO_OPTIONS, _PLAIN_STREAMS)
        # The plain way stands here by itself. A start is counted in microseconds, and before the clone each call
        # costs one: when a process has just run, Python's own code is no longer in the caches. What comes after
        # it is free, because the child is busy starting meanwhile.
        heat = self._heat
        if held.tuned is not None:
            held.tuned.look()
        if heat.warm is None and heat.due():
            self._kindle(argv[0], None)
        outcome = held.image.launch(
            Child, self._counts, argv, None, _PLAIN.steps, None, held.exec_fd, -1, _PLAIN.flags | heat.flags, False,
            heat.warm, _PLAIN_WARM,
        )  # fmt: skip
        return self._started(outcome, held, _PLAIN, argv, NO_OPTIONS, _PLAIN_STREAMS)

    def _spawn(self, argv: Arguments, streams: Streams, options: Options) -> Child:
        child = None
        try:
            child = self.launch(argv, options, streams.child)
            streams.spawned()
            for which, name, mode in ((0, "stdin", "wb"), (1, "stdout", "rb"), (2, "stderr", "rb")):
                if streams.ours[which] >= 0:
                    setattr(child, name, open(streams.take(which), mode, buffering=0))  # noqa: SIM115
        except BaseException:
            streams.close()
            if child is not None:  # an interrupt: whoever asked for it will never know of it
                child.kill_tree()
                child.wait()
            raise
        return child

    def run(self, argv: Arguments, **keywords: Unpack[RunKeywords]) -> Completed:
        """Starts the program, feeds it, waits, and returns what it said; see `elfolio.spawn.capture`."""
        return Capturing(self, argv, keywords).run()

    async def arun(self, argv: Arguments, **keywords: Unpack[RunKeywords]) -> Completed:
        """`run` without blocking the event loop; cancelling it kills the tree and reaps it."""
        from elfolio.spawn.aio import arun

        return await arun(Capturing(self, argv, keywords))

    async def astart(
        self,
        argv: Arguments,
        *,
        stdin: StreamTarget = None,
        stdout: StreamTarget = None,
        stderr: StreamTarget = None,
        **options: Unpack[SpawnKeywords],
    ) -> "AsyncChild":
        """`spawn` for the running event loop: pipes become asyncio's streams, `wait` can be awaited."""
        from elfolio.spawn.aio import adopt

        return await adopt(self.spawn(argv, stdin=stdin, stdout=stdout, stderr=stderr, **options))

    def explain(
        self,
        argv: Arguments | None = None,
        *,
        measure: bool | int = False,
        try_warm: bool = False,
        **options: Unpack[SpawnKeywords],
    ) -> "Explanation":
        """Which temperature a start with these options would have now, why not a warmer one, and what cannot be equal.

        Runs nothing by itself. `try_warm`: start the process that warm children are forked from, if there is none
        yet; the program's own code does not run in it. `measure`: start `argv` so many times warm (True: 20) and
        twice as many times cold, on /dev/null, one after the other, and give the microseconds saved: whatever `argv`
        does, it then does that often.

        Raises what `check` raises, and InvalidArgument for `measure` without `argv`.
        """
        from elfolio.spawn.explaining import explain

        return explain(self, argv, measure, try_warm, options)

    def launch(
        self,
        argv: Arguments,
        options: Options,
        streams: tuple[int, int, int],
        script: str | None = None,
        rebuilds: int = _REBUILDS,
    ) -> Child:
        """`spawn` with everything resolved: the standard streams are descriptors, INHERITED or NULL_DEVICE
        (`elfolio.spawn.plan`). `script` is what a script is told to be called, if not the template's path.
        `rebuilds`: how often to follow a file that changes, where a rebuild was asked for at all."""
        if abandoned:
            reap_abandoned()
        if not argv:
            raise InvalidArgument("argv must have at least argv[0]")
        held = self._held or self._current()
        if held.tuned is not None:
            held.tuned.look()
        if held.direct and options.plain:
            plan = plain_plans.get(streams) or compile_plan(options, streams)
            warm, warm_plan = self._warmed(argv, options, streams, plan)
            outcome = held.image.launch(
                Child, self._counts, argv, options.environment, plan.steps, None, held.exec_fd, -1,
                plan.flags | self._heat.flags, False, warm, warm_plan,
            )  # fmt: skip
        else:
            plan, outcome = self._start(held, argv, options, streams, script)
        return self._started(outcome, held, plan, argv, options, streams, script, rebuilds)

    def _started(
        self,
        outcome: "Child | _native.Refusal",
        held: Held,
        plan: Plan,
        argv: Arguments,
        options: Options,
        streams: tuple[int, int, int],
        script: str | None = None,
        rebuilds: int = _REBUILDS,
    ) -> Child:
        """The child; or, where it was refused, another try with the file rebuilt, or the exception."""
        if isinstance(outcome, tuple):
            if held.tuned and rebuilds and self._recopies(held, outcome, plan, rebuilds):
                return self.launch(argv, options, streams, script, rebuilds - 1)
            if outcome[0] == _native.IMAGE_STALE and rebuilds and self._rebuilds(held):
                return self.launch(argv, options, streams, script, rebuilds - 1)
            error = self._refusal(outcome, held, plan, options)
            if outcome[2] < 0:
                self._heat.learn_failure(outcome[4])
            self._counts.failed(type(error).__name__)
            raise error
        words = list(argv)
        if outcome.warm != _native.WARM_UNTRIED:
            self._heat.learn(outcome.warm, outcome.warm_detail)
        if outcome.how:
            self._counts.fell_back(reason for bit, reason in _DOINGS if outcome.how & bit)
        # Last: a child without it is nobody's yet, and ends if an interrupt comes (Child._abandoned).
        outcome.args = words
        return outcome

    def _refusal(self, outcome: "_native.Refusal", held: Held, plan: Plan, options: Options) -> OSError:
        files = held.files
        if outcome[0] == _native.IMAGE_OBJECT:
            files = tuple(os.fsdecode(path) for path, _ in self._heat.image or ())
        return refusal_error(self.target, files, outcome, plan, options)

    def _start(
        self,
        held: Held,
        argv: Arguments,
        options: Options,
        streams: tuple[int, int, int],
        script: str | None,
        proxy: "_native.Proxy | None" = None,
    ) -> "tuple[Plan, Child | _native.Refusal]":
        """A launch with all that can be asked for."""
        with ExitStack() as stack:
            cgroup_fd, private = -1, None
            if options.cgroup is not None or options.private_cgroup:
                from elfolio.spawn.cgroup import membership

                cgroup_fd, private = stack.enter_context(membership(options.cgroup, options.private_cgroup))
            taken = overwritten(options.actions) if options.actions else set()
            path, fd = self._way(held, taken, stack)
            passed = held.passed
            if passed in taken:
                passed = _elsewhere(passed, taken, stack)
                script = f"/dev/fd/{passed}"
            plan = compile_plan(options, streams, passed, fd)
            warm, warm_plan = (None, None) if proxy is not None else self._warmed(argv, options, streams, plan)
            child = held.image.launch(
                Child if proxy is None else Standing,
                self._counts if proxy is None else ProgramCounts(),  # a template's process is nobody's start
                _script_arguments(held, argv, script) if held.prefix and fd >= 0 else argv,
                options.environment,
                plan.steps,
                path,
                fd,
                cgroup_fd,
                plan.flags | self._heat.flags,
                self.audit == "strict",
                warm,
                warm_plan,
                proxy,
            )
        if isinstance(child, Child):
            child.leads = options.start_new_session or options.process_group == 0
            if private is not None:
                child.cgroup = private
                child.on_end = private.remove
        elif private is not None:
            private.remove()
        return plan, child

    def _way(self, held: Held, taken: set[int], stack: ExitStack) -> tuple[bytes | None, int]:
        """What to execute: a path or None, and a descriptor or -1."""
        if self.audit == "strict":
            return os.fsencode(str(self.target)), -1
        fd = held.exec_fd
        if fd in taken:
            # An action gives the descriptor's number to something else: pin the file under another one.
            fd = _elsewhere(fd, taken, stack)
            stack.callback(names.unlink_for, fd)
        if held.plain_name:
            return None, fd
        link = names.link_for(fd, held.name)
        return (None if link is None else os.fsencode(link)), fd

    def _warmed(
        self, argv: Arguments, options: Options, streams: tuple[int, int, int], plan: Plan
    ) -> "tuple[_native.Warm | None, _native.WarmPlan | None]":
        """The process to ask, and what to send to it; None and None: a cold start."""
        heat = self._heat
        if heat.warm is None:
            if not heat.due():
                return None, None
            self._kindle(argv[0], options.environment)
            if heat.warm is None:
                return None, None
        side = warm_side(plan, options, streams)
        if side.native is None:
            heat.refuse(side.reason)
            return None, None
        return heat.warm, side.native

    def _kindle(self, name: str | bytes, environment: object) -> None:
        """Starts the process that warm children are forked from."""
        held = self._current()

        def launch(argv: list[str | bytes], options: Options, proxy: _native.Proxy) -> "Child | _native.Refusal":
            options.__dict__["environment"] = environment
            return self._start(held, argv, options, (NULL_DEVICE,) * 3, None, proxy)[1]

        self._heat.kindle(held.exec_fd, launch, name)
        if self._heat.warm is None:
            self._heat.stand()

    def _current(self) -> Held:
        if self._foreign:
            raise foreign_error(self.target)
        held = self._held
        if held is None:
            raise ValueError(f"the template of {self.target!r} is closed")
        return held

    def _rebuilds(self, stale: Held) -> bool:
        """Holds the files anew, where the caller asked for that; False where not. Raises what `hold` raises."""
        if not self.rebuild or isinstance(self.target, int):
            return False
        self._exchange(stale, hold(self.target, lease=self._lease, by_path=self.audit == "strict", tuned=self.tuned))
        self._counts.rebuilt()
        return True

    def _recopies(
        self, held: Held, refusal: "_native.Refusal", plan: Plan | None = None, rebuilds: int = _REBUILDS
    ) -> bool:
        """Takes another copy for one that is not the one that was made any more, or none where the kernel refuses it.
        False where the copy is not the cause. The original stays what it was, or the next check says so."""
        status, _, index, error, failed = refusal
        changed = status == _native.IMAGE_STALE and index == len(held.files) - 1
        repeatable = plan is not None and plan.flags & _native.LAUNCH_REPEATABLE
        refused = failed == _native.STEP_EXEC and error in _COPY_REFUSED and status == _native.IMAGE_FAILED
        if not changed and not (refused and repeatable):
            return False
        self._copies += 1
        tuned = changed and self._copies < _COPIES and rebuilds > _REBUILDS // 2
        target = self.target if isinstance(self.target, str) else held.original_fd
        try:
            fresh = hold(target, lease=self._lease, tuned=tuned)
        except OSError:
            return True  # of the original: the next check says so
        if fresh.image.key(0) != held.image.key(0):
            return True
        if changed:
            self._counts.fell_back(("tuned: the copy was changed",))
        fresh = replace(fresh, files=(held.files[0], *fresh.files[1:]))
        self._exchange(held, fresh if tuned else _without_copy(fresh, "changing" if changed else "the copy is refused"))
        return True

    def _exchange(self, stale: Held, held: Held) -> None:
        self._held = held
        self._heat.cool()
        names.unlink_for(stale.exec_fd)
        self._count_untuned(held)

    def _count_untuned(self, held: Held) -> None:
        if held.tuned is not None and not held.tuned:
            self._counts.fell_back((held.tuned.counted,))


def _refusing(target: str | int) -> SpawnTemplate:
    template = object.__new__(SpawnTemplate)
    template.target = target
    template.temperature = "cold"
    template.tuned = False
    template._heat = Thermostat("cold", counts_for(str(target)), 1, 1.0)
    template._held = None
    template._foreign = True
    return template


def _without_copy(held: Held, reason: str) -> Held:
    from elfolio.spawn.tuned import untuned

    return replace(held, tuned=untuned(reason))


def _script_arguments(held: Held, argv: Arguments, script: str | None) -> list[str | bytes]:
    """What load_script() makes of them: argv[0] goes, interpreter and script come."""
    prefix: list[str | bytes] = list(held.prefix)
    if script is not None:
        prefix[-1] = script
    return [*prefix, *argv[1:]]


def _elsewhere(fd: int, taken: set[int], stack: ExitStack) -> int:
    """A copy of `fd` under a number that no action takes; `stack` closes it."""
    number = 3
    while True:
        copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number)
        if copy not in taken:
            stack.callback(os.close, copy)
            return copy
        os.close(copy)
        number = copy + 1
