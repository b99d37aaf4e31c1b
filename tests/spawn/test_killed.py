"""Hosts that are killed in the middle of a spawn."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from elfolio.spawn import names
from tests.spawn.probing import ROOT, alive, await_gone


def endless(mark: str, pdeathsig: int) -> None:
    """A host that spawns for ever; each child writes its pid and "whole" and then sleeps."""
    import elfolio

    template = elfolio.SpawnTemplate("/bin/sh")
    while True:
        template.spawn(["sh", "-c", f"echo $$ whole >>{mark}; exec sleep 1000"], pdeathsig=pdeathsig)


@pytest.mark.parametrize("pdeathsig", [0, signal.SIGKILL])
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_the_host_is_killed_in_the_middle(pdeathsig: int, threads: int, tmp_path: Path) -> None:
    """SIGKILL of a spawning host leaves no half-made child: each runs the program, unless pdeathsig ends it."""
    code = (
        f"import sys, threading; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.spawn.test_killed import endless\n"
        "args = sys.argv[1], int(sys.argv[2])\n"
        f"[threading.Thread(target=endless, args=args).start() for _ in range({threads})]\n"
    )
    for attempt in range(3):
        mark = tmp_path / f"mark{attempt}"
        host = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, mark, str(pdeathsig)], process_group=0)
        try:
            while not mark.exists() or mark.read_text().count("\n") < 5 + 7 * attempt:
                os.sched_yield()
            host.kill()
            host.wait()
            members = group_of(host.pid)
            for pid in members if pdeathsig else ():
                await_gone(pid)
            # between exec and its first line a child is whole, and says so soon
            for pid in group_of(host.pid):
                await_program(pid)
        finally:
            for pid in group_of(host.pid):
                os.kill(pid, signal.SIGKILL)
            names._sweep("/dev/shm")  # as the next process would
        assert bool(members) or pdeathsig


def group_of(group: int) -> list[int]:
    """The living members of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def await_program(pid: int) -> None:
    """Asserts that a process executes sh or sleep, and not a copy of its host: that has Python's comm and exe."""
    for _ in range(100000):
        if not alive(pid):
            return
        try:
            exe = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if "python" not in os.path.basename(exe):
            return
        os.sched_yield()
    raise AssertionError(f"{pid} is a half-made child")
