"""kernel.replaying: a trace through the model. In: steps, one Policy, what to take for touched. Out: Lane, its figures.

Several lanes may follow the same steps, each with another policy. A lane counts what the traced kernel did otherwise;
under the policy of that kernel it should be nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from elfolio.kernel import ksm
from elfolio.kernel.calls import Brk, Madvise, Mmap, Mprotect, Mremap, Touch
from elfolio.kernel.faults import prepare
from elfolio.kernel.host import default_host
from elfolio.kernel.mm import Limits, Mm
from elfolio.kernel.model import apply, fault_all
from elfolio.kernel.policy import Policy
from elfolio.kernel.replay_figures import Ending, MoveCosts, apart, as_seen, as_shown
from elfolio.kernel.space import AddressSpace, Vma
from elfolio.kernel.trace_steps import Do, Exec, Fork, Gone, Step, Written
from elfolio.span import MappedAddress

__all__ = ["Difference", "Ending", "Lane", "Touching", "replay"]

Touching = Literal["traced", "none", "all"]
"""Which memory counts as written: what the trace says, nothing, or all that may be."""

_MERGEABLE = 1 << 31
_WRITE, _WRITABLE = 0x2, 0xA
"""VM_WRITE; with VM_SHARED, which private memory has not."""
_GUARD_REMOVE = 103
_KEPT = 50
_POINTS = 512


@dataclass(frozen=True, slots=True)
class Difference:
    """A call that the model would have answered otherwise than the traced kernel did."""

    line: int
    operation: object
    traced: int
    modelled: int


class _Space:
    """One address space and what is counted of it."""

    __slots__ = ("mm", "operations", "path", "peak")

    def __init__(self, mm: Mm, path: str) -> None:
        self.mm = mm
        self.path = path
        self.peak = mm.count
        self.operations = 0


class Lane:
    """A policy at work. `vmas` is the number of all VMAs of all processes now, `points` its course."""

    def __init__(
        self, policy: Policy, touching: Touching = "traced", *, memory_merge: bool = False, page: int = 4096
    ) -> None:
        self.policy = policy if page == policy.page_size else policy.with_options(page_size=page)
        self.touching = touching
        self.memory_merge = memory_merge
        self.vmas = 0
        self.peak = 0
        self.operations = 0
        self.merged = 0
        self.missed: Counter[str] = Counter()
        self.points: list[tuple[int, int]] = []
        """(operations so far, VMAs), at even distances, at most 512 of them."""
        self.endings: list[Ending] = []
        self.differences: list[Difference] = []
        self.different = 0
        self._peaks: dict[str, int] = {}
        self.assumed = 0
        """Bytes that the trace shows to have been mapped before it says so: of images that it does not show."""
        self.moves = MoveCosts(self.policy)
        self._stride = self._due = 1
        self._spaces: dict[int, _Space] = {}
        self._host = replace(default_host(self.policy), memory=None, privileged=True)
        self._limits = Limits(ipc_lock=True)

    def follow(self, step: Step) -> None:
        """One step more."""
        if type(step) is Do:
            self._do(step)
        elif type(step) is Written:
            self._written(step)
        elif type(step) is Fork:
            self._fork(step)
        elif type(step) is Exec:
            self._exec(step)
        elif type(step) is Gone:
            self._gone(step)

    def finish(self) -> None:
        """What is still there ends with the trace."""
        for number in list(self._spaces):
            self._gone(Gone(number, None, 0))

    # --- operations -------------------------------------------------------------------------------

    def _do(self, step: Do) -> None:
        # Most of a replay's time is spent here: nothing is looked up twice.
        space = self._spaces[step.space]
        mm, operation = space.mm, step.operation
        areas = mm.areas
        before = areas.count
        if not mm.start_brk and type(operation) is Brk:
            # Where nobody said where the heap begins, the first brk, which programs only ask with, does.
            mm.start_brk = mm.brk = step.result
        result = apply(mm, operation)
        if result != step.result:
            result = self._otherwise(mm, step, result)
        if self.touching == "all" and result >= 0:
            _write_all(mm, operation, result)
        space.operations += 1
        now = areas.count
        if now != before:
            self.vmas += now - before
            space.peak = max(space.peak, now)
            self.peak = max(self.peak, self.vmas)
        self.operations += 1
        if self.operations >= self._due:
            self._point()

    def _point(self) -> None:
        self.points.append((self.operations, self.vmas))
        if len(self.points) >= _POINTS:
            self.points = self.points[1::2]
            self._stride *= 2
        self._due = self.operations + self._stride

    def _otherwise(self, mm: Mm, step: Do, result: int) -> int:
        if step.result >= 0 and self._assume(mm, step.operation):
            result = apply(mm, step.operation)
        if result != step.result:
            self._differs(step, result)
        return result

    def _differs(self, step: Do, result: int) -> None:
        self.different += 1
        if len(self.differences) < _KEPT:
            self.differences.append(Difference(step.line, step.operation, step.result, result))

    def _assume(self, mm: Mm, operation: object) -> bool:
        """Maps what the operation's success shows to have been there: an image that the trace does not show, as private
        memory that may be written. Whether there was anything to map."""
        if not isinstance(operation, Mprotect | Madvise | Mremap):
            return False
        length = operation.old_length if isinstance(operation, Mremap) else operation.length
        start, end = operation.address, mm.align(operation.address + length)
        added = 0
        for low, high in list(_holes(mm, start, end)):
            made = apply(mm, Mmap(low, high - low, 3, 0x32))
            added += high - low if made >= 0 else 0
        self.assumed += added
        return added > 0

    def _written(self, step: Written) -> None:
        if self.touching != "traced":
            return
        mm = self._spaces[step.space].mm
        for start, end in step.ranges:
            area = mm.areas.find(start)
            # Only the first write to an area changes anything, but where a stack grows.
            if area is None or start < area.start or end > area.end:
                apply(mm, Touch(start, end - start, write=True))
            elif area.anon_vma is not None:
                continue
            elif area.flags & _WRITABLE == _WRITE and not mm.guards.ranges:
                prepare(mm, area)  # all that touching it does
            else:
                apply(mm, Touch(start, end - start, write=True))

    # --- address spaces ---------------------------------------------------------------------------

    def _add(self, number: int, space: _Space) -> None:
        self._spaces[number] = space
        self.vmas += space.mm.count
        self.peak = max(self.peak, self.vmas)

    def _fork(self, step: Fork) -> None:
        parent = self._spaces[step.space]
        self._add(step.child, _Space(parent.mm.fork(), parent.path))

    def _exec(self, step: Exec) -> None:
        before = self._spaces[step.before].mm if step.before is not None else self._first()
        vmas = step.vmas or ()
        mm = before.exec(AddressSpace(vmas, self.policy.page_size, start_brk=MappedAddress(step.start_brk)))
        mm.watchers = (self.moves,)
        mm.merge_any = mm.merge_any or _marked(vmas)
        if mm.merge_any or (self.memory_merge and step.before is None):
            _mark(mm)
        for start in step.written if self.touching == "traced" else ():
            area = mm.areas.find(start)
            if area is not None:
                prepare(mm, area)
        if self.touching == "all":
            fault_all(mm)
        self._add(step.space, _Space(mm, step.path))

    def _first(self) -> Mm:
        mm = Mm(self.policy, self._host, self._limits)
        mm.merge_any = self.memory_merge
        return mm

    def _gone(self, step: Gone) -> None:
        space = self._spaces.pop(step.space)
        mm = space.mm
        self.vmas -= mm.count
        self.merged += mm.merged
        self.missed.update(mm.missed)
        real = None if step.vmas is None else as_seen(step.vmas)
        self.endings.append(
            Ending(
                space.path,
                mm.count,
                space.peak,
                space.operations,
                mm.merged,
                dict(mm.missed),
                self._apart(space),
                ksm.mergeable_bytes(mm),
                sum(area.end - area.start for area in mm.areas),
                None if real is None else len(real),
                None if real is None else real == as_shown(mm.areas),
            )
        )

    def _apart(self, space: _Space) -> dict[str, int]:
        """Of the process that had most VMAs of all that ran its program so far; the others' would not be shown."""
        if space.peak <= self._peaks.get(space.path, 0):
            return {}
        self._peaks[space.path] = space.peak
        return apart(space.mm)


def replay(steps: Iterable[Step], lanes: Iterable[Lane]) -> None:
    """All steps through all lanes, to the end."""
    followers = list(lanes)
    follow = [lane.follow for lane in followers]
    for step in steps:
        for one in follow:
            one(step)
    for lane in followers:
        lane.finish()


def _holes(mm: Mm, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    area = mm.areas.find(start)
    while area is not None and area.start < end:
        if at < area.start:
            yield at, area.start
        at = area.end
        area = area.next
    if at < end:
        yield at, end


def _write_all(mm: Mm, operation: object, result: int) -> None:
    if isinstance(operation, Mmap):
        fault_all(mm, result, result + operation.length)
    elif isinstance(operation, Mremap):
        fault_all(mm, result, result + operation.new_length)
    elif isinstance(operation, Mprotect):
        fault_all(mm, operation.address, operation.address + operation.length)
    elif isinstance(operation, Brk):
        fault_all(mm, mm.start_brk, max(result, mm.start_brk + 1))
    elif isinstance(operation, Madvise) and operation.advice == _GUARD_REMOVE:
        fault_all(mm, operation.address, operation.address + operation.length)


def _marked(vmas: Iterable[Vma]) -> bool:
    """Whether an image shows KSM's flag: only PR_SET_MEMORY_MERGE gives it before a program's first instruction."""
    return any(int(vma.flags) & _MERGEABLE for vma in vmas)


def _mark(mm: Mm) -> None:
    """As an exec under PR_SET_MEMORY_MERGE does: the stack and the kernel's own mappings are made before or without."""
    mm.merge_any = True
    for area in mm.areas:
        own = area.special is not None or area.flags & 0x100 or area.start <= mm.start_stack < area.end
        if not own and ksm.compatible(mm, area.flags, area.file):
            area.flags |= _MERGEABLE
