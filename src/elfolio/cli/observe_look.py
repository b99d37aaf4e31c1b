"""cli.observe_look: one look at the processes asked for. In: options. Out: Looked, or Failure."""

import argparse
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from elfolio.cli.parsing import Failure
from elfolio.kernel.neighbours import apart
from elfolio.kernel.policy import Policy
from elfolio.live.backed import Files
from elfolio.live.host import policy_here
from elfolio.live.maps import MapsError
from elfolio.live.observed import Memoryless, Observed, Picture, observe, picture
from elfolio.live.processes import cgroup_processes, every_process, standing
from elfolio.report.observe import Problem, Process, Report, as_process, as_report
from elfolio.report.observe_files import FileRow, file_rows, joined_files

__all__ = ["Looked", "look"]

_REFUSED = (
    "another user's process: ask as its owner, or as root",
    "refused to root too: it takes CAP_SYS_PTRACE, and the security module's consent",
)
_CELLS = 256
"""Of a mapping's picture, at most."""


@dataclass
class Looked:
    """What a look gave."""

    report: Report
    pictures: dict[int, list[Picture]]
    """By process id, one for each mapping; empty unless --html asks."""


@dataclass
class _Found:
    processes: list[Process] = field(default_factory=list)
    files: list[list[FileRow]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    pictures: dict[int, list[Picture]] = field(default_factory=dict)


def look(args: argparse.Namespace) -> Looked:
    """At each in turn. What another user's process or the kernel's threads hide is said in the report."""
    policy = policy_here()
    files, found = Files(policy), _Found()
    for pid in _wanted(args):
        _one(pid, policy, files, found, args)
    report = as_report(
        found.processes,
        joined_files(found.files, policy.pmd_size),
        found.problems,
        dict(found.left_out),
        policy=policy.name,
        page=policy.page_size,
        huge_page=policy.pmd_size,
        time=time.time(),
    )
    return Looked(report, found.pictures)


def _wanted(args: argparse.Namespace) -> tuple[int, ...]:
    """This process is left out, unless it is asked for."""
    if args.pids:
        return tuple(args.pids)
    try:
        return tuple(pid for pid in _group(args) if pid != os.getpid())
    except OSError as error:
        raise Failure(f"{error.filename or args.cgroup}: {error.strerror}") from error


def _group(args: argparse.Namespace) -> tuple[int, ...]:
    if args.all:
        return every_process()
    below = Path("/sys/fs/cgroup") / args.cgroup
    if not (args.cgroup.exists() or below.exists()):
        told = "no such directory, nor below /sys/fs/cgroup; /proc/PID/cgroup has a process's"
        raise Failure(f"--cgroup {args.cgroup}: {told}")
    return cgroup_processes(args.cgroup if args.cgroup.is_dir() or not below.is_dir() else below)


def _one(pid: int, policy: Policy, files: Files, found: _Found, args: argparse.Namespace) -> None:
    try:
        seen = observe(pid, files)
    except ProcessLookupError:
        if args.pids:
            found.problems.append(Problem(pid=pid, name="", reason="no such process"))
        else:
            found.left_out["ended meanwhile"] += 1
        return
    except Memoryless as error:
        if args.pids:
            found.problems.append(Problem(pid=pid, name=error.who.name, reason=str(error)))
        else:
            found.left_out["kernel threads" if error.who.kernel else "zombies"] += 1
        return
    except PermissionError:
        found.problems.append(Problem(pid=pid, name=_name(pid), reason=_REFUSED[os.geteuid() == 0]))
        return
    except (MapsError, OSError) as error:
        reason = str(error) if isinstance(error, MapsError) else f"{error.filename or '/proc'}: {error.strerror}"
        found.problems.append(Problem(pid=pid, name=_name(pid), reason=reason))
        return
    _keep(seen, policy, found, args)


def _keep(seen: Observed, policy: Policy, found: _Found, args: argparse.Namespace) -> None:
    """The rows; of many processes without their mappings, so that memory stays bounded."""
    whole = bool(args.pids)
    uses = seen.memory.uses
    written = {index for index, use in enumerate(uses) if use.written}
    neighbours = apart([use.vma for use in uses], written, policy)
    files = file_rows(seen.seen, policy.pmd_size)
    found.processes.append(as_process(seen, neighbours, files, whole=whole))
    found.files.append(files)
    if whole and args.html is not None:
        pid = seen.memory.pid
        found.pictures[pid] = [picture(pid, use.vma, _CELLS) for use in uses]


def _name(pid: int) -> str:
    try:
        return standing(pid).name
    except OSError:
        return ""
