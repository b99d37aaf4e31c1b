"""measure.oracle_child: an oracle that needs no program of its own. In: a held process. Out: OracleChild, its forks.

A tracer has the process make system calls on a page of its own, `DRIVER`; all else that exec mapped, the vdso apart, is
unmapped first. Nothing runs there between two calls, so that nothing changes its mappings but what it was told.
"""

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EFAULT
from typing import NamedTuple

from elfolio.kernel.abi import ADVICE, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MREMAP_FIXED
from elfolio.kernel.calls import (
    Brk,
    Mlockall,
    Mmap,
    Mremap,
    Munlockall,
    NameVma,
    Operation,
    Prctl,
    Touch,
    UffdClose,
    UffdRegister,
    UffdUnregister,
)
from elfolio.kernel.mappable import Mappable
from elfolio.measure.hold import held
from elfolio.measure.oracle import NUMBERS, PR_SET_VMA, Oracle
from elfolio.spawn.machine import MACHINE
from elfolio.spawn.tracee import Registers, Tracee, TraceeLost

__all__ = ["DRIVER", "OracleChild", "oracle_child", "over_driver"]

_PAGE = os.sysconf("SC_PAGESIZE")
DRIVER = range(0x100000, 0x100000 + 2 * _PAGE)
"""Where its instructions and strings lie: above what mmap_min_addr may be, below where programs are linked to."""
_TEXT = DRIVER.start + _PAGE
_CLONE_PTRACE = 0x2000
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_SIG_IGN = 1
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_UNREGISTER = 0xC018AA3F, 0xC020AA00, 0x8010AA01
_UFFD_API, _UFFD_FEATURE_SIGBUS, _UFFD_USER_MODE_ONLY = 0xAA, 1 << 7, 1
_EVENT_STOP = 128
_KEPT = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")
_FOREVER = 1e6


class _More(NamedTuple):
    clone: int
    rt_sigaction: int
    ioctl: int
    memfd_create: int
    userfaultfd: int


_MORE = {"x86_64": _More(56, 13, 16, 319, 323), "aarch64": _More(220, 134, 29, 279, 282)}[os.uname().machine]


class _Forked(Tracee):
    """A tracee's child, which its tracer has from birth (CLONE_PTRACE)."""

    def meet(self, pid: int) -> None:
        """Until it has stopped for the first time: without a signal, its parent being seized (ptrace_init_task)."""
        self.pid = pid
        self._await_stop(signal.SIGTRAP | _EVENT_STOP << 8)
        self.mem = self._call(MACHINE.openat, -100, f"/proc/{pid}/mem\0".encode(), os.O_RDWR | os.O_CLOEXEC)

    def end(self) -> None:
        """Kills and reaps it."""
        self.close()
        os.kill(self.pid, signal.SIGKILL)
        # Whose parent ignores SIGCHLD is gone once its tracer has seen its end.
        self._call(MACHINE.wait4, self.pid, bytearray(4), 0x40000000, 0)


class OracleChild(Oracle):
    """A process at work: `oracle_child` makes the first, `fork` all others."""

    def __init__(
        self, tracee: Tracee, registers: Registers, files: dict[Mappable, int], forks: "list[OracleChild]"
    ) -> None:
        self._tracee = tracee
        self._forks = forks
        self._registers = {**registers, MACHINE.pc: DRIVER.start}
        self.pid = tracee.pid
        self.files = files

    def call(self, number: int, *arguments: int) -> int:
        """As Oracle."""
        return self._tracee.system_call(self._registers, number, *arguments, *[0] * (6 - len(arguments)))

    def apply(self, operation: Operation) -> int:
        """As Oracle. A userfaultfd is named by its descriptor there."""
        if isinstance(operation, Touch):
            return self._touch(operation)
        if isinstance(operation, NameVma):
            address, length, name = operation
            text = 0 if name is None else self._string(name)
            return self.call(NUMBERS[os.uname().machine]["prctl"], PR_SET_VMA, 0, address, length, text)
        if isinstance(operation, UffdRegister):
            return self._ioctl(operation.uffd, _UFFDIO_REGISTER, *operation[1:], 0)
        if isinstance(operation, UffdUnregister):
            return self._ioctl(operation.uffd, _UFFDIO_UNREGISTER, *operation[1:])
        if isinstance(operation, UffdClose):
            return self.call(MACHINE.close, operation.uffd)
        return super().apply(operation)

    def userfaultfd(self) -> int:
        """A new one, whose faults are signals: its descriptor there, or -errno."""
        fd = self.call(_MORE.userfaultfd, _UFFD_USER_MODE_ONLY)
        return fd if fd < 0 else self._ioctl(fd, _UFFDIO_API, _UFFD_API, _UFFD_FEATURE_SIGBUS, 0) or fd

    def _ioctl(self, fd: int, request: int, *words: int) -> int:
        self._tracee.write(_TEXT, struct.pack(f"{len(words)}Q", *words))
        return self.call(_MORE.ioctl, fd, request, _TEXT)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of its memory, whatever their protection."""
        return self._tracee.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Writes to its memory, whatever the protection."""
        self._tracee.write(address, data)

    def _touch(self, touch: Touch) -> int:
        # No program runs there that could touch anything: the kernel faults the pages in, with the same rights.
        advice = ADVICE["POPULATE_WRITE" if touch.write else "POPULATE_READ"]
        start = touch.address & -_PAGE
        length = (touch.address + touch.length - start + _PAGE - 1) & -_PAGE
        return -EFAULT if self.call(MACHINE.madvise, start, length, advice) else 0

    def _string(self, text: str) -> int:
        self._tracee.write(_TEXT, os.fsencode(text)[: _PAGE - 1] + b"\0")
        return _TEXT

    def open_path(self, path: str, mode: int) -> int:
        """Opens a file there; a descriptor or -errno."""
        return self.call(MACHINE.openat, -100, self._string(path), mode | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)

    def memory_file(self, name: str) -> int:
        """A new memfd there; a descriptor or -errno."""
        return self.call(_MORE.memfd_create, self._string(name), 1)

    def open(self, file: Mappable, path: str) -> int:
        """Opens a regular file there, for reading; a descriptor or -errno."""
        fd = self.open_path(path, os.O_RDONLY)
        if fd >= 0:
            self.files[file] = fd
        return fd

    def set_heap(self, start: int) -> bool:
        """Has the heap, empty, begin there; whether the kernel can (CONFIG_CHECKPOINT_RESTORE)."""
        # struct prctl_mm_map: code, data, heap, stack, arguments, environment, auxv; only their order is checked.
        own = DRIVER.start
        wanted = struct.pack("12QIi", own, own + 1, own, own, start, start, *[own] * 5, 0, 0, -1)
        self._tracee.write(_TEXT, wanted)
        done = self.call(MACHINE.prctl, _PR_SET_MM, _PR_SET_MM_MAP, _TEXT, len(wanted))
        return not done and self.call(MACHINE.brk, 0) == start

    def fork(self) -> "OracleChild":
        """A child of it, with the same memory and descriptors; both go on."""
        pid = self.call(_MORE.clone, signal.SIGCHLD | _CLONE_PTRACE)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        tracee = _Forked(self._tracee.proxy)
        tracee.meet(pid)
        made = OracleChild(tracee, self._registers, dict(self.files), self._forks)
        self._forks.append(made)
        return made

    def end(self) -> None:
        """It is no more. The first ends with its context."""
        if self in self._forks and isinstance(self._tracee, _Forked):
            self._forks.remove(self)
            self._tracee.end()

    def settle(self, registers: Registers) -> None:
        """Makes room: its own page is mapped from where it stands now, and all else is unmapped."""
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        # It still stands inside of execve, whose result 0 will take the place of one register: this call is lost, or a
        # read of nothing.
        self._tracee.system_call(registers, MACHINE.getitimer, 0, 0)
        wanted = (DRIVER.start, len(DRIVER), 7, flags, -1, 0)
        made = self._tracee.system_call(registers, MACHINE.mmap, *wanted)
        if made != DRIVER.start:
            raise TraceeLost(f"it gets no memory of its own: {os.strerror(-made)}")
        self._tracee.write(DRIVER.start, bytes(len(DRIVER)))
        for vma in self.space():
            if vma.name not in _KEPT and vma.start != DRIVER.start:
                self.call(NUMBERS[os.uname().machine]["munmap"], vma.start, vma.size)
        self._tracee.write(_TEXT, struct.pack("4Q", _SIG_IGN, 0, 0, 0))
        self.call(_MORE.rt_sigaction, signal.SIGCHLD, _TEXT, 0, 8)


def over_driver(operation: Operation) -> bool:
    """Whether an operation is about the child's own page, without which it could do no other."""
    return any(start < DRIVER.stop and end > DRIVER.start for start, end in _spans(operation))


def _spans(operation: Operation) -> list[tuple[int, int]]:
    if isinstance(operation, Mmap) and not operation.address and not operation.flags & MAP_FIXED:
        return []  # no hint: the search goes down from the top
    if isinstance(operation, Mremap):
        address, old, new, flags, target = operation
        moved = [(target, target + new)] if flags & MREMAP_FIXED or target else []
        return [(address, address + max(old, new)), *moved]
    if isinstance(operation, Brk | Prctl | Mlockall | Munlockall | UffdClose):
        return []
    return [(operation.address, operation.address + operation.length)]


@contextmanager
def oracle_child(program: str) -> Iterator[OracleChild]:
    """One made of the program at that absolute path, which does not come to run. With it end its forks. Raises
    HoldError, TraceeLost, and what spawn.held.hold raises."""
    with held(program, patience=_FOREVER) as process:
        registers = process.tracee.registers
        forks: list[OracleChild] = []
        made = OracleChild(process.tracee, registers, {}, forks)
        try:
            made.settle(registers)
            yield made
        finally:
            for fork in forks[::-1]:  # children first: an orphan's end would be for init to see
                with suppress(TraceeLost, OSError):  # it may have been killed already
                    fork.end()
