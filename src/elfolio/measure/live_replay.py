"""measure.live_replay: a trace done again by the running kernel. In: steps, an oracle. Out: LiveReplay, what differed.

Every operation is done by a child and by the model of that child, and after each both are compared: what the call
returned, and all VMAs. What a child cannot do is left out of both, and counted with the reason.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from elfolio.kernel import abi
from elfolio.kernel.adopting import known_file
from elfolio.kernel.calls import (
    Brk,
    Madvise,
    Mmap,
    Operation,
    Prctl,
    Touch,
    UffdClose,
    UffdRegister,
    UffdUnregister,
)  # fmt: skip
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm
from elfolio.kernel.model import apply
from elfolio.kernel.space import OpenFile, Vma
from elfolio.kernel.trace_steps import Do, Exec, Fork, Gone, Step, Written
from elfolio.kernel.vmflags import VmFlags
from elfolio.live.host import file_system_of
from elfolio.measure.oracle import Shown, shown_model
from elfolio.measure.oracle_child import DRIVER, OracleChild, over_driver

__all__ = ["LiveDifference", "LiveReplay", "replay_live"]

_UFFD = UffdRegister | UffdUnregister | UffdClose
_ADVICE = frozenset(abi.ADVICE.values())
_PRCTLS = frozenset(
    (abi.PR_SET_MEMORY_MERGE, abi.PR_GET_MEMORY_MERGE, abi.PR_SET_MDWE, abi.PR_GET_MDWE, abi.PR_SET_THP_DISABLE,
     abi.PR_GET_THP_DISABLE)
)  # fmt: skip
_UNMAPPABLE = ("proc", "sysfs", "hugetlbfs", "devtmpfs")


@dataclass(frozen=True, slots=True)
class LiveDifference:
    """Where the model and the kernel parted. Each side: what the call returned, and the VMAs that the other has not."""

    line: int
    operation: object
    model: int
    kernel: int
    only_model: tuple[Shown, ...]
    only_kernel: tuple[Shown, ...]


@dataclass(slots=True)
class LiveReplay:
    """What was done."""

    operations: int = 0
    """Compared, those included that map an image anew and that write to memory."""
    spaces: int = 0
    """Address spaces: one for each exec and each fork."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What was not done live, by reason."""
    otherwise: int = 0
    """Operations that the kernel answered otherwise than when it was traced; the model does so too."""
    difference: LiveDifference | None = None
    """The first; nothing is done behind it."""


class _Refused(Exception):
    """Cannot be done live; the text is why."""


@dataclass(slots=True)
class _Space:
    live: OracleChild
    mm: Mm
    heap: bool = False
    """Whether its heap lies where the trace's did."""
    files: dict[Mappable, Mappable] = field(default_factory=dict)
    """What is open there by what the trace says of it."""


def replay_live(steps: Iterable[Step], seed: OracleChild, seed_mm: Mm) -> LiveReplay:
    """All steps, up to the first difference. Every process of the trace is a fork of `seed`, whose model `seed_mm` is.
    Raises TraceeLost where a child is killed, OSError where no more can be made."""
    follower = _Follower(seed, seed_mm)
    for step in steps:
        follower.follow(step)
        if follower.found.difference is not None:
            break
    return follower.found


class _Follower:
    def __init__(self, seed: OracleChild, seed_mm: Mm) -> None:
        self.found = LiveReplay()
        self._seed, self._seed_mm = seed, seed_mm
        self._spaces: dict[int, _Space] = {}

    def follow(self, step: Step) -> None:
        """One step more."""
        if isinstance(step, Do):
            self._do(step)
        elif isinstance(step, Written):
            self._written(step)
        elif isinstance(step, Fork):
            self._fork(step)
        elif isinstance(step, Exec):
            self._exec(step)
        elif isinstance(step, Gone):
            self._spaces.pop(step.space).live.end()

    def _do(self, step: Do) -> None:
        space = self._spaces[step.space]
        if isinstance(step.operation, Brk) and not space.heap and step.result > 0:
            self._heap(space, step.result)
        result = self._run(space, step.operation, step.line)
        if result is not None and result != step.result:
            self.found.otherwise += 1

    def _run(self, space: _Space, operation: Operation, line: int) -> int | None:
        """The kernel's answer; None where it was not asked."""
        try:
            ready = _ready(space, operation)
        except _Refused as refused:
            self.found.left_out[str(refused)] += 1
            return None
        self.found.operations += 1
        kernel, model = space.live.apply(ready), apply(space.mm, ready)
        self._compare(space, ready, line, model, kernel)
        return kernel

    def _compare(self, space: _Space, operation: object, line: int, model: int = 0, kernel: int = 0) -> None:
        ours, theirs = shown_model(space.mm), space.live.shown()
        if (model != kernel or ours != theirs) and self.found.difference is None:
            only = (tuple(vma for vma in ours if vma not in theirs), tuple(vma for vma in theirs if vma not in ours))
            self.found.difference = LiveDifference(line, operation, model, kernel, *only)

    def _written(self, step: Written) -> None:
        space = self._spaces[step.space]
        for start, end in step.ranges:
            area = space.mm.areas.find(start)
            # Only the first write to an area changes anything.
            if area is None or area.anon_vma is None or start < area.start or end > area.end:
                self._run(space, Touch(start, end - start, write=True), step.line)

    def _fork(self, step: Fork) -> None:
        space = self._spaces[step.space]
        self._add(step.child, replace(space, live=space.live.fork(), mm=space.mm.fork(), files=dict(space.files)), step)

    def _add(self, number: int, space: _Space, step: Step) -> None:
        self._spaces[number] = space
        self.found.spaces += 1
        self._compare(space, step, step.line)

    def _heap(self, space: _Space, start: int) -> None:
        space.heap = space.live.set_heap(start)
        if space.heap:
            space.mm.start_brk = space.mm.brk = start

    def _exec(self, step: Exec) -> None:
        space = _Space(self._seed.fork(), self._seed_mm.fork())
        self._add(step.space, space, step)
        if step.before is not None or step.path:
            self.found.left_out["exec: its image is mapped by mmap in its place, without stack and vdso"] += 1
        if step.start_brk:
            self._heap(space, step.start_brk)
        vmas = step.vmas or ()
        if any(vma.flags & VmFlags.MERGEABLE for vma in vmas):
            self._run(space, Prctl(abi.PR_SET_MEMORY_MERGE, 1), step.line)
        for vma in vmas:
            if not vma.name.startswith("["):
                self._run(space, _as_mmap(vma), step.line)
                if vma.start in step.written:
                    self._run(space, Touch(vma.start, 1, write=True), step.line)


def _as_mmap(vma: Vma) -> Mmap:
    flags = abi.MAP_FIXED | (abi.MAP_SHARED if vma.flags & VmFlags.MAYSHARE else abi.MAP_PRIVATE)
    file = None if vma.file is None else known_file(vma.file)
    flags |= abi.MAP_ANONYMOUS if file is None else 0
    return Mmap(vma.start, vma.size, int(vma.flags) & 7, flags, file, vma.offset if file is not None else 0)


def _ready(space: _Space, operation: Operation) -> Operation:
    """As the child can do it. Raises _Refused."""
    if over_driver(operation):
        raise _Refused(f"memory at {DRIVER.start:#x}, where the child has its own instructions")
    if isinstance(operation, _UFFD):
        raise _Refused("userfaultfd")
    if isinstance(operation, Brk) and not space.heap:
        raise _Refused("brk: its heap cannot be put where the trace had it")
    if isinstance(operation, Madvise) and operation.advice not in _ADVICE:
        raise _Refused("madvise: advice that may change more than this process")  # MADV_HWPOISON takes memory away
    if isinstance(operation, Prctl) and operation.option not in _PRCTLS:
        raise _Refused("prctl: an option that the model does not have")
    if isinstance(operation, Mmap):
        return _mmap(space, operation)
    if isinstance(operation, Touch) and _grows(space.mm, operation.address):
        raise _Refused("writing below a stack: only a program's own access lets it grow")
    return operation


def _grows(mm: Mm, address: int) -> bool:
    area = mm.areas.find(address)
    return area is not None and area.start > address and bool(area.flags & VmFlags.GROWSDOWN)


def _mmap(space: _Space, operation: Mmap) -> Mmap:
    if operation.flags & abi.MAP_HUGETLB:
        raise _Refused("mmap: huge pages of the machine's pool")
    traced = operation.file
    if traced is None:
        return operation
    if operation.prot & 2 and operation.flags & abi.MAP_TYPE != abi.MAP_PRIVATE:
        raise _Refused("mmap: a shared mapping through which a file could be written")
    if traced not in space.files:
        space.files[traced] = _open(space.live, traced)
    return operation._replace(file=space.files[traced])


def _open(live: OracleChild, traced: Mappable) -> Mappable:
    path = traced.file.path
    try:
        found = os.stat(path)
        fs = file_system_of(path)
        noexec = bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except (OSError, ValueError) as error:
        raise _Refused("mmap: a file that is not there") from error
    if not stat.S_ISREG(found.st_mode) or fs in _UNMAPPABLE or not path.startswith("/"):
        raise _Refused("mmap: no regular file")
    file = OpenFile(path, found.st_ino, os.major(found.st_dev), os.minor(found.st_dev), traced.file.opening)
    kind = "shmem" if fs == "tmpfs" else "regular"
    made = Mappable(file, found.st_size, kind, fs, writable=False, noexec=noexec)
    error_number = -live.open(made, path)
    if error_number > 0:
        raise _Refused(f"mmap: a file that cannot be opened: {os.strerror(error_number)}")
    return made
