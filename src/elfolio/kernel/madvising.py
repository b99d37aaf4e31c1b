"""kernel.madvising: madvise and the names of mappings. In: Mm, an operation. Out: 0 or -errno; flags split and merge.

madvise_walk_vmas and madvise_vma_behavior (mm/madvise.c): what is not mapped is passed over and reported at the end.
"""

from errno import EACCES, EAGAIN, EBADF, EINVAL, ENOMEM, EPERM

from elfolio.kernel.abi import ADVICE
from elfolio.kernel.areas import Area
from elfolio.kernel.calls import Madvise, NameVma
from elfolio.kernel.faults import populate, prepare
from elfolio.kernel.ksm import compatible
from elfolio.kernel.merging import VM_SPECIAL, Given
from elfolio.kernel.mm import Mm
from elfolio.kernel.vmflags import VmFlags

__all__ = ["madvise", "name_vma"]

_F = VmFlags
_SHARED, _WRITE, _MAYWRITE = int(_F.SHARED), int(_F.WRITE), int(_F.MAYWRITE)
_LOCKED, _PFNMAP, _HUGETLB = int(_F.LOCKED), int(_F.PFNMAP), int(_F.HUGETLB)
_DROPPABLE, _SEALED, _MAYBE_GUARD = int(_F.DROPPABLE), int(_F.SEALED), int(_F.MAYBE_GUARD)
_SEQ, _RAND = int(_F.SEQ_READ), int(_F.RAND_READ)
_HUGE, _NO_HUGE = int(_F.HUGEPAGE), int(_F.NOHUGEPAGE)
_MERGEABLE, _IO = int(_F.MERGEABLE), int(_F.IO)
_WIPEONFORK, _DONTDUMP, _DONTCOPY = int(_F.WIPEONFORK), int(_F.DONTDUMP), int(_F.DONTCOPY)

_SINCE = {
    "COLD": (5, 4),
    "PAGEOUT": (5, 4),
    "POPULATE_READ": (5, 14),
    "POPULATE_WRITE": (5, 14),
    "DONTNEED_LOCKED": (5, 18),
    "COLLAPSE": (6, 1),
}
_NAMES = {number: name for name, number in ADVICE.items()}
_DISCARDS = frozenset({"FREE", "DONTNEED", "DONTNEED_LOCKED", "REMOVE", "DONTFORK", "WIPEONFORK", "GUARD_INSTALL"})
_SETS = {
    "NORMAL": (0, _SEQ | _RAND),
    "SEQUENTIAL": (_SEQ, _RAND),
    "RANDOM": (_RAND, _SEQ),
    "DONTFORK": (_DONTCOPY, 0),
    "DOFORK": (0, _DONTCOPY),
    "WIPEONFORK": (_WIPEONFORK, 0),
    "KEEPONFORK": (0, _WIPEONFORK),
    "DONTDUMP": (_DONTDUMP, 0),
    "DODUMP": (0, _DONTDUMP),
    "HUGEPAGE": (_HUGE, _NO_HUGE),
    "NOHUGEPAGE": (_NO_HUGE, _HUGE),
    "MERGEABLE": (_MERGEABLE, 0),
    "UNMERGEABLE": (0, _MERGEABLE),
}
"""Advice that changes flags -> what it sets, what it clears."""


def madvise(mm: Mm, op: Madvise) -> int:
    """madvise(2). MADV_COLLAPSE is taken to have failed with EINVAL: whether it works depends on free memory, and it
    changes no mapping."""
    start, length, number = op
    advice = _NAMES.get(number, "")
    if not advice or not _known(mm, advice):
        return -EINVAL
    rounded = mm.align(length)
    if start & mm.mask or (length and not rounded) or start + rounded >= 1 << 64:
        return -EINVAL
    if not rounded:
        return 0
    if advice.startswith("POPULATE") and mm.policy["populate_at_once"]:
        return populate(mm, start, start + rounded, advice=True, write=advice == "POPULATE_WRITE")
    if mm.seals_first and any(_kept(at, advice) for at in mm.over(start, start + rounded)):
        return -EPERM
    return _walk(mm, start, start + rounded, advice, None)


def name_vma(mm: Mm, op: NameVma) -> int:
    """prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, ...)."""
    start, length, name = op
    if not mm.limits.anon_names or (name is not None and not _valid_name(name)):
        return -EINVAL
    rounded = mm.align(length)
    if start & mm.mask or (length and not rounded) or start + rounded >= 1 << 64:
        return -EINVAL
    return _walk(mm, start, start + rounded, "name", name) if rounded else 0


def _valid_name(name: str) -> bool:
    """is_valid_name_char, and at most 79 of them."""
    return len(name) < 80 and all(" " <= char <= "~" and char not in "\\`$[]" for char in name)


def _known(mm: Mm, advice: str) -> bool:
    if advice.startswith("GUARD"):
        return bool(mm.policy["guard_regions"])
    return mm.policy.version[:2] >= _SINCE.get(advice, (0,))


def _walk(mm: Mm, start: int, end: int, advice: str, name: str | None) -> int:
    unmapped = 0
    at = mm.areas.find(start)
    while True:
        if at is None:
            return -ENOMEM
        if start < at.start:
            unmapped = -ENOMEM
            start = at.start
            if start >= end:
                return unmapped
        upto = min(end, at.end)
        done = _one(mm, at, start, upto, advice, name)
        if isinstance(done, int):
            return done
        start = max(upto, done.end)
        if start >= end:
            return unmapped
        at = done.next


def _one(mm: Mm, area: Area, start: int, end: int, advice: str, name: str | None) -> Area | int:
    if _kept(area, advice):
        return -EPERM
    if advice == "name":
        return _rename(mm, area, start, end, name)
    if advice not in _SETS:
        return _pages(mm, area, start, end, advice) or area
    error = _refused(mm, area, advice)
    if error:
        return error
    if advice == "MERGEABLE" and not compatible(mm, area.flags, area.file):
        return area
    adds, clears = _SETS[advice]
    flags = (area.flags | adds) & ~clears
    if flags == area.flags:
        return area
    made = mm.change(area, start, end, flags)
    return -EAGAIN if made == -ENOMEM else made


def _kept(area: Area, advice: str) -> bool:
    """can_madvise_modify: what is sealed and could not be written may not be thrown away either."""
    return bool(area.flags & _SEALED and advice in _DISCARDS and area.anonymous and not area.flags & _WRITE)


def _refused(mm: Mm, area: Area, advice: str) -> int:
    flags = area.flags
    if advice == "DOFORK" and flags & (VM_SPECIAL if mm.policy["dofork_special"] else _IO):
        return -EINVAL
    if advice == "WIPEONFORK" and (area.file is not None or flags & _SHARED):
        return -EINVAL
    if advice == "KEEPONFORK" and flags & _DROPPABLE:
        return -EINVAL
    if advice == "DODUMP" and ((not flags & _HUGETLB and flags & VM_SPECIAL) or flags & _DROPPABLE):
        return -EINVAL
    return 0


def _rename(mm: Mm, area: Area, start: int, end: int, name: str | None) -> Area | int:
    if area.file is not None and not (area.file.shmem and area.flags & _SHARED and area.file.file.opening < 0):
        return -EBADF
    if area.anon_name == name:
        return area
    by = start - area.start
    new = Given(
        start, end, area.flags, area.offset + by, area.file, area.anon_offset + by, area.anon_vma, area.uffd, name,
        area.closes, area,
    )  # fmt: skip
    made = mm.modify(area, start, end, new)
    if isinstance(made, int):
        return -EAGAIN
    made.anon_name = name
    return made


# --- advice about pages ---------------------------------------------------------------------------


def _pages(mm: Mm, area: Area, start: int, end: int, advice: str) -> int:
    flags = area.flags
    if advice in ("DONTNEED", "DONTNEED_LOCKED", "FREE"):
        forbidden = _PFNMAP if advice == "DONTNEED_LOCKED" else _PFNMAP | _LOCKED
        if flags & forbidden or (advice == "FREE" and not area.anonymous):
            return -EINVAL
        if advice != "FREE":
            _drop(mm, area, start, end)
    elif advice in ("COLD", "PAGEOUT"):
        return -EINVAL if flags & (_LOCKED | _PFNMAP | _HUGETLB) else 0
    elif advice == "REMOVE":
        return _remove(mm, area, start, end)
    elif advice == "COLLAPSE":
        return -EINVAL
    elif advice.startswith("POPULATE"):
        return populate(mm, start, end, advice=True, write=advice == "POPULATE_WRITE")
    elif advice.startswith("GUARD"):
        return _guard(mm, area, start, end, install=advice == "GUARD_INSTALL")
    return 0


def _remove(mm: Mm, area: Area, start: int, end: int) -> int:
    if area.flags & _LOCKED or area.file is None:
        return -EINVAL
    if area.flags & (_SHARED | _MAYWRITE) != _SHARED | _MAYWRITE:
        return -EACCES
    _drop(mm, area, start, end)
    for watcher in mm.watchers:
        watcher.removed(mm, area, start, end)
    return 0


def _drop(mm: Mm, area: Area, start: int, end: int) -> None:
    for watcher in mm.watchers:
        watcher.dropped(mm, area, start, end)


def _guard(mm: Mm, area: Area, start: int, end: int, *, install: bool) -> int:
    forbidden = VM_SPECIAL | _HUGETLB | (_LOCKED if install else 0)
    if area.flags & forbidden:
        return -EINVAL
    if mm.policy["guard_regions"] == "anonymous" and not (area.anonymous and area.flags & _MAYWRITE):
        return -EINVAL
    if install:
        if mm.policy["sticky_flags"]:
            area.flags |= _MAYBE_GUARD
        if area.anonymous:
            prepare(mm, area)
        _drop(mm, area, start, end)
        mm.guards.install(start, end)
    else:
        mm.guards.remove(start, end)
    return 0
