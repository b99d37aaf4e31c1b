"""spawn.warming: a warm template's process, started. In: how to launch the program. Out: Warmth, or NotWarm.

The process is a child of ours, launched as any other, and brought to its entry under a tracer. There it is given the
stub (native/warm/*.c) and let go; from then on it forks a child, ours, for each one that is taken.
"""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path

from elfolio import _native
from elfolio.elf.dynamic import Dynamic
from elfolio.spawn.actions import Dup2
from elfolio.spawn.child import Child
from elfolio.spawn.entry import NotWarm, reach_entry
from elfolio.spawn.implant import ARGC, install, wipe
from elfolio.spawn.inspection import inspect, loader_variable, status_of
from elfolio.spawn.linked import Image, linked_with
from elfolio.spawn.machine import MACHINE
from elfolio.spawn.options import Options
from elfolio.spawn.tracee import Tracee, TraceeLost

__all__ = ["Launch", "Warmth", "start"]

Launch = Callable[[list[str | bytes], Options, _native.Proxy], "Child | _native.Refusal"]
"""Launches the program with these arguments and options, to be met by the proxy."""

_PATIENCE = 5.0
"""Seconds that a program's libraries may take to start."""
_ABOVE = _native.WARM_FD_LAST + 1
_PTRACE_CONT = 7


@dataclass(frozen=True, slots=True)
class Warmth:
    """A template's process that stands ready."""

    warm: _native.Warm
    pid: int
    image: "Image"
    """What it is linked with: the C core's indices of objects count these."""
    descriptors: tuple[int, ...]
    """What is open here for it; a pidfd for each of its children that stand by, which come and go, is not among it."""
    seconds: float
    """What it took to start it."""
    born: float
    """CLOCK_MONOTONIC."""
    surroundings: _native.Surroundings | None = None
    """What it was born into."""
    environment: tuple[bytes, ...] = ()
    variables: tuple[bytes, ...] | None = ()
    """Names that its libraries asked for before `main`; None where they looked at all."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Paths of what it is linked with."""
        return tuple(os.fsdecode(path) for path, _ in self.image)

    @property
    def dead(self) -> bool:
        """Whether it will serve no start any more."""
        return bool(self.warm.facts()[4])


def start(
    program: Dynamic, launch: Launch, name: str | bytes, rotate_after: int, max_age: float, idle: float
) -> Warmth:
    """Starts it; `name` is its argv[0]. Raises NotWarm with the reason, and leaves nothing behind then."""
    began = time.monotonic()
    with ExitStack() as stack:
        ours, taken, slots, theirs, options = _channel(stack)
        born_into = _native.Surroundings()
        proxy = _native.Proxy()
        stack.callback(proxy.close)
        tracee = Tracee(proxy)
        stack.callback(tracee.close)
        _may_trace(proxy)
        tracee.expect()
        child = launch([name, *[""] * (ARGC - 1)], options, proxy)
        if not isinstance(child, Child):
            if child[4] == _native.STEP_TRACE:
                raise NotWarm("ptrace", os.strerror(child[3]), lasts=False)
            raise NotWarm("launch", os.strerror(child[3]) if child[3] else "refused", lasts=False)
        child.owned = True
        try:
            with _deadline(child):
                tracee.await_exec()
                environment = _environment(child.pid)
                if loader := loader_variable(environment):
                    raise NotWarm("a loader variable", loader, lasts=False)
                entry = reach_entry(tracee, program, os.readlink(f"/proc/{child.pid}/exe"))
                inspect(child.pid, entry)
                objects = linked_with(entry, began)
                wipe(tracee, entry, environment)
                install(tracee, entry, int(idle * 1e9))
            pidfd = _above_streams(child.pidfd, stack)
            warm = _native.Warm(
                ours.fd,
                taken.fd,
                slots, theirs, child.pid, pidfd.fd, born_into, objects, environment,
                entry.reads_all, sorted(entry.reads), rotate_after, int(max_age * 1e9), int(idle * 1e9),
            )  # fmt: skip
            descriptors = ours.detach(), taken.detach(), pidfd.detach()
        except BaseException as error:
            if isinstance(error, NotWarm) and error.reason == "a child process at main":
                child.kill_tree()  # before the proxy, with which its tracee ends: its children are found by it
            proxy.close()
            child.kill()
            child.wait()
            if isinstance(error, TraceeLost):
                raise NotWarm("ptrace", str(error), lasts=False) from error
            raise
        pid = child.pid
        os.close(child.detach())
    return Warmth(
        warm,
        pid,
        objects,
        descriptors,
        time.monotonic() - began,
        time.monotonic(),
        born_into,
        tuple(environment),
        None if entry.reads_all else tuple(sorted(entry.reads)),
    )


def _may_trace(proxy: _native.Proxy) -> None:
    """Asked for a process that cannot be: where a seccomp filter kills for ptrace, the child would wait for its tracer
    for ever."""
    try:
        result = proxy.call(MACHINE.ptrace, _PTRACE_CONT, 0, 0, 0)
    except ProcessLookupError:
        result = -errno.EPERM
    if result != -errno.ESRCH:
        filtered = status_of("thread-self").get("Seccomp", "0") != "0"
        raise NotWarm("seccomp" if filtered else "ptrace", os.strerror(-result), lasts=False)


class _Descriptor:
    """One that is closed unless it has been handed on."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _above_streams(fd: int, stack: ExitStack) -> _Descriptor:
    """A copy that `stack` closes. A standard stream that the host has closed stays closed: it may open it again."""
    copy = _Descriptor(fcntl(fd, F_DUPFD_CLOEXEC, 3))
    stack.callback(copy.close)
    return copy


def _channel(stack: ExitStack) -> tuple[_Descriptor, _Descriptor, int, int, Options]:
    """Our ends, the inode of the template's socket, and the options that give it what it needs, at its numbers."""
    end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.enter_context(theirs)
    with end:
        ours = _above_streams(end.fileno(), stack)
    # A socket's wake-up says that the waker is about to sleep: the template is put onto its processor, and not behind
    # the child on the other. An eventfd's does not.
    telling, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    stack.enter_context(told)
    with telling:
        taken = _above_streams(telling.fileno(), stack)
    slots = os.memfd_create("elfolio", os.MFD_CLOEXEC)
    stack.callback(os.close, slots)
    os.ftruncate(slots, _native.WARM_SLOT_BYTES)
    owner = os.pidfd_open(os.getpid())
    stack.callback(os.close, owner)
    high = []
    pairs = (
        (theirs.fileno(), _native.WARM_FD_CONTROL),
        (owner, _native.WARM_FD_OWNER),
        (told.fileno(), _native.WARM_FD_TAKEN),
        (slots, _native.WARM_FD_SLOTS),
    )
    for fd, target in pairs:
        copy = fcntl(fd, F_DUPFD_CLOEXEC, _ABOVE)
        stack.callback(os.close, copy)
        high.append(Dup2(copy, target))
    options = Options(actions=high)
    return ours, taken, slots, os.fstat(theirs.fileno()).st_ino, options


class _deadline:
    """Kills a child that does not come to its entry in time: a constructor may wait for ever."""

    def __init__(self, child: Child) -> None:
        self._timer = threading.Timer(_PATIENCE, child.kill)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _environment(pid: int) -> list[bytes]:
    text = Path(f"/proc/{pid}/environ").read_bytes()
    return text.split(b"\0")[:-1]
