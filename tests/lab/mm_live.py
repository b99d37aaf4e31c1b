"""tests.lab.mm_live: another machine's address space for tests.kernel. In: Machine. Out: RemoteLive, RemoteHost, twin.

What tests.kernel.oracle and live_host are on this machine, with the port between: the same operations, the same text of
smaps. A machine's policy and limits are made of what it records.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from elfolio.kernel.adopting import adopt
from elfolio.kernel.calls import Mmap, Touch
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.host import Host, with_large_addresses
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Limits, Mm
from elfolio.kernel.model import fault_all
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, OpenFile
from elfolio.live.host import host_here, policy_here
from elfolio.live.maps import parse_smaps
from elfolio.measure.oracle import NUMBERS, parse_page_tables, parse_shown
from elfolio.span import MappedAddress
from tests.kernel.live_host import LiveHost
from tests.kernel.oracle import CALLS, Live, Shown, host_policy
from tests.kernel.oracle import twin as twin_here
from tests.lab.mm_machine import CALL, END, MEMORY, MM_DRIVER, OPEN, SIGNALLED, SMAPS, START, TRUNCATE, Machine

__all__ = ["STACK", "RemoteHost", "RemoteLive", "Rules", "open_files", "rules_here", "rules_of", "twin"]

_SIGNED = 1 << 64
STACK = 8 << 20
"""RLIMIT_STACK of a kernel's first process."""
_MINIMUM = {"x86_64": 65536, "aarch64": 32768}
"""CONFIG_LSM_MMAP_MIN_ADDR as Debian sets it."""
_CREATE = 0o102
_ROOM = 8


@dataclass(frozen=True)
class Rules:
    """What holds on a machine."""

    policy: Policy
    host: Host
    limits: Limits
    proc: Path
    """Its /proc, as far as it was recorded."""
    here: bool = False
    """Whether it is this machine."""
    large: bool = False
    """Whether addresses above the default window can be had."""

    def exec_host(self, bits: int) -> Host:
        """What a program of so many bits gets there: from us, or from root."""
        host = host_here(self.policy, bits, proc=self.proc)
        if self.large:
            host = with_large_addresses(host, self.policy.machine)
        return host if self.here else replace(host, stack_limit=STACK, privileged=True)


def rules_of(made: Machine, machine: str, page: int, folder: Path) -> Rules:
    """From its records, which are kept in `folder`. `machine` as uname says it, `page` in bytes."""
    proc, sys = made.recorded(folder)
    policy = replace(policy_here(proc=proc, sys=sys), machine=machine, page_size=page)
    minimum = int((proc / "sys/vm/mmap_min_addr").read_text())
    host = replace(host_here(policy, proc=proc), stack_limit=STACK, privileged=True)  # its driver is root
    large = _large(made, machine, page, host.window)
    if large:
        host = with_large_addresses(host, machine)
    limits = Limits(
        None,
        None,
        ipc_lock=True,
        max_map_count=int((proc / "sys/vm/max_map_count").read_text()),
        dac_mmap_min_addr=minimum,
        exec_only=_exec_only(made, machine, page),
        overcommit=int((proc / "sys/vm/overcommit_memory").read_text()),
    )
    return Rules(policy, replace(host, mmap_min_addr=max(minimum, _MINIMUM[machine])), limits, proc, large=large)


def rules_here(made: Machine) -> Rules:
    """This machine's, as tests.kernel.oracle has them."""
    policy = host_policy()
    with RemoteLive(made, policy.machine, policy.page_size, {}) as live:
        mm = twin_here(live, policy)
    return Rules(policy, mm.host, mm.limits, Path("/proc"), here=True)


def _large(made: Machine, machine: str, page: int, window: int) -> bool:
    """Whether there are addresses above the window. On arm64 nothing but a mapping shows it (LPA2)."""
    with RemoteLive(made, machine, page, {}) as live:
        return live.apply(Mmap(window + page, page, 3, 0x22)) > window


def _exec_only(made: Machine, machine: str, page: int) -> bool:
    """Whether memory that may only be executed cannot be read: with x86's protection keys, or arm64's enhanced PAN."""
    with RemoteLive(made, machine, page, {}) as live:
        return live.apply(Touch(live.apply(Mmap(0, page, 4, 0x22)), 1, False)) < 0


class RemoteLive(Live):
    """An mm_driver there. `files` are open in it by these numbers; one at a time on a machine."""

    def __init__(self, made: Machine, machine: str, page: int, files: dict[Mappable, int]) -> None:
        self.files = files
        self.uffds = {}
        self._machine, self._page = made, page
        self._numbers: Mapping[int, int] = {CALLS[name]: number for name, number in NUMBERS[machine].items()}
        where = "/bin" if made.place == "/ramfs" else made.place
        self.pid = made.wish(START, payload=f"{where}/{MM_DRIVER}".encode())
        self.call(CALLS["brk"], 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._machine.ask(END)

    def call(self, number: int, *arguments: int) -> int:
        """As Live."""
        number = self._numbers.get(number, number)
        words = [number, *(value % _SIGNED for value in arguments), *([0] * (6 - len(arguments)))]
        result, _ = self._machine.ask(CALL, payload=struct.pack("=7Q", *words))
        if result == -SIGNALLED:
            raise RuntimeError(f"the driver ended at call {words}")
        return result

    def space(self) -> AddressSpace:
        """As Live."""
        _, text = self._machine.ask(SMAPS, self.pid)
        fields = self._machine.read(f"/proc/{self.pid}/stat").decode(errors="replace").rpartition(")")[2].split()
        found = parse_smaps(text.decode("utf-8", "surrogateescape"), "smaps", self._page)
        start_brk, start_stack = MappedAddress(int(fields[44])), MappedAddress(int(fields[25]))
        return replace(found, start_brk=start_brk, start_stack=start_stack)

    def shown(self) -> tuple[Shown, ...]:
        """As Live."""
        _, text = self._machine.ask(SMAPS, self.pid)
        return parse_shown(text)

    def page_tables(self) -> int:
        """As Live."""
        return parse_page_tables(self._machine.read(f"/proc/{self.pid}/status").decode())


def twin(live: RemoteLive, rules: Rules) -> Mm:
    """As oracle.twin."""
    mm = adopt(Mm(rules.policy, rules.host, rules.limits), live.space())
    mm.brk = live.call(CALLS["brk"], 0)
    fault_all(mm)
    return mm


def open_files(made: Machine, page: int, fs: str) -> dict[Mappable, int]:
    """For sequences: a file of 4 MiB, read-only; two memfds of ten pages; the file once more, opened anew. `fs` is
    that of the machine's place."""
    path, size = f"{made.place}/file", 4 << 20
    made.wish(TRUNCATE, made.wish(OPEN, _CREATE, payload=path.encode()), size)
    on_disk = [Mappable(OpenFile(path, 1, opening=10 + n), size, fs=fs, writable=False) for n in range(2)]
    shared = [
        Mappable(OpenFile(f"/memfd:{name} (deleted)", 2 + n, opening=n), 10 * page, "shmem", "tmpfs")
        for n, name in enumerate(("one", "two"))
    ]
    found = {on_disk[0]: made.wish(OPEN, payload=path.encode())}
    for n, mappable in enumerate(shared):
        found[mappable] = made.wish(MEMORY, payload=(b"one", b"two")[n])
        made.wish(TRUNCATE, found[mappable], 10 * page)
    found[on_disk[1]] = made.wish(OPEN, payload=path.encode())
    return found


class Spare:
    """Files that cases may ask for: made once, empty between cases."""

    def __init__(self, made: Machine) -> None:
        self.machine = made
        self.fds = {True: [made.wish(MEMORY, payload=b"case") for _ in range(_ROOM)]}
        paths = [f"{made.place}/case{n}" for n in range(_ROOM)]
        self.fds[False] = [made.wish(OPEN, _CREATE, payload=path.encode()) for path in paths]
        again = [made.wish(OPEN, _CREATE, payload=path.encode()) for path in paths]
        self.again = dict(zip(self.fds[False], again, strict=True))
        """Each file on disk once more, opened anew."""

    def empty(self) -> dict[bool, list[int]]:
        """All of them."""
        for fd in (*self.fds[True], *self.fds[False]):
            self.machine.wish(TRUNCATE, fd, 0)
        return {memory: list(fds) for memory, fds in self.fds.items()}


class RemoteHost(LiveHost):
    """A host of cases there."""

    def __init__(self, spare: Spare, machine: str, page: int) -> None:
        self._spare = spare
        self._fds = spare.empty()
        self._again = spare.again
        self.live = RemoteLive(spare.machine, machine, page, {})

    def close(self) -> None:
        """As LiveHost; the files stay."""
        self.live.__exit__(None, None, None)

    def file(self, name: str, length: int, *, memory: bool) -> Mappable:
        """As CaseHost."""
        if not self._fds[memory]:
            raise Undecidable(f"more than {_ROOM} files")
        fd = self._fds[memory].pop()
        self._spare.machine.wish(TRUNCATE, fd, length)
        made = Mappable(OpenFile(f"/{name}", fd, opening=fd), length)
        self.live.files[made] = fd
        return made
