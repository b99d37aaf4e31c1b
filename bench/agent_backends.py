"""bench.agent_backends: the ways to call a tool from an event loop. In: argv. Out: its status and both outputs.

Each is what its users write. Directory and environment are the host's own, standard input is /dev/null.
"""

import asyncio
import hashlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.util import find_spec

import elfolio

__all__ = ["AGAIN", "BACKENDS", "BASE", "NOTHING", "Backend", "Outcome", "new_backend", "new_loop", "reason_missing"]

BASE, AGAIN, NOTHING = "asyncio", "again", "nothing"
BACKENDS = {
    BASE: "asyncio",
    AGAIN: "asyncio again (A/A)",
    "posix_spawn": "posix_spawn",
    "uvloop": "uvloop",
    "cold": "elfolio cold",
    "warm": "elfolio warm",
    "auto": "elfolio auto",
    NOTHING: "no process (floor)",
}
"""By the name for the command line: what tables say."""
_TEMPERATURES = ("cold", "warm", "auto")
_CHUNK = 1 << 16
_DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores them; subprocess gives them back to its children, and so do all others here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call ended. `temperature` is empty where that means nothing."""

    status: int
    out: bytes
    err: bytes
    temperature: str = ""

    def digest(self) -> str:
        """Of the status and both outputs, and of where one ends and the other begins."""
        head = f"{self.status} {len(self.out)} {len(self.err)}\n".encode()
        return hashlib.sha256(head + self.out + self.err).hexdigest()


class Backend:
    """One way; `close` lets go of what it kept from call to call."""

    def __init__(self, call: Callable[[list[str]], Awaitable[Outcome]], close: Callable[[], None]) -> None:
        self.call = call
        self.close = close


def new_backend(name: str) -> Backend:
    """The way called `name`, with nothing prepared."""
    if name in _TEMPERATURES:
        templates = _Templates(name)
        return Backend(templates.call, templates.close)
    ways = {NOTHING: _nothing, "posix_spawn": _posix_spawn}
    return Backend(ways.get(name, _loop_subprocess), lambda: None)


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """The loop that the way called `name` runs on."""
    if name == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


def reason_missing(name: str) -> str | None:
    """Why the way called `name` cannot be gone here; None if it can."""
    if name == "uvloop" and find_spec("uvloop") is None:
        return "uvloop is not installed (pip install uvloop)"
    if name in _TEMPERATURES:
        try:
            _template("/bin/sh", temperature=name).close()
        except elfolio.InvalidArgument as error:
            return error.strerror
    return None


async def _nothing(argv: list[str]) -> Outcome:
    """Lets the loop turn once, as everything that waits does."""
    await asyncio.sleep(0)
    return Outcome(0, b"", b"")


async def _loop_subprocess(argv: list[str]) -> Outcome:
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out, err)


async def _posix_spawn(argv: list[str]) -> Outcome:
    loop = asyncio.get_running_loop()
    out, child_out = os.pipe()
    err, child_err = os.pipe()
    fds = [out, err]
    try:
        try:
            actions = (
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, child_out, 1),
                (os.POSIX_SPAWN_DUP2, child_err, 2),
            )
            pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigdef=_DEFAULTED)
        finally:
            os.close(child_out)
            os.close(child_err)
        fds.append(os.pidfd_open(pid))
        said_out, said_err, _ = await asyncio.gather(_drained(loop, out), _drained(loop, err), _readable(loop, fds[2]))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        for fd in fds:
            os.close(fd)
    return Outcome(status, said_out, said_err)


def _drained(loop: asyncio.AbstractEventLoop, fd: int) -> "asyncio.Future[bytes]":
    done: asyncio.Future[bytes] = loop.create_future()
    parts = []

    def ready() -> None:
        data = os.read(fd, _CHUNK)
        parts.append(data)
        if not data:
            loop.remove_reader(fd)
            done.set_result(b"".join(parts))

    loop.add_reader(fd, ready)
    return done


def _readable(loop: asyncio.AbstractEventLoop, fd: int) -> "asyncio.Future[None]":
    done: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        loop.remove_reader(fd)
        done.set_result(None)

    loop.add_reader(fd, ready)
    return done


_template: Callable[..., elfolio.SpawnTemplate] = elfolio.SpawnTemplate
"""Untyped on purpose: which temperatures there are is asked, not known."""


class _Templates:
    """A template for each program, made at its first call."""

    def __init__(self, temperature: str) -> None:
        self._temperature = temperature
        self._held: dict[str, elfolio.SpawnTemplate] = {}

    async def call(self, argv: list[str]) -> Outcome:
        template = self._held.get(argv[0])
        if template is None:
            template = self._held[argv[0]] = _template(argv[0], temperature=self._temperature)
        done = await template.arun(argv)
        assert isinstance(done.stdout, bytes)
        assert isinstance(done.stderr, bytes)
        return Outcome(done.returncode, done.stdout, done.stderr, done.temperature)

    def close(self) -> None:
        for template in self._held.values():
            template.close()
