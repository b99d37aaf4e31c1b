"""kernel.brk: the heap, and zeroes for execve. In: Mm, addresses in bytes. Out: the break; 0 or -errno.

The brk system call and vm_brk_flags (mm/mmap.c), which have do_brk_flags in common (mm/vma.c; mm/mmap.c up to 6.10).
"""

from errno import EAGAIN, ENOMEM

from elfolio.kernel.abi import MAP_FIXED
from elfolio.kernel.areas import Area
from elfolio.kernel.calls import Brk
from elfolio.kernel.faults import beyond, populate
from elfolio.kernel.ksm import early, marked
from elfolio.kernel.mapping_calls import enough_memory, may_lock
from elfolio.kernel.merging import Given
from elfolio.kernel.mm import Mm
from elfolio.kernel.placement import guarded_start, place
from elfolio.kernel.vmflags import VmFlags

__all__ = ["brk", "vm_brk"]

_EXEC, _LOCKED = int(VmFlags.EXEC), int(VmFlags.LOCKED)
_DATA = int(VmFlags.READ | VmFlags.WRITE | VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC | VmFlags.ACCOUNT)
"""VM_DATA_DEFAULT_FLAGS without what the personality adds, and VM_ACCOUNT."""


def brk(mm: Mm, op: Brk) -> int:
    """brk(2): the break, which is the old one where the new cannot be had."""
    address = op.address
    if address < mm.start_brk:
        return mm.brk
    new, old = mm.align(address), mm.align(mm.brk)
    if new == old:
        mm.brk = address
        return address
    if address <= mm.brk:
        area = mm.areas.find(new)
        if area is None or area.start >= old or mm.unmap(new, old):
            return mm.brk
        mm.brk = address
        return address
    if _grows(mm, old, new):
        mm.brk = address
    return mm.brk


def _grows(mm: Mm, old: int, new: int) -> bool:
    size = new - old
    if size < 0 or not may_lock(mm, mm.def_flags, size) or new > mm.host.task_size:
        return False
    after = mm.areas.find(old)
    if after is not None and new + mm.page > guarded_start(mm, after):
        return False
    before = after.prev if after is not None else mm.areas.last()
    if mm.rules.brk_below_only and before is not None and before.end <= mm.start_brk:
        before = None  # vma_prev_limit: what lies below the heap is none of its
    if _expand(mm, old, new, before, after, 0):
        return False
    if mm.def_flags & _LOCKED:
        populate(mm, old, new)
    return True


def vm_brk(mm: Mm, start: int, length: int, *, executable: bool = False) -> int:
    """vm_brk_flags: zeroed, writable memory at a page's address, in place of what is there. 0 or -errno."""
    end = start + mm.align(length)
    if end == start:
        return 0
    at = place(mm, start, end - start, MAP_FIXED, None, 0)
    if at < 0:
        return at
    if not may_lock(mm, mm.def_flags, end - start):
        return -EAGAIN
    error = mm.unmap(start, end)
    if error:
        return error
    after = mm.areas.find(start)
    before = after.prev if after is not None else mm.areas.last()
    error = _expand(mm, start, end, before, after, _EXEC if executable else 0)
    if not error and mm.def_flags & _LOCKED:
        populate(mm, start, end)
    return error


def _expand(mm: Mm, start: int, end: int, before: Area | None, after: Area | None, more: int) -> int:
    """do_brk_flags, where nothing is: it extends what lies below; what lies above only up to 6.0."""
    size = end - start
    vm = _DATA | more | mm.def_flags | (_EXEC if mm.read_implies_exec else 0)
    if mm.merge_any and early(mm, None):
        vm = marked(mm, vm, None)
    if beyond(mm, size) or mm.count > mm.limits.max_map_count or not enough_memory(mm, size):
        return -ENOMEM
    area = None
    below_only = mm.rules.brk_below_only
    if (before is not None and before.end == start) or not below_only:
        area = mm.merge_new(Given(start, end, vm, start, None, start), before, after, below_only=below_only)
    if area is None:
        area = Area(start, end, vm, start, None, start)
        mm.areas.insert(area)
    if mm.merge_any and not early(mm, None):
        area.flags = marked(mm, area.flags, None)
    mm.total += size
    if vm & _LOCKED:
        mm.locked += size
    return 0
