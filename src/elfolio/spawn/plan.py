"""spawn.plan: options compiled into the steps that the child takes. In: Options, three descriptors. Out: Plan.

A plan is data: the C core carries it out in the child (native/steps.h), and `Plan.failure` turns the step
that failed back into words. Never starts anything.
"""

import os
import signal
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from errno import EINVAL

from elfolio import _native
from elfolio.errors import InvalidArgument
from elfolio.spawn.actions import (
    AT_FDCWD,
    LAST_FD,
    Action,
    Chdir,
    Close,
    CloseRange,
    Dup2,
    Fchdir,
    Open,
    SigDefault,
    SigMask,
)
from elfolio.spawn.options import Options

__all__ = [
    "INHERITED",
    "NULL_DEVICE",
    "Builder",
    "Plan",
    "WarmSide",
    "compile_plan",
    "overwritten",
    "plain_plans",
    "surviving",
    "unsent_steps",
]

INHERITED = -1
"""A standard stream of the child that is the parent's."""
NULL_DEVICE = -3
"""A standard stream of the child that is /dev/null."""

_STEP = struct.Struct("=IIiiQQ")
_OPEN_HOW = struct.Struct("=QQQ")
_CLOSE_RANGE_UNSHARE = 2
_CLOSE_RANGE_CLOEXEC = 4
_DEV_NULL = b"/dev/null\0"
_RLIM_INFINITY = 0xFFFFFFFFFFFFFFFF
_NEEDED = {("memory_merge", EINVAL): "; it needs Linux 6.4, built with CONFIG_KSM"}
"""Where a kernel's errno is what it says to anything that it does not know."""


def _signal_bits(signals: Iterable[int]) -> int:
    bits = 0
    for sig in signals:
        bits |= 1 << (sig - 1)
    return bits


# What Python ignores and a program expects at its default (Python/pylifecycle.c, _Py_RestoreSignals).
_RESTORED = _STEP.pack(_native.OP_SIGDEFAULT, 0, 0, 0, _signal_bits((signal.SIGPIPE, signal.SIGXFSZ)), 0)
_CLOSE_ALL = _STEP.pack(_native.OP_CLOSE_RANGE, _CLOSE_RANGE_CLOEXEC, 3, -1, 0, 0)


@dataclass(frozen=True, slots=True)
class WarmSide:
    """What a plan is for a child of a warm template; None with the reason where such a child can only be cold."""

    native: _native.WarmPlan | None
    labels: tuple[str | tuple[int, Action], ...] = ()
    reason: str = ""


@dataclass(slots=True)
class Plan:
    """The compiled steps of one spawn."""

    steps: _native.Steps
    flags: int
    labels: tuple[str | tuple[int, Action], ...]
    """For each step the keyword, or the index and the action, that it comes from."""
    side: WarmSide | None = None
    """Filled in when first asked for (`elfolio.spawn.warmplan`)."""

    def failure(self, step: int, errno: int, options: Options, *, warm: bool = False) -> OSError:
        """The error for a step that failed in the child with `errno`."""
        label = (self.side.labels if warm and self.side is not None else self.labels)[step]
        reason = os.strerror(errno)
        if label == "cwd":
            return OSError(errno, reason, options.cwd)
        if isinstance(label, str):
            return OSError(errno, f"{label}: {reason}{_NEEDED.get((label, errno), '')}")
        index, action = label
        return OSError(errno, f"action {index}, {action!r}: {reason}")


class Builder:
    """Collects steps, the bytes they refer to, and where they come from."""

    def __init__(self) -> None:
        self.steps: list[bytes] = []
        self.blob = bytearray()
        self.labels: list[str | tuple[int, Action]] = []

    def add(
        self, label: str | tuple[int, Action], op: int, *, flags: int = 0, fd: int = 0, newfd: int = 0, arg: int = 0,
        arg2: int = 0,
    ) -> None:  # fmt: skip
        self.steps.append(_STEP.pack(op, flags, fd, newfd, arg, arg2))
        self.labels.append(label)

    def packed(self, label: str, step: bytes) -> None:
        self.steps.append(step)
        self.labels.append(label)

    def data(self, data: bytes) -> int:
        """Puts bytes into the blob, aligned for a struct of 64-bit fields; returns their offset."""
        self.blob += b"\0" * (-len(self.blob) % 8)
        at = len(self.blob)
        self.blob += data
        return at

    def path(self, path: object) -> int:
        encoded = os.fsencode(path)  # type: ignore[arg-type]
        if b"\0" in encoded:
            raise ValueError("embedded null byte")
        return self.data(encoded + b"\0")

    def steps_object(self) -> _native.Steps:
        """What the C core takes."""
        return _native.Steps(b"".join(self.steps), bytes(self.blob))

    def open(
        self,
        label: str | tuple[int, Action],
        newfd: int,
        dirfd: int,
        path: int,
        flags: int,
        mode: int,
        resolve: int,
    ) -> None:
        how = self.data(_OPEN_HOW.pack(flags, mode, resolve))
        self.add(label, _native.OP_OPEN, fd=dirfd, newfd=newfd, arg=path, arg2=how)


_PLANS_KEPT = 64
plain_plans: dict[tuple[int, int, int], Plan] = {}
"""Plans without options, by streams: pipes get the same numbers again and again."""


def compile_plan(options: Options, streams: tuple[int, int, int], passed: int = -1, executed: int = -1) -> Plan:
    """Compiles `options` for a child whose standard streams are `streams`: descriptors of the parent,
    INHERITED or NULL_DEVICE. `passed` is one more descriptor to pass, `executed` the one that will be executed;
    neither may be among `overwritten(options.actions)`. Raises InvalidArgument."""
    if options.plain and passed < 0:
        plan = plain_plans.get(streams)
        if plan is None:
            plan = _compile(options, streams, -1, -1)
            if len(plain_plans) < _PLANS_KEPT:
                plain_plans[streams] = plan
        return plan
    return _compile(options, streams, passed, executed)


def overwritten(actions: Iterable[Action]) -> set[int]:
    """The descriptors that actions close or make by their number."""
    numbers: set[int] = set()
    for action in actions:
        match action:
            case Close(fd=fd):
                numbers.add(fd)
            case Dup2(newfd=newfd) | Open(newfd=newfd):
                numbers.add(newfd)
    return numbers


def _compile(options: Options, streams: tuple[int, int, int], passed: int, executed: int) -> Plan:
    b = Builder()
    kept = {fd for fd in options.pass_fds if fd > 2}
    own = {fd for fd in (passed, executed) if fd > 2}
    _streams(b, streams)
    _placement(b, options, kept | ({passed} & own))
    for index, action in enumerate(options.actions):
        _action(b, index, action, own)
    if not options.inherit_fds:
        survivors = kept if options.close_targets else surviving(kept, options.actions)
        _close_others(b, survivors | ({passed} & own))
    _authority(b, options)
    if options.pdeathsig:
        b.add("pdeathsig", _native.OP_PDEATHSIG, fd=options.pdeathsig)
    if options.restore_signals:
        b.packed("restore_signals", _RESTORED)
    flags = _native.LAUNCH_COPY_MEMORY if options.needs_memory_copy else 0
    # An action may do a thing that cannot be done twice, such as making a file.
    flags |= 0 if options.actions else _native.LAUNCH_REPEATABLE
    return Plan(b.steps_object(), flags, tuple(b.labels))


def unsent_steps(b: Builder, options: Options, own: set[int]) -> None:
    """The steps of a child whose descriptors have been sent to it: all but for streams and closing."""
    _placement(b, options, {fd for fd in options.pass_fds if fd > 2})
    for index, action in enumerate(options.actions):
        _action(b, index, action, own)
    _authority(b, options)
    if options.restore_signals:
        b.packed("restore_signals", _RESTORED)


def _streams(b: Builder, streams: tuple[int, int, int]) -> None:
    """dup2 onto 0, 1, 2. One of the sources may itself be 0, 1 or 2 and be overwritten before its turn (a host
    that has closed its own streams gets such pipes), so those are set aside first."""
    names = ("stdin", "stdout", "stderr")
    for target, source in enumerate(streams):
        if 0 <= source <= 2 and source != target:
            b.add(names[target], _native.OP_SAVE, fd=source, newfd=target)
    for target, source in enumerate(streams):
        if source == NULL_DEVICE:
            at = b.data(_DEV_NULL)
            b.open(names[target], target, AT_FDCWD, at, os.O_RDONLY if target == 0 else os.O_WRONLY, 0, 0)
        elif source == target:
            b.add(names[target], _native.OP_KEEP, fd=source)
        elif 0 <= source <= 2:
            b.add(names[target], _native.OP_RESTORE, fd=target, newfd=target)
        elif source > 2:
            b.add(names[target], _native.OP_DUP2, fd=source, newfd=target)


def _placement(b: Builder, options: Options, kept: set[int]) -> None:
    for fd in sorted(kept):
        b.add("pass_fds", _native.OP_KEEP, fd=fd)
    if options.cwd is not None:
        b.add("cwd", _native.OP_CHDIR, arg=b.path(options.cwd))
    if options.umask >= 0:
        b.add("umask", _native.OP_UMASK, arg=options.umask)
    if options.start_new_session:
        b.add("start_new_session", _native.OP_SETSID)
    if options.process_group is not None:
        b.add("process_group", _native.OP_SETPGID, fd=options.process_group)
    if options.controlling_tty is not None:
        b.add("controlling_tty", _native.OP_TERMINAL, fd=options.controlling_tty)
    if options.nice:
        b.add("nice", _native.OP_NICE, fd=options.nice)
    if options.cpu_affinity is not None:
        mask = _affinity(options.cpu_affinity)
        b.add("cpu_affinity", _native.OP_AFFINITY, flags=len(mask), arg=b.data(mask))
    if options.oom_score_adj is not None:
        b.add("oom_score_adj", _native.OP_OOM_SCORE, arg=b.data(b"%d\0" % options.oom_score_adj))


def _affinity(cpus: Iterable[int]) -> bytes:
    bits = 0
    for cpu in cpus:
        if not 0 <= cpu < 65536:
            raise InvalidArgument(f"cpu_affinity names processor {cpu}")
        bits |= 1 << cpu
    # The kernel takes a whole number of longs.
    return bits.to_bytes(max(8, (bits.bit_length() + 63) // 64 * 8), "little")


def _action(b: Builder, index: int, action: Action, own: set[int]) -> None:
    label = (index, action)
    match action:
        case Close():
            b.add(label, _native.OP_CLOSE, fd=action.fd)
        case Dup2():
            b.add(label, _native.OP_DUP2, fd=action.fd, newfd=action.newfd, flags=os.O_CLOEXEC * action.cloexec)
        case Fchdir():
            b.add(label, _native.OP_FCHDIR, fd=action.fd)
        case Chdir():
            b.add(label, _native.OP_CHDIR, arg=b.path(action.path))
        case Open():
            mode = 0o666 if action.mode is None and action.creates else action.mode or 0
            b.open(label, action.newfd, action.dirfd, b.path(action.path), action.flags, mode, action.resolve)
        case CloseRange():
            flags = _CLOSE_RANGE_CLOEXEC * action.cloexec | _CLOSE_RANGE_UNSHARE * action.unshare
            # What is executed must stay open until then; it is close-on-exec, so that nobody sees it did.
            for first, last in _around(action.first, action.last, own):
                b.add(label, _native.OP_CLOSE_RANGE, fd=first, newfd=last, flags=flags)
        case SigMask():
            b.add(label, _native.OP_SIGMASK, arg=_signal_bits(action.signals))
        case SigDefault():
            b.add(label, _native.OP_SIGDEFAULT, arg=_signal_bits(action.signals))


def surviving(kept: set[int], actions: Iterable[Action]) -> set[int]:
    """The descriptors from 3 up that the program is meant to have, after the actions."""
    kept = set(kept)
    for action in actions:
        match action:
            case Close(fd=fd):
                kept.discard(fd)
            case Dup2(fd=fd, newfd=newfd, cloexec=cloexec) if fd != newfd:
                (kept.discard if cloexec else kept.add)(newfd)
            case Open(newfd=newfd, flags=flags):
                (kept.discard if flags & os.O_CLOEXEC else kept.add)(newfd)
            case CloseRange(first=first, last=last):
                kept = {fd for fd in kept if not first <= fd <= last}
    return kept


def _around(first: int, last: int, holes: set[int]) -> Iterator[tuple[int, int]]:
    """The parts of a range that are left without `holes`."""
    for hole in sorted(holes):
        if first <= hole <= last:
            if first < hole:
                yield first, hole - 1
            first = hole + 1
    if first <= last:
        yield first, last


def _close_others(b: Builder, kept: set[int]) -> None:
    """Marks what lies between the kept descriptors close-on-exec: exec then closes it, and the pinned file,
    which is one of them, stays open until it has been executed."""
    if not kept:
        b.packed("pass_fds", _CLOSE_ALL)
        return
    for first, last in _around(3, LAST_FD, kept):
        b.add("pass_fds", _native.OP_CLOSE_RANGE, flags=_CLOSE_RANGE_CLOEXEC, fd=first, newfd=last)


def _authority(b: Builder, options: Options) -> None:
    for resource, (soft, hard) in (options.rlimits or {}).items():
        b.add("rlimits", _native.OP_RLIMIT, fd=resource, arg=soft & _RLIM_INFINITY, arg2=hard & _RLIM_INFINITY)
    if options.extra_groups is not None:
        gids = [_group(group) for group in options.extra_groups]
        b.add(
            "extra_groups",
            _native.OP_GROUPS,
            flags=len(gids),
            arg=b.data(struct.pack(f"={len(gids)}I", *gids)),
        )
    if options.group is not None:
        b.add("group", _native.OP_GID, arg=_group(options.group))
    if options.user is not None:
        b.add("user", _native.OP_UID, arg=_user(options.user))
    if options.no_new_privs:
        b.add("no_new_privs", _native.OP_NO_NEW_PRIVS)
    if options.memory_merge:
        b.add("memory_merge", _native.OP_MERGE)


def _user(user: int | str) -> int:
    if isinstance(user, str):
        import pwd

        return pwd.getpwnam(user).pw_uid
    return _id(user, "user")


def _group(group: int | str) -> int:
    if isinstance(group, str):
        import grp

        return grp.getgrnam(group).gr_gid
    return _id(group, "group")


def _id(value: int, name: str) -> int:
    if not 0 <= value < 0xFFFFFFFF:
        raise InvalidArgument(f"{name} must be an id, not {value}")
    return value
