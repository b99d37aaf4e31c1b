"""The running kernel as a host for test cases: kernel.case_host.CaseHost over the driver of tests.kernel.oracle."""

import os
from pathlib import Path

from elfolio.kernel.calls import Operation
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.space import AddressSpace, OpenFile
from tests.kernel.oracle import FILL, SAME, UFFD_OPEN, Live

__all__ = ["LiveHost"]

_ROOM = 8
"""Files that a case may ask for: the driver inherits them at its start."""


class LiveHost:
    """A driver at work. Files are made beforehand, empty, and get their length when a case asks for one."""

    def __init__(self, driver: Path, folder: Path) -> None:
        self._fds = {True: [os.memfd_create("case") for _ in range(_ROOM)]}
        self._fds[False] = [os.open(folder / f"case{n}", os.O_RDWR | os.O_CREAT) for n in range(_ROOM)]
        made = {Mappable(OpenFile(f"/{fd}", fd)): fd for kept in self._fds.values() for fd in kept}
        self.live = Live(driver, made)

    def close(self) -> None:
        """Ends the driver."""
        self.live.__exit__(None, None, None)
        for fd in set(self.live.files.values()):
            os.close(fd)

    def apply(self, operation: Operation) -> int:
        """As CaseHost."""
        return self.live.apply(operation)

    def fork(self) -> None:
        """As CaseHost."""
        self.live.fork()

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
