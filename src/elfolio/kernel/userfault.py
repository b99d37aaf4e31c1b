"""kernel.userfault: userfaultfd's registration of ranges. In: Mm, an operation. Out: 0 or -errno.

userfaultfd_register, userfaultfd_unregister (fs/userfaultfd.c, later mm/userfaultfd.c). No features are asked for: then
fork, mremap and unmapping drop the registration instead of telling about it.
"""

from errno import EBUSY, EINVAL, EPERM

from elfolio.kernel.areas import Area
from elfolio.kernel.calls import UffdClose, UffdRegister, UffdUnregister
from elfolio.kernel.merging import VM_SPECIAL, Given
from elfolio.kernel.mm import Mm
from elfolio.kernel.vmflags import VmFlags

__all__ = ["forget", "uffd_close", "uffd_register", "uffd_unregister"]

_MISSING, _WP, _MINOR = int(VmFlags.UFFD_MISSING), int(VmFlags.UFFD_WP), 1 << 41
_ALL = _MISSING | _WP | _MINOR
_MODES = {1: _MISSING, 2: _WP, 4: _MINOR}
"""UFFDIO_REGISTER_MODE_* -> VM_UFFD_*; the last stands where x86-64 has it."""
_HUGETLB, _MAYWRITE, _DROPPABLE = int(VmFlags.HUGETLB), int(VmFlags.MAYWRITE), int(VmFlags.DROPPABLE)


def uffd_register(mm: Mm, op: UffdRegister) -> int:
    """ioctl(UFFDIO_REGISTER)."""
    uffd, start, length, mode = op
    if not mode or mode & ~7:
        return -EINVAL
    adds = sum(flag for bit, flag in _MODES.items() if mode & bit)
    if not _valid(mm, start, length):
        return -EINVAL
    end = start + length
    area = mm.areas.crossing(start, end)
    if area is None:
        return -EINVAL
    at: Area | None = area
    while at is not None and at.start < end:
        error = _refused(mm, at, adds, uffd)
        if error:
            return error
        at = at.next
    at = area
    while at is not None and at.start < end:
        if at.uffd != uffd or at.flags & adds != adds:
            made = _change(mm, at, max(start, at.start), min(end, at.end), at.flags & ~_ALL | adds, uffd)
            if isinstance(made, int):
                return made
            at = made
        at = at.next
    return 0


def uffd_unregister(mm: Mm, op: UffdUnregister) -> int:
    """ioctl(UFFDIO_UNREGISTER)."""
    uffd, start, length = op
    if not _valid(mm, start, length):
        return -EINVAL
    end = start + length
    at = area = mm.areas.crossing(start, end)
    if area is None:
        return -EINVAL
    while at is not None and at.start < end:
        others = at.uffd is not None and at.uffd != uffd and mm.policy["uffd_unregister_own"]
        if others or not _watchable(mm, at, at.flags):
            return -EINVAL
        at = at.next
    at = area
    while at is not None and at.start < end:
        if at.uffd is not None:
            made = _change(mm, at, max(start, at.start), min(end, at.end), at.flags & ~_ALL, None)
            if isinstance(made, int):
                return made
            at = made
        at = at.next
    return 0


def uffd_close(mm: Mm, op: UffdClose) -> int:
    """userfaultfd_release: all that it watches is released, and merges where it can."""
    at = mm.areas.first
    while at is not None:
        if at.uffd == op.uffd:
            made = _change(mm, at, at.start, at.end, at.flags & ~_ALL, None)
            at = made if isinstance(made, Area) else at
        at = at.next
    return 0


def forget(area: Area) -> None:
    """userfaultfd_reset_ctx."""
    if area.uffd is not None:
        area.uffd = None
        area.flags &= ~_ALL


def _valid(mm: Mm, start: int, length: int) -> bool:
    """validate_range."""
    task_size = mm.host.task_size
    if (start | length) & mm.mask or not length or start < mm.host.mmap_min_addr:
        return False
    return start < task_size and length <= task_size - start


def _watchable(mm: Mm, area: Area, flags: int) -> bool:
    """vma_can_userfault."""
    if (area.flags & _DROPPABLE and mm.policy["uffd_refuses_droppable"]) or (
        not area.flags & _HUGETLB and area.flags & VM_SPECIAL
    ):
        return False
    shmem = area.file is not None and area.file.shmem
    if flags & _MINOR and not shmem and not area.flags & _HUGETLB:
        return False
    return area.anonymous or shmem or bool(area.flags & _HUGETLB)


def _refused(mm: Mm, area: Area, adds: int, uffd: int) -> int:
    if not _watchable(mm, area, adds):
        return -EINVAL
    if not area.flags & _MAYWRITE:
        return -EPERM
    return -EBUSY if area.uffd is not None and area.uffd != uffd else 0


def _change(mm: Mm, area: Area, start: int, end: int, flags: int, uffd: int | None) -> Area | int:
    """vma_modify_flags_uffd."""
    by = start - area.start
    new = Given(
        start, end, flags, area.offset + by, area.file, area.anon_offset + by, area.anon_vma, uffd, area.anon_name,
        area.closes, area,
    )  # fmt: skip
    made = mm.modify(area, start, end, new)
    if isinstance(made, Area):
        made.uffd = uffd
        made.flags = flags | made.flags & mm.rules.sticky
    return made
