"""spawn.child: a started process. In: pid, pidfd, our ends of its pipes. Out: status, signals, resource use.

Everything goes through the pidfd, which means this child and no other, even after its number has been given
to a stranger. The number itself is for people and for `/proc`.
"""

import os
import signal
import time
from contextlib import suppress
from types import TracebackType
from typing import IO, TYPE_CHECKING, NoReturn

from elfolio import _native

if TYPE_CHECKING:
    import resource

    from elfolio.spawn.cgroup import PrivateCgroup

__all__ = ["Child", "Standing", "deadline_after"]

FOREVER = -1
_AFTER_KILL = 5.0
"""Seconds that a killed process is waited for where somebody must wait; uninterruptible sleep can last longer."""
_AGES = 1e9


def deadline_after(timeout: float | None) -> int:
    """A CLOCK_MONOTONIC time in nanoseconds, `timeout` seconds from now; -1 for None, and for thirty years."""
    if timeout is None or timeout >= _AGES:
        return FOREVER
    # Zero would mean "one turn" to the core; a deadline that has passed says the same.
    return max(1, time.monotonic_ns() + int(timeout * 1e9))


class Child(_native.Process):
    """A child of this process, made by a template.

    `pid` is its number; `pidfd` refers to it until it has been reaped, then is -1. `returncode` is None until
    the end has been seen by `wait` or `poll`; then the exit status, or the negative of the signal. Methods may
    be called from any thread. `wait`, `poll` and `send_signal` are the C core's (native/py_process.c).
    """

    args: list[str | bytes]
    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None
    stderr: IO[bytes] | None = None
    leads = False
    """Whether it leads a session or process group of its own."""
    cgroup: "PrivateCgroup | None" = None
    owned = False
    """Whether another object answers for what becomes of it when nobody waits."""

    def __repr__(self) -> str:
        args = getattr(self, "args", None)
        return f"<Child {self.pid} {self.temperature} {args!r} returncode={self.returncode}>"

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the streams, and waits for the end."""
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self.wait()

    def _abandoned(self) -> None:
        """Called by the C core when nobody refers to a running child any more: a later spawn reaps it."""
        if self.owned:
            return
        if not hasattr(self, "args"):
            # An interrupt came between the start and whoever asked for it: to them nothing was started.
            from subprocess import TimeoutExpired

            self.args = []
            self.kill_tree()
            try:
                self.wait(_AFTER_KILL)
            except TimeoutExpired:
                abandoned.append(self.detach())
            return
        import warnings

        abandoned.append(self.detach())  # first: a warning may be an error
        warnings.warn(f"child {self.pid} is still running", ResourceWarning, source=self, stacklevel=2)

    @property
    def rusage(self) -> "resource.struct_rusage | None":
        """Resource use of the child and what it waited for; see getrusage(2)."""
        usage = self.usage
        if usage is None:
            return None
        import resource

        return resource.struct_rusage(usage)

    def _expired(self, timeout: float) -> NoReturn:
        """Called by `wait` at the deadline."""
        from subprocess import TimeoutExpired

        raise TimeoutExpired(self.args, timeout)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def kill_tree(self, pipes: tuple[int, ...] = ()) -> int:
        """Kills the child and all its descendants that can be told from strangers; see `elfolio.spawn.tree`.
        Returns how many processes were sent SIGKILL."""
        from elfolio.spawn.tree import kill_tree

        return kill_tree(self, pipes)


class Standing(Child):
    """The process that a template's children are forked from. While it is traced nobody else can reap it."""

    def _abandoned(self) -> None:
        if not self.owned:
            with suppress(OSError):
                self.kill()
            abandoned.append(self.detach())


abandoned: list[int] = []
"""Their pidfds. Appended to and popped from without a lock: a finaliser may run in the middle of anything."""


def reap_abandoned() -> None:
    """Reaps forgotten children that have ended. Called before every spawn; free while there are none."""
    for _ in range(len(abandoned)):
        try:
            pidfd = abandoned.pop(0)
        except IndexError:
            return
        try:
            ended = _native.take_status(pidfd) is not None
        except OSError:
            continue  # not a pidfd any more: the host has closed it, and the number is somebody else's
        if ended:
            os.close(pidfd)
        else:
            abandoned.append(pidfd)


def _forget() -> None:
    """In a forked child: they are the parent's to reap."""
    while abandoned:
        os.close(abandoned.pop())


os.register_at_fork(after_in_child=_forget)
