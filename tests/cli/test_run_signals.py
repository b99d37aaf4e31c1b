"""Signals: what is sent to elfolio reaches the command once, and what becomes of the command becomes of elfolio."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.running import through

# Prints each signal it gets, with what sent it, until SIGTERM. "ready" once none can be missed any more.
LISTENER = """
import signal
signals = signal.valid_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print("ready", flush=True)
while True:
    got = signal.sigwaitinfo(signals).si_signo
    print(int(got), flush=True)
    if got == signal.SIGTERM:
        break
"""

SENT = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM})


@contextmanager
def listening(*options: str, **keywords: object) -> Iterator[subprocess.Popen[str]]:
    """elfolio with a command that has said that it listens; killed and reaped at the end."""
    words = through([sys.executable, "-c", LISTENER], *options)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **keywords) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            if process.poll() is None:
                for pid in children(process.pid):
                    os.kill(pid, signal.SIGKILL)
            process.kill()


def children(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def test_every_signal_is_passed_on_once() -> None:
    """Whatever signal is sent to elfolio, its command gets it, once; real-time ones, SIGCHLD and those that would
    stop or are ignored by default included."""
    with listening() as process:
        assert process.stdout
        for sig in SENT:
            os.kill(process.pid, sig)
            assert int(process.stdout.readline()) == sig
        process.terminate()
        assert process.stdout.read() == f"{int(signal.SIGTERM)}\n"
        assert process.wait() == 0


@pytest.mark.parametrize("options", [[], ["--limit", "1M"], ["--new-session"], ["--timeout", "1000"]], ids=" ".join)
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_command_killed_through_elfolio_kills_it_alike(options: list[str], sig: signal.Signals) -> None:
    """A signal that kills the command, sent to elfolio or (SIGKILL) to the command, is what elfolio dies of."""
    words = through(["sh", "-c", "echo $$; exec cat"], *options)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        os.kill(pid if sig == signal.SIGKILL else process.pid, sig)
        assert process.wait() == -sig


def test_a_stop_is_shared() -> None:
    """A command that stops stops elfolio by the same signal; continuing elfolio continues the command."""
    script = "import os, signal; os.kill(os.getpid(), {}); print('again', flush=True)"
    for sig in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        words = through([sys.executable, "-c", script.format(int(sig))])
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, process_group=0) as process:
            seen = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert seen is not None
            assert (seen.si_code, seen.si_status) == (os.CLD_STOPPED, sig)
            process.send_signal(signal.SIGCONT)
            assert process.stdout
            assert process.stdout.read() == "again\n"
        assert process.returncode == 0


def test_a_stop_sent_to_elfolio_stops_both() -> None:
    """SIGTSTP sent to elfolio stops the command, and by that elfolio; SIGCONT to the group resumes both, and the
    command gets no second one."""
    script = "import signal, sys; signal.signal(18, lambda *_: print('cont', flush=True)); print('ready', flush=True)"
    script += "; print(signal.sigwaitinfo({signal.SIGUSR1}) and 'end', flush=True)"
    words = through([sys.executable, "-c", f"import signal; signal.pthread_sigmask(0, [10]); {script}"])
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == "cont\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "end\n"
    assert process.returncode == 0


def test_what_the_command_sends_does_not_come_back() -> None:
    """A signal from the command to its parent, which is elfolio, neither ends elfolio nor is sent back."""
    script = "trap 'echo back; exit 1' USR1; kill -USR1 $PPID; kill -URG $PPID; exit 0"
    done = subprocess.run(through(["bash", "-c", script]), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_timer_that_was_inherited_ends_the_command() -> None:
    """An alarm set before elfolio was executed survives the exec; the command gets its signal."""
    start = "import os, signal, sys; signal.setitimer(signal.ITIMER_REAL, {}); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", start.format(0.5), *through(["cat"])], stdin=subprocess.PIPE
    ) as process:
        assert process.wait() == -signal.SIGALRM


def test_elfolio_leaves_the_command_alone_when_it_is_killed() -> None:
    """SIGKILL to elfolio, which nothing can pass on, lets a started command live."""
    with listening() as process:
        (pid,) = children(process.pid)
        process.kill()
        process.wait()
        os.kill(pid, signal.SIGTERM)
        assert process.stdout
        assert process.stdout.read() == f"{int(signal.SIGTERM)}\n"
