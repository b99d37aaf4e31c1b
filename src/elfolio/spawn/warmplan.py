"""spawn.warmplan: a plan for a child of a warm template. In: Options, three descriptors. Out: WarmSide.

The same steps as a cold child's (`spawn.plan`), but for what an exec does by itself: the descriptors that steps refer
to are sent along and put at their numbers first, and what is to be closed is closed. Never starts anything.
"""

import os
import resource
from collections.abc import Iterable, Iterator

from elfolio import _native
from elfolio.spawn.actions import Action, Chdir, Close, Dup2, Fchdir, Open
from elfolio.spawn.options import Options, StrPath
from elfolio.spawn.plan import INHERITED, NULL_DEVICE, Builder, Plan, WarmSide, surviving, unsent_steps

__all__ = ["warm_side"]

_NULLS = (1, 2, 4)  # enum request_flags

# Read by the kernel at exec, or by the C library at its start: setting them afterwards is not the same.
_READ_AT_START = frozenset((resource.RLIMIT_STACK, resource.RLIMIT_AS, resource.RLIMIT_DATA))


def warm_side(plan: Plan, options: Options, streams: tuple[int, int, int]) -> WarmSide:
    """`plan`, of these options and streams, for a child of a warm template; compiled once."""
    if plan.side is None:
        plan.side = _compile(options, streams)
    return plan.side


def _compile(options: Options, streams: tuple[int, int, int]) -> WarmSide:
    if not options.plain and (reason := _cold_reason(options)) is not None:
        return WarmSide(None, reason=reason)
    sources: list[int] = []
    targets: list[int] = []
    flags = 0
    for target, source in enumerate(streams):
        if source == NULL_DEVICE:
            flags |= _NULLS[target]
        else:
            sources.append(-1 - target if source == INHERITED else source)
            targets.append(target)
    for fd in sorted(_referred_to(options)):
        sources.append(fd)
        targets.append(fd)
    kept = sorted(_kept(options))
    if len(targets) >= _native.WARM_FDS or len(kept) >= _native.WARM_FDS:
        return WarmSide(None, reason="descriptors: too many to send")
    b = Builder()
    unsent_steps(b, options, set())
    steps = b.steps_object()
    highest = max((2, *targets, *kept, *_made(options.actions)))
    may_block = any(isinstance(action, Open) for action in options.actions)
    # Signals are set back to their default without fail.
    may_fail = not set(b.labels) <= {"restore_signals", "umask"}
    native = _native.WarmPlan(
        steps, flags, sources, targets, kept, highest, may_fail, may_block, not options.actions
    )  # fmt: skip
    return WarmSide(native, tuple(b.labels))


def _cold_reason(options: Options) -> str | None:
    """What an exec does that cannot be done without one, or what is read at a start."""
    if options.needs_memory_copy:
        return "memory_merge takes effect at exec" if options.memory_merge else "credentials take effect at exec"
    if options.pdeathsig:
        return "pdeathsig is about the thread that spawns"
    if options.inherit_fds:
        return "inherit_fds: what would be inherited is not known"
    if options.cgroup is not None or options.private_cgroup:
        return "a cgroup is one of birth"
    if options.rlimits and _READ_AT_START & options.rlimits.keys():
        return "rlimits that are read at the start"
    for action in options.actions:
        if isinstance(action, Open | Chdir) and _shows_the_process(action.path):
            return "a path through /proc"
    return "a path through /proc" if options.cwd is not None and _shows_the_process(options.cwd) else None


def _shows_the_process(path: StrPath) -> bool:
    """Such a path may lead to the parent's descriptors, or to the child's own memory, which are others here."""
    return os.fsencode(path).startswith((b"/proc", b"/dev/fd", b"/dev/std"))


def _referred_to(options: Options) -> set[int]:
    """Descriptors of the parent's that steps name before they are made."""
    needed = {fd for fd in options.pass_fds if fd > 2}
    made: set[int] = {0, 1, 2}
    for action in options.actions:
        match action:
            case Close(fd=fd) | Fchdir(fd=fd):
                needed |= {fd} - made
            case Dup2(fd=fd, newfd=newfd):
                needed |= {fd} - made
                made.add(newfd)
            case Open(newfd=newfd, dirfd=dirfd):
                needed |= {dirfd} - made if dirfd >= 0 else set()
                made.add(newfd)
    if options.controlling_tty is not None:
        needed |= {options.controlling_tty} - made
    return needed


def _made(actions: Iterable[Action]) -> Iterator[int]:
    for action in actions:
        match action:
            case Dup2(newfd=newfd) | Open(newfd=newfd):
                yield newfd


def _kept(options: Options) -> set[int]:
    """What the program has in the end, its standard streams too."""
    passed = {fd for fd in options.pass_fds if fd > 2}
    kept = surviving({0, 1, 2} | passed, options.actions)
    # One that is passed may have been made close-on-exec by an action, or closed.
    return kept & ({0, 1, 2} | passed) if options.close_targets else kept
