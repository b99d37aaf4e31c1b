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
    def descriptors(self) -> tuple[int, ...]:
        """What is open here for it; the pidfds of its children that stand by, which come and go, are not among it."""
        return self.warm.descriptors()

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
        born_into = _native.Surroundings()
        ends, options = _channel(stack)
        # First of all, so that whoever is born later is somebody's to reap, wherever an interrupt comes.
        warm = _native.Warm(*ends, born_into, rotate_after, int(max_age * 1e9), int(idle * 1e9))
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
        patience = threading.Timer(_PATIENCE, child.kill)  # a constructor may wait for ever
        patience.daemon = True
        try:
            patience.start()
            tracee.await_exec()
            environment = _environment(child.pid)
            if loader := loader_variable(environment):
                raise NotWarm("a loader variable", loader, lasts=False)
            entry = reach_entry(tracee, program, os.readlink(f"/proc/{child.pid}/exe"))
            inspect(child.pid, entry)
            objects = linked_with(entry, began)
            wipe(tracee, entry, environment)
            names = sorted(entry.reads)
            warm.stand(child.pid, child.pidfd, objects, environment, entry.reads_all, names)
            install(tracee, entry, int(idle * 1e9))
            child.owned = True  # by `warm`
        except BaseException as error:
            if isinstance(error, NotWarm) and error.reason == "a child process at main":
                child.kill_tree()  # before the proxy, with which its tracee ends: its children are found by it
            proxy.close()
            child.kill()
            child.wait()
            warm.close()
            if isinstance(error, TraceeLost):
                raise NotWarm("ptrace", str(error), lasts=False) from error
            raise
        finally:
            patience.cancel()
    return Warmth(
        warm,
        child.pid,
        objects,
        time.monotonic() - began,
        time.monotonic(),
        born_into,
        tuple(environment),
        None if entry.reads_all else tuple(names),
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


def _channel(stack: ExitStack) -> tuple[tuple[int, int, int, int], Options]:
    """Our ends, the page of slots and the inode of the template's socket, and the options that give it what it needs,
    at its numbers. `stack` closes all of it."""
    ours, theirs = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    # A socket's wake-up says that the waker is about to sleep: the template is put onto its processor, and not behind
    # the child on the other. An eventfd's does not.
    telling, told = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
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
    ends = ours.fileno(), telling.fileno(), slots, os.fstat(theirs.fileno()).st_ino
    return ends, Options(actions=high)


def _environment(pid: int) -> list[bytes]:
    text = Path(f"/proc/{pid}/environ").read_bytes()
    return text.split(b"\0")[:-1]
