"""kill_tree: all that descends from a child, and nobody else."""

import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import elfolio
from elfolio.spawn import tree
from tests.spawn.probing import alive, await_gone, in_fresh_host

SLEEP = "exec sleep 1000"


@contextlib.contextmanager
def started(
    sh: elfolio.SpawnTemplate, script: str, count: int, **keywords: Any
) -> Iterator[tuple[elfolio.Child, list[int]]]:
    """A shell and the pids that its script printed; they are dead afterwards, whatever the test found."""
    child = sh.spawn(["sh", "-c", script], stdout=elfolio.PIPE, **keywords)
    assert child.stdout
    pids = []
    try:
        for _ in range(count):
            pids.append(int(child.stdout.readline()))
        yield child, pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.kill()
        child.wait()
        child.stdout.close()


def held_pipes(child: elfolio.Child) -> tuple[int, ...]:
    assert child.stdout
    return (child.stdout.fileno(),)


def test_a_chain(sh: elfolio.SpawnTemplate) -> None:
    """Children, grandchildren and theirs end, with the number of them returned."""
    script = f"sh -c 'echo $$; sh -c \"echo \\$\\$; {SLEEP}\" & wait' & sh -c 'echo $$; {SLEEP}' & wait"
    with started(sh, script, 3) as (child, pids):
        assert child.kill_tree() == 4
        assert child.wait() == -9
        for pid in pids:
            await_gone(pid)


def test_an_orphan_in_the_childs_session(sh: elfolio.SpawnTemplate) -> None:
    """What stays in the child's own session or group ends, though its parent has gone."""
    script = f"(sh -c 'echo $$; exec >&-; {SLEEP}' &); {SLEEP}"
    for keywords in ({"start_new_session": True}, {"process_group": 0}):
        with started(sh, script, 1, **keywords) as (child, pids):
            child.kill_tree()
            await_gone(pids[0])


def test_a_session_that_the_child_made_itself(sh: elfolio.SpawnTemplate) -> None:
    """A child that makes its own session, as a daemon does, is recognised by it."""
    with elfolio.SpawnTemplate("/usr/bin/setsid") as setsid:
        inner = f"(sh -c 'echo $$; exec >&-; {SLEEP}' &); {SLEEP}"
        child = setsid.spawn(["setsid", "sh", "-c", inner], stdout=elfolio.PIPE)
        assert child.stdout
        pid = int(child.stdout.readline())
        try:
            child.kill_tree()
            await_gone(pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            child.kill()
            child.wait()
            child.stdout.close()


def test_an_orphan_that_holds_the_pipe(sh: elfolio.SpawnTemplate) -> None:
    """A double-forked daemon in a session of its own ends, because it holds the writing end of our pipe."""
    with started(sh, f"(setsid sh -c 'echo $$; {SLEEP}' &); exit 5", 1) as (child, pids):
        select.select([child.pidfd], [], [], 60)
        child.kill_tree(held_pipes(child))
        await_gone(pids[0])
        assert child.wait() == 5


def test_strangers_live(sh: elfolio.SpawnTemplate) -> None:
    """Another child of ours, a reader of the same pipe, a process of the host's session: none of them is hit."""
    with contextlib.ExitStack() as stack:
        _, (other,) = stack.enter_context(started(sh, f"echo $$; {SLEEP}", 1))
        child, _ = stack.enter_context(started(sh, f"echo $$; {SLEEP}", 1, start_new_session=True))
        assert child.stdout
        reader = stack.enter_context(subprocess.Popen(["/bin/cat"], stdin=child.stdout, stdout=subprocess.DEVNULL))
        # the same pipe's reading end in an orphan of somebody else's
        script = "(setsid sh -c 'echo $$; exec >&-; exec sleep 1000' &)"
        stranger = subprocess.Popen(
            ["/bin/sh", "-c", script], stdin=child.stdout, stdout=subprocess.PIPE, start_new_session=True
        )
        assert stranger.stdout
        orphan = int(stranger.stdout.readline())
        stack.callback(os.kill, orphan, signal.SIGKILL)
        stranger.wait()
        stranger.stdout.close()
        child.kill_tree(held_pipes(child))
        assert alive(other)
        assert alive(orphan)
        assert reader.wait() == 0  # by itself: the pipe has ended


def test_a_tree_that_grows_while_it_is_killed(sh: elfolio.SpawnTemplate) -> None:
    """A root that forks without end, and children that do, leave nothing behind; ten times."""
    marker = f"{os.getpid()}.5"
    grow = f"while :; do sleep 1{marker} & sh -c 'sleep 2{marker} & exec sleep 3{marker}' & done"
    for _ in range(10):
        with started(sh, "echo $$; " + grow, 1, rlimits={6: (300, 300)}) as (child, _):
            child.kill_tree()
            child.wait()
        assert survivors(marker) == []


def survivors(marker: str) -> list[int]:
    """Processes with `marker` in their command lines that are not just about to end; ended now."""
    pidfds = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(path.parent.name)
        if marker.encode() in _read(path) and alive(pid) and pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                pidfds[pid] = os.pidfd_open(pid)
    left = []
    for pid, pidfd in pidfds.items():
        if not select.select([pidfd], [], [], 2)[0]:
            left.append(pid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
    return left


# A child of the session's leader has 150 children that only wait, and then one with a group of its own, which forks
# when it is woken.
WAKING = """
import os, signal

def pause():
    while True:
        signal.pause()

def again(*_):
    if not os.fork():
        os.setsid()
        os.close(1)

if not os.fork():
    for _ in range(150):
        os.fork() or pause()
    if not os.fork():
        os.setpgid(0, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCONT, again)
        print(os.getpid(), flush=True)
pause()
"""


def test_a_group_that_the_kernel_wakes() -> None:
    """Processes of a group of their own, which the kernel lets go on when the father of their leader is killed,
    do not come to fork."""
    marker = f"waking-{os.getpid()}"
    with elfolio.SpawnTemplate(sys.executable) as python:
        for _ in range(3):
            with started(python, f"{WAKING}# {marker}", 1, start_new_session=True) as (child, _):
                child.kill_tree()
                child.wait()
            assert survivors(marker) == []


@pytest.mark.parametrize("state", ["T", "D"])
def test_a_fork_in_the_middle(state: str, sh: elfolio.SpawnTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process has forked while it was being stopped is found: after a look in which all were at rest there is
    one more."""
    with started(sh, f"echo $$; {SLEEP}", 1) as (child, _):
        root = tree.Process(child.pid, 1, 1, 1, 1, "T")
        parent, late = (tree.Process(pid, child.pid, 1, 1, 1, "R") for pid in (2**30, 2**30 + 1))
        looks = [
            [root, parent],
            [root, dataclasses.replace(parent, state=state)],  # it forks behind the listing's back
            [root, dataclasses.replace(parent, state="T"), late],
        ]
        calm = [dataclasses.replace(process, state="T") for process in (root, parent, late)]
        monkeypatch.setattr(tree, "processes", lambda: looks.pop(0) if looks else calm)
        assert child.kill_tree() == 3


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_reaped_childs_number_is_not_used(sh: elfolio.SpawnTemplate) -> None:
    """After the child has been reaped nothing is killed by number: it may be a stranger's."""
    with started(sh, "echo $$; exit 3", 1) as (child, _):
        child.wait()
        assert child.kill_tree(held_pipes(child)) == 0


def test_a_reused_number_is_noticed(sh: elfolio.SpawnTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that meant a descendant when the tree was read, and means a stranger when it is to be killed,
    is left alone: the starting time differs."""
    bystander = subprocess.Popen(["/bin/sleep", "1000"])
    try:
        with started(sh, f"echo $$; {SLEEP}", 1) as (child, _):
            real = tree.processes

            def stale(proc: str = "/proc") -> Iterator[tree.Process]:
                yield from real(proc)
                # as it was a moment ago: the same number, an older process, a child of ours
                yield tree.Process(bystander.pid, child.pid, child.pid, child.pid, 1)

            monkeypatch.setattr(tree, "processes", stale)
            child.kill_tree()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def write_stat(proc: Path, pid: int, ppid: int, name: str, started: int = 5) -> None:
    (proc / str(pid)).mkdir(parents=True)
    rest = " ".join(["0"] * 15)
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {ppid} {pid} {pid} {rest} {started} 0\n")


def test_recorded_trees(tmp_path: Path) -> None:
    """Kinship is read from /proc/PID/stat whatever a task calls itself, and loops in it do not matter."""
    write_stat(tmp_path, 10, 1, "root")
    write_stat(tmp_path, 11, 10, "a) S 1 1 1 (b")
    write_stat(tmp_path, 12, 11, "two\nlines")
    write_stat(tmp_path, 13, 1, "stranger")
    write_stat(tmp_path, 14, 15, "loop")
    write_stat(tmp_path, 15, 14, "loop")
    (tmp_path / "16").mkdir()
    everyone = {p.pid: p for p in tree.processes(str(tmp_path))}
    assert set(everyone) == {10, 11, 12, 13, 14, 15}
    assert everyone[11] == tree.Process(11, 10, 11, 11, 5, "S")
    assert tree.descendants(everyone, 10) == {11, 12}
    assert tree.descendants(everyone, 14) == {14, 15}


def test_orphans_come_to_a_subreaper(sh: elfolio.SpawnTemplate) -> None:
    """A host that is a subreaper, or process 1 of a container, becomes its orphans' parent: those with our pipe
    end all the same, and another child of the host's does not."""

    def host() -> list[Any]:
        import ctypes
        import os
        import subprocess

        import elfolio

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        bystander = subprocess.Popen(["/bin/sleep", "1000"])
        sh = elfolio.SpawnTemplate("/bin/sh")
        got: list[Any] = []
        try:
            sh.run(["sh", "-c", "(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000"], timeout=0.5)
        except subprocess.TimeoutExpired as error:
            pid = int(error.output)
            pidfd = os.pidfd_open(pid)
            import select

            got.append(bool(select.select([pidfd], [], [], 2)[0]))
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        got.append(bystander.poll())
        bystander.kill()
        bystander.wait()
        return got

    assert in_fresh_host(host) == [True, None]


def test_who_may_be_seen_by_nobody(sh: elfolio.SpawnTemplate) -> None:
    """Without /proc the child itself is killed still."""
    code = (
        "import elfolio, elfolio.spawn.tree as t\n"
        "c = elfolio.SpawnTemplate('/bin/sleep').spawn(['sleep', '1000'])\n"
        "t.processes = lambda proc='/proc': iter(())\n"
        "c.kill_tree(); print(c.wait())\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "-9\n"
