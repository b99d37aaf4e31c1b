"""kernel.merging: when two neighbours become one VMA. In: Area values, Rules. Out: None, or the Rule that forbids it.

Each condition of mm/vma.c (is_mergeable_vma, is_mergeable_anon_vma, can_vma_merge_before, can_vma_merge_after,
can_vma_merge_right; in mm/mmap.c up to 6.10) has a name here, so that a decision can be asked for its reason.
"""

from typing import NamedTuple

from elfolio.kernel.anon import AnonVma
from elfolio.kernel.areas import Area
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.policy import Policy
from elfolio.kernel.vmflags import VmFlags

__all__ = [
    "ANON_OFFSET",
    "ANON_VMA",
    "CLOSES",
    "FILE",
    "FLAGS",
    "FORK_CHILD",
    "NAME",
    "NOT_SINGULAR",
    "OFFSET",
    "SIDES",
    "SPECIAL",
    "TOUCH",
    "UFFD",
    "VM_SPECIAL",
    "Given",
    "Rule",
    "Rules",
    "between",
    "given",
    "left",
    "right",
]

VM_SPECIAL = int(VmFlags.IO | VmFlags.DONTEXPAND | VmFlags.PFNMAP | VmFlags.MIXEDMAP)
"""VM_SPECIAL (include/linux/mm.h): such a mapping never merges."""
_SHARED = int(VmFlags.SHARED | VmFlags.MAYSHARE)
_SOFTDIRTY = int(VmFlags.SOFTDIRTY)
_MAYBE_GUARD = int(VmFlags.MAYBE_GUARD)


class Rule(NamedTuple):
    """One reason why two neighbours stay two."""

    name: str
    text: str
    source: str


TOUCH = Rule("touch", "they do not touch", "can_vma_merge_left, can_vma_merge_right (mm/vma.c)")
SPECIAL = Rule("special", "one has VM_IO, VM_DONTEXPAND, VM_PFNMAP or VM_MIXEDMAP", "VM_SPECIAL (include/linux/mm.h)")
FLAGS = Rule("flags", "their flags differ", "is_mergeable_vma (mm/vma.c)")
FILE = Rule("file", "they map different open files, or one has none", "is_mergeable_vma (mm/vma.c)")
CLOSES = Rule("close", "one has vm_ops->close", "can_merge_remove_vma (mm/vma.c); any merge up to 6.4")
UFFD = Rule("uffd", "they are watched by different userfaultfds, or one by none", "is_mergeable_vma (mm/vma.c)")
NAME = Rule("name", "they have different names (PR_SET_VMA_ANON_NAME)", "is_mergeable_vma (mm/vma.c)")
OFFSET = Rule("offset", "their page offsets do not continue", "can_vma_merge_before (mm/vma.c)")
ANON_OFFSET = Rule("anon-offset", "their anonymous page offsets do not continue", "from 7.3: private file mappings")
ANON_VMA = Rule("anon-vma", "both have been faulted, with different anon_vmas", "is_mergeable_anon_vma (mm/vma.c)")
FORK_CHILD = Rule("fork-child", "the faulted one was copied by fork", "vma_is_fork_child (mm/vma.c)")
NOT_SINGULAR = Rule(
    "not-singular",
    "one is faulted, and the anon_vma_chain of the one that stays has not exactly one entry",
    "is_mergeable_anon_vma, up to 6.15 (mm/vma.c)",
)
SIDES = Rule("sides", "what lies before and behind would merge with it, but not with each other", CLOSES.source)
SIDES = SIDES._replace(source="can_vma_merge_right (mm/vma.c)")


class Rules:
    """The switches that merging asks, read once."""

    __slots__ = (
        "above_first",
        "anon_pgoff",
        "brk_below_only",
        "close",
        "copied_from",
        "ignored",
        "sticky",
        "unfaulted_target",
    )

    def __init__(self, policy: Policy) -> None:
        sticky = _SOFTDIRTY | _MAYBE_GUARD if policy["sticky_flags"] else _SOFTDIRTY
        self.sticky = sticky
        self.ignored = ~sticky
        self.close = str(policy["merge_close_rule"])
        self.unfaulted_target = bool(policy["merge_unfaulted_target"])
        self.copied_from = bool(policy["mremap_copied_from_fork_check"])
        self.anon_pgoff = bool(policy["anon_pgoff"])
        self.brk_below_only = bool(policy["brk_below_only"])
        self.above_first = bool(policy["mmap_above_first"])


class Given(NamedTuple):
    """What a range would be (struct vma_merge_struct). Addresses and offsets in bytes."""

    start: int
    end: int
    flags: int
    offset: int
    file: Mappable | None = None
    anon_offset: int = 0
    anon_vma: AnonVma | None = None
    uffd: int | None = None
    anon_name: str | None = None
    closes: bool = False
    middle: Area | None = None
    """The VMA that is being changed, whose anon_vma it is."""
    copied: Area | None = None
    """The VMA that mremap moves, whose anon_vma it is."""


def given(area: Area) -> Given:
    """What an area is, as a range that may be changed."""
    return Given(
        area.start,
        area.end,
        area.flags,
        area.offset,
        area.file,
        area.anon_offset,
        area.anon_vma,
        area.uffd,
        area.anon_name,
        area.closes,
        area,
    )


def _attributes(area: Area, new: Given, rules: Rules) -> Rule | None:
    if (area.flags ^ new.flags) & rules.ignored:
        return FLAGS
    if area.file is not new.file:
        return FILE
    if area.closes and rules.close == "any":
        return CLOSES
    if area.uffd != new.uffd:
        return UFFD
    return NAME if area.anon_name != new.anon_name else None


def _anon_vmas(target: Area, new: Given, rules: Rules) -> Rule | None:
    mine, theirs = target.anon_vma, new.anon_vma
    if mine is theirs:
        return None
    if mine is not None and theirs is not None:
        return ANON_VMA
    if not rules.unfaulted_target:
        return None if len(target.chain) == 1 else NOT_SINGULAR
    if theirs is None:
        return None if len(target.chain) == 1 else FORK_CHILD
    source = new.middle if new.middle is not None else new.copied if rules.copied_from else None
    return FORK_CHILD if source is not None and len(source.chain) != 1 else None


def left(before: Area | None, new: Given, rules: Rules) -> Rule | None:
    """Why the range may not extend the VMA below it; None: it may."""
    if before is None or before.end != new.start:
        return TOUCH
    if new.flags & VM_SPECIAL:
        return SPECIAL
    rule = _attributes(before, new, rules) or _anon_vmas(before, new, rules)
    if rule is not None:
        return rule
    size = before.end - before.start
    if before.offset + size != new.offset:
        return OFFSET
    if (
        rules.anon_pgoff
        and new.file is not None
        and not new.flags & _SHARED
        and before.anon_offset + size != new.anon_offset
    ):
        return ANON_OFFSET
    return None


def right(after: Area | None, new: Given, rules: Rules, before: Area | None = None) -> Rule | None:
    """Why the range may not extend the VMA above it; `before` is the one below that it merges with too."""
    if after is None or new.end != after.start:
        return TOUCH
    if new.flags & VM_SPECIAL:
        return SPECIAL
    if after.closes and rules.close == "next":
        return CLOSES
    rule = _attributes(after, new, rules) or _anon_vmas(after, new, rules)
    if rule is not None:
        return rule
    size = new.end - new.start
    if new.offset + size != after.offset:
        return OFFSET
    if (
        rules.anon_pgoff
        and new.file is not None
        and not new.flags & _SHARED
        and new.anon_offset + size != after.anon_offset
    ):
        return ANON_OFFSET
    if before is None or before.anon_vma is None or after.anon_vma is None or before.anon_vma is after.anon_vma:
        return None
    return SIDES


def between(a: Area, b: Area, rules: Rules) -> Rule | None:
    """Why `b` would not be merged into `a`, its neighbour below, if it were changed to what it is; None where nothing
    but the lack of an occasion keeps them apart: Linux merges when something changes, not afterwards."""
    return left(a, given(b), rules) or (CLOSES if b.closes else None)
