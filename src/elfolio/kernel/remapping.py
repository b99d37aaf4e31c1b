"""kernel.remapping: mremap. In: Mm, Mremap. Out: the new address, or -errno; areas move, grow and shrink.

mm/mremap.c. Two generations differ: up to 6.16 the destination is unmapped before the source is looked at, and one call
moves one mapping; from 6.17 the source is looked at first, and a move to a fixed address of the same size takes all
mappings of the range and the holes between them, one after the other, and stops at the first that cannot be moved.
"""

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM

from elfolio.kernel.abi import MAP_FIXED, MAP_SHARED, MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from elfolio.kernel.areas import Area
from elfolio.kernel.calls import Mremap
from elfolio.kernel.faults import beyond, populate
from elfolio.kernel.mapping_calls import enough_memory, may_lock
from elfolio.kernel.merging import Given
from elfolio.kernel.mm import Mm
from elfolio.kernel.placement import place
from elfolio.kernel.userfault import forget
from elfolio.kernel.vmflags import VmFlags

__all__ = ["copy_area", "mremap"]

_SEALED = int(VmFlags.SEALED)
_LOCKED, _LOCKED_MASK = int(VmFlags.LOCKED), int(VmFlags.LOCKED | VmFlags.LOCKONFAULT)
_ANY_SHARED, _MAYSHARE = int(VmFlags.SHARED | VmFlags.MAYSHARE), int(VmFlags.MAYSHARE)
_STAYS = int(VmFlags.DONTEXPAND | VmFlags.PFNMAP)
_ACCOUNT = int(VmFlags.ACCOUNT)
_WORD = (1 << 64) - 1
_KNOWN = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP


def mremap(mm: Mm, op: Mremap) -> int:
    """mremap(2)."""
    address, old_length, new_length, flags, new_address = op
    if not mm.policy["mremap_check_before_unmap"]:
        return _mremap_before_6_17(mm, op)
    old, new = mm.align(old_length), mm.align(new_length)
    named = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)
    if flags & ~_KNOWN or address & mm.mask or not new or new > mm.host.task_size:
        return -EINVAL
    if named and not _new_address_is_right(mm, address, old, new, flags, new_address):
        return -EINVAL
    if mm.policy["mremap_map_count_rule"]:
        early = 4 + bool(flags & MREMAP_DONTUNMAP)
        if mm.count + early > mm.limits.max_map_count:
            return -ENOMEM
    elif named and mm.count + 2 >= mm.limits.max_map_count - 3:
        return -ENOMEM
    if flags & MREMAP_FIXED and old == new and mm.policy["mremap_multi_vma"]:
        return _move_all(mm, address, old, flags, new_address)
    area = _at(mm, address)
    if area is None:
        return -EFAULT
    return _checked(mm, area, address, old, new, flags, new_address)


def _new_address_is_right(mm: Mm, address: int, old: int, new: int, flags: int, new_address: int) -> bool:
    if new_address > mm.host.task_size - new or new_address & mm.mask or not flags & MREMAP_MAYMOVE:
        return False
    if flags & MREMAP_DONTUNMAP and old != new:
        return False
    # The kernel adds in 64 bits: an end that wraps round overlaps nothing.
    return not (address + old & _WORD > new_address and new_address + new > address)


def _at(mm: Mm, address: int) -> Area | None:
    """vma_lookup: the area that contains it."""
    area = mm.areas.find(address)
    return area if area is not None and area.start <= address else None


def _move_all(mm: Mm, start: int, length: int, flags: int, new_address: int) -> int:
    """remap_move."""
    end = start + length
    area = mm.areas.crossing(start, end)
    result = -EFAULT
    target, last_end = new_address, 0
    first = True
    while area is not None and area.start < end:
        if first and start < area.start:
            return -EFAULT
        address = max(area.start, start)
        size = min(end, area.end) - address
        hole = 0 if first else area.start - last_end
        last_end = area.end
        # Where a userfaultfd watches, or the file decides on addresses, it cannot be said before whether all will move.
        if (not first or area.end < end) and not _moves_with_others(mm, area):
            return -EFAULT
        moved = _checked(mm, area, address, size, size, flags, target + hole)
        if moved < 0:
            return moved
        if first:
            result = moved
        first = False
        target = moved + size
        # What a copy that touches its source merged into lies behind already.
        area = mm.areas.find(last_end) if last_end < end else None
    return result


def _moves_with_others(mm: Mm, area: Area) -> bool:
    """vma_multi_allowed."""
    if area.uffd is not None:
        return False
    return area.file is None or not area.file.places_itself


def _checked(mm: Mm, area: Area, address: int, old: int, new: int, flags: int, new_address: int) -> int:
    if area.flags & _SEALED:
        return -EPERM
    named = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)
    if named or new > old:
        error = _check_source(mm, area, address, old, new, flags)
        if error:
            return error
    if named:
        return _move_to(mm, address, old, new, flags, new_address)
    return _resize(mm, area, address, old, new, flags)


def _check_source(mm: Mm, area: Area, address: int, old: int, new: int, flags: int) -> int:
    """check_prep_vma; vma_to_resize up to 6.16."""
    if not old and not area.flags & _ANY_SHARED:
        return -EINVAL
    if flags & MREMAP_DONTUNMAP and (area.flags & _STAYS or not (mm.policy["dontunmap_shared"] or area.anonymous)):
        return -EINVAL
    old = min(old, new)
    if old > area.end - address:
        return -EFAULT
    if new == old:
        return 0
    # File offsets are counted in pages: they wrap round only above 2^64 pages.
    if (area.offset + address - area.start + new) // mm.page >= 1 << 64:
        return -EINVAL
    if area.flags & _STAYS:
        return -EFAULT
    if not may_lock(mm, area.flags, new - old):
        return -EAGAIN
    return -ENOMEM if beyond(mm, new - old) else 0


def _resize(mm: Mm, area: Area, address: int, old: int, new: int, flags: int) -> int:
    """mremap_at."""
    if new == old:
        return address
    if new < old:
        end = address + old
        # do_vmi_munmap: a range beyond the address space is wrong as a whole.
        if end > mm.host.task_size:
            return -EINVAL
        return mm.unmap(address + new, end) or address
    locked = area.flags & _LOCKED
    if area.end - address == old and _can_grow(mm, area, new - old):
        result = _grow(mm, area, address, new - old)
    elif not flags & MREMAP_MAYMOVE:
        return -ENOMEM
    else:
        result = _place_and_move(mm, area, address, old, new, flags, 0)
    if result >= 0 and locked:
        populate(mm, result + old, result + new)
    return result


def _can_grow(mm: Mm, area: Area, by: int) -> bool:
    """vma_expandable."""
    end = area.end + by
    if area.next is not None and area.next.start < end:
        return False
    return end <= mm.host.task_size


def _grow(mm: Mm, area: Area, address: int, by: int) -> int:
    """expand_vma_in_place: the new part is a range that merges with the area, and with the one behind."""
    if area.flags & _ACCOUNT and not enough_memory(mm, by):
        return -ENOMEM
    new = Given(
        area.end, area.end + by, area.flags, area.offset + area.end - area.start, area.file,
        area.anon_offset + area.end - area.start, area.anon_vma, area.uffd, area.anon_name, area.closes,
    )  # fmt: skip
    if mm.merge_new(new, area, area.next) is None:
        return -ENOMEM
    mm.total += by
    if area.flags & _LOCKED:
        mm.locked += by
    return address


def _move_to(mm: Mm, address: int, old: int, new: int, flags: int, new_address: int) -> int:
    """mremap_to."""
    if flags & MREMAP_FIXED:
        error = mm.unmap(new_address, new_address + new)
        if error:
            return error
    if old > new:
        if old - new > mm.host.task_size - address - new:
            return -EINVAL
        error = mm.unmap(address + new, address + old)
        if error:
            return error
        old = new
    area = _at(mm, address)
    if area is None:
        return -EFAULT
    if not mm.policy["mremap_check_before_unmap"]:
        error = _check_source(mm, area, address, old, new, flags)
        if error:
            return error
    if flags & MREMAP_DONTUNMAP and beyond(mm, old):
        return -ENOMEM
    result = _place_and_move(mm, area, address, old, new, flags, new_address)
    if result >= 0 and new > old and area.flags & _LOCKED:
        populate(mm, result + old, result + new)
    return result


def _place_and_move(mm: Mm, area: Area, address: int, old: int, new: int, flags: int, hint: int) -> int:
    """vrm_set_new_addr, move_vma."""
    how = (MAP_FIXED if flags & MREMAP_FIXED else 0) | (MAP_SHARED if area.flags & _MAYSHARE else 0)
    offset = area.offset + address - area.start
    file = area.file
    at = place(mm, hint, new, how, file, 0 if file is None else offset)
    if at < 0:
        return at
    if area.special is not None and (area.start != address or area.end != address + old):
        return -EINVAL  # special_mapping_split
    splits = bool(flags & MREMAP_DONTUNMAP and area.flags & _LOCKED and mm.policy["dontunmap_splits_locked"])
    if mm.policy["mremap_map_count_rule"]:
        if mm.count + 2 + splits > mm.limits.max_map_count:
            return -ENOMEM
    elif mm.count >= mm.limits.max_map_count - 3:
        return -ENOMEM
    if splits:
        area = _cut_out(mm, area, address, address + old)
    if area.flags & _ACCOUNT and not enough_memory(mm, new if flags & MREMAP_DONTUNMAP else new - old):
        return -ENOMEM
    return _move(mm, area, address, old, new, flags, at)


def _cut_out(mm: Mm, area: Area, start: int, end: int) -> Area:
    if area.start < start:
        area = mm.areas.split(area, start)
    if area.end > end:
        mm.areas.split(area, end)
    return area


def _move(mm: Mm, area: Area, address: int, old: int, new: int, flags: int, at: int) -> int:
    keep = bool(flags & MREMAP_DONTUNMAP)
    locked = area.flags & _LOCKED
    target = copy_area(mm, area, address, new, at, keep=keep)
    # A copy that touches its unfaulted source may have swallowed it.
    source = area if area.start <= address < area.end and mm.areas.find(address) is area else target
    if mm.guards.ranges:
        mm.guards.move(address, at, old)
    for watcher in mm.watchers:
        watcher.moved(mm, source, target, address, at, old, keep)
    forget(target)
    mm.total += new
    if locked:
        mm.locked += new
    if not keep:
        if old:
            mm.unmap(address, address + old)
        return at
    if source.flags & _LOCKED:
        # Pages that stay locked are counted where they are now; the source is no longer locked, as a whole.
        mm.locked -= source.end - source.start
        source.flags &= ~_LOCKED_MASK
    if source is not target and source.start == address and source.end == address + old:
        source.anon_vma, source.chain = None, ()
        if mm.policy["dontunmap_pgoff_reset"] and source.anonymous:
            source.offset = source.start
    return at


def copy_area(mm: Mm, area: Area, address: int, size: int, at: int, *, keep: bool) -> Area:
    """copy_vma: the area at the new place, merged into a neighbour or by itself."""
    by = address - area.start
    offset, anon_offset = area.offset + by, area.anon_offset + by
    unfaulted = area.anon_vma is None
    if unfaulted:
        # Its pages have no place in any order yet, so that it may take that of its new address.
        anon_offset = at
        if area.anonymous:
            offset = at
    after = mm.areas.find(at)
    before = after.prev if after is not None else mm.areas.last()
    if keep and unfaulted and area.anonymous and (at == area.end or at + size == area.start):
        rule = mm.policy["dontunmap_no_self_merge"]
        if rule == "alone" or (rule == "others" and before is area):
            before = None
        if rule == "alone" or (rule == "others" and after is area):
            after = None
    new = Given(
        at, at + size, area.flags, offset, area.file, anon_offset, area.anon_vma, area.uffd, area.anon_name,
        area.closes, None, area,
    )  # fmt: skip
    merged = mm.merge_new(new, before, after)
    if merged is not None:
        return merged
    copy = area.copy()
    copy.start, copy.end, copy.offset, copy.anon_offset = at, at + size, offset, anon_offset
    copy.chain = area.chain
    mm.areas.insert(copy)
    return copy


def _mremap_before_6_17(mm: Mm, op: Mremap) -> int:
    address, old_length, new_length, flags, new_address = op
    if flags & ~_KNOWN or (flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE):
        return -EINVAL
    if flags & MREMAP_DONTUNMAP and (not flags & MREMAP_MAYMOVE or old_length != new_length):
        return -EINVAL
    old, new = mm.align(old_length), mm.align(new_length)
    if address & mm.mask or not new:
        return -EINVAL
    area = _at(mm, address)
    if area is None:
        return -EFAULT
    if area.flags & _SEALED:
        return -EPERM
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        if new > mm.host.task_size or not _new_address_is_right(mm, address, old, new, flags, new_address):
            return -EINVAL
        if mm.count + 2 >= mm.limits.max_map_count - 3:
            return -ENOMEM
        return _move_to(mm, address, old, new, flags, new_address)
    if new > old:
        error = _check_source(mm, area, address, old, new, flags)
        if error:
            return error
    return _resize(mm, area, address, old, new, flags)
