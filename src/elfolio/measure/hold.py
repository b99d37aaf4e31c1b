"""measure.hold: a program held before it runs. In: a path. Out: HeldProcess, at its first instruction or its entry.

The process is traced from its exec by a proxy (spawn.tracee), with address randomisation off and as its user's plain
program: no_new_privs keeps set-id bits and file capabilities from taking effect, which would switch randomisation on
again. It is killed and reaped when the context ends, and with its tracer whatever else happens.
"""

import ctypes
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from elfolio import _native
from elfolio.kernel.space import AddressSpace
from elfolio.live.maps import read_maps, read_smaps
from elfolio.spawn.child import Child
from elfolio.spawn.counts import ProgramCounts
from elfolio.spawn.held import hold as pin
from elfolio.spawn.options import NO_OPTIONS
from elfolio.spawn.plan import NULL_DEVICE, compile_plan
from elfolio.spawn.tracee import Tracee, TraceeLost

__all__ = ["HeldProcess", "HoldError", "held", "strings_size"]

_ADDR_NO_RANDOMIZE = 0x0040000
_PR_SET_NO_NEW_PRIVS = 38
_AT_ENTRY = 9
_PTRACE_CONT = 7
PATIENCE = 20.0
"""Seconds until a program that does not come to its entry is killed."""
ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


class HoldError(OSError):
    """The program could not be held. `signal` is what killed it inside execve, or None where the caller of execve got
    the errno; `lost` says that it got through execve and not to its entry."""

    def __init__(self, number: int, why: str, name: str, *, signal: int | None = None, lost: bool = False) -> None:
        super().__init__(number, why, name)
        self.signal = signal
        self.lost = lost


class _Tracee(Tracee):
    """Runs to a breakpoint without a look at registers, whose layout is another for a 32-bit program."""

    def run_to(self, address: int) -> None:
        self.plant(address)
        self._ptrace(_PTRACE_CONT)
        self._await_stop()
        self.uproot(address)


class HeldProcess:
    """A stopped process."""

    def __init__(self, tracee: _Tracee, bits: int) -> None:
        self._tracee = tracee
        self.pid = tracee.pid
        self.bits = bits

    @property
    def tracee(self) -> Tracee:
        """What stops it, and has it make system calls."""
        return self._tracee

    def maps(self) -> AddressSpace:
        """As it is now."""
        return read_maps(self.pid)

    def smaps(self) -> AddressSpace:
        """The same with all VmFlags."""
        return read_smaps(self.pid)

    def auxv(self) -> dict[int, int]:
        """The auxiliary vector by type."""
        with open(f"/proc/{self.pid}/auxv", "rb") as file:
            data = file.read()
        form = "QQ" if self.bits == 64 else "II"
        size = struct.calcsize(form)
        return dict(struct.iter_unpack(form, data[: len(data) // size * size]))

    def to_entry(self) -> None:
        """On to AT_ENTRY: after dynamic linking and the libraries' constructors, before the program's own code.
        Raises HoldError where it ends before."""
        entry = self.auxv()[_AT_ENTRY]
        try:
            self._tracee.run_to(entry)
        except (TraceeLost, OSError) as error:
            raise HoldError(0, "it ended before its entry was reached", str(self.pid), lost=True) from error


def strings_size(path: str, argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Bytes of what execve copies to the stack's top: path, arguments and environment, each with its NUL."""
    texts = [path, *argv, *(f"{name}={value}" for name, value in environment.items())]
    return sum(len(os.fsencode(text)) + 1 for text in texts)


@contextmanager
def held(
    path: str,
    argv: Sequence[str] | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
    *,
    bits: int = 64,
    patience: float = PATIENCE,
) -> Iterator[HeldProcess]:
    """The program at its first instruction. `path` is absolute and executed as it is; `bits` is its ELF class. Raises
    HoldError for what execve refuses or kills, and what spawn.held.hold raises."""
    launching = _Launch(path, argv or (path,), environment)
    try:
        launching.start()
        timer = threading.Timer(patience, launching.kill)
        timer.daemon = True
        timer.start()
        try:
            launching.await_exec()
            yield HeldProcess(launching.tracee, bits)
        finally:
            timer.cancel()
    finally:
        launching.end()


class _Launch:
    """A launch in a thread of its own: personality and no_new_privs are a thread's, and the latter cannot be taken
    back. The caller's thread meanwhile has the tracer wait: where exec fails, the child ends, and the launch ends only
    when its tracer has seen that."""

    def __init__(self, path: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._path, self._argv, self._environment = path, argv, environment
        self._proxy = _native.Proxy()
        self.tracee = _Tracee(self._proxy)
        self._child: Child | None = None
        self._failure: BaseException | None = None
        self._met = False
        """Whether the child came as far as its exec, and so to its tracer, which then sees its end."""
        self._thread = threading.Thread(target=self._run, name="elfolio-hold")

    def start(self) -> None:
        self.tracee.expect()
        self._thread.start()

    def _run(self) -> None:
        try:
            self._child = self._launch()
        except BaseException as error:
            self._failure = error
            if not self._met:
                self._proxy.close()  # it waits for a child that does not come

    def await_exec(self) -> None:
        """Until the first instruction. Raises what the launch raised."""
        try:
            self.tracee.await_exec()
        except (TraceeLost, ProcessLookupError) as error:
            self._thread.join()
            if self._failure is not None:
                raise self._failure from None
            status = self._child.wait(5) if self._child is not None else 0
            raise HoldError(0, str(error), self._path, signal=-status if status < 0 else None) from error
        self._thread.join()

    def kill(self) -> None:
        """What it has come to by now."""
        if self._child is not None:
            self._child.kill()
        else:
            self._proxy.close()

    def end(self) -> None:
        """Nothing is left."""
        self.tracee.close()
        self._proxy.close()  # the tracee dies with its tracer (PTRACE_O_EXITKILL)
        self._thread.join()
        child = self._child
        if child is not None:
            child.kill()
            child.wait()
            if child.pidfd >= 0:
                os.close(child.detach())

    def _launch(self) -> Child:
        libc = ctypes.CDLL(None, use_errno=True)
        for result in (libc.personality(_ADDR_NO_RANDOMIZE), libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)):
            if result < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        outcome = self._outcome()
        if not isinstance(outcome, Child):
            self._met = outcome[4] == _native.STEP_EXEC
            raise HoldError(outcome[3], os.strerror(outcome[3]) if outcome[3] else "refused", self._path)
        outcome.owned = True
        return outcome

    def _outcome(self) -> "Child | _native.Refusal":
        """In a frame of its own, which an exception does not keep alive with the pinned file's descriptors."""
        pinned = pin(self._path, lease=False, by_path=True)
        plan = compile_plan(NO_OPTIONS, (NULL_DEVICE,) * 3)
        return pinned.image.launch(
            Child,
            ProgramCounts(),
            list(self._argv),
            dict(self._environment),
            plan.steps,
            os.fsencode(self._path),
            -1,
            -1,
            plan.flags,
            True,
            None,
            None,
            self._proxy,
        )
