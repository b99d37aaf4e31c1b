"""kernel.mapping_calls: mmap and munmap. In: Mm, an operation. Out: what the call returns, or -errno.

do_mmap (mm/mmap.c), __mmap_region (mm/vma.c; mm/mmap.c up to 6.10).
"""

from errno import EACCES, EAGAIN, EBADF, EEXIST, EINVAL, ENODEV, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM

from elfolio.kernel.abi import (
    MAP_ANONYMOUS,
    MAP_DROPPABLE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    MAP_SYNC,
    MAP_TYPE,
)
from elfolio.kernel.areas import Area
from elfolio.kernel.calls import Mmap, Munmap
from elfolio.kernel.faults import beyond, populate
from elfolio.kernel.ksm import early, marked
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.merging import VM_SPECIAL, Given
from elfolio.kernel.mm import Mm
from elfolio.kernel.placement import place
from elfolio.kernel.space import OpenFile
from elfolio.kernel.vmflags import VmFlags

__all__ = ["deny_write_exec", "enough_memory", "may_lock", "mmap", "munmap", "region"]

_READ, _WRITE, _EXEC = int(VmFlags.READ), int(VmFlags.WRITE), int(VmFlags.EXEC)
_SHARED, _MAYSHARE = int(VmFlags.SHARED), int(VmFlags.MAYSHARE)
_MAYWRITE, _MAYEXEC = int(VmFlags.MAYWRITE), int(VmFlags.MAYEXEC)
_MAY = int(VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC)
_LOCKED, _LOCKED_MASK = int(VmFlags.LOCKED), int(VmFlags.LOCKED | VmFlags.LOCKONFAULT)
_ACCOUNT, _NORESERVE = int(VmFlags.ACCOUNT), int(VmFlags.NORESERVE)
_GROWSDOWN, _NOHUGEPAGE = int(VmFlags.GROWSDOWN), int(VmFlags.NOHUGEPAGE)
_HUGETLB = int(VmFlags.HUGETLB)
_DROPPED = int(VmFlags.DROPPABLE | VmFlags.NORESERVE | VmFlags.WIPEONFORK | VmFlags.DONTDUMP)
_LEGACY = 0x1FFFFF & ~MAP_SYNC & ~MAP_FIXED_NOREPLACE | MAP_HUGETLB | 0x3F << 26
"""LEGACY_MAP_MASK (include/linux/mman.h): what MAP_SHARED_VALIDATE knows without MAP_SYNC."""
_END_OF_FILES = 1 << 63
"""One above MAX_LFS_FILESIZE (include/linux/fs.h): no mapping of a file reaches it (file_mmap_ok)."""


def may_lock(mm: Mm, flags: int, length: int) -> bool:
    """mlock_future_ok: whether RLIMIT_MEMLOCK has room."""
    limit = mm.limits.memlock
    return (
        not flags & _LOCKED or mm.limits.ipc_lock or limit is None or mm.locked + length <= limit // mm.page * mm.page
    )


def enough_memory(mm: Mm, length: int) -> bool:
    """__vm_enough_memory with vm.overcommit_memory 0: no single request above all memory."""
    return mm.host.memory is None or mm.limits.overcommit == 1 or length <= mm.host.memory


def deny_write_exec(mm: Mm, old: int, new: int) -> bool:
    """map_deny_write_exec (MDWE)."""
    return bool(mm.mdwe and new & _EXEC and (new & _WRITE or not old & _EXEC))


def mmap(mm: Mm, op: Mmap) -> int:
    """mmap(2)."""
    address, length, prot, flags, file, offset = op
    if offset & mm.mask:
        return -EINVAL
    if flags & MAP_ANONYMOUS:
        file = None
        if flags & MAP_HUGETLB:
            return _huge_pages(mm, op)
    elif file is None:
        return -EBADF
    elif flags & MAP_HUGETLB and file.kind != "hugetlb":
        return -EINVAL
    if not length:
        return -EINVAL
    if prot & _READ and mm.read_implies_exec and not (file is not None and file.noexec):
        prot |= _EXEC
    if flags & MAP_FIXED_NOREPLACE:
        flags |= MAP_FIXED
    if not flags & MAP_FIXED:
        address &= ~mm.mask
        if 0 < address < mm.host.mmap_min_addr:
            address = mm.lowest
    length = mm.align(length)
    if not length or mm.areas.count > mm.limits.max_map_count:
        return -ENOMEM
    if file is not None:
        file = mm.file(file)
    address = place(mm, address, length, flags, file, offset)
    if address < 0:
        return address
    if flags & MAP_FIXED_NOREPLACE and mm.areas.crossing(address, address + length) is not None:
        return -EEXIST
    vm = prot & 7 | mm.def_flags | _MAY
    if flags & (MAP_LOCKED | MAP_GROWSDOWN | MAP_STACK):
        vm |= _from_map(mm, flags)
    if vm & _LOCKED:
        if flags & MAP_LOCKED and not mm.limits.ipc_lock and mm.limits.memlock == 0:
            return -EPERM
        if not may_lock(mm, vm, length):
            return -EAGAIN
    if file is None:
        vm = _anonymous_kind(mm, flags, vm)
        offset = address if flags & MAP_TYPE != MAP_SHARED else 0
    else:
        if offset + length >= _END_OF_FILES and file.kind != "device":
            return -EOVERFLOW
        vm = _file_kind(file, flags, prot, vm)
    if vm < 0:
        return vm
    if flags & MAP_NORESERVE and mm.limits.overcommit != 2:
        vm |= _NORESERVE
    error = region(mm, address, address + length, vm, file, offset)
    if error:
        return error
    if vm & _LOCKED or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE:
        populate(mm, address, address + length)
    return address


def _huge_pages(mm: Mm, op: Mmap) -> int:
    """MAP_ANONYMOUS with MAP_HUGETLB on a host that has no reserved huge pages. It fails once all else is done, so
    that what was in the way of a fixed address is gone."""
    size = mm.policy.pmd_size
    fixed = op.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)
    if not op.length or (fixed and op.address % size) or op.flags & MAP_TYPE not in (MAP_SHARED, MAP_PRIVATE):
        return -EINVAL
    length = -(-op.length // size) * size & (1 << 64) - 1
    if not length or length > mm.host.task_size or mm.areas.count > mm.limits.max_map_count:
        return -ENOMEM
    denied = -EACCES if deny_write_exec(mm, op.prot, op.prot) else -ENOMEM
    if not fixed:
        return denied
    at = place(mm, op.address, length, MAP_FIXED, None, 0)
    if at < 0:
        return at
    if op.flags & MAP_FIXED_NOREPLACE and mm.areas.crossing(at, at + length) is not None:
        return -EEXIST
    return denied if denied == -EACCES else mm.unmap(at, at + length) or -ENOMEM


def _from_map(mm: Mm, flags: int) -> int:
    """calc_vm_flag_bits."""
    vm = _LOCKED if flags & MAP_LOCKED else 0
    if flags & MAP_GROWSDOWN:
        vm |= _GROWSDOWN
    if flags & MAP_STACK and mm.policy["map_stack_no_huge"]:
        vm |= _NOHUGEPAGE
    return vm


def _anonymous_kind(mm: Mm, flags: int, vm: int) -> int:
    kind = flags & MAP_TYPE
    if kind == MAP_PRIVATE:
        return vm
    if kind == MAP_SHARED:
        return -EINVAL if vm & _GROWSDOWN else vm | _SHARED | _MAYSHARE
    if kind == MAP_DROPPABLE and mm.policy["ksm_excludes_droppable"]:
        return -EINVAL if flags & (MAP_LOCKED | MAP_HUGETLB) or vm & _GROWSDOWN else vm | _DROPPED
    return -EINVAL


def _file_kind(file: Mappable, flags: int, prot: int, vm: int) -> int:
    kind = flags & MAP_TYPE
    if kind in (MAP_SHARED, MAP_SHARED_VALIDATE):
        if kind == MAP_SHARED_VALIDATE and flags & ~_LEGACY:
            return -EOPNOTSUPP
        if prot & _WRITE and not file.writable:
            return -EACCES
        vm |= _SHARED | _MAYSHARE
        if not file.writable:
            vm &= ~(_MAYWRITE | _SHARED)
    elif kind != MAP_PRIVATE:
        return -EINVAL
    if not file.readable:
        return -EACCES
    if file.noexec:
        if vm & _EXEC:
            return -EPERM
        vm &= ~_MAYEXEC
    if file.kind == "none":
        return -ENODEV
    return -EINVAL if vm & _GROWSDOWN else vm


def region(mm: Mm, start: int, end: int, vm: int, file: Mappable | None, offset: int) -> int:
    """mmap_region: what is there goes, and a neighbour grows, or a new area is made. 0 or -errno."""
    if mm.mdwe and deny_write_exec(mm, vm, vm):
        return -EACCES
    size = end - start
    accounted = vm & _WRITE and not vm & (_NORESERVE | _SHARED)
    after = mm.areas.find(start)
    if after is not None and after.start < end:
        gone, freed = _overlapped(after, start, end)
        if beyond(mm, size - gone) or (accounted and not enough_memory(mm, size - freed)):
            return -ENOMEM
        error = mm.unmap(start, end)
        if error:
            return error
        after = mm.areas.find(start)
    elif beyond(mm, size) or (accounted and not enough_memory(mm, size)):
        return -ENOMEM
    if accounted:
        vm |= _ACCOUNT
    late = False
    if mm.merge_any:
        late = not early(mm, file)
        if not late:
            vm = marked(mm, vm, file)
    before = after.prev if after is not None else mm.areas.last()
    mm.total += size
    if (before is not None and before.end == start) or (after is not None and after.start == end):
        closes = file.closes if file is not None else False
        new = Given(start, end, vm, offset, file, start, closes=closes)
        area = mm.merge_new(new, before, after, mapped=True)
        if area is not None:
            if vm & _LOCKED:
                mm.locked += size
            return 0
    _new_area(mm, start, end, vm, file, offset, late)
    return 0


def _overlapped(area: Area | None, start: int, end: int) -> tuple[int, int]:
    """Bytes that a new mapping will replace, and of them those with VM_ACCOUNT."""
    gone = freed = 0
    while area is not None and area.start < end:
        size = min(end, area.end) - max(start, area.start)
        gone += size
        freed += size if area.flags & _ACCOUNT else 0
        area = area.next
    return gone, freed


def _new_area(mm: Mm, start: int, end: int, vm: int, file: Mappable | None, offset: int, late: bool) -> None:
    if file is None and vm & _SHARED:
        file = _shared_memory(mm, end - start)
    elif file is not None:
        vm |= file.adds
    if late:
        vm = marked(mm, vm, file)
    area = Area(start, end, vm, offset, file, start)
    if file is not None:
        area.closes = file.closes
    if vm & _LOCKED:
        if vm & (VM_SPECIAL | _HUGETLB | _DROPPED & ~_NORESERVE) or (file is not None and file.dax):
            area.flags &= ~_LOCKED_MASK
        else:
            mm.locked += end - start
    mm.areas.insert(area)


def _shared_memory(mm: Mm, size: int) -> Mappable:
    """shmem_zero_setup: a file of its own for each mapping, which therefore never merges."""
    mm.shared_files += 1
    opened = OpenFile("/dev/zero (deleted)", inode=mm.shared_files, minor=1, opening=-mm.shared_files)
    return mm.file(Mappable(opened, size, "shmem", "tmpfs"))


def munmap(mm: Mm, op: Munmap) -> int:
    """munmap(2)."""
    start, length = op
    task_size = mm.host.task_size
    if start & mm.mask or start > task_size or length > task_size - start:
        return -EINVAL
    length = mm.align(length)
    return mm.unmap(start, start + length) if length else -EINVAL
