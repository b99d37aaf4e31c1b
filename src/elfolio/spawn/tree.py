"""spawn.tree: kills a child and all that descends from it. In: a Child, our ends of its pipes. Out: a count.

Never hits a stranger: a process is killed through a pidfd, opened first and checked afterwards, so that a
number given to somebody else in between is noticed. What belongs to the child, in the order of certainty:

- everything in its private cgroup, by cgroup.kill;
- the child, its children, theirs, and so on, by /proc/PID/stat;
- members of the session or group that it leads. Its number cannot be anybody else's session or group while
  it is unreaped, and a tree is killed before its root is reaped;
- orphans that hold the writing end of one of its pipes. The pipe was made for this child, so that only its
  descendants have it, and copies in this process and its other children, which are left out.

The walk repeats until it finds nobody new: what forked while being killed is found by the next round.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elfolio.spawn.child import Child

__all__ = ["Process", "descendants", "kill_tree", "processes"]

_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat, as far as kinship goes."""

    pid: int
    ppid: int
    group: int
    session: int
    started: int
    """Clock ticks since boot: with the number, it names a process for good."""


def read_process(pid: int, proc: str = "/proc") -> Process | None:
    """None where there is no such process."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name may hold blanks and parentheses: what counts begins behind the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


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
    if child.cgroup is not None and child.cgroup.kill():
        child.kill()
        return 1
    if child.returncode is not None:
        return 0
    names = {name for fd in pipes if (name := _pipe_name(fd)) is not None}
    killed: set[tuple[int, int]] = set()
    for _ in range(_ROUNDS):
        new = [p for p in _members(child, names) if (p.pid, p.started) not in killed]
        if not new:
            break
        for process in new:
            killed.add((process.pid, process.started))
            _kill_exactly(process)
    child.kill()
    return len(killed) + 1


def _members(child: "Child", pipe_names: set[str]) -> list[Process]:
    everyone = {p.pid: p for p in processes()}
    root = everyone.get(child.pid)
    ours = descendants(everyone, child.pid)
    if child.leads:
        ours |= {p.pid for p in everyone.values() if child.pid in (p.session, p.group)}
    if pipe_names and root is not None:
        ours |= _holders(everyone, root, pipe_names)
    return [everyone[pid] for pid in sorted(ours) if pid not in (os.getpid(), child.pid)]


def _holders(everyone: dict[int, Process], root: Process, pipe_names: set[str]) -> set[int]:
    """Orphans that hold a pipe of the tree. Our own children are left out: one that was forked while the pipe
    was being set up has a copy of it, and so may have its children."""
    here = descendants(everyone, os.getpid()) | {os.getpid()}
    return {
        p.pid
        for p in everyone.values()
        if p.pid not in here and p.started >= root.started and pipe_names & set(_open_files(p.pid))
    }


def _pipe_name(fd: int) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def _open_files(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{fd}")


def _kill_exactly(process: Process) -> None:
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = read_process(process.pid)
        if now is not None and now.started == process.started:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)
