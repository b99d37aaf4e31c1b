"""Warm templates and the program that they are in: its descriptors, its signals, its children, its event loops."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import elfolio
from elfolio.spawn import thermostat
from tests.spawn.comparing import Run
from tests.spawn.kindling import await_standing
from tests.spawn.probing import children, in_fresh_host


@pytest.fixture
def warm_sh() -> Iterator[elfolio.SpawnTemplate]:
    """A template of the shell, whose process stands ready."""
    with elfolio.SpawnTemplate("/bin/sh", temperature="warm") as template:
        template.spawn(["sh", "-c", ":"]).wait()
        reason = template._heat.reason
        if reason is not None:
            pytest.skip(f"needs a shell that can be held warm: {reason}; to force: run where /bin/sh is dynamic")
        yield template


def test_a_signal_right_after_the_start_arrives(warm_sh: elfolio.SpawnTemplate) -> None:
    """However early, a signal is the program's: none is lost between the start and the first instruction."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1) * 100:
        child = warm_sh.spawn(["sh", "-c", "exec sleep 600"])
        child.send_signal(number)
        assert child.wait(60) == -number


def test_the_end_of_a_template_is_not_waited_for(warm_sh: elfolio.SpawnTemplate) -> None:
    """Its process ends when it is let go, long before it would be killed; nothing is left."""
    assert warm_sh.spawn(["sh", "-c", "exit 3"]).wait() == 3
    began = time.monotonic()
    warm_sh.close()
    assert time.monotonic() - began < 0.2  # native/warm_family.c, LEAVE_NS
    assert children() == []


@pytest.mark.root
def test_who_may_not_kill_it_can_let_go_of_it() -> None:
    """A host that has become another user ends its template's process all the same."""

    def host() -> list[int]:
        import os

        import elfolio
        from tests.spawn.probing import children

        template = elfolio.SpawnTemplate("/bin/sh", temperature="warm")
        template.spawn(["sh", "-c", ":"]).wait()
        os.setresuid(65534, 65534, 0)
        template.close()
        os.setresuid(0, 0, 0)
        return children()

    assert in_fresh_host(host) == []


def test_closed_standard_streams_stay_closed() -> None:
    """What a warm template keeps open has no standard stream's number, though they are free."""

    def host() -> list[Any]:
        import os

        import elfolio

        elfolio.SpawnTemplate("/bin/sh", temperature="cold").spawn(["sh", "-c", ":"]).wait()
        saved = [os.dup(fd) for fd in range(3)]
        os.closerange(0, 3)
        try:
            template = elfolio.SpawnTemplate("/bin/sh", temperature="warm")
            codes = [template.spawn(["sh", "-c", f"exit {code}"]).wait() for code in range(20)]
            taken = [fd for fd in range(3) if os.path.lexists(f"/proc/self/fd/{fd}")]
        finally:
            for fd, copy in enumerate(saved):
                os.dup2(copy, fd)
        after = [template.spawn(["sh", "-c", f"exit {code}"]).wait() for code in range(20)]
        template.close()
        return [codes == after == list(range(20)), taken]

    assert in_fresh_host(host) == [True, []]


def test_without_descriptors_it_starts_cold_or_not_at_all() -> None:
    """Where they run out at whatever point, a start is right or EMFILE; no child and no descriptor stays."""

    def host() -> list[Any]:
        import os
        import resource

        import elfolio
        from tests.spawn.kindling import await_standing
        from tests.spawn.probing import children, open_fds

        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        template, ends = elfolio.SpawnTemplate("/bin/sh", temperature="warm"), []
        template.spawn(["sh", "-c", ":"]).wait()
        await_standing(template)
        before = len(open_fds())
        for spare in range(14):
            taken = []
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            for _ in range(spare):
                os.close(taken.pop())
            try:
                ends.append(template.spawn(["sh", "-c", "exit 3"]).wait())
            except OSError as error:
                ends.append(error.errno or 0)
            for fd in taken:
                os.close(fd)
        template.close()
        return [ends, children(), len(open_fds()) <= before]

    ends, left, as_before = in_fresh_host(host)
    assert set(ends) == {3, 24}  # in no order: a standby that is known already needs none
    assert ends[-1] == 3
    assert (left, as_before) == ([], True)


def test_a_host_that_waits_for_any_child_stays_cold() -> None:
    """Such a host would wait for a template's process too: `auto` sees that somebody else reaps its children."""

    def host() -> list[Any]:
        import elfolio
        from tests.spawn.probing import everything_reaped

        template = elfolio.SpawnTemplate("/bin/sh")
        with everything_reaped():
            for _ in range(100):
                template.spawn(["sh", "-c", ":"]).wait()
        return [str(template._heat.reason)]

    assert in_fresh_host(host) == ["a host that waits for any child"]


@pytest.mark.parametrize("cool", [elfolio.SpawnTemplate.cool, lambda _: thermostat.cool()], ids=["its own", "all"])
def test_cooling_ends_what_stands_ready(
    warm_sh: elfolio.SpawnTemplate, cool: Callable[[elfolio.SpawnTemplate], None]
) -> None:
    """After `cool` there is no child but those that were started; a later start may warm again."""
    running = warm_sh.spawn(["sh", "-c", "cat; exit 5"], stdin=elfolio.PIPE)
    cool(warm_sh)
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        assert file.read().split() == [str(running.pid)]
    with running:
        pass
    assert running.returncode == 5
    child = warm_sh.spawn(["sh", "-c", "exit 3"])
    assert (child.wait(), child.temperature) == (3, "warm")


def test_auto_is_warm_again_when_that_is_earned(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `cool` an `auto` template waits for as many starts as at first."""
    monkeypatch.setattr(thermostat.policy, "eager", False)
    monkeypatch.setattr(thermostat.policy, "starts", 5)
    with elfolio.SpawnTemplate("/bin/true") as template:
        temperatures = []
        for number in range(14):
            if number == 7:
                template.cool()
                assert children() == []
            with template.spawn(["true"]) as child:
                temperatures.append(child.temperature)
    assert temperatures == (["cold"] * 5 + ["warm"] * 2) * 2


def test_stats_tell_the_memory_of_what_stands_ready(warm_sh: elfolio.SpawnTemplate) -> None:
    """Processes and bytes by program, where they are asked for; None where nothing stands ready."""
    assert elfolio.stats().programs["/bin/sh"].standing is None
    await_standing(warm_sh)
    standing = elfolio.stats(memory=True).programs["/bin/sh"].standing
    assert standing is not None
    assert standing.processes == 3
    assert 0 < (standing.pss or 0) < (standing.rss or 0)
    warm_sh.cool()
    assert elfolio.stats(memory=True).programs["/bin/sh"].standing is None


def test_its_process_is_not_counted() -> None:
    """stats() counts the children that were asked for."""
    with elfolio.SpawnTemplate("/bin/cat", temperature="warm") as template:
        before = elfolio.stats().programs["/bin/cat"].spawns
        for _ in range(3):
            template.spawn(["cat"]).wait()
    assert elfolio.stats().programs["/bin/cat"].spawns == before + 3


# --- event loops -----------------------------------------------------------------------------------------


def test_warm_ends_are_seen_by_the_loop(run: Run[Any], warm_sh: elfolio.SpawnTemplate) -> None:
    """A hundred warm children on asyncio's loop and on uvloop's: each gives its own status, beside children of the
    loop's own watcher (uvloop: SIGCHLD; asyncio: pidfd or thread), and neither takes what is the other's."""

    async def ours(code: int) -> tuple[int, str]:
        child = await warm_sh.astart(["sh", "-c", f"exit {code}"])
        return await child.wait(), child.temperature

    async def theirs(code: int) -> int:
        child = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {code}")
        return await child.wait()

    async def main() -> None:
        async with asyncio.timeout(60):
            mine, others = await asyncio.gather(
                asyncio.gather(*map(ours, range(100))), asyncio.gather(*map(theirs, range(100)))
            )
        assert others == list(range(100))
        assert [code for code, _ in mine] == list(range(100))
        assert sum(temperature == "warm" for _, temperature in mine) > 50

    run(main())
    assert children() == []


@pytest.mark.usefixtures("empty_pool")
def test_popen_below_the_loops_own_functions(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With elfolio's Popen under asyncio's own functions the loop's child watcher sees a warm child's end."""
    import subprocess

    monkeypatch.setattr(thermostat.policy, "eager", True)
    monkeypatch.setattr(subprocess, "Popen", elfolio.Popen)

    async def one(code: int) -> int:
        child = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"cat; exit {code}", stdin=subprocess.PIPE)
        await child.communicate(b"")
        return child.returncode if child.returncode is not None else -1

    async def main() -> None:
        async with asyncio.timeout(60):
            assert [await one(code) for code in range(20)] == list(range(20))
            assert await asyncio.gather(*map(one, range(20))) == list(range(20))

    run(main())
    assert children() == []
