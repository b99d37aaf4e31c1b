"""kernel.trace: what a traced program did to its memory. In: what a reader finds. Out: events; Log for the rest.

Readers of several formats (kernel.trace_strace, trace_perf, trace_record) give the same events in the order of the
trace. Numbers are as the kernel got them: flags are bits, addresses and sizes are in bytes. A line that cannot be read
is noted with its place, counted, and left out; nothing stands for it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from elfolio.kernel.mappable import Mappable
from elfolio.kernel.space import Vma

__all__ = ["FORKS", "Call", "Ended", "Event", "Image", "Log", "Problem", "Touched", "Unreadable"]

FORKS = frozenset({"fork", "vfork", "clone", "clone3"})
"""Calls whose result is a new thread or process. Their one argument here is clone(2)'s flags."""


class Call(NamedTuple):
    """A system call that has returned, or one that never will."""

    pid: int
    """The thread's; 0 where the trace names none."""
    name: str
    args: tuple[int | str, ...]
    """Those that decide what happens to memory, in the kernel's order; see trace_shapes."""
    result: int | None
    """None where the trace shows none: the thread ended in it. -1 with `errno`."""
    errno: int
    """0: it succeeded."""
    line: int
    """From 1."""
    file: Mappable | None = None
    """What its descriptor refers to, as far as the trace says; `file.opening` 0: not said which opening."""


class Ended(NamedTuple):
    """A thread is no more."""

    pid: int
    line: int
    vmas: tuple[Vma, ...] | None = None
    """What it had mapped at its end, from a recorder that looked, of the last thread of a process."""


class Image(NamedTuple):
    """What execve had mapped at the first instruction. Known to a recorder only."""

    pid: int
    path: str
    vmas: tuple[Vma, ...]
    start_brk: int
    line: int
    written: tuple[int, ...] = ()
    """Where those VMAs begin that have anonymous pages."""


class Touched(NamedTuple):
    """Private memory that was written for the first time since the thread's last event. Known to a recorder only."""

    pid: int
    ranges: tuple[tuple[int, int], ...]
    """Start and end of pages, in bytes, ascending."""
    line: int


Event = Call | Ended | Image | Touched


class Problem(NamedTuple):
    """What could not be read. Line and column from 1."""

    name: str
    line: int
    column: int
    what: str

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}: {self.what}"


class Unreadable(Exception):
    """Raised inside of a reader; `column` counts from 0."""

    def __init__(self, column: int, what: str) -> None:
        super().__init__(what)
        self.column = column
        self.what = what


class Log:
    """What a reader says beside its events. All problems are counted, the first `keep` are kept."""

    def __init__(self, name: str, keep: int = 1000) -> None:
        self.name = name
        self.lines = 0
        self.unreadable = 0
        self.problems: list[Problem] = []
        self.facts: dict[str, object] = {}
        """Of the trace as a whole: `kernel`, `page`, `argv`, `faults`; those that its format has."""
        self.assumed_threads = 0
        """Calls of clone3 of which the trace does not say what they made: taken for threads."""
        self.foreign = 0
        """Programs of another architecture, whose calls are not in the trace."""
        self._keep = keep

    def note(self, line: int, column: int, what: str) -> None:
        """A line that is left out, column from 0."""
        self.unreadable += 1
        if len(self.problems) < self._keep:
            self.problems.append(Problem(self.name, line, column + 1, what))

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)
