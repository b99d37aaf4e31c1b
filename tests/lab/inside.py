"""tests.lab.inside: what a kernel makes of cold templates, to be run under it. Out: one JSON object, a key a probe.

A program of its own, without pytest: what it says of a task's name, an exit status or a descriptor is for
test_lab.py to judge. Wherever a normal exec can be asked, its answer stands beside the template's.
"""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import elfolio

SPAWNS = 500
NOBODY = 65534
_WAYS: tuple[Literal["descriptor", "strict"], ...] = ("descriptor", "strict")
_COMM = "/proc/self/comm"
_AWK = 'BEGIN { getline < "/proc/self/comm"; print }'


def _programs(folder: Path) -> dict[str, tuple[Path, list[str]]]:
    """Programs that print their own task name, with their arguments."""
    (folder / "concatenate").symlink_to("/bin/cat")
    (folder / "a-name-longer-than-fifteen").symlink_to("concatenate")
    shell, awk = folder / "shell-script", folder / "awk-script"
    shell.write_text(f'#!/bin/sh\nread -r name <{_COMM}\necho "$name"\n')
    awk.write_text(f"#!/usr/bin/awk -f\n{_AWK}\n")
    for script in (shell, awk):
        script.chmod(0o755)
    found: dict[str, tuple[Path, list[str]]] = {
        "plain": (Path("/bin/cat"), [_COMM]),
        "link": (folder / "concatenate", [_COMM]),
        "long link to a link": (folder / "a-name-longer-than-fifteen", [_COMM]),
        "alternative": (Path("/usr/bin/awk"), [_AWK]),
        "script": (shell, []),
        "script of a link": (awk, []),
    }
    return {kind: (path, argv) for kind, (path, argv) in found.items() if path.exists()}


def names(folder: Path) -> dict[str, list[str]]:
    """For each kind of program, the names after a normal exec and by each way of a template."""
    seen = {}
    for kind, (path, arguments) in _programs(folder).items():
        normal = subprocess.check_output(["x", *arguments], executable=path, text=True)
        seen[kind] = [normal.strip()]
        for audit in _WAYS:
            with elfolio.SpawnTemplate(path, audit=audit) as template:
                done = template.run(["x", *arguments], text=True)
                seen[kind].append(str(done.stdout).strip())
    return seen


def statuses(_: Path) -> list[int]:
    """Of programs that end with 0, 7 and 255, by SIGTERM and by SIGKILL."""
    with elfolio.SpawnTemplate("/bin/sh") as sh:
        return [sh.spawn(["sh", "-c", end]).wait() for end in _ENDS]


_ENDS = ("exit 0", "exit 7", "exit 255", "kill -TERM $$", "kill -KILL $$")


def descriptors(_: Path) -> dict[str, list[int]]:
    """Status of a child that looks whether it has an inheritable descriptor: by default, passed, inherited."""
    fd = os.dup2(os.open("/dev/null", os.O_RDONLY), 57)
    look = ["sh", "-c", f"test -e /proc/$$/fd/{fd}"]
    answers: dict[str, list[int]] = {}
    for audit in _WAYS:
        with elfolio.SpawnTemplate("/bin/sh", audit=audit) as sh:
            children = sh.spawn(look), sh.spawn(look, pass_fds=[fd]), sh.spawn(look, inherit_fds=True)
            answers[audit] = [child.wait() for child in children]
    return answers


def ignored_children(_: Path) -> str:
    """The status of a child that ends with 7 while the host ignores SIGCHLD, or the error."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with elfolio.SpawnTemplate("/bin/sh") as sh:
            return str(sh.spawn(["sh", "-c", "exit 7"]).wait(timeout=60))
    except ChildProcessError as error:
        return f"ChildProcessError: {error}"
    finally:
        signal.signal(signal.SIGCHLD, before)


def changed_file(folder: Path) -> list[str]:
    """What a spawn raises after its file was replaced, and after the path leads to another."""
    path, said = folder / "changing", []
    for change in (lambda: shutil.copy("/bin/false", path), lambda: _replace(path)):
        shutil.copy("/bin/true", path)
        with elfolio.SpawnTemplate(path) as template:
            change()
            try:
                said.append(str(template.spawn(["x"]).wait()))
            except elfolio.StaleTemplate as error:
                said.append(errno.errorcode[error.errno or 0])
    return said


def _replace(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy("/bin/false", other)
    other.rename(path)


def lease(folder: Path) -> dict[str, object]:
    """Whether a file on a temporary file system can be leased, and what a writer meets while it runs."""
    path = folder / "leased"
    shutil.copy("/bin/sleep", path)
    with elfolio.SpawnTemplate(path) as template:
        child = template.spawn(["sleep", "1000"])
        writer = "opened"
        try:
            path.open("r+b").close()
        except OSError as error:
            writer = errno.errorcode[error.errno or 0]
        child.kill()
        return {"leased": template.leased, "writer": writer, "status": child.wait()}


def kill_tree(_: Path) -> dict[str, list[object]]:
    """Status, and how many of three descendants live on: one plain, one in a session of its own, one orphan."""
    script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; (sleep 1000 & echo $!); echo; wait"
    seen: dict[str, list[object]] = {}
    for private in (False, True):
        with elfolio.SpawnTemplate("/bin/sh") as sh:
            child = sh.spawn(["sh", "-c", script], stdout=elfolio.PIPE, private_cgroup=private)
            assert child.stdout is not None
            pids = []
            while (line := _line(child.stdout.fileno())) and line.strip():
                pids.append(int(line))
            child.kill_tree(pipes=(child.stdout.fileno(),))
            status = child.wait()
            # A pipe ends when all that held it have.
            end = os.read(child.stdout.fileno(), 1)
            child.stdout.close()
            seen["private cgroup" if private else "plain"] = [status, len(pids), end == b""]
    return seen


def _line(fd: int) -> bytes:
    """One line and nothing beyond it."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(fd, 1)):
        line += byte
    return line


def other_user(_: Path) -> list[str]:
    """User and task name of a child of another user, for which the memory descriptor is copied."""
    with elfolio.SpawnTemplate("/bin/sh") as sh:
        command = f"read -r name <{_COMM}; id -u; echo $name"
        return str(sh.run(["sh", "-c", command], user=NOBODY, group=NOBODY, text=True).stdout).split()


def memory_merge(_: Path) -> str:
    """A status, or the error (PR_SET_MEMORY_MERGE is Linux 6.4's)."""
    with elfolio.SpawnTemplate("/bin/true") as template:
        try:
            return str(template.spawn(["true"], memory_merge=True).wait())
        except OSError as error:
            return f"{errno.errorcode[error.errno or 0]}: {error}"


def unnoticed_writes(folder: Path) -> int:
    """How many of a hundred writes at once behind a template's making, which change no size, it does not see."""
    path = folder / "written"
    shutil.copy("/bin/true", path)
    end = path.stat().st_size - 1
    unnoticed = 0
    with path.open("r+b", buffering=0) as file:
        for _ in range(100):
            os.pwrite(file.fileno(), b"1", end)
            with elfolio.SpawnTemplate(path) as template, suppress(elfolio.StaleTemplate):
                os.pwrite(file.fileno(), b"2", end)
                template.check()
                unnoticed += 1
    return unnoticed


def many(_: Path) -> dict[str, object]:
    """Statuses of many spawns, all that was fallen back on, and what they left: descriptors, children."""
    left: list[int] = []
    for _turn in range(2):  # what a process keeps from its first template on is there before the second
        before = len(os.listdir("/proc/self/fd"))
        with elfolio.SpawnTemplate("/bin/true") as template:
            statuses = sorted({template.spawn(["true"]).wait() for _ in range(SPAWNS)})
        left.append(len(os.listdir("/proc/self/fd")) - before)
    programs = elfolio.stats().programs.values()
    return {
        "statuses": statuses,
        "fallbacks": sorted({reason for program in programs for reason in program.fallbacks}),
        "descriptors left": left[-1],
        "children left": _has_children(),
    }


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


PROBES: tuple[Callable[[Path], object], ...] = (
    names,
    statuses,
    descriptors,
    ignored_children,
    changed_file,
    lease,
    kill_tree,
    other_user,
    memory_merge,
    unnoticed_writes,
    many,
)


def main() -> None:
    """Every probe, in a directory of its own; one that fails says how, and the others go on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seen: dict[str, object] = {}
    for probe in PROBES:
        with tempfile.TemporaryDirectory() as name:
            try:
                seen[probe.__name__] = probe(Path(name))
            except Exception as error:
                seen[probe.__name__] = f"{type(error).__name__}: {error}"
    json.dump(seen, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
