"""spawn.command: one command in this process's place. In: a template, argv, options. Out: Ran, at its end.

The child stays in our process group, so that what a terminal sends (^C, ^Z, a new window size) reaches it
without us. What is sent to us alone is passed on, and when the child stops, so do we: a shell sees one job.

All signals are blocked and taken by sigwaitinfo(2), which tells who sent them. They stay blocked at the end:
this is for a process that lives for one command, and whose last act nothing should interrupt.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elfolio.spawn import names
from elfolio.spawn.actions import SigMask
from elfolio.spawn.child import Child
from elfolio.spawn.counts import stats
from elfolio.spawn.options import Options, SpawnKeywords
from elfolio.spawn.relay import KEPT, Output, Relay, Said
from elfolio.spawn.streams import INHERIT, PIPE, Streams

if TYPE_CHECKING:
    import resource

    from elfolio.spawn.template import Arguments, SpawnTemplate

__all__ = ["Bound", "Ran", "stand_in"]

# include/uapi/asm-generic/siginfo.h: who sent a signal. Zero and below: a process, or its timer.
_SI_KERNEL = 0x80
_BY_TERMINAL = frozenset(
    (
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN),
        *(signal.SIGTTOU, signal.SIGCONT, signal.SIGWINCH),
    )
)
"""What the kernel sends to a whole process group at a time (drivers/tty, kernel/exit.c)."""
_GRACE = 0.5
"""Seconds that a killed tree gets to let go of its pipes."""
_FAR = 10.0**8
"""Seconds, a longer wait than which sigtimedwait need not be asked for."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Both outputs go through pipes, and at most `limit` bytes of each come through: to our own two streams
    with `live`, else into the result."""

    limit: int
    live: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    argv: list[str | bytes]
    path: str
    pid: int
    temperature: str
    returncode: int | None
    """The negative of the signal that killed it; None if it was killed at the deadline and has not gone."""
    timed_out: bool
    seconds: float
    """From before the start to after the end."""
    check_ns: int
    """Nanoseconds that the revalidation took, and clone to exec."""
    launch_ns: int
    rusage: "resource.struct_rusage | None"
    fallbacks: Mapping[str, int]
    outputs: tuple[Said, ...]
    """stdout and stderr, where they were bounded."""
    errors: tuple[int, ...]
    """For each of them the errno of passing it on, or 0."""


def stand_in(
    template: "SpawnTemplate",
    argv: "Arguments",
    options: SpawnKeywords,
    *,
    script: str | None = None,
    timeout: float | None = None,
    bound: Bound | None = None,
) -> Ran:
    """Starts `argv` with this process's streams, signal mask and inheritable descriptors, and follows it.

    `script`: what a script is told to be called. After `timeout` seconds the tree is killed. For the main
    thread of a process that has no other; the template is closed. Raises what `SpawnTemplate.spawn` raises.
    """
    start = time.monotonic_ns()
    mask = _block_all()
    keywords: SpawnKeywords = {**options, "actions": (*options.get("actions", ()), SigMask(mask))}
    target = INHERIT if bound is None else PIPE
    streams = Streams(INHERIT, target, target)
    try:
        child = template.launch(argv, Options(**keywords), streams.child, script)
    except BaseException:
        streams.close()
        raise
    streams.spawned()
    unwarmed = _unwarmed(template) if child.temperature == "cold" else ""
    template.close()
    # Its names are needed until the exec only, and a SIGKILL would leave them behind.
    names.remove_links()
    relay = Relay(child.pidfd, tuple(_outputs(streams, bound)), _wake)
    threading.Thread(target=relay.run, name="relay", daemon=True).start()
    follower = _Follower(child, relay, None if timeout is None else start / 1e9 + timeout)
    follower.run()
    if relay.done:
        relay.close()
    return _ran(template, child, relay, follower.timed_out, time.monotonic_ns() - start, unwarmed)


def _ran(template: "SpawnTemplate", child: Child, relay: Relay, timed_out: bool, life_ns: int, unwarmed: str) -> Ran:
    code = child.poll()
    totals = stats().programs[str(template.target)]
    return Ran(
        argv=child.args,
        path=str(template.target),
        pid=child.pid,
        temperature=child.temperature,
        returncode=code,
        timed_out=timed_out,
        seconds=life_ns / 1e9,
        check_ns=totals.check_ns,
        launch_ns=totals.launch_ns,
        rusage=child.rusage,
        fallbacks={**totals.fallbacks, **({f"warm: {unwarmed}": 1} if unwarmed else {})},
        outputs=tuple(output.said() for output in relay.outputs),
        errors=tuple(output.error for output in relay.outputs),
    )


def _unwarmed(template: "SpawnTemplate") -> str:
    """Why a template that was to be warm had no process to ask; what its process said is counted already."""
    if template.temperature != "warm":
        return ""
    return "audit strict" if template.audit == "strict" else str(template._heat.reason or "")


def _block_all() -> set[int]:
    """Blocks every signal; returns the mask from before."""
    # Ignored, it would have the kernel reap the child, and its status would be lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return {int(sig) for sig in signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())}


def _wake() -> None:
    os.kill(os.getpid(), signal.SIGCHLD)


def _outputs(streams: Streams, bound: Bound | None) -> Iterator[Output]:
    if bound is not None:
        for which in (1, 2):
            yield Output(streams.take(which), bound.limit, which if bound.live else KEPT)


class _Follower:
    """The main thread's part: signals, stops, the deadline."""

    def __init__(self, child: Child, relay: Relay, deadline: float | None) -> None:
        self.timed_out = False
        self._child = child
        self._relay = relay
        self._deadline = deadline
        self._resumed = False
        """Whether the child was continued by the signal that continued us."""

    def run(self) -> None:
        """Until the relay is done, or cannot be waited for any longer."""
        last_resorts = iter((self._expire, self._relay.stop))
        while not self._relay.done:
            info = self._next_signal()
            if info is not None:
                self._handle(info)
                continue
            resort = next(last_resorts, None)
            if resort is None:
                return
            resort()
            self._deadline = time.monotonic() + _GRACE

    def _next_signal(self) -> signal.struct_siginfo | None:
        signals = signal.valid_signals()
        if self._deadline is None:
            return signal.sigwaitinfo(signals)
        left = self._deadline - time.monotonic()
        return signal.sigtimedwait(signals, min(max(0.0, left), _FAR))

    def _expire(self) -> None:
        self.timed_out = True
        self._child.kill_tree(self._relay.pipes)

    def _handle(self, info: signal.struct_siginfo) -> None:
        # A tree that is being killed is stopped first.
        if info.si_signo in (signal.SIGCHLD, signal.SIGCONT) and not self.timed_out:
            self._follow_stops()
        if info.si_signo == signal.SIGCONT and self._resumed:
            self._resumed = False
        elif self._is_for_us_alone(info):
            self._child.send_signal(info.si_signo)

    def _is_for_us_alone(self, info: signal.struct_siginfo) -> bool:
        """Whether a signal has not reached the child already. One that another process sent to the whole
        group cannot be told from one that it sent to us: the child gets it twice."""
        if info.si_code == _SI_KERNEL:
            return self._child.leads or info.si_signo not in _BY_TERMINAL
        # Its own ("kill 0", or "kill $PPID") are not sent back; ours are wakes, and EPIPE's SIGPIPE.
        return info.si_code <= 0 and info.si_pid not in (self._child.pid, os.getpid())

    def _follow_stops(self) -> None:
        with suppress(ChildProcessError):
            change = os.waitid(os.P_PIDFD, self._child.pidfd, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
            if change is not None and change.si_code == os.CLD_STOPPED:
                self._resumed = False
                _stop_by(change.si_status)
            elif change is not None:
                self._resumed = True


def _stop_by(sig: int) -> None:
    """Stops this process, until it is continued."""
    if sig == signal.SIGSTOP:
        os.kill(os.getpid(), sig)
        return
    before = signal.signal(sig, signal.SIG_DFL)
    # Sent while it is blocked: the terminal's own may be waiting too, and both together stop us once. In an
    # orphaned group, where nobody could continue us, it has no effect, as it has none on the child.
    os.kill(os.getpid(), sig)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {sig})
    signal.pthread_sigmask(signal.SIG_BLOCK, {sig})
    signal.signal(sig, before)
