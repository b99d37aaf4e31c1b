"""kernel.trace_steps: from what a trace shows to what an address space is asked. In: events. Out: steps.

A step is an operation on one address space, or what becomes of an address space. Which thread has which, which opening
a descriptor is, and where a mapping was put, all this is the trace's; a step says it in the model's terms. Mappings are
asked for where the kernel put them, since all that follows speaks of those addresses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple, cast

from elfolio.kernel.abi import MAP_ANONYMOUS, MAP_FIXED
from elfolio.kernel.adopting import known_file
from elfolio.kernel.calls import Mmap, Operation
from elfolio.kernel.space import OpenFile, Vma
from elfolio.kernel.trace import FORKS, Call, Ended, Event, Image, Touched
from elfolio.kernel.trace_operations import OPERATIONS

__all__ = ["Do", "Exec", "Fork", "Gone", "Step", "Steps", "Written"]

_CLONE_VM, _CLONE_FILES = 0x100, 0x400


class Do(NamedTuple):
    """One operation, and what the traced kernel said: a number, or -errno."""

    space: int
    operation: Operation
    result: int
    line: int


class Written(NamedTuple):
    """Private memory that was written to, as [start, end) in bytes."""

    space: int
    ranges: tuple[tuple[int, int], ...]
    line: int


class Fork(NamedTuple):
    """A copy of an address space."""

    space: int
    child: int
    line: int


class Exec(NamedTuple):
    """A new program's address space; `before` is whose place it takes, None for the first that is seen of a process."""

    space: int
    before: int | None
    path: str
    vmas: tuple[Vma, ...] | None
    """None: the trace does not show them."""
    start_brk: int
    line: int
    written: tuple[int, ...] = ()
    """Where those VMAs begin that have anonymous pages."""


class Gone(NamedTuple):
    """Nobody has it any more; `vmas` is what it really had at its end, where the trace shows that."""

    space: int
    vmas: tuple[Vma, ...] | None
    line: int


Step = Do | Written | Fork | Exec | Gone


class Steps:
    """The steps of a trace. Its counters say what was taken for granted; read them when all is through."""

    def __init__(self) -> None:
        self.calls = 0
        self.left_out: dict[str, int] = {}
        """Calls that no operation of the model stands for, by name."""
        self.assumed_openings = 0
        """File mappings of which the trace does not say which opening it was: those with the same number and path,
        one after the other, count as one."""
        self._spaces: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._next = 0
        self._openings = 0
        self._files: dict[int, dict[int, OpenFile]] = {}
        self._told = False

    def of(self, events: Iterable[Event]) -> Iterator[Step]:
        """Each event's steps."""
        spaces, plain = self._spaces, OPERATIONS
        for event in events:
            if type(event) is Call:
                make = plain.get(event.name)
                if make is not None and event.pid in spaces:
                    self.calls += 1
                    asked = make(event)
                    if asked is not None:
                        yield Do(spaces[event.pid], *asked, event.line)
                else:
                    yield from self._call(event)
            elif type(event) is Touched:
                yield from self._known(event.pid, event.line)
                yield Written(spaces[event.pid], event.ranges, event.line)
            elif type(event) is Image:
                yield from self._executed(event, event.path, event.vmas, event.start_brk, event.written)
            elif type(event) is Ended:
                yield from self._ended(event)

    # --- who has what -----------------------------------------------------------------------------

    def _known(self, pid: int, line: int) -> Iterator[Step]:
        if pid not in self._spaces:
            self._spaces[pid] = self._new()
            yield Exec(self._spaces[pid], None, "", None, 0, line)

    def _new(self) -> int:
        self._next += 1
        self._users[self._next] = 1
        return self._next

    def _leave(self, pid: int, vmas: tuple[Vma, ...] | None, line: int) -> Iterator[Step]:
        space = self._spaces.pop(pid, None)
        if space is not None:
            self._users[space] -= 1
            if not self._users[space]:
                del self._users[space]
                yield Gone(space, vmas, line)

    def _ended(self, event: Ended) -> Iterator[Step]:
        yield from self._leave(event.pid, event.vmas, event.line)
        self._files.pop(event.pid, None)

    def _executed(
        self,
        event: Image | Call,
        path: str,
        vmas: tuple[Vma, ...] | None,
        start_brk: int,
        written: tuple[int, ...],
    ) -> Iterator[Step]:
        space = self._new()
        yield Exec(space, self._spaces.get(event.pid), path, vmas, start_brk, event.line, written)
        yield from self._leave(event.pid, None, event.line)
        self._spaces[event.pid] = space

    def _forked(self, call: Call) -> Iterator[Step]:
        child, flags = cast("int", call.result), cast("int", call.args[0])
        space = self._spaces[call.pid]
        yield from self._leave(child, None, call.line)  # a number that is used again
        if flags & _CLONE_VM:
            self._spaces[child] = space
            self._users[space] += 1
        else:
            self._spaces[child] = self._new()
            yield Fork(space, self._spaces[child], call.line)
        files = self._files.setdefault(call.pid, {})
        self._files[child] = files if flags & _CLONE_FILES else dict(files)

    # --- calls ------------------------------------------------------------------------------------

    def _call(self, call: Call) -> Iterator[Step]:
        yield from self._known(call.pid, call.line)
        name = call.name
        if name == "mmap":
            self.calls += 1
            if call.result is not None and not call.errno:
                yield self._mapped(call)
        elif name in OPERATIONS:
            self.calls += 1
            asked = OPERATIONS[name](call)
            if asked is not None:
                yield Do(self._spaces[call.pid], *asked, call.line)
        elif name in FORKS:
            self.calls += 1
            if call.result == call.pid:
                self._leaves_out(f"{name} that made itself")
            elif call.result and not call.errno:
                yield from self._forked(call)
        elif name == "execve":
            self.calls += 1
            if call.result is not None and not call.errno:
                yield from self._executed(call, str(call.args[0]) if call.args else "", None, 0, ())
        elif not self._descriptor(call):
            self.calls += 1
            self._leaves_out(name)

    def _leaves_out(self, what: str) -> None:
        self.left_out[what] = self.left_out.get(what, 0) + 1

    def _mapped(self, call: Call) -> Do:
        _, length, prot, flags, fd, offset = cast("tuple[int, ...]", call.args)
        space, result = self._spaces[call.pid], cast("int", call.result)
        file = None
        if not flags & MAP_ANONYMOUS:
            file = call.file
            if file is None or not file.file.opening:
                known = self._opening(call.pid, fd, "" if file is None else file.file.path)
                file = known_file(known) if file is None else replace(file, file=known)
        return Do(space, Mmap(result, length, prot, flags | MAP_FIXED, file, offset), result, call.line)

    # --- descriptors ------------------------------------------------------------------------------

    def _opening(self, pid: int, fd: int, path: str) -> OpenFile:
        files = self._files.setdefault(pid, {})
        known = files.get(fd)
        if not self._told:
            self.assumed_openings += 1
        if known is None or (path and known.path != path):
            self._openings += 1
            known = files[fd] = OpenFile(path or f"descriptor {fd}", opening=self._openings)
        return known

    def _descriptor(self, call: Call) -> bool:
        """Keeps account of openings. Whether the call is about them."""
        files = self._files.setdefault(call.pid, {})
        first, result = (call.args[0] if call.args else -1), call.result
        if call.name == "close":
            files.pop(cast("int", first), None)
        elif call.name in ("dup", "dup2", "dup3"):
            if first in files and result is not None:
                files[result] = files[first]
        elif call.name in ("open", "openat", "openat2", "creat", "memfd_create", "userfaultfd"):
            if result is not None:
                self._openings += 1
                path = "" if call.file is None else call.file.file.path
                files[result] = OpenFile(path or f"descriptor {result}", opening=self._openings)
        else:
            return False
        self._told = True
        return True
