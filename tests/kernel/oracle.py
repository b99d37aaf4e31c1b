"""The live kernel as an oracle: operations done by a process of their own, and what its address space is then.

`Live` starts the driver (mm_driver.c), does operations of kernel.calls with real system calls, and reads smaps. `twin`
makes the model of the same process, so that both can be compared after every operation.
"""

import os
import re
import resource
import shutil
import struct
import subprocess
from dataclasses import dataclass, replace
from errno import EINVAL
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from elfolio.kernel.adopting import adopt
from elfolio.kernel.calls import (
    Brk,
    Madvise,
    Mlock,
    Mlockall,
    Mmap,
    Mprotect,
    Mremap,
    Mseal,
    Munlock,
    Munlockall,
    Munmap,
    NameVma,
    Operation,
    Prctl,
    Touch,
    UffdClose,
    UffdRegister,
    UffdUnregister,
)  # fmt: skip
from elfolio.kernel.host import default_host
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Limits, Mm
from elfolio.kernel.model import fault_all
from elfolio.kernel.policy import Policy, policy
from elfolio.kernel.space import AddressSpace, OpenFile
from elfolio.live.maps import read_smaps

__all__ = ["FILL", "NAMES", "SAME", "UFFD_OPEN", "Live", "Shown", "build_driver", "host_policy", "shown_model", "twin"]

_NAMES = "mmap mprotect munmap brk mremap madvise mlock munlock mlockall munlockall prctl mlock2 mseal close"
_NUMBERS = {
    "x86_64": (9, 10, 11, 12, 25, 28, 149, 150, 151, 152, 157, 325, 462, 3),
    "aarch64": (222, 226, 215, 214, 216, 233, 228, 229, 230, 231, 167, 284, 462, 57),
}
_CALLS = dict(zip(_NAMES.split(), _NUMBERS[os.uname().machine], strict=True))
_TOUCH, _FORK, UFFD_OPEN, _UFFD_REGISTER, _UFFD_UNREGISTER, FILL, SAME, _NAME = range(1000, 1008)
NAMES = (None, "one", "two", "[three]")
"""Names that the driver can give to memory; the last is none that may be given."""
_SIGNED = 1 << 64
_BUILT_MINIMUM = 65536 if os.uname().machine == "x86_64" else 32768
"""CONFIG_LSM_MMAP_MIN_ADDR as distributions set it."""
_HEADER = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) \S+ \d+ *(.*)\n(?:[A-Z].*\n)*?VmFlags: (.*)\n", re.MULTILINE
)
_IGNORED = frozenset(("sd", "gu", "lf", "??"))
"""Soft dirty is a build option's; what older kernels have no letters for, such as lock-on-fault, they show as ??."""

Shown = tuple[int, int, str, int, frozenset[str]]
"""Start, end, perms, offset, VmFlags: what is compared of each VMA."""


def build_driver(folder: Path) -> Path:
    """mm_driver, made static; skips where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to hold the model against the running kernel")
    made = folder / "mm_driver"
    source = Path(__file__).with_name("mm_driver.c")
    command = [compiler, "-O1", "-static", "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        pytest.skip(f"no static C library: {done.stderr[-200:]}")
    return made


def host_policy() -> Policy:
    """The running kernel's version, and what its THP setting is."""
    # Debian's releases are called 6.1.0-56; which stable release it is stands in the version.
    release = re.search(r"(?<=Debian )\d+\.\d+\.\d+", os.uname().version)
    release = release or re.match(r"\d+\.\d+(\.\d+)?", os.uname().release)
    assert release is not None
    made = replace(policy(f"linux-{release[0]}"), machine=os.uname().machine, page_size=os.sysconf("SC_PAGESIZE"))
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if enabled.exists():
        found = re.search(r"\[(\w+)\]", enabled.read_text())
        made = replace(made, thp=found[1] if found else "never")
    return made


@dataclass
class Opened:
    """A file that the driver has open."""

    fd: int
    mappable: Mappable


class Live:
    """A driver at work. `files` are open in it under the same numbers as here."""

    def __init__(self, driver: Path, files: dict[Mappable, int] | None = None) -> None:
        self.files = files or {}
        self.uffds: dict[int, int] = {}
        pipe, fds = subprocess.PIPE, tuple(self.files.values())
        self._process = subprocess.Popen([str(driver)], stdin=pipe, stdout=pipe, pass_fds=fds, bufsize=0, env={})
        self.pid = self._process.pid
        self.call(_CALLS["brk"], 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def call(self, number: int, *arguments: int) -> int:
        """One system call, or one of the driver's own: what it returns, or -errno."""
        words = [number, *(value % _SIGNED for value in arguments), *([0] * (6 - len(arguments)))]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("=7Q", *words))
        answer = self._process.stdout.read(8)
        if not answer or len(answer) < 8:
            raise RuntimeError(f"the driver ended at call {words}: {self._process.poll()}")
        return int(struct.unpack("=q", answer)[0])

    def fork(self) -> None:
        """From now on the child answers."""
        self.pid = self.call(_FORK)
        self.uffds.clear()  # they watch the parent

    def apply(self, operation: Operation) -> int:
        """The operation as a real call."""
        match operation:
            case Mmap(address, length, prot, flags, file, offset):
                fd = -1 if file is None else self.files[file]
                return self.call(_CALLS["mmap"], address, length, prot, flags, fd, offset)
            case (
                Munmap()
                | Mprotect()
                | Mremap()
                | Brk()
                | Madvise()
                | Munlock()
                | Mlockall()
                | Munlockall()
                | Mseal()
                | Prctl()
            ):
                return self.call(_CALLS[type(operation).__name__.lower()], *operation)
            case Mlock(address, length, flags):
                return self.call(_CALLS["mlock2"], address, length, flags)
            case Touch(address, length, write):
                return self.call(_TOUCH, address, length, write)
            case UffdRegister(uffd, address, length, mode):
                return self.call(_UFFD_REGISTER, self._uffd(uffd), address, length, mode)
            case UffdUnregister(uffd, address, length):
                return self.call(_UFFD_UNREGISTER, self._uffd(uffd), address, length)
            case UffdClose(uffd):
                return self.call(_CALLS["close"], self.uffds.pop(uffd)) if uffd in self.uffds else 0
            case NameVma(address, length, name):
                return self.call(_NAME, address, length, NAMES.index(name))

    def _uffd(self, number: int) -> int:
        if number not in self.uffds:
            made = self.call(UFFD_OPEN)
            if made < 0:
                pytest.skip(f"no userfaultfd here: errno {-made}")
            self.uffds[number] = made
        return self.uffds[number]

    def space(self) -> AddressSpace:
        """Its address space, whole."""
        return read_smaps(self.pid)

    def shown(self) -> tuple[Shown, ...]:
        """What smaps shows of each VMA, and the kernel's own left out that is no VMA."""
        text = Path(f"/proc/{self.pid}/smaps").read_bytes()
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

    def page_tables(self) -> int:
        """VmPTE in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmPTE:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]


def shown_model(mm: Mm) -> tuple[Shown, ...]:
    """The same of a model."""
    from elfolio.kernel.vmflags import MNEMONICS

    names = [(int(flag), name) for name, flag in MNEMONICS.items() if name not in _IGNORED]
    names.append((1 << 41, "ui"))
    return tuple(
        (
            area.start,
            area.end,
            _perms(area.flags),
            0 if area.file is None else area.offset,
            frozenset(name for flag, name in names if area.flags & flag),
        )
        for area in mm.areas
    )


def _perms(flags: int) -> str:
    letters = "".join(letter if flags & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
    return letters + ("s" if flags & 0x80 else "p")


def twin(live: Live, made_policy: Policy | None = None) -> Mm:
    """The model of a driver that has just started: all that it may write counts as touched."""
    rules = made_policy if made_policy is not None else host_policy()
    minimum = int(Path("/proc/sys/vm/mmap_min_addr").read_text())
    root = os.geteuid() == 0
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    host = replace(
        default_host(rules),
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
        anon_names=live.call(_NAME, 1 << 40, 4096, 0) != -EINVAL,
        exec_only="ospke" in Path("/proc/cpuinfo").read_text().split(),
        overcommit=int(Path("/proc/sys/vm/overcommit_memory").read_text()),
    )
    mm = adopt(Mm(rules, host, limits), live.space())
    mm.brk = live.call(_CALLS["brk"], 0)
    fault_all(mm)
    return mm


def _memory() -> int | None:
    if int(Path("/proc/sys/vm/overcommit_memory").read_text()):
        return None
    text = Path("/proc/meminfo").read_text()
    found = dict(re.findall(r"(MemTotal|SwapTotal):\s+(\d+) kB", text))
    return (int(found["MemTotal"]) + int(found["SwapTotal"])) << 10


def open_file(name: str, size: int, opening: int) -> Opened:
    """A memfd of this process."""
    fd = os.memfd_create(name)
    os.truncate(fd, size)
    opened = OpenFile(f"/memfd:{name} (deleted)", os.fstat(fd).st_ino, opening=opening)
    return Opened(fd, Mappable(opened, size, "shmem", "tmpfs"))
