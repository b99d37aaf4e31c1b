"""Faults of a warm template's process: the right status or a clear error, within a bound, and nothing left behind."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.spawn.kindling import ECHO, await_standing, compile_dynamic, standing, temperature_of
from tests.spawn.probing import NOBODY, children, in_fresh_host

_BOUND = 5.0
"""Seconds within which a start has fallen back to a cold one."""


@pytest.fixture(scope="module")
def echo(programs: Path) -> Path:
    """A program that ends with the status that its argument says, linked dynamically."""
    return compile_dynamic(programs / "faulty-echo", ECHO)


@pytest.fixture
def warm(echo: Path) -> Iterator[elfolio.SpawnTemplate]:
    """A warm template of it, with its children standing by."""
    with elfolio.SpawnTemplate(echo, temperature="warm") as template:
        assert status(template, 0) == 0
        await_standing(template)
        yield template
    assert children() == []


def status(template: elfolio.SpawnTemplate, wanted: int) -> int:
    """Of one start that is told how to end; asserts that it starts in time."""
    began = time.monotonic()
    child = template.spawn(["echo", str(wanted)])
    took = time.monotonic() - began
    code = child.wait()
    assert took < _BOUND
    return code


def assert_serves(template: elfolio.SpawnTemplate, starts: int = 60) -> None:
    """Whatever happened: every status is right, and before long starts are warm again."""
    for wanted in range(starts):
        assert status(template, wanted) == wanted
    assert temperature_of(template, "0") == "warm"


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("whom", ["process", "standbys", "one standby", "all"])
def test_somebody_is_killed_or_stopped(warm: elfolio.SpawnTemplate, whom: str, sig: signal.Signals) -> None:
    """Killed or stopped, together or alone: the next start has its right status within a bound, and so have all after
    it; a standby's death is never taken for the command's."""
    process, standbys = standing(warm)
    targets = {"process": [process], "standbys": standbys, "one standby": standbys[:1], "all": [process, *standbys]}
    for pid in targets[whom]:
        os.kill(pid, sig)
    assert_serves(warm)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
def test_all_of_them_again_and_again(warm: elfolio.SpawnTemplate, sig: signal.Signals) -> None:
    """A process that has just been replaced is killed too: it is waited for longer, and no start fails."""
    for turn in range(3):
        if warm._heat.warm is not None:
            process, standbys = standing(warm)
            for pid in (process, *standbys):
                os.kill(pid, sig)
        for wanted in (1, 2):
            assert status(warm, wanted) == wanted, turn


def test_stopped_and_continued(warm: elfolio.SpawnTemplate) -> None:
    """A process that was stopped while nobody asked goes on as if nothing had happened."""
    process, standbys = standing(warm)
    for sig in (signal.SIGSTOP, signal.SIGCONT):
        for pid in (process, *standbys):
            os.kill(pid, sig)
        time.sleep(0.05)
    for wanted in range(20):
        assert status(warm, wanted) == wanted
    assert standing(warm)[0] == process


def test_closing_what_is_stopped(warm: elfolio.SpawnTemplate) -> None:
    """close() ends a stopped process and its stopped standbys within a bound."""
    process, standbys = standing(warm)
    for pid in (process, *standbys):
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    warm.close()
    assert time.monotonic() - began < _BOUND
    assert children() == []


@pytest.mark.parametrize("delay", [0.0, 0.0001, 0.001])
def test_killed_while_bearing(warm: elfolio.SpawnTemplate, delay: float) -> None:
    """A process killed between a birth and telling of it leaves no child, alive or dead."""
    for wanted in range(20):
        if warm._heat.warm is None:
            warm._heat._until = 0  # at once, instead of after some cold ones
        assert status(warm, wanted) == wanted
        if warm._heat.warm is not None:
            process = standing(warm)[0]
            child = warm.spawn(["echo", "7"])
            time.sleep(delay)
            with suppress(ProcessLookupError):  # it had been killed before, and this start has found that out
                os.kill(process, signal.SIGKILL)
            assert child.wait() == 7


def test_children_killed_at_once(warm: elfolio.SpawnTemplate) -> None:
    """A child that is killed before its program begins leaves its slot free: a hundred of them do not stop the warm."""
    for _ in range(100):
        child = warm.spawn(["echo", "3"])
        child.kill()
        assert child.wait() in (3, -signal.SIGKILL)
    assert temperature_of(warm, "0") == "warm"


def killed_at_random(program: str, spawns: int, threads: int) -> dict[str, Any]:
    """Starts from several threads, while another one kills whoever stands behind the template."""
    import contextlib
    import os
    import random
    import signal
    import threading
    import time

    import elfolio
    from elfolio.spawn.thermostat import policy
    from tests.spawn.kindling import standing
    from tests.spawn.probing import children, open_fds

    policy.starts = 0
    killed: set[int] = set()
    wrong: list[Any] = []
    counts = {"warm": 0, "cold": 0, "hit": 0}
    lock, done = threading.Lock(), threading.Event()
    slowest = 0.0

    def spawner(first: int) -> None:
        nonlocal slowest
        for wanted in range(first, first + spawns // threads):
            began = time.monotonic()
            child = template.spawn(["echo", str(wanted % 100)])
            took = time.monotonic() - began
            code = child.wait()
            with lock:
                slowest = max(slowest, took)
                counts[child.temperature] += 1
                # Taken between our look and our signal: what is killed then is the command.
                hit = code == -signal.SIGKILL and child.pid in killed
                counts["hit"] += hit
                if code != wanted % 100 and not hit:
                    wrong.append([wanted, code, child.temperature])

    def killer() -> None:
        rng = random.Random(1)
        while not done.wait(rng.random() * 0.05):
            with contextlib.suppress(Exception):
                process, standbys = standing(template)
                pid = rng.choice([process, process, *standbys])
                pidfd = os.pidfd_open(pid)
                with lock:
                    killed.add(pid)
                try:
                    if rng.random() < 0.1:
                        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
                        done.wait(0.1)
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                finally:
                    os.close(pidfd)

    with elfolio.SpawnTemplate(program, temperature="warm") as template:
        template.spawn(["echo", "0"]).wait()
    before = open_fds()
    with elfolio.SpawnTemplate(program, temperature="warm") as template:
        team = [threading.Thread(target=spawner, args=(n * spawns,)) for n in range(threads)]
        murderer = threading.Thread(target=killer)
        for thread in (*team, murderer):
            thread.start()
        for thread in team:
            thread.join()
        done.set()
        murderer.join()
        started = template._heat.started
    fallbacks = dict(elfolio.stats().programs[program].fallbacks)
    leaked = [os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds() - before]
    return {
        "wrong": wrong[:5], "left": children(), "leaked": leaked, "counts": counts, "started": started,
        "slowest": slowest, "fallbacks": fallbacks,
    }  # fmt: skip


@pytest.mark.parametrize("threads", [1, 4])
def test_killed_at_random_moments(echo: Path, threads: int) -> None:
    """Processes and standbys killed and stopped under thousands of starts: every status right, nothing left."""
    got = in_fresh_host(killed_at_random, str(echo), 4000, threads, timeout=100)
    print(got)
    assert (got["wrong"], got["left"], got["leaked"]) == ([], [], [])
    assert got["counts"]["warm"] > 100
    assert got["slowest"] < 2 * _BOUND


@pytest.mark.root
def test_no_process_can_be_made(echo: Path) -> None:
    """At RLIMIT_NPROC of an ordinary user a start is served by who stands by, or is EAGAIN; afterwards all is well."""

    def host(program: str, user: int) -> list[Any]:
        import ctypes
        import os
        import resource

        import elfolio
        from elfolio.spawn.thermostat import policy
        from tests.spawn.kindling import await_standing, temperature_of
        from tests.spawn.probing import children

        policy.starts = 0
        elfolio.SpawnTemplate(program, temperature="warm").spawn(["echo", "0"]).wait()  # imports what it needs
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        out: list[Any] = []
        with elfolio.SpawnTemplate(program, temperature="warm") as template:
            assert template.spawn(["echo", "0"]).wait() == 0
            process, standbys = await_standing(template)
            # The children bear the process's limits: it is the process that must not fork.
            for pid in (os.getpid(), process, *standbys):
                resource.prlimit(pid, resource.RLIMIT_NPROC, (0, hard))
            for wanted in range(8):
                try:
                    out.append(template.spawn(["echo", str(wanted)]).wait() == wanted)
                except OSError as error:
                    out.append(error.errno)
            resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
            after = [template.spawn(["echo", str(n)]).wait() for n in range(40)]
            warm = temperature_of(template, "0")
        return [out, after == list(range(40)), warm, children()]

    out, well, warm, left = in_fresh_host(host, str(echo), NOBODY)
    assert set(out) <= {True, errno.EAGAIN}
    assert errno.EAGAIN in out
    assert (well, warm, left) == (True, "warm", [])


def test_no_descriptor_is_left(echo: Path) -> None:
    """With any number of descriptors left a start either works or says EMFILE, and the ones after it are right."""

    def host(program: str) -> list[Any]:
        import os
        import resource

        import elfolio
        from tests.spawn.probing import children, take_descriptors

        out: list[Any] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        for spare in range(14):
            with elfolio.SpawnTemplate(program, temperature="warm") as template:
                template.spawn(["echo", "0"]).wait()
                taken = take_descriptors()
                for _ in range(spare):
                    os.close(taken.pop())
                for wanted in range(8):
                    try:
                        out.append(template.spawn(["echo", str(wanted)]).wait() == wanted)
                    except OSError as error:
                        out.append(error.errno)
                for fd in taken:
                    os.close(fd)
                after = [template.spawn(["echo", str(n)]).wait() for n in range(4)]
                out.append(after == list(range(4)))
            out.append(children() == [])
        return out

    assert set(in_fresh_host(host, str(echo))) <= {True, errno.EMFILE}


def test_a_host_that_closes_what_it_does_not_know(echo: Path) -> None:
    """Descriptors of ours that the host has closed and given to its own files are neither written to nor closed."""

    def host(program: str) -> list[Any]:
        import os
        import tempfile

        import elfolio
        from tests.spawn.probing import children, open_fds

        with elfolio.SpawnTemplate(program, temperature="warm", rebuild=True) as template:
            before = open_fds()
            template.spawn(["echo", "0"]).wait()
            with tempfile.TemporaryFile() as file:
                for fd in open_fds() - before - {file.fileno()}:
                    os.dup2(file.fileno(), fd)
                mine = open_fds() - before
                statuses = [template.spawn(["echo", str(n)]).wait() for n in range(40)]
                template.close()
                return [statuses == list(range(40)), mine <= open_fds(), os.fstat(file.fileno()).st_size, children()]

    assert in_fresh_host(host, str(echo)) == [True, True, 0, []]


def full_of_waiting(program: str, folder: str, trials: int) -> dict[str, Any]:
    """As many starts as there are slots wait at a FIFO; one of their children is killed, and others are started at
    once, before the thread that waits for it has seen that."""
    import os
    import signal
    import threading
    import time
    from pathlib import Path

    import elfolio
    from tests.conftest import every_child
    from tests.spawn.probing import children

    def is_opening(pid: int) -> bool:
        return Path(f"/proc/{pid}/syscall").read_text().startswith("437 ")  # openat2

    def wait_at(template: elfolio.SpawnTemplate, fifo: str, ends: list[Any]) -> None:
        try:
            ends.append(template.spawn(["echo", "3"], actions=[elfolio.Open(50, fifo)]).wait())
        except OSError as error:
            ends.append(error.errno)

    ends: list[Any] = []
    codes: list[int] = []
    for trial in range(trials):
        fifo = f"{folder}/fifo-{trial}"
        os.mkfifo(fifo)
        with elfolio.SpawnTemplate(program, temperature="warm") as template:
            template.spawn(["echo", "0"]).wait()
            team = [
                threading.Thread(target=wait_at, args=(template, fifo, ends)) for _ in range(8)
            ]  # WARM_SLOTS (native/warm/protocol.h)
            for thread in team:
                thread.start()
            while len(waiting := [pid for pid in every_child() if is_opening(pid)]) < len(team):
                time.sleep(0.001)
            time.sleep(0.02)
            os.kill(waiting[0], signal.SIGKILL)
            for wanted in range(7):  # one less than those after which it would be replaced
                try:
                    child = template.spawn(["echo", str(wanted)], actions=[elfolio.Open(50, "/dev/null")])
                    codes.append(child.wait() - wanted)
                except OSError as error:
                    codes.append(-(error.errno or 1))
            with open(fifo, "wb"):
                for thread in team:
                    thread.join()
    fallbacks = elfolio.stats().programs[program].fallbacks
    return {"codes": codes, "ends": ends, "fallbacks": list(fallbacks), "left": children()}


def test_a_slot_that_somebody_waits_at(echo: Path, open_folder: Path) -> None:
    """With all slots taken by starts that take their time, the slot of one that was killed is not given to another
    start before who waits there has let go of it: that one raises, and the others are right."""
    got = in_fresh_host(full_of_waiting, str(echo), str(open_folder), 15)
    assert got["codes"] == [0] * 7 * 15
    assert sorted(got["ends"]) == [3] * 7 * 15 + [errno.ECANCELED] * 15
    assert "warm: the template's process does not answer" not in got["fallbacks"]
    assert got["left"] == []
