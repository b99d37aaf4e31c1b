"""measure.live_cases: the running kernel as a host for test cases. In: an OracleChild. Out: LiveCaseHost.

What kernel.case_host.ModelHost is on the model: the same cases, by real system calls of a child.
"""

import os
import resource as limits
from collections.abc import Iterator, Mapping
from dataclasses import replace
from errno import EINVAL
from pathlib import Path
from typing import Any

from elfolio.kernel.abi import MAP_FIXED, MAP_FIXED_NOREPLACE, MREMAP_FIXED
from elfolio.kernel.calls import Mmap, Mremap, NameVma, Operation, Touch
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.cases import Verdict, decide, decide_on
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, OpenFile
from elfolio.measure.oracle_child import DRIVER, OracleChild, over_driver

__all__ = ["LiveCaseHost", "decide_live"]

_PAGE = os.sysconf("SC_PAGESIZE")
_LOWEST = 65536
"""vm.mmap_min_addr as distributions set it."""
_NOWHERE = 1 << 40
"""Where the child has nothing mapped, so that naming it fails with ENOMEM if the kernel knows names."""


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
        result = self.live.apply(operation)
        if result >= 0 and _privileged(operation):
            raise Undecidable("memory that only root may map: a case is an ordinary user's")
        return result

    def fork(self) -> None:
        """As CaseHost."""
        self.live = self.live.fork()
        self._forks.append(self.live)

    def fork_aside(self) -> None:
        """As CaseHost."""
        self._forks.append(self.live.fork())

    def exec(self) -> None:
        """As CaseHost."""
        raise Undecidable("the child does not execute another program")

    def space(self) -> AddressSpace:
        """As CaseHost."""
        return self.live.space()

    def fill(self, start: int, length: int, first: int, step: int) -> int:
        """As CaseHost."""
        error = self.live.apply(Touch(start, length, True))
        if not error:
            for at, content in _pieces(start, length, first, step):
                self.live.write(at, content)
        return error

    def holds(self, start: int, length: int, first: int, step: int) -> bool:
        """As CaseHost."""
        if self.live.apply(Touch(start, length, False)):
            return False
        return all(self.live.read(at, len(wanted)) == wanted for at, wanted in _pieces(start, length, first, step))

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
        try:
            os.truncate(f"/proc/{self.live.pid}/fd/{fd}", length)
        except OSError as error:
            raise Undecidable(f"no file of {length} bytes: {error.strerror}") from error
        made = Mappable(OpenFile(f"/{name}", fd, opening=fd), length)
        self.live.files[made] = fd
        return made

    def reopen(self, file: Mappable) -> Mappable:
        """As CaseHost."""
        fd = self.live.open_path(f"/proc/self/fd/{self.live.files[file]}", os.O_RDWR)
        if fd < 0:
            raise Undecidable(f"no second opening: {os.strerror(-fd)}")
        made = replace(file, file=replace(file.file, opening=fd))
        self.live.files[made] = fd
        return made

    def allow_names(self) -> None:
        """As CaseHost."""
        if self.live.apply(NameVma(_NOWHERE, _PAGE, None)) == -EINVAL:
            raise Undecidable("this kernel was built without CONFIG_ANON_VMA_NAME")

    def limit(self, resource: str, value: int | None) -> None:
        """As CaseHost."""
        if resource == "MEMLOCK" and os.geteuid() == 0:
            raise Undecidable("root may lock what it likes")
        which = getattr(limits, f"RLIMIT_{resource}", None)
        if which is None:
            raise Undecidable(f"there is no RLIMIT_{resource}")
        wished = limits.RLIM_INFINITY if value is None else value
        try:
            limits.prlimit(self.live.pid, which, (wished, wished))
        except (OSError, ValueError) as error:
            raise Undecidable(f"RLIMIT_{resource}: {error}") from error

    def userfaultfd(self) -> int:
        """As CaseHost."""
        fd = self.live.userfaultfd()
        if fd < 0:
            raise Undecidable(f"no userfaultfd for this user: {os.strerror(-fd)}")
        return fd

    def table_bytes(self) -> int:
        """As CaseHost."""
        return self.live.page_tables()


def _privileged(operation: Operation) -> bool:
    """Whether it asked for addresses that take CAP_SYS_RAWIO."""
    if isinstance(operation, Mmap):
        return bool(operation.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) and operation.address < _LOWEST
    return isinstance(operation, Mremap) and bool(operation.flags & MREMAP_FIXED) and operation.new_address < _LOWEST


def _pieces(start: int, length: int, first: int, step: int) -> Iterator[tuple[int, bytes]]:
    """Where each page's part of a range begins, and its bytes."""
    at, number = start, 0
    while at < start + length:
        size = min(_PAGE - at % _PAGE, start + length - at)
        yield at, bytes(((first + number) % 251 + 1 if step else first,)) * size
        at, number = at + size, number + 1
