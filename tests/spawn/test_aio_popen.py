"""create_subprocess_exec and _shell against asyncio's own: the same seen from outside, with nothing watching but
the loop."""

import asyncio
import os
import signal
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.spawn.comparing import SLEEP, Run, all_ours, on_loop, settled, started
from tests.spawn.probing import children, open_fds

pytestmark = pytest.mark.usefixtures("empty_pool")


async def seen(create: Callable[..., Any], args: Any, keywords: dict[str, Any], data: bytes | None) -> object:
    """What a caller sees of one start: how it ended and what it said, or the exception."""
    try:
        child = await create(*args, **{"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, **keywords})
        out, err = await child.communicate(data)
    except Exception as error:
        return type(error), error.args, getattr(error, "filename", None), str(error)
    return child.returncode, await child.wait(), out, err


EXEC: list[tuple[Any, dict[str, Any]]] = [
    (("echo", "a b"), {}),
    ((b"echo", b"\xff"), {}),
    ((Path("/bin/echo"), Path("a")), {}),
    (("sh", "-c", "cat; echo e >&2; exit 3"), {"stdin": PIPE}),
    (("sh", "-c", "cat; echo e >&2; exit 3"), {"stdin": PIPE, "stderr": STDOUT}),
    (("sh", "-c", "yes | head -c 300000"), {}),
    (("sh", "-c", "kill -9 $$"), {}),
    (("sh", "-c", "echo a; echo b >&2"), {"stdout": None, "stderr": DEVNULL}),
    (("sh", "-c", "pwd; umask; echo $A"), {"cwd": "/", "umask": 0o27, "env": {"A": "b", "PATH": os.defpath}}),
    (
        ("renamed", "-c", "echo $0; cut -d' ' -f6 /proc/$$/stat | grep -cx $$"),
        {"executable": "/bin/sh", "start_new_session": True},
    ),
    (("true",), {"process_group": 0, "limit": 10}),
    (("true",), {"bufsize": 0, "shell": False, "text": False, "universal_newlines": False, "encoding": None}),
    (("no-such-program",), {}),
    (("/no/such/program", "a"), {}),
    (("/etc/passwd",), {}),
    (("true",), {"cwd": "/no/such/directory"}),
    (("true", "a\0b"), {}),
    (("true", 1), {}),
    ((1,), {}),
    ((), {}),
    (("true",), {"text": True}),
    (("true",), {"universal_newlines": True}),
    (("true",), {"encoding": "ascii"}),
    (("true",), {"errors": "strict"}),
    (("true",), {"bufsize": 1}),
    (("true",), {"shell": True}),
    (("true",), {"no_such_keyword": 1}),
    (("true",), {"user": -5}),
    (("true",), {"stdin": 1000}),
    (("true",), {"pass_fds": (1000,)}),
]
SHELL: list[tuple[Any, dict[str, Any]]] = [
    (("echo $0 | cat; exit 4",), {}),
    ((b"echo a",), {}),
    (("no-such-program",), {}),
    (("echo $0",), {"executable": "/bin/bash"}),
    ((["echo"],), {}),
    ((Path("/bin/echo"),), {}),
    (("true",), {"shell": False}),
    (("true",), {"text": True}),
    (("true",), {"executable": "/no/such/shell"}),
]
CALLS = [("create_subprocess_exec", *call) for call in EXEC] + [("create_subprocess_shell", *call) for call in SHELL]


@pytest.mark.skipif(
    sys.version_info < (3, 11, 4),
    reason="asyncio's own start loses pipes where it fails before 3.11.4; to force: make clean test PYTHON=python3.12",
)
@pytest.mark.parametrize(("name", "args", "keywords"), CALLS, ids=range(len(CALLS)))
def test_the_same_as_asyncios_own(run: Run[Any], name: str, args: Any, keywords: dict[str, Any]) -> None:
    """Exit status, output and exceptions are those of asyncio's function, called with the same arguments."""
    data = b"x" * 200_000 if keywords.get("stdin") is PIPE else None
    theirs = on_loop(None, seen(getattr(asyncio, name), args, keywords, data))
    assert run(seen(getattr(elfolio, name), args, keywords, data)) == theirs


def test_streams_carry_a_dialogue(run: Run[Any]) -> None:
    """Lines go to and fro while several tasks wait for the end; the loop is never held up by the child."""

    async def main() -> None:
        child = await started("sh", "-c", "while read a; do echo got $a; done; echo end >&2; exit 3")
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        waiting = [asyncio.ensure_future(child.wait()) for _ in range(5)]
        for number in range(20):
            child.stdin.write(b"%d\n" % number)
            await child.stdin.drain()
            assert await child.stdout.readline() == b"got %d\n" % number
        assert child.returncode is None
        child.stdin.close()
        assert await asyncio.gather(*waiting, child.wait()) == [3] * 6
        assert await child.stderr.read() == b"end\n"
        assert child.stdout.at_eof() is not None

    with all_ours():
        run(main())


def test_the_limit_is_the_streams(run: Run[Any]) -> None:
    """`limit` bounds what readline takes at once, as asyncio's does."""

    async def main() -> None:
        child = await started("sh", "-c", "echo 0123456789; echo a", limit=8)
        assert child.stdout is not None
        with pytest.raises(ValueError, match="longer than limit"):
            await child.stdout.readline()
        await child.communicate()

    run(main())


def test_signals_arrive_and_then_miss(run: Run[Any]) -> None:
    """kill, terminate and send_signal end the child; afterwards they are errors, or nothing, as asyncio's are."""

    async def ended(create: Any, sends: Callable[[Process], None]) -> list[object]:
        child = await create(*SLEEP)
        sends(child)
        answers: list[object] = [await child.wait(), child.returncode]
        try:
            sends(child)
        except ProcessLookupError as error:
            answers.append(error.args)
        return answers

    ways: list[Callable[[Process], None]] = [
        lambda child: child.kill(),
        lambda child: child.terminate(),
        lambda child: child.send_signal(signal.SIGUSR1),
    ]
    for way, number in zip(ways, (9, 15, signal.SIGUSR1), strict=True):
        theirs = on_loop(None, ended(asyncio.create_subprocess_exec, way))
        assert run(ended(elfolio.create_subprocess_exec, way)) == theirs
        assert theirs[0] == -number


def test_a_hundred_at_once_leave_nothing(run: Run[Any]) -> None:
    """A hundred children started together each give their own status; no descriptor, child or thread is left."""

    async def main() -> None:
        await (await started("sh", "-c", "exit 0")).communicate()
        before, threads = len(open_fds()), threading.active_count()
        all_of_them = await asyncio.gather(*(started("sh", "-c", f"cat; exit {n}") for n in range(100)))
        assert threading.active_count() == threads
        await asyncio.gather(*(child.communicate(b"x") for child in all_of_them))
        assert [child.returncode for child in all_of_them] == list(range(100))
        assert (await settled(before), children()) == (before, [])

    with all_ours():
        run(main())


def test_any_thread_may_run_the_loop(run: Run[Any]) -> None:
    """A loop outside the main thread needs no child watcher, no signal handler and no thread for the child."""
    codes: list[int] = []

    async def main() -> None:
        threads = threading.active_count()
        child = await started("sh", "-c", "cat; exit 7")
        assert threading.active_count() == threads
        await child.communicate(b"")
        codes.append(await child.wait())

    before = signal.getsignal(signal.SIGCHLD)
    thread = threading.Thread(target=lambda: run(main()))
    thread.start()
    thread.join()
    assert codes == [7]
    assert signal.getsignal(signal.SIGCHLD) == before


def test_what_the_standard_library_starts_is_watched_too(run: Run[Any]) -> None:
    """With a preexec_fn the start is the standard one, counted; streams, status and signals are the same."""

    async def main() -> list[object]:
        child = await started("sh", "-c", "cat; exit 7", preexec_fn=int)
        out, _ = await child.communicate(b"a")
        other = await started(*SLEEP, preexec_fn=int)
        other.terminate()
        await other.communicate()
        return [out, child.returncode, other.returncode]

    with all_ours(preexec_fn=2):
        assert run(main()) == [b"a", 7, -15]


def test_a_grandchild_that_keeps_the_pipe_does_not_hide_the_end(run: Run[Any]) -> None:
    """`returncode` is there when the child has ended, though its pipe is still open elsewhere."""

    async def main() -> int | None:
        child = await started("sh", "-c", "sleep 600 & echo $!; exit 5")
        assert child.stdout is not None
        grandchild = int(await child.stdout.readline())
        try:
            while child.returncode is None:
                await asyncio.sleep(0)
        finally:
            os.kill(grandchild, signal.SIGKILL)
        await child.communicate()
        return child.returncode

    assert run(main()) == 5
