"""kernel.case_host: what a test case runs on. In: operations. Out: results; CaseHost, a protocol, and ModelHost.

The same cases run on the model and on a running kernel: each is a host. Here is the model's.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from elfolio.kernel.calls import Operation, Touch
from elfolio.kernel.contents import Contents
from elfolio.kernel.host import Host
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm
from elfolio.kernel.model import apply
from elfolio.kernel.pages import Tables
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, OpenFile, Vma
from elfolio.kernel.vmflags import VmFlags
from elfolio.span import MappedAddress, round_down

__all__ = ["CaseHost", "ModelHost", "Undecidable", "fresh"]


class Undecidable(Exception):
    """A host cannot say; the text is why."""


class CaseHost(Protocol):
    """Addresses and lengths in bytes. What a host cannot do raises Undecidable."""

    def apply(self, operation: Operation) -> int:
        """One call: what it returns, or -errno."""

    def fork(self) -> None:
        """From now on the child is the host."""

    def fork_aside(self) -> None:
        """There is a child now; the host stays the parent."""

    def exec(self) -> None:
        """From now on a program that it has executed is the host: its stack, its vdso, a file private and shared,
        anonymous memory and a heap."""

    def space(self) -> AddressSpace:
        """As it is now."""

    def fill(self, start: int, length: int, first: int, step: int) -> int:
        """Each page gets a content: (first + n) % 251 + 1 where step is 1, first where it is 0. 0 or -errno. Of a page
        that the range ends in, only what lies in the range."""

    def holds(self, start: int, length: int, first: int, step: int) -> bool:
        """Whether each page, as far as it lies in the range, has it."""

    def file(self, name: str, length: int, *, memory: bool) -> Mappable:
        """A file of its own, in memory (memfd) or on disk, open for reading and writing."""

    def reopen(self, file: Mappable) -> Mappable:
        """The same inode, opened once more."""

    def allow_names(self) -> None:
        """What follows names memory and relies on it; a kernel built without CONFIG_ANON_VMA_NAME cannot say."""

    def limit(self, resource: str, value: int | None) -> None:
        """RLIMIT_..., both limits; None for none."""

    def userfaultfd(self) -> int:
        """A new one, by its number."""

    def table_bytes(self) -> int:
        """VmPTE."""


_PAGE = 4096
_PARTLY, _MIXED = 1 << 16, 1 << 17
"""Marks on the content of a page: it has it at its beginning only; it has several."""


class ModelHost:
    """The model as a host, beginning with a stack and a heap to be."""

    def __init__(self, policy: Policy) -> None:
        self.mm = fresh(policy)
        self._made = 0

    def apply(self, operation: Operation) -> int:
        """As CaseHost."""
        return apply(self.mm, operation)

    def fork(self) -> None:
        """As CaseHost."""
        self.mm = self.mm.fork()

    def fork_aside(self) -> None:
        """As CaseHost."""
        self.mm.fork()

    def exec(self) -> None:
        """As CaseHost."""
        from elfolio.kernel.abi import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED
        from elfolio.kernel.calls import Brk, Mmap

        self.mm = self.mm.exec(_first_mappings(self.mm))
        text = self.file("program", 4 * _PAGE, memory=False)
        for operation in (
            Mmap(0, 2 * _PAGE, 1, MAP_PRIVATE, text),
            Mmap(0, 2 * _PAGE, 1, MAP_SHARED, text),
            Mmap(0, 2 * _PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS),
            Brk(self.mm.brk + 2 * _PAGE),
        ):
            if apply(self.mm, operation) < 0:
                raise Undecidable("a new program does not fit")

    def space(self) -> AddressSpace:
        """As CaseHost."""
        return self.mm.snapshot()

    def fill(self, start: int, length: int, first: int, step: int) -> int:
        """As CaseHost."""
        error = apply(self.mm, Touch(start, length, True))
        if error:
            return error
        contents = self._contents()
        for page, size, content in _pieces(start, length, first, step, self.mm.page):
            whole = size == self.mm.page or contents.read(self.mm, page) == content
            mark = 0 if whole else _PARTLY if page >= start else _MIXED
            contents.write(self.mm, page, content | mark)
        return 0

    def holds(self, start: int, length: int, first: int, step: int) -> bool:
        """As CaseHost."""
        if apply(self.mm, Touch(start, length, False)):
            return False
        contents, fine = self._contents(), True
        for page, size, content in _pieces(start, length, first, step, self.mm.page):
            found = contents.read(self.mm, page) or 0
            if found & _MIXED or (found & _PARTLY and size < self.mm.page and page < start):
                raise Undecidable("a page of several contents")
            fine = fine and (found & ~_PARTLY if size < self.mm.page else found) == content
        return fine

    def file(self, name: str, length: int, *, memory: bool) -> Mappable:
        """As CaseHost."""
        self._made += 1
        if memory:
            return Mappable(
                OpenFile(f"/memfd:{name} (deleted)", self._made, opening=self._made), length, "shmem", "tmpfs"
            )
        return Mappable(OpenFile(f"/{name}", self._made, opening=self._made), length)

    def reopen(self, file: Mappable) -> Mappable:
        """As CaseHost."""
        self._made += 1
        return replace(file, file=replace(file.file, opening=self._made))

    def allow_names(self) -> None:
        """As CaseHost."""
        self.mm.limits = replace(self.mm.limits, anon_names=self.mm.policy.version[:2] >= (5, 17))

    def limit(self, resource: str, value: int | None) -> None:
        """As CaseHost."""
        if resource == "AS":
            self.mm.limits = replace(self.mm.limits, address_space=value)
        elif resource == "MEMLOCK":
            self.mm.limits = replace(self.mm.limits, memlock=value)
        else:
            raise Undecidable(f"no model of RLIMIT_{resource}")

    def userfaultfd(self) -> int:
        """As CaseHost."""
        self._made += 1
        return self._made

    def table_bytes(self) -> int:
        """As CaseHost."""
        return next(watcher for watcher in self.mm.watchers if isinstance(watcher, Tables)).bytes

    def _contents(self) -> Contents:
        return next(watcher for watcher in self.mm.watchers if isinstance(watcher, Contents))


def _pieces(start: int, length: int, first: int, step: int, page: int) -> Iterator[tuple[int, int, int]]:
    """Page, bytes of it in a range, their content, of each page that the range touches."""
    at, end, number = start, start + length, 0
    while at < end:
        low = round_down(at, page)
        size = min(low + page, end) - at
        yield low, size, (first + number) % 251 + 1 if step else first
        at, number = at + size, number + 1


def fresh(policy: Policy, host: Host | None = None) -> Mm:
    """An address space of a small program that follows everything: a stack, and a heap that has not begun."""
    mm = Mm(policy, host)
    mm.start_brk = mm.brk = round_down(mm.host.et_dyn_base, policy.page_size)
    mm.watchers = (Contents(), Tables(policy))
    from elfolio.kernel.adopting import adopt

    return adopt(mm, _first_mappings(mm))


def _first_mappings(mm: Mm) -> AddressSpace:
    top = mm.host.stack_top - mm.page
    flags = VmFlags.READ | VmFlags.WRITE | VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC
    stack = Vma(
        MappedAddress(top - 33 * mm.page),
        MappedAddress(top),
        flags | VmFlags.GROWSDOWN | VmFlags.ACCOUNT,
        name="[stack]",
        anon_pgoff=(top - 33 * mm.page) // mm.page,
        anon_vma=1,
        anon_vma_chain=1,
    )
    code = MappedAddress(mm.mmap_base - mm.host.vdso)
    vdso_flags = VmFlags.READ | VmFlags.EXEC | VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC | VmFlags.DONTEXPAND
    vdso = Vma(code, MappedAddress(code + mm.host.vdso), vdso_flags, name="[vdso]")
    brk = MappedAddress(mm.start_brk or round_down(mm.host.et_dyn_base, mm.page))
    return AddressSpace((vdso, stack), mm.page, brk, brk, MappedAddress(top - 4096), MappedAddress(mm.mmap_base))
