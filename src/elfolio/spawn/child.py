"""spawn.child: a started process. In: pid, pidfd, our ends of its pipes. Out: status, signals, resource use.

Everything goes through the pidfd, which means this child and no other, even after its number has been given
to a stranger. The number itself is for people and for `/proc`.
"""

import errno
import os
import signal
import threading
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING

from elfolio import _native

if TYPE_CHECKING:
    import resource

    from elfolio.spawn.cgroup import PrivateCgroup
    from elfolio.spawn.counts import ProgramCounts

__all__ = ["Child", "deadline_after"]

FOREVER = -1


def deadline_after(timeout: float | None) -> int:
    """A CLOCK_MONOTONIC time in nanoseconds, `timeout` seconds from now; -1 for None."""
    if timeout is None:
        return FOREVER
    # Zero would mean "one turn" to the core; a deadline that has passed says the same.
    return max(1, time.monotonic_ns() + int(timeout * 1e9))


class Child:
    """A child of this process, made by a template.

    `returncode` is None until the end has been seen by `wait` or `poll`; then the exit status, or the
    negative of the signal. `rusage` (resource.struct_rusage) is there from then on too, None if somebody else
    reaped the child. `pidfd` is -1 once the child has been reaped. Methods may be called from any thread.
    """

    def __init__(
        self,
        argv: list[str | bytes],
        pid: int,
        pidfd: int,
        temperature: str,
        counts: "ProgramCounts",
        *,
        leads: bool = False,
        cgroup: "PrivateCgroup | None" = None,
    ) -> None:
        self.args = argv
        self.pid = pid
        self.pidfd = pidfd
        self.temperature = temperature
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self.returncode: int | None = None
        self.leads = leads
        """Whether it leads a session or process group of its own."""
        self.cgroup = cgroup
        self._usage: "_native.Usage | None" = None
        self._lock = threading.Lock()
        self._waiters = 0
        self._counts = counts
        self._born_ns = time.monotonic_ns()

    def __repr__(self) -> str:
        return f"<Child {self.pid} {self.temperature} {self.args!r} returncode={self.returncode}>"

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the streams, and waits for the end."""
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        self.wait()

    def __del__(self) -> None:
        if getattr(self, "returncode", 0) is None and self.pidfd >= 0:
            import warnings

            warnings.warn(f"child {self.pid} is still running", ResourceWarning, source=self, stacklevel=2)
            _abandon(self)

    @property
    def rusage(self) -> "resource.struct_rusage | None":
        """Resource use of the child and what it waited for; see getrusage(2)."""
        if self._usage is None:
            return None
        import resource

        return resource.struct_rusage(self._usage)

    def poll(self) -> int | None:
        """The return code, or None while the child runs."""
        return self._await(1)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end, by pidfd, without polling. Raises subprocess.TimeoutExpired."""
        code = self._await(deadline_after(timeout))
        if code is None:
            from subprocess import TimeoutExpired

            raise TimeoutExpired(self.args, timeout or 0.0)
        return code

    def _await(self, deadline: int) -> int | None:
        """Waiting holds no lock. The pidfd is closed by the last one who waits, because a number that is being
        polled must not come to mean another file."""
        with self._lock:
            if self.returncode is not None:
                return self.returncode
            self._waiters += 1
        ended = False
        try:
            ended = _native.await_end(self.pidfd, deadline)
        finally:
            with self._lock:
                self._waiters -= 1
                if ended:
                    self._take_status()
                if self.returncode is not None and not self._waiters:
                    self._close()
        return self.returncode

    def _take_status(self) -> None:
        if self.returncode is not None:
            return
        status = _native.take_status(self.pidfd)
        if status is None:
            return
        how, code, self._usage = status
        self._counts.ended(time.monotonic_ns() - self._born_ns)
        if how == _native.ENDED_LOST:
            self.returncode = LOST
            self._close()
            raise ChildProcessError(
                errno.ECHILD,
                f"the exit status of {self.pid} went to somebody else: SIGCHLD is ignored, or something waits for "
                "any child (Linux 6.15 and later would still tell)",
            )
        self.returncode = code

    def _close(self) -> None:
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)
        if self.cgroup is not None:
            self.cgroup.remove()

    def send_signal(self, sig: int) -> None:
        """Sends `sig` to the child; nothing, once it has ended."""
        with self._lock:
            if self.returncode is None:
                try:
                    signal.pidfd_send_signal(self.pidfd, sig)
                except ProcessLookupError:
                    pass

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


LOST = 255
"""The return code of a child whose status somebody else took, on a kernel that keeps none."""

_abandoned: list[tuple[int, "ProgramCounts"]] = []
"""Appended to and popped from without a lock: __del__ may run in the middle of anything."""


def _abandon(child: Child) -> None:
    """Keeps the pidfd of a child that nobody refers to any more, so that a later spawn reaps it."""
    _abandoned.append((child.pidfd, child._counts))
    child.pidfd = -1


def reap_abandoned() -> None:
    """Reaps forgotten children that have ended. Called before every spawn; free while there are none."""
    for _ in range(len(_abandoned)):
        try:
            pidfd, counts = _abandoned.pop(0)
        except IndexError:
            return
        if _native.take_status(pidfd) is None:
            _abandoned.append((pidfd, counts))
        else:
            os.close(pidfd)


def _forget() -> None:
    """In a forked child: they are the parent's to reap."""
    while _abandoned:
        os.close(_abandoned.pop()[0])


os.register_at_fork(after_in_child=_forget)
