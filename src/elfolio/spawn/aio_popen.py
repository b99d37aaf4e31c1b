"""spawn.aio_popen: asyncio's subprocesses on templates. In: what asyncio takes. Out: asyncio.subprocess.Process.

The loop watches the child's pidfd: no child watcher, no thread for each child, and a signal that reaches this
child or nobody. Streams, protocol and Process are asyncio's own. Any loop will do that has add_reader,
connect_read_pipe and connect_write_pipe, uvloop among them.
"""

import asyncio
import os
import subprocess
from asyncio.base_subprocess import BaseSubprocessTransport
from asyncio.subprocess import Process, SubprocessStreamProtocol
from typing import Any, cast

from elfolio.spawn.popen import Popen

__all__ = ["create_subprocess_exec", "create_subprocess_shell"]

_LIMIT = 2**16
"""asyncio.streams._DEFAULT_LIMIT: bytes that a StreamReader holds before it stops reading."""


async def create_subprocess_exec(
    program: Any,
    *args: Any,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = _LIMIT,
    **kwds: Any,
) -> Process:
    """`asyncio.create_subprocess_exec`, started from a template; see there."""
    _refuse_text(kwds, shell=False)
    return await _create((program, *args), False, (stdin, stdout, stderr), limit, kwds)


async def create_subprocess_shell(
    cmd: str | bytes,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = _LIMIT,
    **kwds: Any,
) -> Process:
    """`asyncio.create_subprocess_shell`, started from a template; see there."""
    if not isinstance(cmd, str | bytes):
        raise ValueError("cmd must be a string")
    _refuse_text(kwds, shell=True)
    return await _create(cmd, True, (stdin, stdout, stderr), limit, kwds)


def _refuse_text(keywords: dict[str, Any], *, shell: bool) -> None:
    """asyncio's streams carry bytes: what BaseEventLoop.subprocess_exec refuses, and takes as it is."""
    if bool(keywords.pop("shell", shell)) is not shell:
        raise ValueError(f"shell must be {shell}")
    if keywords.pop("bufsize", 0) != 0:
        raise ValueError("bufsize must be 0")
    for name, wanted in (("universal_newlines", False), ("text", False), ("encoding", None), ("errors", None)):
        value = keywords.pop(name, wanted)
        if value is not None if wanted is None else value:
            raise ValueError(f"{name} must be {wanted}")


async def _create(
    args: Any, shell: bool, streams: tuple[Any, Any, Any], limit: int, keywords: dict[str, Any]
) -> Process:
    loop = asyncio.get_running_loop()
    protocol = SubprocessStreamProtocol(limit=limit, loop=loop)
    connected: asyncio.Future[None] = loop.create_future()
    transport = _Transport(loop, protocol, args, shell, *streams, 0, waiter=connected, **keywords)
    try:
        await connected
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        transport.close()
        await transport.over()
        raise
    return Process(transport, protocol, loop)


def _popen() -> type[subprocess.Popen[bytes]]:
    """Ours, unless the host program has put one of its own into `subprocess`."""
    theirs = subprocess.Popen
    return Popen if theirs in Popen.__mro__ else cast("type[subprocess.Popen[bytes]]", theirs)


class _Transport(BaseSubprocessTransport):
    """asyncio's transport, told of the exit by the loop itself."""

    _exit_fd = -1

    def _start(
        self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **keywords: Any
    ) -> None:
        self._exited = self._loop.create_future()
        self._settled = self._loop.create_future()
        self._proc: subprocess.Popen[bytes] = _popen()(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize, **keywords
        )
        try:
            self._watch(self._proc)
        except BaseException:
            self._proc.kill()
            self._proc.wait()
            self._close_files()
            raise

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """The descriptor is the transport's own: Popen closes its pidfd when something polls and reaps, and a
        number that the loop watches must not come to mean another file."""
        pidfd = getattr(child, "pidfd", -1)
        try:
            self._exit_fd = os.pidfd_open(child.pid) if pidfd < 0 else os.dup(pidfd)
            self._loop.add_reader(self._exit_fd, self._ended)
        except ProcessLookupError:  # left to the standard library, and reaped by the kernel already
            self._loop.call_soon(self._ended)

    def _ended(self) -> None:
        if self._exit_fd >= 0:
            self._loop.remove_reader(self._exit_fd)
            self._close_exit()
        if not self._exited.done():
            self._exited.set_result(None)
        self._process_exited(self._proc.wait())

    def _close_exit(self) -> None:
        fd, self._exit_fd = self._exit_fd, -1
        if fd >= 0:
            os.close(fd)

    async def _connect_pipes(self, waiter: "asyncio.Future[None] | None") -> None:
        """Pipes that could not be connected, or only after the transport was closed, are closed: nobody else
        would."""
        try:
            await super()._connect_pipes(waiter)
        finally:
            if None in self._pipes.values():
                self._close_files()
            if self._closed:
                for pipe in filter(None, self._pipes.values()):
                    pipe.pipe.close()  # type: ignore[attr-defined]
            if not self._settled.done():
                self._settled.set_result(None)

    def _close_files(self) -> None:
        """The pipes that no transport has taken over."""
        child = self._proc
        for fd, file in enumerate((child.stdin, child.stdout, child.stderr)):
            if file is not None and self._pipes.get(fd) is None:
                file.close()

    async def over(self) -> None:
        """Waits until the child has been reaped and no pipe is left to connect."""
        await self._settled
        await self._exited

    def send_signal(self, signal: int) -> None:
        """By pidfd; nothing once the child has ended, ProcessLookupError once the transport is done with it."""
        self._check_proc()
        self._proc.send_signal(signal)

    def __del__(self) -> None:
        try:
            super().__del__()
        finally:  # a warning may be an error, and the loop may be closed already
            self._close_exit()
