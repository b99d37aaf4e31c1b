"""What the tests of the spawn room look through: a probe in C, and fresh Python hosts. Holds no tests."""

import inspect
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import elfolio
from elfolio import _native
from elfolio.spawn.thermostat import policy
from tests import conftest

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
NOBODY = 65534
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
"""Whether this is `make test-sanitized`: AddressSanitizer keeps freed memory for a while, and cannot be without."""
PRELOADED = {"LD_PRELOAD": os.environ["LD_PRELOAD"]} if SANITIZED else {}
"""What a Python needs to load elfolio then. What it starts must not have it: it would be no more to be held warm."""


# The files of /proc that the C core keeps open once it has read them are nobody's leak.
_native.Surroundings()

_EAGER = (
    "from elfolio.spawn.thermostat import policy as _policy",
    "_policy.eager, _policy.starts = True, 0",
)
"""A fresh host warms as its parent does."""


@dataclass(frozen=True)
class Snapshot:
    """What the probe saw of itself. Texts are bytes decoded as Latin-1."""

    fds: dict[int, tuple[str, int, int]]
    """Number to target, close-on-exec flag, status flags."""
    argv: list[str]
    env: list[str]
    exe: str
    cwd: str
    comm: str
    status: str
    cgroup: str
    oom_score_adj: str
    tty: str
    execfn: str
    uids: list[int]
    gids: list[int]
    groups: list[int]
    umask: int
    nice: int
    pdeathsig: int
    no_new_privs: int
    memory_merge: int
    pid: int
    ppid: int
    session: int
    group: int
    cpus: list[int]
    rlimits: dict[str, list[int]]

    @property
    def targets(self) -> dict[int, str]:
        """Number to target of each open descriptor."""
        return {fd: target for fd, (target, _, _) in self.fds.items()}

    def signals(self, field: str) -> set[int]:
        """A set of /proc/self/status: SigBlk, SigIgn."""
        return signal_set(self.status, field)


def signal_set(status: str, field: str) -> set[int]:
    """A signal set of the text of a /proc/PID/status."""
    (line,) = (line for line in status.splitlines() if line.startswith(field + ":"))
    bits = int(line.split()[1], 16)
    return {sig for sig in range(1, 65) if bits >> (sig - 1) & 1}


def snapshot(text: str) -> Snapshot:
    """Parses what the probe wrote."""
    data = json.loads(text)
    data["comm"] = data["comm"].rstrip("\n")
    data["fds"] = {int(fd): tuple(seen) for fd, seen in data["fds"].items()}
    return Snapshot(**data)


def look(template: elfolio.SpawnTemplate, *argv: str, **keywords: Any) -> Snapshot:
    """Spawns the probe with `argv` behind argv[0] and what the keywords ask for, and returns what it saw.

    It answers in a file, because its descriptors may be what is asked about.
    """
    with answer_file() as path:
        child = template.spawn(["probe", str(path), *argv], **keywords)
        assert child.wait() == 0
        return snapshot(path.read_text())


@contextmanager
def answer_file() -> Iterator[Path]:
    """A file that a child of any user may write to."""
    fd, name = tempfile.mkstemp(prefix="probe-")
    os.fchmod(fd, 0o666)
    os.close(fd)
    try:
        yield Path(name)
    finally:
        os.unlink(name)


def compile_c(out: Path, source: str | Path, *flags: str) -> Path:
    """Compiles a small C program, statically: it starts fast, and needs no loader where there is none."""
    command = ["gcc", "-O1", "-Wall", "-static", "-o", str(out), *flags]
    if isinstance(source, Path):
        subprocess.run([*command, str(source)], check=True)
    else:
        subprocess.run([*command, "-x", "c", "-"], input=source, text=True, check=True)
    return out


def in_fresh_host(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Runs `function`, which must stand alone, in a Python of its own: what it changes about the process
    stays there. Arguments and result go as JSON. `options` go to subprocess.run."""
    name = function.__name__
    code = "\n".join(
        (
            "from __future__ import annotations",
            textwrap.dedent(inspect.getsource(function)),
            "import json as _json, os as _os, sys as _sys",
            *["_os.environ.pop('LD_PRELOAD')"] * (SANITIZED and "LD_PRELOAD" not in os.environ),
            *_EAGER * policy.eager,
            f"_result = {name}(*_json.loads(_sys.argv[1]))",
            "_sys.__stdout__.write('\\n' + _json.dumps(_result) + '\\n')",
        )
    )
    environment = {**os.environ, **PRELOADED, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", code, json.dumps(arguments)],
        **{"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 250, **options},
        check=False,
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def children() -> list[int]:
    """This process's children, zombies too, but for those that templates keep ready."""
    return sorted(conftest.children())


def open_fds() -> set[int]:
    """This process's descriptors, but for those that templates keep ready."""
    return set(conftest.descriptors())


def take_descriptors() -> list[int]:
    """All that this process may still open, opened."""
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return taken


def alive(pid: int) -> bool:
    """Whether a process runs: there, and not a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def await_gone(pid: int) -> None:
    """Blocks until a process that is not ours to reap has ended; an orphan of a killed tree may take a moment."""
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        end = select.poll()
        end.register(pidfd, select.POLLIN)
        assert end.poll(60_000), f"{pid} lives on"
    finally:
        os.close(pidfd)


@contextmanager
def everything_reaped() -> Iterator[None]:
    """A thread that waits for any child, as some child watchers do; at the end there are none."""
    stop = threading.Event()

    def reap() -> None:
        while not stop.is_set():
            try:
                os.wait()
            except ChildProcessError:
                continue

    thread = threading.Thread(target=reap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def between_check_and_exec(folder: Path, act: Callable[[], object]) -> Iterator[list[elfolio.Open]]:
    """Actions for a spawn during which `act` is called: the child waits for it at two FIFOs."""
    fifos = folder / "here", folder / "done"
    for fifo in fifos:
        os.mkfifo(fifo)

    def meet() -> None:
        with open(fifos[0], "wb"):
            act()
        with open(fifos[1], "wb"):
            pass

    thread = threading.Thread(target=meet)
    thread.start()
    try:
        yield [elfolio.Open(50, fifos[0], os.O_RDONLY | os.O_CLOEXEC), elfolio.Open(50, fifos[1])]
    finally:
        thread.join()


def errno_of_writing(path: Path) -> int:
    """What somebody gets who opens the file for writing and will not wait."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or 0
    return 0


@contextmanager
def mounted(where: Path, options: str) -> Iterator[Path]:
    """A tmpfs of root's, gone afterwards."""
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)
