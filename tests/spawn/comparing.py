"""What the tests of the drop-ins look through: both libraries, side by side. Holds no tests."""

import asyncio
import os
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import elfolio
from tests.spawn.probing import open_fds

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
SLEEP = ("/bin/sh", "-c", "exec sleep 600")

# Before Linux 6.15 nobody can tell the status of a child that somebody else reaped: then it is the standard
# library's guess, 0.
KERNEL_TELLS = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 15)


@contextmanager
def all_ours(**left: int) -> Iterator[None]:
    """What is started inside is started by elfolio, but for what `left` counts."""
    before = elfolio.stats().standard
    yield
    after = elfolio.stats().standard
    assert {reason: n - before.get(reason, 0) for reason, n in after.items() if n != before.get(reason)} == left


def seen(run: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """What a caller of `run` sees: its result, or everything about its exception."""
    keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords}
    if "input" not in keywords:
        keywords.setdefault("stdin", subprocess.DEVNULL)
    try:
        done = run(*args, **keywords)
    except Exception as error:
        return type(error), error.args, getattr(error, "errno", None), getattr(error, "filename", None), str(error)
    return done.returncode, done.stdout, done.stderr


def same(*args: Any, **keywords: Any) -> Any:
    """Both libraries let a caller see the same; returns it."""
    theirs = seen(subprocess.run, *args, **keywords)
    assert seen(elfolio.run, *args, **keywords) == theirs
    return theirs


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_text(text)
    path.chmod(mode)


def on_loop(factory: Callable[[], asyncio.AbstractEventLoop] | None, main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on a loop of this kind."""
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def started(*args: str, **keywords: Any) -> Process:
    """A child with all three streams."""
    return await elfolio.create_subprocess_exec(*args, **{"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, **keywords})


async def settled(expected: int) -> int:
    """The number of descriptors, given some turns of the loop to come down: pipe transports close late."""
    for _ in range(100):
        if len(open_fds()) == expected:
            break
        await asyncio.sleep(0)
    return len(open_fds())
