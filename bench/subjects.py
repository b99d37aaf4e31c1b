"""bench.subjects: the ways to start a program from Python. In: argv, a count. Out: that many latencies in ns.

Each subject is what its users write. Only the start, up to the exit status in hand, is timed; the check that
the program ended with 0 comes after. The collector is off while samples are taken, as in timeit.
"""

import asyncio
import gc
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from time import perf_counter_ns
from typing import Literal

import elfolio

__all__ = ["lacking", "take"]

Subject = Callable[[list[str], int], list[int]]


@cache
def _template(path: str, temperature: Literal["cold", "warm"] = "cold") -> elfolio.SpawnTemplate:
    return elfolio.SpawnTemplate(path, temperature=temperature)


@contextmanager
def _uncollected() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _right(argv: list[str], code: int | None) -> None:
    if code != 0:
        raise RuntimeError(f"{argv} ended with {code}: something else than its start was measured")


def _timed(start: Callable[[list[str]], int | None]) -> Subject:
    """`start` returns the exit status."""

    def take(argv: list[str], count: int) -> list[int]:
        samples = []
        with _uncollected():
            for _ in range(count):
                before = perf_counter_ns()
                code = start(argv)
                samples.append(perf_counter_ns() - before)
                _right(argv, code)
        return samples

    return take


@cache
def _loop(name: str) -> asyncio.AbstractEventLoop:
    """Made when first asked for: a loop's descriptors would have to be closed in every other subject's child."""
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _timed_on(name: str, start: Callable[[list[str]], Awaitable[int | None]]) -> Subject:
    async def batch(argv: list[str], count: int) -> list[int]:
        samples = []
        for _ in range(count):
            before = perf_counter_ns()
            code = await start(argv)
            samples.append(perf_counter_ns() - before)
            _right(argv, code)
        return samples

    def take(argv: list[str], count: int) -> list[int]:
        loop = _loop(name)
        asyncio.set_event_loop(loop)
        with _uncollected():
            return loop.run_until_complete(batch(argv, count))

    return take


# --- spawn and wait ------------------------------------------------------------------------------------


def _elfolio_spawn(argv: list[str]) -> int:
    return _template(argv[0]).spawn(argv).wait()


def _elfolio_warm(argv: list[str]) -> int:
    return _template(argv[0], "warm").spawn(argv).wait()


def _elfolio_run(argv: list[str]) -> int:
    return elfolio.run(argv).returncode


def _subprocess_run(argv: list[str]) -> int:
    return subprocess.run(argv, check=False).returncode


def _subprocess_popen(argv: list[str]) -> int:
    return subprocess.Popen(argv).wait()


def _posix_spawn(argv: list[str]) -> int:
    return os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)[1]


async def _loop_exec(argv: list[str]) -> int:
    return await (await asyncio.create_subprocess_exec(*argv)).wait()


async def _elfolio_astart(argv: list[str]) -> int:
    return await (await _template(argv[0]).astart(argv)).wait()


async def _elfolio_arun(argv: list[str]) -> int:
    return (await _template(argv[0]).arun(argv, capture_output=False)).returncode


# --- with both outputs captured ------------------------------------------------------------------------


def _elfolio_capture(argv: list[str]) -> int:
    return _template(argv[0]).run(argv).returncode


def _elfolio_run_capture(argv: list[str]) -> int:
    return elfolio.run(argv, capture_output=True).returncode


def _subprocess_capture(argv: list[str]) -> int:
    return subprocess.run(argv, capture_output=True, check=False).returncode


async def _loop_communicate(argv: list[str]) -> int | None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe)
    await process.communicate()
    return process.returncode


async def _elfolio_arun_capture(argv: list[str]) -> int:
    return (await _template(argv[0]).arun(argv)).returncode


_SUBJECTS = {
    "elfolio": _timed(_elfolio_spawn),
    "elfolio warm": _timed(_elfolio_warm),
    "elfolio.run": _timed(_elfolio_run),
    "posix_spawn": _timed(_posix_spawn),
    "subprocess.Popen": _timed(_subprocess_popen),
    "subprocess.run": _timed(_subprocess_run),
    "elfolio astart": _timed_on("asyncio", _elfolio_astart),
    "elfolio arun": _timed_on("asyncio", _elfolio_arun),
    "asyncio": _timed_on("asyncio", _loop_exec),
    "uvloop": _timed_on("uvloop", _loop_exec),
    "elfolio capture": _timed(_elfolio_capture),
    "elfolio.run capture": _timed(_elfolio_run_capture),
    "subprocess capture": _timed(_subprocess_capture),
    "elfolio arun capture": _timed_on("asyncio", _elfolio_arun_capture),
    "asyncio capture": _timed_on("asyncio", _loop_communicate),
    "uvloop capture": _timed_on("uvloop", _loop_communicate),
}


def take(subject: str, argv: list[str], count: int) -> list[int]:
    """`count` latencies of starting `argv`, an absolute path and arguments, in nanoseconds."""
    return _SUBJECTS[subject](argv, count)


def lacking() -> list[str]:
    """Subjects that cannot be done here, for want of a package."""
    return [] if find_spec("uvloop") else [name for name in _SUBJECTS if name.startswith("uvloop")]
