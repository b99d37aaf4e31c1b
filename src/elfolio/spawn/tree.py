"""spawn.tree: kills children and all that descends from them. In: Child, our ends of its pipes. Out: a count.

Never hits a stranger: a process is signalled through a pidfd, opened first and checked afterwards, so that a
number given to somebody else in between is noticed. What belongs to the child, in the order of certainty:

- everything in its private cgroup, by cgroup.kill;
- the child, its children, theirs, and so on, by /proc/PID/stat;
- members of the session or group that has its number. That cannot be anybody else's session or group while
  the child is unreaped, and a tree is killed before its root is reaped;
- orphans that hold the writing end of one of its pipes, inheritably. The pipe was made close-on-exec for this
  child, so that only its descendants have it so; a copy in a fork of this process is close-on-exec still.

All are stopped first and killed only when nobody new is found: a process that dies hands what it has just
forked to a stranger, and one that is stopped cannot fork.
"""

import os
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elfolio.spawn.child import Child

__all__ = ["Process", "descendants", "kill_tree", "kill_trees", "pipe_name", "processes"]

_ROUNDS = 64
_BUSY = ("R", "S", "D")
"""States of a process that has not stopped yet. Waiting in the kernel (D) it may be in the middle of a fork, which a
signal sent to one process does not restart since c3ad2c3b02e9 ("signal: Don't restart fork when signals come in"),
Linux 4.19: the child comes to be, and only then its parent stops."""


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat, as far as kinship goes."""

    pid: int
    ppid: int
    group: int
    session: int
    started: int
    """Clock ticks since boot: with the number, it names a process for good."""
    state: str = "R"
    """The letter of proc_pid_stat(5)."""


def read_process(pid: int, proc: str = "/proc") -> Process | None:
    """None where there is no such process."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name may hold blanks and parentheses: what counts begins behind the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), fields[0].decode())


def processes(proc: str = "/proc") -> Iterator[Process]:
    """All processes that can be seen."""
    for name in os.listdir(proc):
        if name.isdigit() and (process := read_process(int(name), proc)) is not None:
            yield process


def descendants(everyone: dict[int, Process], root: int) -> set[int]:
    """The numbers of `root`'s children, theirs, and so on."""
    children: dict[int, list[int]] = {}
    for process in everyone.values():
        children.setdefault(process.ppid, []).append(process.pid)
    found: set[int] = set()
    todo = list(children.get(root, ()))
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, ())
    return found


def kill_tree(child: "Child", pipes: tuple[int, ...] = ()) -> int:
    """Kills `child` and its descendants; `pipes` are our reading ends of its pipes. Returns how many were sent
    SIGKILL. A child that has been reaped already has only its private cgroup left to kill."""
    return kill_trees((child,), {name for fd in pipes if (name := pipe_name(fd)) is not None})


def kill_trees(children: "Sequence[Child]", pipe_names: Collection[str]) -> int:
    """`kill_tree` of children that were started together, and to whom the pipes belong together. One walk for
    all: each of them may hold the pipes of the others."""
    killed = 0
    roots = []
    for child in children:
        if child.cgroup is not None and child.cgroup.kill():
            if child.returncode is not None:
                child.cgroup.remove()
            killed += 1
        elif child.returncode is None:
            roots.append(child)
    for root in roots:
        root.send_signal(signal.SIGSTOP)
    stopped = _stop_all(roots, pipe_names) if roots else {}
    # The youngest first: where a process ends whose child leads a stopped group, the kernel sends that group SIGHUP
    # and SIGCONT (kernel/exit.c, kill_orphaned_pgrp), and what goes on may fork.
    for process in sorted(stopped.values(), key=lambda p: (p.started, p.pid), reverse=True):
        _signal_exactly(process, signal.SIGKILL)
    for root in roots:
        root.kill()
    return killed + len(stopped) + len(roots)


def _stop_all(roots: "Sequence[Child]", pipe_names: Collection[str]) -> dict[tuple[int, int], Process]:
    """Stops the descendants until a look finds nobody new that began when all of them had stopped: what a fork that
    was still going on during the look before has made is in it."""
    stopped: dict[tuple[int, int], Process] = {}
    at_rest = False
    for _ in range(_ROUNDS):
        everyone = {p.pid: p for p in processes()}
        found = [everyone[root.pid] for root in roots if root.pid in everyone]
        members = _members(everyone, {root.pid for root in roots}, found, pipe_names)
        new = [p for p in members if (p.pid, p.started) not in stopped]
        for process in new:
            stopped[process.pid, process.started] = process
            _signal_exactly(process, signal.SIGSTOP)
        if at_rest and not new:
            break
        at_rest = not new and all(p.state not in _BUSY for p in (*members, *found))
    return stopped


def _members(
    everyone: dict[int, Process], roots: set[int], found: list[Process], pipe_names: Collection[str]
) -> list[Process]:
    ours = {p.pid for p in everyone.values() if p.session in roots or p.group in roots}
    for root in roots:
        ours |= descendants(everyone, root)
    if pipe_names and found:
        first = min(root.started for root in found)
        ours |= {
            p.pid
            for p in everyone.values()
            if p.pid not in ours and p.started >= first and _writes_to(p.pid, pipe_names)
        }
    return [everyone[pid] for pid in sorted(ours - roots) if pid != os.getpid()]


def pipe_name(fd: int) -> str | None:
    """What /proc/PID/fd calls the pipe behind a descriptor of ours; None where there is none."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def _writes_to(pid: int, pipe_names: Collection[str]) -> bool:
    """Whether a process holds the writing end of such a pipe, to be kept over exec."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for fd in numbers:
        with suppress(OSError, StopIteration, ValueError):
            if os.readlink(f"/proc/{pid}/fd/{fd}") in pipe_names:
                with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as file:
                    flags = int(next(line for line in file if line.startswith(b"flags:")).split()[1], 8)
                if flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_CLOEXEC:
                    return True
    return False


def _signal_exactly(process: Process, sig: int) -> None:
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = read_process(process.pid)
        if now is not None and now.started == process.started:
            signal.pidfd_send_signal(pidfd, sig)
    except OSError:
        pass
    finally:
        os.close(pidfd)
