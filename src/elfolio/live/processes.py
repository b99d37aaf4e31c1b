"""live.processes: which processes there are. In: /proc, a control group. Out: process ids; Standing.

A kernel thread and a zombie have a process id and no memory: what asks for their mappings gets nothing, and must not
take that for an empty address space.
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Standing", "cgroup_processes", "every_process", "standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a process is."""

    pid: int
    name: str
    state: str
    """The letter of /proc/PID/status: R, S, D, T, Z, X, ..."""
    parent: int
    kernel: bool
    """A thread of the kernel."""

    @property
    def memoryless(self) -> str:
        """Why it has no mappings; empty where it has."""
        if self.kernel:
            return "a kernel thread: it has no address space of its own"
        if self.state in "ZX":
            return f"a zombie: it has ended, and process {self.parent} has not asked how"
        return ""


def every_process(proc: str | Path = "/proc") -> tuple[int, ...]:
    """Ascending."""
    return tuple(sorted(int(name) for name in os.listdir(proc) if name.isdigit()))


def standing(pid: int, proc: str | Path = "/proc") -> Standing:
    """Raises ProcessLookupError."""
    path = Path(proc, str(pid), "status")
    try:
        text = path.read_text(errors="surrogateescape")
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, "no such process", str(path)) from error
    lines = dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.M))
    # 6.12 says Kthread, 6.1 does not. Without it a kernel thread is what has no memory and has not ended.
    said, state = lines.get("Kthread"), lines.get("State", "?")[:1]
    kernel = said == "1" if said is not None else "VmSize" not in lines and state not in "ZX"
    return Standing(pid, lines.get("Name", ""), state, int(lines.get("PPid") or 0), kernel)


def cgroup_processes(path: str | Path) -> tuple[int, ...]:
    """Of a control group's directory and of all below it, ascending. Raises OSError: ENOTDIR for what is none."""
    top = Path(path)
    if not (top / "cgroup.procs").exists():
        os.stat(top)
        raise OSError(errno.ENOTDIR, "no control group: it has no cgroup.procs", str(top))
    return tuple(sorted(set(_members(top))))


def _members(top: Path) -> Iterator[int]:
    for folder, _, files in os.walk(top):
        if "cgroup.procs" in files:
            try:
                yield from map(int, Path(folder, "cgroup.procs").read_text().split())
            except OSError as error:
                # A threaded group (EOPNOTSUPP) has its processes where its domain is; others end while we look.
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOENT, errno.ENODEV):
                    raise
