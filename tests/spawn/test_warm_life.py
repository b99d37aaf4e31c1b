"""How long a warm template's process lives, what it costs meanwhile, and what its children can see of it."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest

import elfolio
from tests.spawn.kindling import ECHO, await_standing, compile_dynamic, standing
from tests.spawn.probing import HERE, PRELOADED, ROOT, Snapshot, in_fresh_host, look, snapshot

_SECONDS = 5.0

_OWNER = """
import os, signal, sys, time
os.environ.pop("LD_PRELOAD", None)
sys.path.insert(0, {root!r})
import elfolio
from tests.spawn.kindling import await_standing
template = elfolio.SpawnTemplate({program!r}, temperature="warm")
assert template.spawn(["echo", "0"]).wait() == 0
process, standbys = await_standing(template)
print(os.getpid(), process, *standbys, flush=True)
sys.stdin.readline()
{end}
"""

ENDS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "returns": "pass",
    "_exit": "os._exit(0)",
    "exec": "os.execv('/bin/cat', ['cat'])",
    "daemon": "if os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\ntime.sleep(1000)",
    "two forks": "if os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
    "print(os.getpid(), flush=True)\ntime.sleep(1000)",
    "in a thread": "import threading\nthreading.Thread(target=os._exit, args=(0,)).start()\ntime.sleep(1000)",
}


@pytest.fixture(scope="module")
def echo(programs: Path) -> Path:
    """A program that ends with the status that its argument says, linked dynamically."""
    return compile_dynamic(programs / "echo", ECHO)


@pytest.fixture(scope="module")
def dynamic_probe(programs: Path) -> Path:
    """The probe, linked dynamically."""
    return compile_dynamic(programs / "dynamic-probe", (HERE / "probe.c").read_text())


@pytest.mark.parametrize("end", ENDS)
def test_the_owner_ends(end: str, echo: Path) -> None:
    """However a template's owner ends, the process and whoever stands by end within seconds; a fork keeps nothing."""
    code = _OWNER.format(root=str(ROOT), program=str(echo), end=ENDS[end])
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **PRELOADED}
    ) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        _, *behind = (int(word) for word in owner.stdout.readline().split())
        pidfds = [os.pidfd_open(pid) for pid in behind]
        heir = 0
        try:
            owner.stdin.write("\n")
            owner.stdin.flush()
            if end in ("daemon", "two forks"):
                heir = int(owner.stdout.readline())
            await_ended(pidfds)
        finally:
            for pidfd in pidfds:
                os.close(pidfd)
            if heir:
                os.kill(heir, signal.SIGKILL)


def await_ended(pidfds: list[int]) -> None:
    deadline = time.monotonic() + _SECONDS
    for pidfd in pidfds:
        left = max(0, deadline - time.monotonic())
        assert select.select([pidfd], [], [], left)[0], "lives on"


def test_the_owner_is_killed_in_mid_spawn(echo: Path) -> None:
    """SIGKILL of an owner at any moment of a start leaves no child that waits for its word."""
    code = _OWNER.format(root=str(ROOT), program=str(echo), end='while True: template.spawn(["echo", "0"]).wait()')
    for turn in range(10):
        command = [sys.executable, "-W", "ignore", "-c", code]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **PRELOADED}
        ) as owner:
            assert owner.stdin is not None
            assert owner.stdout is not None
            owner.stdout.readline()
            owner.stdin.write("\n")
            owner.stdin.flush()
            time.sleep(0.02 + turn * 0.0007)
            owner.kill()
        deadline = time.monotonic() + _SECONDS
        while running(echo):
            assert time.monotonic() < deadline, "a child lives on"
            time.sleep(0.02)


def running(program: Path) -> list[int]:
    """Processes that execute this file."""
    found = []
    for path in Path("/proc").glob("[0-9]*/exe"):
        try:
            if os.readlink(path) == str(program):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def signalled(program: str) -> dict[str, Any]:
    """A group of processes is sent what a terminal, a shell and a manager send."""
    import os
    import signal
    import time

    import elfolio
    from tests.spawn.kindling import await_standing
    from tests.spawn.probing import alive

    os.setpgid(0, 0)
    sent = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
    for sig in sent:
        signal.signal(sig, lambda *_: None)
    with elfolio.SpawnTemplate(program, temperature="warm") as template:
        assert template.spawn(["echo", "0"]).wait() == 0
        before = await_standing(template)
        for sig in sent:
            os.killpg(0, sig)
        time.sleep(0.1)
        survived = [alive(before[0]), *(alive(pid) for pid in before[1])]
        children = [template.spawn(["echo", str(n)]) for n in range(5)]
        statuses = [child.wait() for child in children]
        temperatures = [child.temperature for child in children]
        return {
            "survived": survived,
            "statuses": statuses,
            "temperatures": temperatures,
            "same": await_standing(template)[0] == before[0],
        }


def test_signals_for_the_foreground_group(echo: Path) -> None:
    """A ^C, ^Z or hangup ends neither the process nor a standby, nor a child that is started later."""
    got = in_fresh_host(signalled, str(echo))
    assert got["survived"] == [True] * 3
    assert got["statuses"] == list(range(5))
    assert got["temperatures"] == ["warm"] * 5
    assert got["same"]


def test_a_signal_right_after_the_spawn() -> None:
    """A signal that the caller sends to its new child at once is not lost with those that came before the start."""
    with elfolio.SpawnTemplate("/bin/sleep", temperature="warm") as template:
        for _ in range(300):
            child = template.spawn(["sleep", "1000"])
            child.terminate()
            try:
                assert child.wait(timeout=_SECONDS) == -signal.SIGTERM
            finally:
                child.kill()
                child.wait()
        assert template._heat.warm is not None


def test_idle_costs_no_time(echo: Path) -> None:
    """Nobody asks, nobody runs: neither the process nor a standby uses processor time or is ever scheduled."""
    with elfolio.SpawnTemplate(echo, temperature="warm") as template:
        assert template.spawn(["echo", "0"]).wait() == 0
        process, standbys = await_standing(template)
        time.sleep(0.2)
        pids = (process, *standbys)
        before = [used(pid) for pid in pids]
        time.sleep(1)
        assert [used(pid) for pid in pids] == before


def used(pid: int) -> tuple[list[str], list[str]]:
    """User and system time of a process in ticks (proc_pid_stat(5), fields 14 and 15), and its context switches."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    return fields[11:13], re.findall(r"ctxt_switches:\t(\d+)", status)


def forked(program: str) -> dict[str, Any]:
    """What a fork of the owner has of the template."""
    import json
    import os

    import elfolio
    from tests.spawn.kindling import await_standing
    from tests.spawn.probing import alive, open_fds

    with elfolio.SpawnTemplate(program, temperature="warm") as template:
        assert template.spawn(["echo", "0"]).wait() == 0
        behind = await_standing(template)
        template.spawn(["echo", "0"]).wait()  # those who stand by are known by descriptor then
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds()]
            try:
                template.spawn(["echo", "0"])
                refused = "started"
            except PermissionError:
                refused = "PermissionError"
            template.close()
            kinds = [link for link in links if "pidfd" in link or link.startswith("socket") or "eventfd" in link]
            os.write(writing, json.dumps([refused, kinds]).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        refused, kinds = json.loads(os.read(reading, 65536))
        child = template.spawn(["echo", "7"])
        return {
            "refused": refused,
            "kinds": kinds,
            "alive": alive(behind[0]),
            "status": child.wait(),
            "temperature": child.temperature,
        }


def test_a_fork_of_the_owner(echo: Path) -> None:
    """In a forked child the template refuses and its descriptors are closed; the owner's goes on."""
    got = in_fresh_host(forked, str(echo))
    assert got == {"refused": "PermissionError", "kinds": [], "alive": True, "status": 7, "temperature": "warm"}


def test_nothing_of_it_is_visible(dynamic_probe: Path, tmp_path: Path) -> None:
    """A warm child, and a program that it executes, have the descriptors, variables and mappings of a cold one's."""
    seen: dict[str, list[Snapshot]] = {}
    maps: dict[str, list[str]] = {}
    temperatures: tuple[Literal["cold", "warm"], ...] = ("cold", "warm")
    for temperature in temperatures:
        with elfolio.SpawnTemplate(dynamic_probe, temperature=temperature) as template:
            seen[temperature] = [look(template)]
        with elfolio.SpawnTemplate("/bin/sh", temperature=temperature) as template:
            answer = tmp_path / f"grandchild-{temperature}"
            child = template.spawn(["sh", "-c", f'"{dynamic_probe}" "{answer}"; exit 0'])
            assert (child.wait(), child.temperature) == (0, temperature)
            seen[temperature].append(snapshot(answer.read_text()))
        with elfolio.SpawnTemplate("/bin/cat", temperature=temperature) as template:
            done = template.run(["cat", "/proc/self/maps"], text=True)
            lines = str(done.stdout).splitlines()
            maps[temperature] = [" ".join(line.split()[1:2] + line.split()[5:]) for line in lines]
    for cold, warm in zip(seen["cold"], seen["warm"], strict=True):
        assert warm.env == cold.env
        assert warm.fds.keys() == cold.fds.keys()
        assert [fds[1:] for fds in warm.fds.values()] == [fds[1:] for fds in cold.fds.values()]
        assert (warm.cwd, warm.exe, warm.comm) == (cold.cwd, cold.exe, cold.comm)
        assert "LD_PRELOAD" not in " ".join(warm.env)
    assert set(maps["warm"]) == set(maps["cold"])
    assert not [line for line in maps["warm"] if "memfd" in line or line.startswith("rwxp")]


def test_closing_ends_it_at_once(echo: Path) -> None:
    """close() and the last reference end the process and reap it; children live on."""
    template = elfolio.SpawnTemplate(echo, temperature="warm")
    with elfolio.SpawnTemplate("/bin/sleep", temperature="warm") as sleep:
        child = sleep.spawn(["sleep", "1000"])
        assert child.temperature == "warm"
        behind = standing(sleep)[0]
    assert not os.path.exists(f"/proc/{behind}")
    assert child.poll() is None
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert template.spawn(["echo", "3"]).wait() == 3
    behind = standing(template)[0]
    del template
    assert not os.path.exists(f"/proc/{behind}")
