"""kernel.faults: what touching memory does to mappings. In: Mm, a range. Out: 0 or -errno; anon_vmas appear.

Merging depends on it: the first write to private memory gives its VMA an anon_vma (anon_vma_prepare, mm/rmap.c), a
neighbour's where the two could be one but for their access rights (find_mergeable_anon_vma, mm/vma.c).
"""

from errno import EFAULT, EINVAL, ENOMEM

from elfolio.kernel.anon import AnonVma
from elfolio.kernel.areas import Area
from elfolio.kernel.calls import Touch
from elfolio.kernel.mm import Mm
from elfolio.kernel.vmflags import VmFlags

__all__ = ["ACCESS", "beyond", "fault_range", "populate", "prepare", "touch"]

_READ, _WRITE = int(VmFlags.READ), int(VmFlags.WRITE)
ACCESS = int(VmFlags.READ | VmFlags.WRITE | VmFlags.EXEC)
"""VM_ACCESS_FLAGS."""
_SHARED = int(VmFlags.SHARED)
_GROWSDOWN = int(VmFlags.GROWSDOWN)
_NO_PAGES = int(VmFlags.IO | VmFlags.PFNMAP)
_LOCKONFAULT = int(VmFlags.LOCKONFAULT)
_LOCKED = int(VmFlags.LOCKED)
_HUGE, _NO_HUGE = int(VmFlags.HUGEPAGE), int(VmFlags.NOHUGEPAGE)


def prepare(mm: Mm, area: Area) -> None:
    """anon_vma_prepare."""
    if area.anon_vma is not None:
        return
    found = _neighbours(mm, area)
    area.anon_vma = found if found is not None else mm.new_anon_vma()
    area.chain = (area.anon_vma,)


def _neighbours(mm: Mm, area: Area) -> AnonVma | None:
    after, before = area.next, area.prev
    if after is not None and len(after.chain) == 1 and _compatible(mm, area, after):
        return after.anon_vma
    if before is not None and len(before.chain) == 1 and _compatible(mm, before, area):
        return before.anon_vma
    return None


def _compatible(mm: Mm, a: Area, b: Area) -> bool:
    """anon_vma_compatible: one mapping, if their access rights were the same."""
    return (
        a.end == b.start
        and a.file is b.file
        and not (a.flags ^ b.flags) & mm.rules.ignored & ~ACCESS
        and b.offset == a.offset + b.start - a.start
    )


def touch(mm: Mm, op: Touch) -> int:
    """A program's own access: -EFAULT for the signal that it gets, SIGSEGV or SIGBUS."""
    start, end = op.address & ~mm.mask, op.address + op.length + mm.mask & ~mm.mask
    while start < end:
        area = mm.areas.find(start)
        if area is None or (area.start > start and not _grow(mm, area, start)):
            return -EFAULT
        if not area.flags & (_WRITE if op.write else _readable(mm)):
            return -EFAULT
        upto = min(end, area.end)
        error = fault_range(mm, area, start, upto, op.write)
        if error:
            return error
        start = upto
    return 0


def _readable(mm: Mm) -> int:
    """Flags of which one lets a program read."""
    return _READ | _WRITE if mm.limits.exec_only else ACCESS


def fault_range(mm: Mm, area: Area, start: int, end: int, write: bool) -> int:
    """Pages of one area whose rights allow it; -EFAULT at the first behind the file's end, or with a guard marker."""
    stop = mm.guards.first(start, end) if mm.guards.ranges else end
    if stop == start:
        return -EFAULT
    private = not area.flags & _SHARED
    if area.file is not None:
        if private and write:
            prepare(mm, area)  # do_cow_fault does, before it asks the file for the page
        stop = min(stop, max(start, area.start + mm.align(area.file.size) - area.offset))
    if stop > start:
        if private and (write or _huge(mm, area, start, stop)):
            prepare(mm, area)
        for watcher in mm.watchers:
            watcher.touched(mm, area, start, stop, write)
    return 0 if stop == end else -EFAULT


def _huge(mm: Mm, area: Area, start: int, end: int) -> bool:
    """Whether reading makes an anon_vma too: do_huge_pmd_anonymous_page prepares one before it knows what it maps."""
    if not area.anonymous or area.flags & _NO_HUGE or mm.thp_disable:
        return False
    if mm.policy.thp != "always" and not (mm.policy.thp == "madvise" and area.flags & _HUGE):
        return False
    size = mm.policy.pmd_size
    low = max(start // size * size, -(-area.start // size) * size)
    return low + size <= area.end and low < end


def _grow(mm: Mm, area: Area, address: int) -> bool:
    """expand_downwards: a stack grows, up to what it must leave free and what RLIMIT_STACK allows."""
    if not area.flags & _GROWSDOWN or address < mm.lowest:
        return False
    before = area.prev
    if (
        before is not None
        and not before.flags & _GROWSDOWN
        and before.flags & ACCESS
        and address - before.end < mm.host.stack_guard
    ):
        return False
    prepare(mm, area)
    by = area.start - address
    if area.end - address > mm.host.stack_limit or by > area.offset or beyond(mm, by):
        return False
    area.offset -= by
    area.anon_offset -= by
    mm.areas.move_start(area, address)
    mm.total += by
    if area.flags & _LOCKED:
        mm.locked += by
    return True


def beyond(mm: Mm, by: int) -> bool:
    """may_expand_vm: whether so many more bytes exceed RLIMIT_AS."""
    limit = mm.limits.address_space
    return limit is not None and mm.total + by > limit


def populate(mm: Mm, start: int, end: int, *, advice: bool = False, write: bool = False) -> int:
    """__mm_populate (mlock, MAP_POPULATE), or with `advice` what MADV_POPULATE_ does: 0 or -errno, as the call that
    asked for it reports it; what came before the failure is there."""
    while start < end:
        area = mm.areas.find(start)
        if area is None or area.start >= end or (area.start > start and advice):
            return -ENOMEM if advice or area is None or area.start >= end else 0
        start = max(start, area.start)
        upto = min(end, area.end)
        error = _fault_in(mm, area, start, upto, write) if advice else _populate(mm, area, start, upto)
        if error:
            return error
        start = upto
    return 0


def _fault_in(mm: Mm, area: Area, start: int, end: int, write: bool) -> int:
    if area.flags & _NO_PAGES or not area.flags & (_WRITE if write else _READ):
        return -EINVAL
    return fault_range(mm, area, start, end, write)


def _populate(mm: Mm, area: Area, start: int, end: int) -> int:
    if area.flags & (_NO_PAGES | _LOCKONFAULT):
        return 0
    if not area.flags & _readable(mm):
        return -ENOMEM  # EFAULT, which mlock reports as this
    write = area.flags & (_WRITE | _SHARED) == _WRITE
    return -ENOMEM if fault_range(mm, area, start, end, write) else 0
