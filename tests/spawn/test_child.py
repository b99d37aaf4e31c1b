"""Child: waiting, signals, status, resource use, and what becomes of one that is forgotten."""

import errno
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import elfolio
from tests.spawn.probing import children, in_fresh_host, open_fds


@pytest.fixture
def cat() -> Any:
    with elfolio.SpawnTemplate("/bin/cat") as template:
        yield template


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.integers(0, 255))
def test_every_exit_status_is_told(code: int, sh: elfolio.SpawnTemplate) -> None:
    """returncode is the exit status."""
    child = sh.spawn(["sh", "-c", f"exit {code}"])
    assert child.wait() == code == child.returncode == child.poll()


@pytest.mark.parametrize("sig", [1, 2, 3, 6, 9, 13, 14, 15, 34, 64])
def test_every_signal_is_told(sig: int, sh: elfolio.SpawnTemplate) -> None:
    """returncode is the negative of the signal that ended it, with or without a core."""
    # Somebody may have started the tests with signals ignored, as nohup does: a child inherits that.
    default = [elfolio.SigDefault({sig})] if signal.getsignal(sig) is signal.SIG_IGN else []
    child = sh.spawn(["sh", "-c", f"kill -{sig} $$"], rlimits={4: (0, 0)}, actions=default)
    assert child.wait() == -sig


def test_an_interrupted_start_starts_nothing() -> None:
    """KeyboardInterrupt at any moment of a start: the child is gone, with all its descriptors."""
    sh = elfolio.SpawnTemplate("/bin/sh", temperature="cold")

    def handler(sig: int, frame: object) -> None:
        raise KeyboardInterrupt

    sh.run(["sh", "-c", ":"])
    before, old = open_fds(), signal.signal(signal.SIGALRM, handler)
    try:
        for n in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 5e-5 + n * 5e-6)
                child = sh.spawn(["sh", "-c", "exec sleep 1000"])
                signal.setitimer(signal.ITIMER_REAL, 0)
                child.kill()
                child.wait()
            except KeyboardInterrupt:
                if "child" in locals():  # it came behind the start
                    child.kill()
                    child.wait()
            child = None  # type: ignore[assignment]
            del child
            assert children() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert open_fds() == before
    sh.close()


def test_pid_and_pidfd(cat: elfolio.SpawnTemplate) -> None:
    """pid and pidfd are there from the start, the pidfd close-on-exec and readable at the end; then it is -1."""
    with cat.spawn(["cat"], stdin=elfolio.PIPE) as child:
        assert f"Pid:\t{child.pid}\n" in Path(f"/proc/self/fdinfo/{child.pidfd}").read_text()
        assert not os.get_inheritable(child.pidfd)
        assert select.select([child.pidfd], [], [], 0)[0] == []
        assert child.poll() is None
        assert child.returncode is None
        child.kill()
        assert select.select([child.pidfd], [], [], 60)[0] == [child.pidfd]
    ended: elfolio.Child = child
    assert [ended.pidfd, ended.returncode] == [-1, -9]


def test_wait_with_a_timeout(cat: elfolio.SpawnTemplate) -> None:
    """A deadline raises subprocess.TimeoutExpired with argv and timeout, and the child can be waited for again."""
    with cat.spawn(["cat"], stdin=elfolio.PIPE) as child:
        for timeout in (0, 0.01, -1):
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                child.wait(timeout)
            assert (caught.value.cmd, caught.value.timeout) == (["cat"], timeout)
        child.terminate()
        assert child.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("timeout", [1e9, 1e12, 1e300, float("inf"), threading.TIMEOUT_MAX])
def test_a_very_long_timeout(timeout: float, sh: elfolio.SpawnTemplate) -> None:
    """A timeout beyond the clock's range is as good as none, for wait and for run."""
    assert sh.spawn(["sh", "-c", "exit 3"]).wait(timeout) == 3
    assert sh.run(["sh", "-c", "exit 3"], timeout=timeout).returncode == 3


def test_signals_after_the_end_are_nothing(sh: elfolio.SpawnTemplate) -> None:
    """send_signal to a child that has ended, reaped or not, does nothing; an impossible signal is EINVAL before."""
    child = sh.spawn(["sh", "-c", "read x"], stdin=elfolio.PIPE)
    with pytest.raises(OSError) as caught:
        child.send_signal(99)
    assert caught.value.errno == errno.EINVAL
    assert child.stdin
    child.stdin.close()
    select.select([child.pidfd], [], [], 60)
    child.kill()
    assert child.wait() == 1
    child.kill()
    child.terminate()
    assert child.kill_tree() == 0


def test_rusage_is_the_childs(sh: elfolio.SpawnTemplate) -> None:
    """rusage holds what this child used; None before the end."""
    child = sh.spawn(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
    assert child.usage is None
    child.wait()
    used = child.rusage
    assert used is not None
    assert used.ru_utime > 0
    assert used.ru_maxrss > 100


def test_many_threads_wait_for_one_child(cat: elfolio.SpawnTemplate) -> None:
    """Waiting, polling and signalling from many threads, all get the status, once, and no descriptor is confused."""
    for _ in range(40):
        before = open_fds()
        child = cat.spawn(["cat"], stdin=elfolio.PIPE)
        with ThreadPoolExecutor(16) as pool:
            waits = [pool.submit(child.wait, timeout) for timeout in [None, 60.0] * 6]
            polls = [pool.submit(use) for use in (child.poll, child.kill, child.poll) * 3]
            assert {wait.result() for wait in waits} == {-9}
            for poll in polls:
                poll.result()
        assert child.stdin
        child.stdin.close()
        assert open_fds() == before


def test_a_wait_holds_no_lock(cat: elfolio.SpawnTemplate) -> None:
    """While one thread waits, others poll, signal, and spawn."""
    with cat.spawn(["cat"], stdin=elfolio.PIPE) as child, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(child.wait)
        assert child.poll() is None
        assert cat.spawn(["cat", "/dev/null"]).wait() == 0
        child.kill()
        assert waiting.result(60) == -9


def test_wait_lets_signal_handlers_run(cat: elfolio.SpawnTemplate) -> None:
    """A handler that raises ends the wait; one that returns does not; the child is untouched by either."""
    ran: list[int] = []

    def handler(sig: int, frame: object) -> None:
        ran.append(sig)
        if len(ran) == 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with cat.spawn(["cat"], stdin=elfolio.PIPE) as child:
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            with pytest.raises(KeyboardInterrupt):
                child.wait()
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert child.poll() is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ran[:2] == [signal.SIGALRM] * 2


@pytest.mark.parametrize("fatal", [False, True])
def test_a_forgotten_child_is_reaped_by_a_later_spawn(fatal: bool, sh: elfolio.SpawnTemplate) -> None:
    """Dropping a running child warns, even where warnings are errors, and the next spawn after its end reaps it."""
    import warnings

    child = sh.spawn(["sh", "-c", "read x"], stdin=elfolio.PIPE)
    pid, stdin = child.pid, child.stdin
    with warnings.catch_warnings(record=not fatal) as seen:
        warnings.simplefilter("error" if fatal else "always")
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            del child
            gc.collect()
        finally:
            sys.unraisablehook = hook
    if not fatal:
        assert seen is not None
        assert [str(w.message) for w in seen] == [f"child {pid} is still running"]
    assert stdin
    stdin.close()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    sh.spawn(["sh", "-c", ":"]).wait()
    assert children() == []


def test_a_context_manager_closes_and_waits(sh: elfolio.SpawnTemplate) -> None:
    """Leaving `with` closes the streams and waits, whatever is left unread."""
    with sh.spawn(["sh", "-c", "cat; exit 4"], stdin=elfolio.PIPE, stdout=elfolio.PIPE) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"unread")
    assert (child.returncode, child.stdin.closed, child.stdout.closed) == (4, True, True)


def test_under_a_tracer(sh: elfolio.SpawnTemplate) -> None:
    """When a debugger follows the host and its children (strace -f), every wait still gives the status."""
    import shutil

    if shutil.which("strace") is None:
        pytest.skip("needs strace; to force: apt-get install strace")
    code = """
import elfolio
t = elfolio.SpawnTemplate("/bin/sh")
print([t.spawn(["sh", "-c", "exit 3"]).wait() for _ in range(40)] == [3] * 40,
      [t.run(["sh", "-c", "exit 4"]).returncode for _ in range(40)] == [4] * 40)
"""

    done = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("needs ptrace; to force: run where strace may attach")
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_a_host_that_forks_while_a_child_runs() -> None:
    """A forked copy of a host neither reaps nor kills the host's child, nor waits for ever."""

    def host() -> list[Any]:
        import os
        import warnings

        import elfolio

        child = elfolio.SpawnTemplate("/bin/cat").spawn(["cat"], stdin=elfolio.PIPE)
        pid = os.fork()
        if not pid:
            warnings.simplefilter("ignore")
            said = b"?"
            try:
                said = str(child.poll()).encode()
            except OSError as error:
                said = type(error).__name__.encode()
            os.write(1, said + b"\n")
            del child
            os._exit(0)
        os.waitpid(pid, 0)
        assert child.stdin
        child.stdin.close()
        return [child.wait(60)]

    assert in_fresh_host(host) == [0]


def test_times_are_counted(sh: elfolio.SpawnTemplate) -> None:
    """A child's whole life is in stats(), from its start until it was waited for."""
    before = elfolio.stats().programs["/bin/sh"].life_ns
    start = time.monotonic_ns()
    sh.spawn(["sh", "-c", "read x"], stdin=None).wait()
    assert 0 < elfolio.stats().programs["/bin/sh"].life_ns - before <= time.monotonic_ns() - start
