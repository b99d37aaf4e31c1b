"""elfolio.Popen as an object: waiting, signalling, the standard library's functions; and what is left to those."""

import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import elfolio
from elfolio.spawn.pool import default_pool
from tests.spawn.comparing import KERNEL_TELLS, all_ours, seen
from tests.spawn.probing import children, in_fresh_host, open_fds

pytestmark = pytest.mark.usefixtures("empty_pool")


def test_what_elfolio_cannot_do_is_the_standard_librarys() -> None:
    """preexec_fn and the like go to the standard path, counted by reason."""
    with all_ours(preexec_fn=1):
        assert elfolio.run(["sh", "-c", "exit $A"], preexec_fn=lambda: os.environ.update(A="6")).returncode in (0, 6)
    with all_ours(**{"start_new_session and process_group together": 1}):
        assert seen(elfolio.run, ["true"], start_new_session=True, process_group=0)[0] in (0, PermissionError)


def test_a_changed_subprocess_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host program has replaced what starts children, that is what starts them."""
    asked = []

    def fork_exec(*args: Any) -> int:
        asked.append(args[0])
        raise RuntimeError("asked")

    monkeypatch.setattr(subprocess, "_fork_exec", fork_exec)
    with all_ours(**{"subprocess was changed by the host program": 1}), pytest.raises(RuntimeError, match="asked"):
        elfolio.run(["true"])
    assert asked == [["true"]]


def test_the_audit_event_comes_once_and_can_refuse() -> None:
    """sys.audit hooks see one subprocess.Popen event for each start, whoever makes it, and may prevent it."""

    def host() -> list[object]:
        import sys

        import elfolio

        events: list[object] = []

        def hook(event: str, args: tuple[object, ...]) -> None:
            if event == "subprocess.Popen":
                events.append([args[0], args[1]])
                if args[1] == ["false"]:
                    raise RuntimeError("refused")

        sys.addaudithook(hook)
        elfolio.run(["true"])
        for wrong in (["no-such-program"], ["no-such-program", "a\0b"], ["false"]):
            try:
                elfolio.run(wrong)
            except (OSError, ValueError, RuntimeError) as error:
                events.append(type(error).__name__)
        elfolio.run(["true"], preexec_fn=int)
        return events

    assert in_fresh_host(host) == [
        ["true", ["true"]],
        ["no-such-program", ["no-such-program"]],
        "FileNotFoundError",
        ["no-such-program", ["no-such-program", "a\0b"]],
        "ValueError",
        ["false", ["false"]],
        "RuntimeError",
        ["true", ["true"]],
    ]


def test_the_functions_are_the_standard_librarys() -> None:
    """run, call, check_call and check_output have the same signatures, and start through elfolio."""
    for name in ("run", "call", "check_call", "check_output"):
        assert inspect.signature(getattr(elfolio, name)) == inspect.signature(getattr(subprocess, name))
    with all_ours():
        assert elfolio.call(["sh", "-c", "exit 4"]) == 4
        assert elfolio.check_output(["cat"], input="ä", text=True) == "ä"
        with pytest.raises(subprocess.CalledProcessError) as caught:
            elfolio.check_call(["sh", "-c", "exit 4"])
        assert caught.value.cmd == ["sh", "-c", "exit 4"]
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            elfolio.run(["sh", "-c", "echo a; exec sleep 600"], capture_output=True, timeout=0.3)
        assert (expired.value.cmd, expired.value.timeout) == (["sh", "-c", "echo a; exec sleep 600"], 0.3)
    assert repr(elfolio.Popen) == "<class 'subprocess.Popen'>"


def test_waiting_with_a_timeout_sleeps_on_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """wait(timeout) never sleeps for an interval: the end of the child is what wakes it."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("polled"))
    with elfolio.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            child.wait(0)
        assert str(expired.value) == "Command '['cat']' timed out after 0 seconds"
        ended: list[int] = []
        thread = threading.Thread(target=lambda: ended.append(child.wait(timeout=1e12)))
        thread.start()
        child.stdin.close()
        thread.join()
        assert ended == [0]
        assert child.pidfd == -1


def test_the_status_is_right_though_sigchld_is_ignored() -> None:
    """Where the kernel reaps, wait, poll and wait(timeout) give the status that the kernel remembers."""

    def host() -> list[object]:
        import signal

        import elfolio

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        codes: list[object] = [elfolio.run(["sh", "-c", "exit 7"]).returncode]
        child = elfolio.Popen(["sh", "-c", "kill -9 $$"])
        codes.append(child.wait(timeout=60))
        child = elfolio.Popen(["sh", "-c", "exit 8"])
        while child.poll() is None:
            pass
        return [*codes, child.returncode, child.pidfd]

    assert in_fresh_host(host) == ([7, -9, 8, -1] if KERNEL_TELLS else [0, 0, 0, -1])


def test_the_status_is_right_though_the_host_reaps_everything() -> None:
    """A thread that waits for any child takes the zombies, not the statuses."""

    def host() -> list[int]:
        import elfolio
        from elfolio.spawn import thermostat
        from tests.spawn.probing import everything_reaped

        with everything_reaped():
            codes = [elfolio.run(["sh", "-c", f"exit {n}"]).returncode for n in range(40)]
            thermostat.cool()
        return codes

    codes = in_fresh_host(host)
    if KERNEL_TELLS:
        assert codes == list(range(40))
    assert len(codes) == 40


def test_a_signal_after_somebody_elses_reaping_hits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the child is gone, no number is signalled."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a number was signalled"))
    child = elfolio.Popen(["sh", "-c", "exit 5"])
    os.waitpid(child.pid, 0)
    child.send_signal(signal.SIGKILL)
    assert child.returncode == (5 if KERNEL_TELLS else 0)
    child.returncode = None  # even if nobody had asked yet
    monkeypatch.setattr(child, "poll", lambda: None)
    child.kill()
    child.terminate()
    child.returncode = 5


@pytest.mark.root
def test_a_stranger_with_the_same_number_is_safe() -> None:
    """A process that has been given the number of a reaped child gets neither its signals nor its status."""
    number = Path("/proc/sys/kernel/ns_last_pid")
    if not os.access(number, os.W_OK):
        pytest.skip("needs a writable ns_last_pid; to force: run where /proc/sys is not read-only")
    for _ in range(200):
        child = elfolio.Popen(["sh", "-c", "exit 5"])
        os.waitpid(child.pid, 0)
        number.write_text(str(child.pid - 1))
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
            if stranger.pid == child.pid:
                child.kill()
                assert child.wait() == (5 if KERNEL_TELLS else 0)
                assert stranger.poll() is None
                return
        child.wait()
    pytest.skip("the number was never free in 200 attempts; to force: run on a quieter machine")


def test_one_that_nobody_waits_for_is_reaped_later() -> None:
    """A dropped Popen warns once, as in subprocess, and the next start reaps its child and closes its pidfd."""
    before = open_fds()
    child = elfolio.Popen(["cat"], stdin=subprocess.PIPE)
    pid, stdin = child.pid, child.stdin
    assert stdin is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del child
        gc.collect()
    assert [str(warning.message) for warning in caught] == [f"subprocess {pid} is still running"]
    stdin.close()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    elfolio.run(["true"])
    assert children() == []
    default_pool().close()
    assert open_fds() == before


def test_a_status_set_from_outside_leaves_no_descriptor() -> None:
    """asyncio's watchers reap by number and set `returncode`: the pidfd goes with the object."""
    before = open_fds()
    child = elfolio.Popen(["true"])
    child.returncode = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    assert child.wait() == child.poll() == 0
    del child
    default_pool().close()
    assert open_fds() == before


def test_subclasses_and_generics_work() -> None:
    """Popen can be derived from and subscripted, as the standard one."""

    class Mine(elfolio.Popen[str]):
        pass

    with all_ours(), Mine([sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE, text=True) as child:
        assert child.communicate()[0] == "1\n"
    assert isinstance(child, subprocess.Popen)
