"""kernel.protection: mprotect, mlock and its kin, mseal. In: Mm, an operation. Out: 0 or -errno; areas split and merge.

do_mprotect_pkey (mm/mprotect.c), apply_vma_lock_flags (mm/mlock.c), do_mseal (mm/mseal.c): each walks the areas of a
range and changes flags, and what was changed before a failure stays changed.
"""

from collections.abc import Callable
from errno import EACCES, EINVAL, ENOMEM, ENOSYS, EPERM

from elfolio.kernel.abi import MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT
from elfolio.kernel.areas import Area
from elfolio.kernel.calls import Mlock, Mlockall, Mprotect, Mseal, Munlock, Munlockall
from elfolio.kernel.faults import ACCESS, fault_range, populate
from elfolio.kernel.mapping_calls import deny_write_exec, enough_memory
from elfolio.kernel.merging import VM_SPECIAL
from elfolio.kernel.mm import Mm
from elfolio.kernel.vmflags import VmFlags

__all__ = ["mlock", "mlockall", "mprotect", "mseal", "munlock", "munlockall"]

_READ, _WRITE, _EXEC = int(VmFlags.READ), int(VmFlags.WRITE), int(VmFlags.EXEC)
_SHARED, _HUGETLB = int(VmFlags.SHARED), int(VmFlags.HUGETLB)
_ACCOUNT, _NORESERVE = int(VmFlags.ACCOUNT), int(VmFlags.NORESERVE)
_MAYEXEC, _GROWSDOWN = int(VmFlags.MAYEXEC), int(VmFlags.GROWSDOWN)
_LOCKED, _LOCKONFAULT = int(VmFlags.LOCKED), int(VmFlags.LOCKONFAULT)
_LOCKED_MASK = _LOCKED | _LOCKONFAULT
_SEALED = int(VmFlags.SEALED)
_CANNOT_LOCK = VM_SPECIAL | _HUGETLB | int(VmFlags.DROPPABLE)
_NEVER_CHARGED = _ACCOUNT | _WRITE | _HUGETLB | _SHARED | _NORESERVE
_PROT_SEM, _PROT_GROWSDOWN, _PROT_GROWSUP = 0x8, 0x01000000, 0x02000000


def mprotect(mm: Mm, op: Mprotect) -> int:
    """mprotect(2): ENOMEM where a part is not mapped, after what came before it has been changed."""
    start, length, prot = op
    grows = prot & (_PROT_GROWSDOWN | _PROT_GROWSUP)
    prot &= ~grows
    if grows == _PROT_GROWSDOWN | _PROT_GROWSUP or start & mm.mask:
        return -EINVAL
    if not length:
        return 0
    length = mm.align(length)
    end = start + length
    if not length or end >= 1 << 64:
        return -ENOMEM
    if prot & ~(ACCESS | _PROT_SEM):
        return -EINVAL
    area = mm.areas.find(start)
    if area is None or area.start >= end:
        return -ENOMEM
    if grows & _PROT_GROWSDOWN:
        start = area.start
        if not area.flags & _GROWSDOWN:
            return -EINVAL
    elif area.start > start:
        return -ENOMEM
    elif grows:
        return -EINVAL  # no machine that is modelled has stacks that grow upwards
    if mm.seals_first and any(at.flags & _SEALED for at in mm.over(start, end)):
        return -EPERM
    return _protect(mm, area, start, end, prot & ACCESS)


def _protect(mm: Mm, area: Area, start: int, end: int, asked: int) -> int:
    at: Area | None = area
    while at is not None and at.start <= start:
        implied = mm.read_implies_exec and asked & _READ and at.flags & _MAYEXEC
        prot = asked | _EXEC if implied else asked
        flags = at.flags & ~ACCESS | prot
        if prot & ~(flags >> 4) or deny_write_exec(mm, at.flags, flags):
            return -EACCES
        upto = min(end, at.end)
        made = _fixup(mm, at, start, upto, flags)
        if isinstance(made, int):
            return made
        start = max(upto, made.end)
        if start >= end:
            return 0
        at = made.next
    return -ENOMEM


def _fixup(mm: Mm, area: Area, start: int, end: int, flags: int) -> Area | int:
    """mprotect_fixup: the area that the range belongs to afterwards."""
    old = area.flags
    if old & _SEALED:
        return -EPERM
    if flags == old:
        return area
    size = end - start
    if flags & _WRITE:
        if not old & _NEVER_CHARGED:
            if not enough_memory(mm, size):
                return -ENOMEM
            flags |= _ACCOUNT
    elif old & _ACCOUNT and area.anonymous and area.anon_vma is None and mm.policy["mprotect_unaccount"]:
        flags &= ~_ACCOUNT
    made = mm.change(area, start, end, flags)
    became_writable = flags & _WRITE and not old & (_WRITE | _SHARED)
    if isinstance(made, Area) and became_writable and old & _LOCKED and not flags & _LOCKONFAULT:
        # Locked pages are made one's own at once, so that no later write has to copy.
        fault_range(mm, made, start, end, True)
    return made


# --- mlock ----------------------------------------------------------------------------------------


def mlock(mm: Mm, op: Mlock) -> int:
    """mlock2(2)."""
    if op.flags & ~MLOCK_ONFAULT:
        return -EINVAL
    if not _may_lock_any(mm):
        return -EPERM
    start, end = _range(mm, op.address, op.length)
    limit = mm.limits.memlock
    if not mm.limits.ipc_lock and limit is not None:
        wanted = mm.locked + end - start
        if wanted > limit and wanted - _locked_within(mm, start, end) > limit:
            return -ENOMEM
    error = _lock(mm, start, end, _LOCKED | (_LOCKONFAULT if op.flags else 0))
    return error or (populate(mm, start, end) if end > start else 0)


def munlock(mm: Mm, op: Munlock) -> int:
    """munlock(2)."""
    start, end = _range(mm, op.address, op.length)
    return _lock(mm, start, end, 0)


def mlockall(mm: Mm, op: Mlockall) -> int:
    """mlockall(2)."""
    flags = op.flags
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return -EINVAL
    if not _may_lock_any(mm):
        return -EPERM
    limit = mm.limits.memlock
    if flags & MCL_CURRENT and not mm.limits.ipc_lock and limit is not None and mm.total > limit:
        return -ENOMEM
    _lock_all(mm, flags)
    if flags & MCL_CURRENT:
        # mm_populate(0, TASK_SIZE) does not stop at what it cannot have, and its failures are not reported.
        for area in mm.areas:
            populate(mm, area.start, area.end)
    return 0


def munlockall(mm: Mm, op: Munlockall) -> int:
    """munlockall(2)."""
    _lock_all(mm, 0)
    return 0


def _may_lock_any(mm: Mm) -> bool:
    return mm.limits.ipc_lock or mm.limits.memlock != 0


def _range(mm: Mm, address: int, length: int) -> tuple[int, int]:
    start = address & ~mm.mask
    return start, start + mm.align(length + (address & mm.mask))


def _locked_within(mm: Mm, start: int, end: int) -> int:
    area = mm.areas.crossing(start, end)
    count = 0
    while area is not None and area.start < end:
        if area.flags & _LOCKED:
            count += min(end, area.end) - max(start, area.start)
        area = area.next
    return count


def _lock(mm: Mm, start: int, end: int, add: int) -> int:
    if end >= 1 << 64:
        return -EINVAL
    if end == start:
        return 0
    at = mm.areas.find(start)
    if at is None or at.start > start:
        return -ENOMEM
    while at is not None and at.start <= start:
        made = _lock_fixup(mm, at, start, min(end, at.end), at.flags & ~_LOCKED_MASK | add)
        if isinstance(made, int):
            return made
        start = max(min(end, at.end), made.end)
        if start >= end:
            return 0
        at = made.next
    return -ENOMEM


def _lock_fixup(mm: Mm, area: Area, start: int, end: int, flags: int) -> Area | int:
    """mlock_fixup."""
    old = area.flags
    if flags == old or old & _CANNOT_LOCK or (area.file is not None and area.file.dax):
        return area
    made = mm.change(area, start, end, flags)
    if isinstance(made, Area):
        mm.locked += ((flags & _LOCKED) - (old & _LOCKED)) // _LOCKED * (end - start)
    return made


def _lock_all(mm: Mm, flags: int) -> None:
    """apply_mlockall_flags."""
    mm.def_flags &= ~_LOCKED_MASK
    on_fault = _LOCKONFAULT if flags & MCL_ONFAULT else 0
    if flags & MCL_FUTURE:
        mm.def_flags |= _LOCKED | on_fault
        if not flags & MCL_CURRENT:
            return
    add = _LOCKED | on_fault if flags & MCL_CURRENT else 0
    at = mm.areas.first
    while at is not None:
        made = _lock_fixup(mm, at, at.start, at.end, at.flags & ~_LOCKED_MASK | add)
        at = made.next if isinstance(made, Area) else at.next


# --- mseal ----------------------------------------------------------------------------------------


def mseal(mm: Mm, op: Mseal) -> int:
    """mseal(2): all of the range must be mapped; nothing is sealed where it is not."""
    start, length, flags = op
    if not mm.policy["mseal"]:
        return -ENOSYS
    rounded = mm.align(length)
    if flags or start & mm.mask or (length and not rounded) or start + rounded >= 1 << 64:
        return -EINVAL
    end = start + rounded
    if end == start:
        return 0
    mm.seals_first = not mm.policy["mseal_each_vma"]
    return _contiguous(mm, start, end) or _walk(mm, start, end, lambda old: old | _SEALED)


def _contiguous(mm: Mm, start: int, end: int) -> int:
    at = mm.areas.find(start)
    while at is not None and at.start <= start:
        if at.end >= end:
            return 0
        start, at = at.end, at.next
    return -ENOMEM


def _walk(mm: Mm, start: int, end: int, change: Callable[[int], int]) -> int:
    at = mm.areas.crossing(start, end)
    while at is not None and at.start < end:
        flags = change(at.flags)
        if flags != at.flags:
            made = mm.change(at, max(start, at.start), min(end, at.end), flags)
            if isinstance(made, int):
                return made
            at = made
        at = at.next
    return 0
