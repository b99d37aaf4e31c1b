"""measure.live_cases: the running kernel as a host for test cases. In: an OracleChild. Out: LiveCaseHost.

What kernel.case_host.ModelHost is on the model: the same cases, by real system calls of a child.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elfolio.kernel.calls import Operation, Touch
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.cases import Verdict, decide, decide_on
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, OpenFile
from elfolio.measure.oracle_child import DRIVER, OracleChild, over_driver

__all__ = ["LiveCaseHost", "decide_live"]

_PAGE = os.sysconf("SC_PAGESIZE")


def decide_live(case: Mapping[str, Any], policy: Policy, seed: OracleChild, folder: Path) -> Verdict:
    """A case on the model of this kernel, and on a fork of `seed`: it holds where it holds on both, and the first that
    fails is named. Files are made in `folder`. Raises CaseError for a case that is malformed."""
    model = decide(case, policy)
    if model.passed is not True:
        return model if model.passed is None else Verdict(False, f"the model: {model.reason}")
    host = LiveCaseHost(seed, folder)
    try:
        live = decide_on(case, policy, host)
    finally:
        host.close()
    return live if live.passed is not False else Verdict(False, f"the kernel: {live.reason}")


class LiveCaseHost:
    """A CaseHost: a fork of a child."""

    def __init__(self, seed: OracleChild, folder: Path) -> None:
        self._folder = folder
        self.live = seed.fork()
        self._forks = [self.live]

    def close(self) -> None:
        """It is no more, nor are its forks."""
        for one in self._forks[::-1]:
            one.end()

    def apply(self, operation: Operation) -> int:
        """As CaseHost."""
        if over_driver(operation):
            raise Undecidable(f"memory at {DRIVER.start:#x}, where the child has its own instructions")
        return self.live.apply(operation)

    def fork(self) -> None:
        """As CaseHost."""
        self.live = self.live.fork()
        self._forks.append(self.live)

    def exec(self) -> None:
        """As CaseHost."""
        raise Undecidable("the child does not execute another program")

    def space(self) -> AddressSpace:
        """As CaseHost."""
        return self.live.space()

    def fill(self, start: int, length: int, first: int, step: int) -> int:
        """As CaseHost."""
        error = self.live.apply(Touch(start, length, True))
        for number in range(0 if error else length // _PAGE):
            self.live.write(start + number * _PAGE, _content(first, step, number))
        return error

    def holds(self, start: int, length: int, first: int, step: int) -> bool:
        """As CaseHost."""
        if self.live.apply(Touch(start, length, False)):
            return False
        pages = range(length // _PAGE)
        return all(self.live.read(start + number * _PAGE, 1) == _content(first, step, number) for number in pages)

    def file(self, name: str, length: int, *, memory: bool) -> Mappable:
        """As CaseHost."""
        if memory:
            fd = self.live.memory_file(name)
        else:
            path = self._folder / f"case{self.live.pid}-{len(self.live.files)}"
            path.touch()
            fd = self.live.open_path(str(path), os.O_RDWR)
            path.unlink()
        if fd < 0:
            raise Undecidable(f"no file: {os.strerror(-fd)}")
        os.truncate(f"/proc/{self.live.pid}/fd/{fd}", length)
        made = Mappable(OpenFile(f"/{name}", fd, opening=fd), length)
        self.live.files[made] = fd
        return made

    def userfaultfd(self) -> int:
        """As CaseHost."""
        fd = self.live.userfaultfd()
        if fd < 0:
            raise Undecidable(f"no userfaultfd for this user: {os.strerror(-fd)}")
        return fd

    def table_bytes(self) -> int:
        """As CaseHost."""
        return self.live.page_tables()


def _content(first: int, step: int, number: int) -> bytes:
    return bytes(((first + number) % 251 + 1 if step else first,))
