"""kernel.model: operations on an address space. In: Mm, operations as values. Out: results; both bounds of a trace.

`apply` is the door: one operation, and what the system call returns, a negative number being -errno. Where a trace does
not show which pages were touched, merging is known only between two bounds: nothing was, or everything that could be.
"""

from collections.abc import Callable, Iterable
from typing import Any

from elfolio.kernel import calls
from elfolio.kernel.abi import ADVICE
from elfolio.kernel.brk import brk
from elfolio.kernel.faults import prepare, touch
from elfolio.kernel.madvising import madvise, name_vma
from elfolio.kernel.mapping_calls import mmap, munmap
from elfolio.kernel.mm import Mm
from elfolio.kernel.prctls import prctl
from elfolio.kernel.protection import mlock, mlockall, mprotect, mseal, munlock, munlockall
from elfolio.kernel.remapping import mremap
from elfolio.kernel.userfault import uffd_close, uffd_register, uffd_unregister

__all__ = ["apply", "bounds", "fault_all"]

_CALLS: dict[type, Callable[[Mm, Any], int]] = {
    calls.Mmap: mmap,
    calls.Munmap: munmap,
    calls.Mprotect: mprotect,
    calls.Mremap: mremap,
    calls.Brk: brk,
    calls.Madvise: madvise,
    calls.Mlock: mlock,
    calls.Munlock: munlock,
    calls.Mlockall: mlockall,
    calls.Munlockall: munlockall,
    calls.Mseal: mseal,
    calls.Prctl: prctl,
    calls.NameVma: name_vma,
    calls.Touch: touch,
    calls.UffdRegister: uffd_register,
    calls.UffdUnregister: uffd_unregister,
    calls.UffdClose: uffd_close,
}

_WRITE, _SHARED = 0x2, 0x8
_WORD = (1 << 64) - 1


def apply(mm: Mm, operation: calls.Operation) -> int:
    """What the call returns: an address, a break, 0; or -errno. `mm` changes as the process's would."""
    return _CALLS[type(operation)](mm, operation)


def fault_all(mm: Mm, start: int = 0, end: int = _WORD) -> None:
    """As if every page that may be written had been: each private writable area of the range gets its anon_vma."""
    for area in mm.over(start, end):
        if area.flags & (_WRITE | _SHARED) == _WRITE:
            prepare(mm, area)


def bounds(make: Callable[[], Mm], operations: Iterable[calls.Operation]) -> tuple[Mm, Mm]:
    """The address space after the operations, twice: where nothing was touched but what they say, and where
    everything was that could be, at once. `make` gives the one to begin with, new at each call."""
    done = list(operations)
    untouched, touched = make(), make()
    fault_all(touched)
    for operation in done:
        apply(untouched, operation)
    for operation in done:
        result = apply(touched, operation)
        span = _written(operation, result, touched)
        if span is not None:
            fault_all(touched, *span)
    return untouched, touched


def _written(operation: calls.Operation, result: int, mm: Mm) -> tuple[int, int] | None:
    """The range in which an operation may have made something writable."""
    if result < 0:
        return None
    match operation:
        case calls.Mmap(length=length) | calls.Mremap(new_length=length):
            return result, result + length
        case calls.Mprotect(address=address, length=length):
            return address, address + length
        case calls.Brk():
            return mm.start_brk, max(result, mm.start_brk + 1)
        case calls.Madvise(address=address, length=length, advice=advice) if advice == ADVICE["GUARD_REMOVE"]:
            return address, address + length
        case _:
            return None
