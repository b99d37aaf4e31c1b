"""create_subprocess_exec when something is in the way: cancellation, no descriptors, a host that takes the status."""

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.spawn.comparing import KERNEL_TELLS, SLEEP, Run, settled, started
from tests.spawn.probing import children, in_fresh_host, open_fds

pytestmark = pytest.mark.usefixtures("empty_pool")


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_cancelled_while_it_starts(run: Run[Any], twice: bool) -> None:
    """Whenever the start is cancelled: the child is killed and reaped, its pipes are closed, nothing is left."""

    async def main() -> None:
        await (await started("/bin/sh", "-c", "")).communicate()  # from here on the template holds its files
        before = len(open_fds())
        for turns in range(12):
            task = asyncio.ensure_future(started(*SLEEP))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            if twice:
                await asyncio.sleep(0)
                task.cancel()
            try:
                child = await task
            except asyncio.CancelledError:
                while twice and children():
                    await asyncio.sleep(0)
            else:
                child.kill()
                await child.communicate()
            assert children() == []
            assert await settled(before) == before

    run(main())


def test_cancelled_while_it_is_awaited(run: Run[Any]) -> None:
    """Cancelling wait or communicate leaves the child alone; it can be awaited again."""

    async def main() -> int:
        child = await started("sh", "-c", "echo a; exec cat")
        for waiting in (child.wait(), child.communicate(b"")):
            task = asyncio.ensure_future(waiting)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert child.returncode is None
        assert child.stdin is not None
        child.stdin.close()
        return await child.wait()

    assert run(main()) == 0


@pytest.fixture
def few() -> Iterator[None]:
    """Descriptors are few."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_fds()) + 40, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.skipif(
    sys.version_info < (3, 11, 4),
    reason="subprocess.Popen loses its pipes there before 3.11.4; to force: make clean test PYTHON=python3.12",
)
def test_no_descriptors_is_an_error_that_leaves_nothing(few: None, run: Run[Any]) -> None:
    """Where a start runs out of descriptors at whatever point it raises EMFILE, with neither child nor pipe left."""

    async def main() -> list[int | None]:
        await (await started("true")).communicate()
        before, ends = len(open_fds()), []
        for left in range(14):
            fillers = all_descriptors()
            for _ in range(left):
                os.close(fillers.pop())
            try:
                child = await started("true")
                await child.communicate()
                ends.append(child.returncode)
            except OSError as error:
                ends.append(error.errno)
            for fd in fillers:
                os.close(fd)
            assert (await settled(before), children()) == (before, [])
        return ends

    ends = run(main())
    assert set(ends) == {errno.EMFILE, 0}
    assert ends == sorted(ends, reverse=True)


def all_descriptors() -> list[int]:
    """Takes every descriptor that can be had."""
    taken = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            return taken


def test_hosts_that_take_the_status() -> None:
    """Where SIGCHLD is ignored, or a thread reaps every child, asyncio's callers get the status that the kernel
    remembers, and never hang."""

    def host(ignore: bool) -> list[int]:
        import asyncio
        import signal
        from contextlib import nullcontext

        import elfolio
        from elfolio.spawn import thermostat
        from tests.spawn.probing import everything_reaped

        async def main() -> list[int]:
            starts = (elfolio.create_subprocess_exec("sh", "-c", f"exit {n}") for n in range(20))
            return list(await asyncio.gather(*[child.wait() for child in await asyncio.gather(*starts)]))

        if ignore:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with nullcontext() if ignore else everything_reaped():
            codes = asyncio.run(main())
            thermostat.cool()  # who waits until there are no children waits for what stands ready too
        return codes

    for ignore in (True, False):
        codes = in_fresh_host(host, ignore)
        if KERNEL_TELLS:
            assert codes == list(range(20))
        assert len(codes) == 20


def test_a_loop_that_closes_takes_its_children_with_it() -> None:
    """A child nobody awaited is killed when its loop and its Process are gone, and reaped by the next start."""

    def host() -> list[object]:
        import asyncio
        import contextlib
        import gc
        import os
        import warnings

        import elfolio
        from elfolio.spawn.pool import default_pool
        from tests.spawn.probing import children, open_fds

        async def main() -> int:
            child = await elfolio.create_subprocess_exec("sleep", "600")
            return child.pid

        before = open_fds()
        warnings.simplefilter("ignore", ResourceWarning)
        pid = asyncio.run(main())
        gc.collect()
        with contextlib.suppress(ChildProcessError):  # reaped by then, if it was quick to die
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        elfolio.run(["true"])
        default_pool().close()
        return [children(), sorted(open_fds() - before)]

    assert in_fresh_host(host, timeout=60) == [[], []]
