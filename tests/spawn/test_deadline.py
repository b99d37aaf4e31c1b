"""Deadlines and interrupts of run: they hold, and they keep what came."""

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from time import sleep as pause

import pytest

import elfolio
from tests.spawn.probing import await_gone, children, open_fds


def test_a_deadline_keeps_what_came(sh: elfolio.SpawnTemplate) -> None:
    """TimeoutExpired carries both streams so far; the child is dead and reaped, nothing is left."""
    before = open_fds()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        sh.run(["sh", "-c", "echo out; echo err >&2; exec sleep 1000"], timeout=0.3)
    assert (caught.value.stdout, caught.value.stderr) == (b"out\n", b"err\n")
    assert (caught.value.cmd[0], caught.value.timeout) == ("sh", 0.3)
    assert children() == []
    assert open_fds() == before


@pytest.mark.parametrize("how", ["setsid sh", "sh"])
@pytest.mark.parametrize("root", ["exit 0", "exec sleep 1000"])
def test_a_deadline_holds_though_a_grandchild_keeps_the_pipe(how: str, root: str, sh: elfolio.SpawnTemplate) -> None:
    """An orphan in its own session that keeps the pipe open neither holds the deadline up nor survives it."""
    script = f"({how} -c 'echo $$; exec sleep 1000' &); {root}"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        sh.run(["sh", "-c", script], timeout=0.5)
    await_gone(int(caught.value.stdout or b""))


def test_a_deadline_holds_against_endless_output(sh: elfolio.SpawnTemplate) -> None:
    """A stream that never dries up does not starve the timeout, with a limit or a spill file or neither."""
    for keywords in ({"output_limit": 100}, {"output_limit": 100, "stderr": elfolio.STDOUT}):
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            sh.run(["sh", "-c", "yes & yes"], timeout=0.3, **keywords)  # type: ignore[arg-type]
        assert b"bytes dropped" in (caught.value.stdout or b"")


def test_no_time_at_all(sh: elfolio.SpawnTemplate) -> None:
    """A timeout of zero or less expires, and leaves nothing."""
    for timeout in (0, -1):
        with pytest.raises(subprocess.TimeoutExpired):
            sh.run(["sh", "-c", "exec sleep 1000"], timeout=timeout)
    assert children() == []


@pytest.mark.parametrize("moment", [0.0, 0.001, 0.01, 0.05])
def test_an_interrupt_leaves_nothing(moment: float, sh: elfolio.SpawnTemplate) -> None:
    """KeyboardInterrupt while run waits: the tree is dead, reaped, and no descriptor is left."""

    def handler(sig: int, frame: object) -> None:
        raise KeyboardInterrupt

    before, old = open_fds(), signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02 + moment)
        with pytest.raises(KeyboardInterrupt):
            sh.run(["sh", "-c", "sleep 1000 & sleep 1000"], input=b"x" * 1000000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert children() == []
    assert open_fds() == before


def test_a_deadline_spares_who_took_the_number_of_an_ended_pipe(sh: elfolio.SpawnTemplate) -> None:
    """When an output has ended its descriptor's number is free; a child of another thread whose pipe got it lives."""
    before = open_fds()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(sh.run, ["sh", "-c", "exec sleep 1000 >&-"], timeout=0.6)
        pause(0.3)
        child = sh.spawn(["sh", "-c", "exec sleep 1000"], stdout=elfolio.PIPE)
        assert child.stdout
        with pytest.raises(subprocess.TimeoutExpired):
            late.result()
    assert child.poll() is None
    child.kill()
    child.wait()
    child.stdout.close()
    assert open_fds() == before
