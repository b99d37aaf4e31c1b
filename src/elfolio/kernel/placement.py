"""kernel.placement: where a mapping goes. In: Mm, hint, length, file. Out: an address, or -errno.

__get_unmapped_area (mm/mmap.c), thp_get_unmapped_area (mm/huge_memory.c), and the architecture's part, of which
x86-64 (arch/x86/kernel/sys_x86_64.c) and the generic one differ in how a hint is taken.
"""

from errno import EINVAL, ENOMEM, EPERM

from elfolio.kernel.abi import MAP_32BIT, MAP_FIXED, MAP_SHARED
from elfolio.kernel.areas import Area
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm
from elfolio.kernel.policy import Policy

__all__ = ["aligns", "guarded_start", "place"]

_GROWSDOWN = 0x100
_ERRORS = (1 << 64) - 4095
"""IS_ERR_VALUE (include/linux/err.h)."""
_LOW, _LOW_END = 0x40000000, 0x80000000
"""MAP_32BIT on x86-64: the second gigabyte, from its start upwards."""


def guarded_start(mm: Mm, area: Area) -> int:
    """vm_start_gap: below it others may lie; a stack keeps stack_guard_gap free."""
    return max(0, area.start - mm.host.stack_guard) if area.flags & _GROWSDOWN else area.start


def place(mm: Mm, hint: int, length: int, flags: int, file: Mappable | None, offset: int) -> int:
    """For a length that is a multiple of the page size. `flags` are MAP_*; `offset` in bytes. Without MAP_FIXED, a
    hint above 0 is taken where it is free."""
    host = mm.host
    if length > host.task_size:
        return -ENOMEM
    if mm.policy.machine != "x86_64" and length > host.end(hint) - host.mmap_min_addr:
        return -ENOMEM  # the generic search asks this before it looks at MAP_FIXED
    if flags & MAP_FIXED:
        at = hint
        if at >= _ERRORS:
            return at - (1 << 64)  # the highest 4095 addresses are what the kernel takes for an error, and returns
    else:
        at = _aligned(mm, hint, length, flags, file, offset)
        if at < 0:
            return at
    if at > host.task_size - length:
        return -ENOMEM
    if at & mm.mask:
        return -EINVAL
    if at < host.mmap_min_addr and not host.privileged:
        least = mm.limits.dac_mmap_min_addr
        if at < (host.mmap_min_addr if least is None else least):
            return -EPERM
    return at


def aligns(
    policy: Policy, bits: int, length: int, file: Mappable | None, *, shared: bool = False, hint: int = 0
) -> bool:
    """Whether a program of so many bits gets such a mapping where file offset and address agree modulo PMD_SIZE, if
    there is room."""
    size = policy.pmd_size
    if length < size or (bits == 32 and not policy["thp_placement_32bit"]):
        return False
    if file is not None and file.kind != "shmem" and file.places_for_huge_pages(policy):
        return True
    own = file is not None and (file.kind != "regular" or file.places_itself or not policy["file_thp_align"])
    if own or shared:
        return False
    rule = policy["anon_thp_align"]
    return rule == "any" or (rule == "multiple" and not hint and not length % size)


def _aligned(mm: Mm, hint: int, length: int, flags: int, file: Mappable | None, offset: int) -> int:
    policy = mm.policy
    shared = bool(flags & MAP_SHARED)
    if length < policy.pmd_size or not aligns(policy, mm.host.bits, length, file, shared=shared, hint=hint):
        return _search(mm, hint, length, flags)
    return _for_huge_pages(mm, hint, length, flags, offset if file is not None else 0)


def _for_huge_pages(mm: Mm, hint: int, length: int, flags: int, offset: int) -> int:
    """Room for one huge page more is looked for, and the address moved up in it, so that file offset and address agree
    modulo its size."""
    size = mm.policy.pmd_size
    first = -(-offset // size) * size
    if offset + length <= first or offset + length - first < size:
        return _search(mm, hint, length, flags)
    found = _search(mm, hint, length + size, flags)
    if found < 0:
        return _search(mm, hint, length, flags)
    if found == hint:
        return found
    further = (offset - found) % size
    if not further and mm.policy["thp_placement_next_huge_page"]:
        return found + size
    return found + further


def _search(mm: Mm, hint: int, length: int, flags: int) -> int:
    host = mm.host
    if length > host.task_size:
        return -ENOMEM
    if flags & MAP_32BIT and mm.policy.machine == "x86_64" and host.bits == 64:
        return _upwards(mm, length, _LOW, _LOW_END)
    if hint and _hint_is_valid(mm, hint, length):
        after = mm.areas.find(hint)
        if after is None or hint + length <= guarded_start(mm, after):
            return hint
    end = mm.areas.highest_gap(length, mm.mmap_base + host.above(hint))
    if end is not None:
        return end - length
    # Nothing below mmap_base: from TASK_UNMAPPED_BASE upwards, as it was before there was an mmap_base.
    return _upwards(mm, length, host.bottom, host.end(hint))


def _hint_is_valid(mm: Mm, hint: int, length: int) -> bool:
    # x86-64's arch_get_unmapped_area_topdown asks no more; the generic one wants mmap_min_addr too, which do_mmap has
    # already seen to. A hint below the window does not lead beyond it.
    return hint <= mm.host.end(hint) - length


def _upwards(mm: Mm, length: int, low: int, high: int) -> int:
    found = mm.areas.lowest_gap(length, max(low, mm.lowest), high)
    return -ENOMEM if found is None else found
