"""measure.oracle: the running kernel as an oracle. In: operations. Out: what they return, and smaps; Oracle, twin.

An `Oracle` is a process that does operations of kernel.calls with real system calls; whoever makes one says how a call
gets there. `twin` makes the model of the same process, so that both can be compared after every operation.
"""

import os
import re
import resource
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from errno import EINVAL
from pathlib import Path
from types import MappingProxyType

from elfolio.kernel.adopting import adopt
from elfolio.kernel.calls import Mlock, Mmap, Operation
from elfolio.kernel.host import default_host
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Limits, Mm
from elfolio.kernel.model import fault_all
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace
from elfolio.kernel.vmflags import MNEMONICS
from elfolio.live.host import policy_here
from elfolio.live.maps import read_smaps

__all__ = ["NUMBERS", "PR_SET_VMA", "Oracle", "Shown", "parse_page_tables", "parse_shown", "shown_model", "twin"]

_NAMES = "mmap mprotect munmap brk mremap madvise mlock munlock mlockall munlockall prctl mlock2 mseal close"
NUMBERS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        machine: dict(zip(_NAMES.split(), numbers, strict=True))
        for machine, numbers in {
            "x86_64": (9, 10, 11, 12, 25, 28, 149, 150, 151, 152, 157, 325, 462, 3),
            "aarch64": (222, 226, 215, 214, 216, 233, 228, 229, 230, 231, 167, 284, 462, 57),
        }.items()
    }
)
"""Of system calls, by machine and name."""
PR_SET_VMA = 0x53564D41
_BUILT_MINIMUM = 65536 if os.uname().machine == "x86_64" else 32768
"""CONFIG_LSM_MMAP_MIN_ADDR as distributions set it."""
_HEADER = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) \S+ \d+ *(.*)\n(?:[A-Z].*\n)*?VmFlags: (.*)\n", re.MULTILINE
)
_IGNORED = frozenset(("sd", "lf", "??"))
"""Soft dirty is a build option's; what older kernels have no letters for, such as lock-on-fault, they show as ??."""
_LETTERS = (*((int(flag), name) for name, flag in MNEMONICS.items() if name not in _IGNORED), (1 << 41, "ui"))

Shown = tuple[int, int, str, int, frozenset[str]]
"""Start, end, perms, offset, VmFlags: what is compared of each VMA."""


class Oracle(ABC):
    """A process at work. `files` are open in it under those numbers."""

    pid: int
    files: dict[Mappable, int]
    bits: int = 64
    numbers: Mapping[str, int] = NUMBERS.get(os.uname().machine, MappingProxyType({}))
    """Of its system calls."""

    @abstractmethod
    def call(self, number: int, *arguments: int) -> int:
        """One system call, by this machine's number: what it returns, or -errno."""

    def apply(self, operation: Operation) -> int:
        """The operation as a real call. NotImplementedError for one that is no system call of numbers alone."""
        numbers = self.numbers
        if isinstance(operation, Mmap):
            address, length, prot, flags, file, offset = operation
            fd = -1 if file is None else self.files[file]
            return self.call(numbers["mmap"], address, length, prot, flags, fd, offset)
        if isinstance(operation, Mlock):
            return self.call(numbers["mlock2"], *operation)
        number = numbers.get(type(operation).__name__.lower())
        if number is None:
            raise NotImplementedError(type(operation).__name__)
        return self.call(number, *operation)  # all other operations are numbers alone

    def space(self) -> AddressSpace:
        """Its address space, whole."""
        return read_smaps(self.pid)

    def shown(self) -> tuple[Shown, ...]:
        """What smaps shows of each VMA."""
        return parse_shown(Path(f"/proc/{self.pid}/smaps").read_bytes())

    def page_tables(self) -> int:
        """VmPTE in bytes."""
        return parse_page_tables(Path(f"/proc/{self.pid}/status").read_text())


def parse_shown(text: bytes) -> tuple[Shown, ...]:
    """Of smaps' text; the kernel's own is left out that is no VMA."""
    return tuple(
        (
            int(found[1], 16),
            int(found[2], 16),
            found[3].decode(),
            int(found[4], 16),
            frozenset(found[6].decode().split()) - _IGNORED,
        )
        for found in _HEADER.finditer(text)
        if found[5] != b"[vsyscall]"
    )


def parse_page_tables(status: str) -> int:
    """VmPTE in bytes, of the text of /proc/PID/status; 0 where it is not there."""
    found = re.search(r"VmPTE:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0


def shown_model(mm: Mm) -> tuple[Shown, ...]:
    """The same of a model."""
    return tuple(
        (
            area.start,
            area.end,
            _perms(area.flags),
            0 if area.file is None else area.offset,
            frozenset(name for flag, name in _LETTERS if area.flags & flag),
        )
        for area in mm.areas
    )


def _perms(flags: int) -> str:
    letters = "".join(letter if flags & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
    return letters + ("s" if flags & 0x80 else "p")


def twin(live: Oracle, made_policy: Policy | None = None) -> Mm:
    """The model of a process that has just started, by this kernel's policy or another: all that it may write counts
    as touched."""
    rules = made_policy if made_policy is not None else policy_here()
    minimum = int(Path("/proc/sys/vm/mmap_min_addr").read_text())
    root = os.geteuid() == 0
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    host = replace(
        default_host(rules, live.bits),
        mmap_min_addr=max(minimum, _BUILT_MINIMUM),
        privileged=root,
        stack_limit=soft if soft != resource.RLIM_INFINITY else 1 << 62,
        memory=_memory(),
    )
    limits = Limits(
        None,
        None if locked == resource.RLIM_INFINITY else locked,
        ipc_lock=root,
        max_map_count=int(Path("/proc/sys/vm/max_map_count").read_text()),
        dac_mmap_min_addr=minimum,
        anon_names=live.call(live.numbers["prctl"], PR_SET_VMA, 0, 1 << 40, 4096, 0) != -EINVAL,
        exec_only="ospke" in Path("/proc/cpuinfo").read_text().split(),
        overcommit=int(Path("/proc/sys/vm/overcommit_memory").read_text()),
    )
    mm = adopt(Mm(rules, host, limits), live.space())
    mm.brk = live.call(live.numbers["brk"], 0)
    fault_all(mm)
    return mm


def _memory() -> int | None:
    if int(Path("/proc/sys/vm/overcommit_memory").read_text()):
        return None
    text = Path("/proc/meminfo").read_text()
    found = dict(re.findall(r"(MemTotal|SwapTotal):\s+(\d+) kB", text))
    return (int(found["MemTotal"]) + int(found["SwapTotal"])) << 10
