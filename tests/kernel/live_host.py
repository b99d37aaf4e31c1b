"""The running kernel as a host for test cases: kernel.case_host.CaseHost over the driver of tests.kernel.oracle."""

import os
from dataclasses import replace
from errno import EINVAL
from pathlib import Path

from elfolio.kernel.calls import NameVma, Operation
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.space import AddressSpace, OpenFile
from tests.kernel.oracle import FILL, NAMES, SAME, UFFD_OPEN, Live

__all__ = ["LiveHost"]

_ROOM = 8
"""Files that a case may ask for: the driver inherits them at its start."""


class LiveHost:
    """A driver at work. Files are made beforehand, empty, and get their length when a case asks for one."""

    def __init__(self, driver: Path, folder: Path) -> None:
        self._fds = {True: [os.memfd_create("case") for _ in range(_ROOM)]}
        self._fds[False] = [os.open(folder / f"case{n}", os.O_RDWR | os.O_CREAT) for n in range(_ROOM)]
        self._again = {fd: os.open(f"/proc/self/fd/{fd}", os.O_RDWR) for kept in self._fds.values() for fd in kept}
        inherited = (*self._again, *self._again.values())
        self.live = Live(driver, {Mappable(OpenFile(f"/{fd}", fd)): fd for fd in inherited})

    def close(self) -> None:
        """Ends the driver."""
        self.live.__exit__(None, None, None)
        for fd in set(self.live.files.values()):
            os.close(fd)

    def apply(self, operation: Operation) -> int:
        """As CaseHost."""
        if isinstance(operation, NameVma) and operation.name not in NAMES:
            raise Undecidable(f"the driver has no name {operation.name}")
        return self.live.apply(operation)

    def fork(self) -> None:
        """As CaseHost."""
        self.live.fork()

    def fork_aside(self) -> None:
        """As CaseHost."""
        raise Undecidable("the driver becomes its child")

    def exec(self) -> None:
        """As CaseHost."""
        raise Undecidable("the driver does not execute another program")

    def space(self) -> AddressSpace:
        """As CaseHost."""
        return self.live.space()

    def fill(self, start: int, length: int, first: int, step: int) -> int:
        """As CaseHost."""
        return self.live.call(FILL, start, length, first, step)

    def holds(self, start: int, length: int, first: int, step: int) -> bool:
        """As CaseHost."""
        return self.live.call(SAME, start, length, first, step) == 0

    def file(self, name: str, length: int, *, memory: bool) -> Mappable:
        """As CaseHost."""
        fd = self._fds[memory].pop()
        os.truncate(fd, length)
        made = Mappable(OpenFile(f"/{name}", fd, opening=fd), length)
        self.live.files[made] = fd
        return made

    def reopen(self, file: Mappable) -> Mappable:
        """As CaseHost."""
        fd = self._again.get(self.live.files[file])
        if fd is None:
            raise Undecidable("no second opening of such a file")
        made = replace(file, file=replace(file.file, opening=fd))
        self.live.files[made] = fd
        return made

    def allow_names(self) -> None:
        """As CaseHost."""
        if self.live.apply(NameVma(1 << 40, 4096, None)) == -EINVAL:
            raise Undecidable("this kernel was built without CONFIG_ANON_VMA_NAME")

    def limit(self, resource: str, value: int | None) -> None:
        """As CaseHost."""
        raise Undecidable(f"the driver keeps its RLIMIT_{resource}")

    def userfaultfd(self) -> int:
        """As CaseHost."""
        fd = self.live.call(UFFD_OPEN)
        if fd < 0:
            raise Undecidable(f"no userfaultfd for this user: errno {-fd}")
        self.live.uffds[fd] = fd
        return fd

    def table_bytes(self) -> int:
        """As CaseHost."""
        return self.live.page_tables()
