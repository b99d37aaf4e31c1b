"""spawn.aio: templates on an event loop. In: a template, argv, keywords. Out: awaitables; nothing polls, no thread.

Starting happens on the loop: it takes as long as the kernel needs from clone to exec, whatever the host's
memory. From then on one descriptor is watched: the pidfd, or the epoll descriptor of a capture. Works on any
loop that has add_reader, uvloop among them.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from elfolio.spawn.capture import ALL, GRACE, OUTPUTS, Running
from elfolio.spawn.child import Child

if TYPE_CHECKING:
    import resource

__all__ = ["AsyncChild", "adopt", "arun"]

_STREAM_LIMIT = 2**16
_Result = TypeVar("_Result")


async def arun(running: Running[_Result]) -> _Result:
    """`Running.run` on the running loop. Cancelled, it kills the tree, reaps it, and lets go of its pipes."""
    try:
        running.start()
        if not (await _pump(running, ALL, running.remaining()) and await _others_ended(running)):
            running.kill()
            await _pump(running, OUTPUTS, GRACE)
            raise running.expired()
        running.reap()
    except BaseException:
        await _abandon(running)
        raise
    return running.completed()


async def _others_ended(running: Running[_Result]) -> bool:
    for child in running.started[:-1]:
        if not await _ended(child, running.remaining()):
            return False
    return True


async def _pump(running: Running[_Result], until: int, timeout: float | None) -> bool:
    """Moves what comes until nothing of `until` is left; False at the timeout."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def turn() -> None:
        try:
            left = running.move(0, until)
        except OSError as error:
            if not done.done():
                done.set_exception(error)
            return
        if not left and not done.done():
            done.set_result(None)

    return await _watched(running.fileno(), turn, done, timeout)


async def _watched(fd: int, ready: Callable[[], None], done: "asyncio.Future[None]", timeout: float | None) -> bool:
    """Calls `ready` whenever `fd` is readable until `done` is; False at the timeout."""
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ready)
    timer = None if timeout is None else loop.call_later(max(0.0, timeout), _expire, done)
    try:
        await done
    except _Expired:
        return False
    finally:
        loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()
    return True


class _Expired(Exception):
    """A timeout, told apart from those of the caller's own."""


def _expire(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_exception(_Expired())


async def _ended(child: Child, timeout: float | None) -> bool:
    """Waits until the child has ended, without reaping it; False at the timeout."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ready() -> None:
        if not done.done():
            done.set_result(None)

    return await _watched(child.pidfd, ready, done, timeout)


async def _abandon(running: Running[_Result]) -> None:
    try:
        if running.running():
            running.kill()
            for child in running.started:
                await _ended(child, GRACE)
    finally:
        running.abandon()


class AsyncChild:
    """A child started by `SpawnTemplate.astart`: streams of asyncio's own, and methods that can be awaited.

    `stdin` is a StreamWriter, `stdout` and `stderr` are StreamReaders, each None unless PIPE was asked for.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._end: asyncio.Future[None] | None = None
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self.pid = child.pid
        self.args = child.args
        self.temperature = child.temperature

    def __repr__(self) -> str:
        return f"<AsyncChild of {self._child!r}>"

    @property
    def pidfd(self) -> int:
        """See `Child.pidfd`."""
        return self._child.pidfd

    @property
    def returncode(self) -> int | None:
        """See `Child.returncode`."""
        return self._child.returncode

    @property
    def rusage(self) -> "resource.struct_rusage | None":
        """See `Child.rusage`."""
        return self._child.rusage

    async def wait(self) -> int:
        """Waits for the end. Any number of tasks may; cancelling one leaves the child and the others alone."""
        while (code := self._child.returncode) is None:
            await asyncio.shield(self._watch())
        return code

    def _watch(self) -> "asyncio.Future[None]":
        """One reader on the pidfd for all who wait."""
        if self._end is None or self._end.done():
            loop = asyncio.get_running_loop()
            end = self._end = loop.create_future()
            fd = self._child.pidfd

            def ready() -> None:
                loop.remove_reader(fd)
                try:
                    self._child.poll()
                except ChildProcessError as error:
                    end.set_exception(error)
                else:
                    end.set_result(None)

            loop.add_reader(fd, ready)
        return self._end

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Feeds `input`, reads both outputs to their end, waits; what `run` does without bounds or deadline."""

        async def read(stream: asyncio.StreamReader | None) -> bytes | None:
            return None if stream is None else await stream.read()

        out, err, _ = await asyncio.gather(read(self.stdout), read(self.stderr), self._feed(input))
        await self.wait()
        return out, err

    async def _feed(self, data: bytes | None) -> None:
        if self.stdin is None:
            return
        try:
            self.stdin.write(data or b"")
            await self.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # a program may end without reading all of its input
        self.stdin.close()

    def send_signal(self, sig: int) -> None:
        """See `Child.send_signal`."""
        self._child.send_signal(sig)

    def terminate(self) -> None:
        """SIGTERM."""
        self._child.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._child.kill()

    def kill_tree(self) -> int:
        """See `Child.kill_tree`."""
        return self._child.kill_tree()

    def close(self) -> None:
        """Closes the streams; the child goes on."""
        for transport in self._transports:
            transport.close()


async def adopt(child: Child) -> AsyncChild:
    """Gives the pipes of a started child to the running loop."""
    loop = asyncio.get_running_loop()
    adopted = AsyncChild(child)
    stdin, child.stdin = child.stdin, None
    outputs, child.stdout, child.stderr = (child.stdout, child.stderr), None, None
    try:
        if stdin is not None:
            writing, protocol = await loop.connect_write_pipe(lambda: _DrainProtocol(loop), stdin)
            adopted._transports.append(writing)
            adopted.stdin = asyncio.StreamWriter(writing, protocol, None, loop)
        for name, pipe in zip(("stdout", "stderr"), outputs, strict=True):
            if pipe is None:
                continue
            reader = asyncio.StreamReader(limit=_STREAM_LIMIT, loop=loop)
            reading, _ = await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader, loop=loop), pipe)
            adopted._transports.append(reading)
            setattr(adopted, name, reader)
    except BaseException:
        adopted.close()
        for leftover in (stdin, *outputs):
            if leftover is not None:
                leftover.close()
        child.kill_tree()
        await _ended(child, GRACE)
        child.poll()
        raise
    return adopted


class _DrainProtocol(asyncio.streams.FlowControlMixin):
    """What a StreamWriter needs of a protocol, for a pipe that is only written to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._closed = loop.create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._closed.done():
            self._closed.set_result(None)

    def _get_close_waiter(self, stream: object) -> "asyncio.Future[None]":
        return self._closed
