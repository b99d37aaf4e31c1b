"""kernel.ksm: same-page merging's flag. In: Mm, a mapping to be. Out: whether it carries VM_MERGEABLE, and since when.

prctl(PR_SET_MEMORY_MERGE) marks every mapping that may be marked, now and in future (mm/ksm.c). Up to 6.16 a new
mapping got its flag after it had looked for neighbours to merge with, which all had it: so none ever merged. From 6.17
it has the flag before, wherever no driver can still change its mind (can_set_ksm_flags_early, mm/vma.c).
"""

from elfolio.kernel.mappable import Mappable
from elfolio.kernel.merging import VM_SPECIAL
from elfolio.kernel.mm import Mm
from elfolio.kernel.vmflags import VmFlags

__all__ = ["compatible", "disable", "early", "enable", "marked", "mergeable_bytes"]

_MERGEABLE = int(VmFlags.MERGEABLE)
_DROPPABLE = int(VmFlags.DROPPABLE)
_NEVER = int(VmFlags.SHARED | VmFlags.MAYSHARE | VmFlags.HUGETLB) | VM_SPECIAL


def compatible(mm: Mm, flags: int, file: Mappable | None) -> bool:
    """ksm_compatible: whether a mapping with these flags, of this file, may carry the flag at all."""
    if flags & _NEVER or (flags & _DROPPABLE and mm.policy["ksm_excludes_droppable"]):
        return False
    return file is None or not file.dax


def marked(mm: Mm, flags: int, file: Mappable | None) -> int:
    """ksm_vma_flags: the flags that a new mapping of this process gets."""
    return flags | _MERGEABLE if mm.merge_any and compatible(mm, flags, file) else flags


def early(mm: Mm, file: Mappable | None) -> bool:
    """Whether a new mapping of this file has its flag before it looks for neighbours."""
    known = mm.early.get(file)
    if known is None:
        known = mm.early[file] = _early(mm, file)
    return known


def _early(mm: Mm, file: Mappable | None) -> bool:
    rule = mm.policy["ksm_early_flag"]
    if rule == "late":
        return False
    if file is None or file.shmem:
        return True
    # A file without mmap must have mmap_prepare, else it could not be mapped (can_mmap_file, include/linux/fs.h): so
    # asking for the one or for the absence of the other differs for no file that exists.
    return file.prepares(mm.policy) if rule == "mmap_prepare" else not file.has_mmap(mm.policy)


def enable(mm: Mm) -> None:
    """ksm_enable_merge_any: marks in place, and merges nothing that becomes alike by it."""
    if mm.merge_any:
        return
    mm.merge_any = True
    for area in mm.areas:
        if compatible(mm, area.flags, area.file):
            area.flags |= _MERGEABLE


def disable(mm: Mm) -> None:
    """ksm_disable_merge_any: takes the flag from every mapping, those that madvise marked included."""
    if not mm.merge_any:
        return
    mm.merge_any = False
    for area in mm.areas:
        area.flags &= ~_MERGEABLE


def mergeable_bytes(mm: Mm) -> int:
    """Of all mappings with the flag: the most that same-page merging could look at."""
    return sum(area.end - area.start for area in mm.areas if area.flags & _MERGEABLE)
