"""kernel.mm: an address space at work. In: Policy, Host, Limits. Out: Mm, which changes; AddressSpace, which does not.

An `Mm` is one process's mm_struct: the areas, what new ones inherit, and the few steps of which all system calls
consist: split, merge, change, take away (mm/vma.c). The calls themselves are in modules of their own; kernel.model
applies operations to it. All addresses and lengths are bytes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EINVAL, ENOMEM, EPERM

from elfolio.kernel.anon import AnonVma
from elfolio.kernel.areas import Area, Areas
from elfolio.kernel.guards import Guards
from elfolio.kernel.host import Host, default_host
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.merging import CLOSES, TOUCH, VM_SPECIAL, Given, Rule, Rules, between, left, right
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, Vma
from elfolio.kernel.vmflags import VmFlags
from elfolio.kernel.watching import Watcher
from elfolio.span import FileOffset, MappedAddress

__all__ = ["Limits", "Mm"]

_GROWSDOWN = int(VmFlags.GROWSDOWN)
_LOCKED = int(VmFlags.LOCKED)
_LOCKED_MASK = int(VmFlags.LOCKED | VmFlags.LOCKONFAULT)
_SEALED = int(VmFlags.SEALED)
_DONTCOPY = int(VmFlags.DONTCOPY)
_WIPEONFORK = int(VmFlags.WIPEONFORK)
_UFFD = int(VmFlags.UFFD_MISSING | VmFlags.UFFD_WP) | 1 << 41
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may have, and how its kernel was built and set. Sizes in bytes; None: no limit."""

    address_space: int | None = None
    """RLIMIT_AS."""
    memlock: int | None = 8 << 20
    """RLIMIT_MEMLOCK."""
    ipc_lock: bool = False
    """CAP_IPC_LOCK: no limit on locked memory."""
    max_map_count: int = 65530
    """vm.max_map_count."""
    overcommit: int = 0
    """vm.overcommit_memory; 2 counts MAP_NORESERVE too."""
    dac_mmap_min_addr: int | None = None
    """vm.mmap_min_addr, where that is lower than what the kernel was built with (CONFIG_LSM_MMAP_MIN_ADDR), which
    stands in Host.mmap_min_addr: hints and the search keep to the higher, MAP_FIXED to the lower."""
    exec_only: bool = False
    """Whether memory with PROT_EXEC alone cannot be read (execute_only_pkey: a processor with protection keys)."""
    anon_names: bool = False
    """CONFIG_ANON_VMA_NAME, which Debian's kernels 6.1 to 7.2 do not set."""


class Mm:
    """One mm_struct. `applied` by kernel.model; read through `snapshot`."""

    def __init__(
        self, policy: Policy, host: Host | None = None, limits: Limits | None = None, rules: Rules | None = None
    ) -> None:
        self.policy = policy
        self.host = host if host is not None else default_host(policy)
        self.limits = limits if limits is not None else Limits()
        self.rules = rules if rules is not None else Rules(policy)
        self.page = policy.page_size
        self.mask = self.page - 1
        self.lowest = max(self.host.mmap_min_addr, self.page) + self.mask & ~self.mask
        self.areas = Areas(self.host.stack_guard, self.lowest)
        self.mmap_base: int = self.align(self.host.mmap_base)
        self.start_brk = 0
        self.brk = 0
        self.start_stack = 0
        self.def_flags = 0
        """VmFlags that new mappings get: mlockall(MCL_FUTURE)."""
        self.total = 0
        """total_vm."""
        self.locked = 0
        """locked_vm."""
        self.merge_any = False
        """MMF_VM_MERGE_ANY."""
        self.mdwe = 0
        """PR_MDWE_*."""
        self.thp_disable = 0
        self.read_implies_exec = False
        self.seals_first = False
        """Whether something may be sealed, by a kernel that asks of a whole range first (mseal_each_vma)."""
        self.merged = 0
        """How often something merged."""
        self.missed: Counter[str] = Counter()
        """How often a neighbour that touches did not, by the name of the Rule."""
        self.guards = Guards()
        self.watchers: tuple[Watcher, ...] = ()
        self._anon_vmas = 0
        self._files: dict[Mappable, Mappable] = {}
        self.early: dict[Mappable | None, bool] = {}
        """kernel.ksm's answers so far, by file."""
        self.shared_files = 0
        """How many shared anonymous mappings were made."""

    # --- reading ----------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """map_count."""
        return self.areas.count

    def align(self, length: int) -> int:
        """PAGE_ALIGN, in 64 bits."""
        return length + self.mask & ~self.mask & _WORD

    def why(self, address: int, other: int | None = None) -> Rule | None:
        """What keeps the area that contains `address` apart from the one below it, or from that which contains `other`;
        None where nothing does, or where they are one. The rule says where the kernel has it. A LookupError where
        there is no such area."""
        upper = self._containing(address)
        lower = upper.prev if other is None else self._containing(other)
        if lower is None:
            return TOUCH
        if lower.start > upper.start:
            lower, upper = upper, lower
        return None if lower is upper else between(lower, upper, self.rules)

    def _containing(self, address: int) -> Area:
        area = self.areas.at_or_below(address)
        if area is None or area.end <= address:
            raise LookupError(f"nothing is mapped at {address:#x}")
        return area

    def snapshot(self) -> AddressSpace:
        """What /proc/PID/smaps would show, and what it would not."""
        return AddressSpace(
            tuple(self.vma(area) for area in self.areas),
            self.page,
            MappedAddress(self.start_brk),
            MappedAddress(self.brk),
            MappedAddress(self.start_stack),
            MappedAddress(self.mmap_base),
        )

    def vma(self, area: Area) -> Vma:
        """One area as a value."""
        file = area.file
        anon = area.offset if file is None else area.anon_offset
        return Vma(
            MappedAddress(area.start),
            MappedAddress(area.end),
            VmFlags(area.flags),
            None if file is None else file.file,
            FileOffset(0 if file is None else area.offset),
            self._name(area),
            anon // self.page,
            None if area.anon_vma is None else area.anon_vma.number,
            len(area.chain),
            area.closes,
            area.uffd,
            area.anon_name,
        )

    def _name(self, area: Area) -> str:
        if area.file is not None:
            return area.file.file.path if area.anon_name is None else f"[anon_shmem:{area.anon_name}]"
        if area.special is not None:
            return area.special
        touches = self.policy["heap_name_touching"]
        if area.start < self.brk and area.end > self.start_brk:
            return "[heap]"
        if touches and area.start <= self.brk and area.end >= self.start_brk and self.start_brk:
            return "[heap]"
        if self.start_stack and area.start <= self.start_stack <= area.end:
            return "[stack]"
        return "" if area.anon_name is None else f"[anon:{area.anon_name}]"

    # --- identities -------------------------------------------------------------------------------

    def file(self, file: Mappable) -> Mappable:
        """The one value that stands for equal ones, so that comparing is by identity."""
        return self._files.setdefault(file, file)

    def new_anon_vma(self) -> AnonVma:
        """One that nobody shares yet."""
        self._anon_vmas += 1
        return AnonVma(self._anon_vmas)

    def skip_anon_vmas(self, number: int) -> None:
        """New ones get numbers above this."""
        self._anon_vmas = max(self._anon_vmas, number)

    # --- splitting and merging --------------------------------------------------------------------

    def merge_new(
        self, new: Given, before: Area | None, after: Area | None, *, below_only: bool = False, mapped: bool = False
    ) -> Area | None:
        """vma_merge_new_range: a neighbour extended over a range where nothing is, or None. `mapped`: it is mmap that
        asks, which had an order of its own (mmap_above_first)."""
        upwards = mapped and self.rules.above_first
        into_left = into_right = False
        if not upwards:
            into_left = self._fits(left(before, new, self.rules))
        if not below_only:
            into_right = self._fits(right(after, new, self.rules, before if into_left else None))
        if upwards:
            owner = after.anon_vma if into_right and after is not None else new.anon_vma
            into_left = self._fits(left(before, new._replace(anon_vma=owner), self.rules))
        target = None
        if into_left:
            assert before is not None
            target, end = before, new.end
            if into_right:
                assert after is not None
                if after.closes:
                    self.missed[CLOSES.name] += 1
                else:
                    end = after.end
                    target.flags |= after.flags & self.rules.sticky
                    self.inherit(target, after)
                    self.areas.remove(after)
            self.areas.move_end(target, end)
        elif into_right:
            assert after is not None
            target = after
            self._extend_down(target, new.start)
        if target is None:
            return None
        if new.copied is not None and self.rules.copied_from:
            self.inherit(target, new.copied)
        target.flags |= new.flags & self.rules.sticky
        self.merged += 1
        return target

    def _fits(self, rule: Rule | None) -> bool:
        """Whether there is none; one that keeps neighbours apart is counted."""
        if rule is not None and rule is not TOUCH:
            self.missed[rule.name] += 1
        return rule is None

    def modify(self, area: Area, start: int, end: int, new: Given) -> Area | int:
        """vma_modify: a part of an area is about to become what `new` says, without its flags being set: the area
        that the part now is (a neighbour that swallowed it, or what splits left of it), or -errno."""
        merged = self.merge_existing(area, start, end, new)
        if merged is not None:
            return merged
        if area.start < start:
            error = self._may_split(area)
            if error:
                return error
            area = self.areas.split(area, start)
        if area.end > end:
            error = self._may_split(area)
            if error:
                return error
            self.areas.split(area, end)
        return area

    def _may_split(self, area: Area) -> int:
        if self.count >= self.limits.max_map_count:
            return -ENOMEM
        return -EINVAL if area.special is not None else 0

    def change(self, area: Area, start: int, end: int, flags: int) -> Area | int:
        """`modify` for other flags, and sets them."""
        new = Given(
            start,
            end,
            flags,
            area.offset + start - area.start,
            area.file,
            area.anon_offset + start - area.start,
            area.anon_vma,
            area.uffd,
            area.anon_name,
            area.closes,
            area,
        )
        made = self.modify(area, start, end, new)
        if isinstance(made, Area):
            made.flags = flags | made.flags & self.rules.sticky
        return made

    def merge_existing(self, area: Area, start: int, end: int, new: Given) -> Area | None:
        """vma_merge_existing_range: the neighbour that took a part of an area over, or None."""
        left_side, right_side = start == area.start, end == area.end
        if new.flags & VM_SPECIAL or not (left_side or right_side):
            return None
        before, after = area.prev, area.next
        into_left = into_right = False
        if left_side:
            rule = left(before, new, self.rules)
            into_left = rule is None
            if rule is not None and rule is not TOUCH:
                self.missed[rule.name] += 1
        if right_side:
            rule = right(after, new, self.rules, before if into_left else None)
            into_right = rule is None
            if rule is not None and rule is not TOUCH:
                self.missed[rule.name] += 1
        if not (into_left or into_right):
            return None
        whole = left_side and right_side
        if whole and area.closes:
            self.missed[CLOSES.name] += 1
            return None
        if into_left and into_right and after is not None and after.closes:
            self.missed[CLOSES.name] += 1
            into_right = False
        self.merged += 1
        if into_left:
            assert before is not None
            self._absorb_down(before, area, after if into_right else None, end, whole)
            return before
        assert after is not None
        after.flags |= new.flags & self.rules.sticky
        self.inherit(after, area)
        if whole:
            self.areas.remove(area)
        else:
            self.areas.move_end(area, start)
        self._extend_down(after, start)
        return after

    def _absorb_down(self, before: Area, area: Area, after: Area | None, end: int, whole: bool) -> None:
        sticky = self.rules.sticky
        before.flags |= area.flags & sticky
        if after is not None:
            before.flags |= after.flags & sticky
            self.inherit(before, after if after.anon_vma is not None else area)
            end = after.end
            self.areas.remove(area)
            self.areas.remove(after)
        else:
            self.inherit(before, area)
            if whole:
                self.areas.remove(area)
            else:
                by = end - area.start
                area.offset += by
                area.anon_offset += by
                self.areas.move_start(area, end)
        self.areas.move_end(before, end)

    def _extend_down(self, area: Area, start: int) -> None:
        by = area.start - start
        area.offset -= by
        area.anon_offset -= by
        self.areas.move_start(area, start)

    def inherit(self, target: Area, source: Area) -> None:
        """dup_anon_vma: who had none takes over the other's."""
        if target.anon_vma is None and source.anon_vma is not None:
            target.anon_vma, target.chain = source.anon_vma, source.chain

    def over(self, start: int, end: int) -> Iterator[Area]:
        """The areas of which a part lies in the range, ascending."""
        area = self.areas.find(start)
        while area is not None and area.start < end:
            yield area
            area = area.next

    # --- taking away ------------------------------------------------------------------------------

    def unmap(self, start: int, end: int) -> int:
        """do_vmi_align_munmap: 0, or -errno; splits that were made before a failure remain."""
        area = self.areas.find(start)
        if area is None or area.start >= end:
            return 0
        if area.start < start and end < area.end and self.count >= self.limits.max_map_count:
            return -ENOMEM
        at: Area | None = area
        while at is not None and at.start < end:
            if at.flags & _SEALED and self.seals_first:
                return -EPERM
            if at.flags & _SEALED or at.special is not None:
                error = self._split_ends(area, start, end)
                if error:
                    return error
                break
            at = at.next
        self._take(area if area.end > start else area.next, start, end)
        if self.guards.ranges:
            self.guards.remove(start, end)
        for watcher in self.watchers:
            watcher.unmapped(self, start, end)
        return 0

    def _split_ends(self, area: Area, start: int, end: int) -> int:
        """Where something will not be unmapped: what is split until then stays split, and nothing goes."""
        if start > area.start:
            if area.flags & _SEALED:
                return -EPERM
            if area.special is not None:
                return -EINVAL
            area = self.areas.split(area, start)
        at: Area | None = area
        while at is not None and at.start < end:
            if at.flags & _SEALED:
                return -EPERM
            if at.end > end:
                if at.special is not None:
                    return -EINVAL
                self.areas.split(at, end)
            at = at.next
        return 0

    def _take(self, area: Area | None, start: int, end: int) -> None:
        areas = self.areas
        while area is not None and area.start < end:
            after = area.next
            low, high = area.start, area.end
            size = (high if high < end else end) - (low if low > start else start)
            self.total -= size
            if area.flags & _LOCKED:
                self.locked -= size
            if low < start:
                if high > end:
                    areas.cut(area, start, end)
                else:
                    areas.move_end(area, start)
            elif high > end:
                area.offset += size
                area.anon_offset += size
                areas.move_start(area, end)
            else:
                areas.remove(area)
            area = after

    # --- making another ---------------------------------------------------------------------------

    def fork(self) -> "Mm":
        """dup_mmap: the child's, with a new anon_vma behind each that it inherits."""
        child = self._heir()
        child.start_brk, child.brk, child.start_stack = self.start_brk, self.brk, self.start_stack
        child.read_implies_exec = self.read_implies_exec
        child.seals_first = self.seals_first
        child._anon_vmas, child._files = self._anon_vmas, self._files
        copies = []
        for area in self.areas:
            if area.flags & _DONTCOPY:
                continue
            copy = area.copy()
            copy.flags &= ~_LOCKED_MASK
            if copy.uffd is not None:
                copy.uffd, copy.flags = None, copy.flags & ~_UFFD
            if area.flags & _WIPEONFORK:
                copy.anon_vma = None
            elif area.anon_vma is not None:
                copy.anon_vma = child.new_anon_vma()
                copy.chain = (*area.chain, copy.anon_vma)
            child.total += copy.end - copy.start
            copies.append(copy)
        child.areas.fill(copies)
        if self.guards.ranges:
            kept = (copy for copy in copies if not copy.flags & _WIPEONFORK)
            child.guards = Guards([part for copy in kept for part in self.guards.within(copy.start, copy.end)])
        child.watchers = tuple(watcher.forked(self, child) for watcher in self.watchers)
        return child

    def exec(self, space: AddressSpace) -> "Mm":
        """The Mm of the program that replaces it, whose first mappings are `space`'s (kernel.execve)."""
        from elfolio.kernel.adopting import adopt

        heir = self._heir()
        heir.merge_any = self.merge_any and bool(self.policy["ksm_merge_any_exec"])
        adopt(heir, space)
        if heir.merge_any:
            # The stack is made before the program's own mappings, and the vdso by itself: neither is marked.
            from elfolio.kernel.ksm import marked

            for area in heir.areas:
                if not area.flags & _GROWSDOWN and area.special is None:
                    area.flags = marked(heir, area.flags, area.file)
        heir.watchers = tuple(watcher.forked(self, heir) for watcher in self.watchers)
        return heir

    def _heir(self) -> "Mm":
        heir = Mm(self.policy, self.host, self.limits, self.rules)
        heir.mmap_base = self.mmap_base
        heir.merge_any = self.merge_any
        # PR_MDWE_NO_INHERIT: neither bit goes to the child (mmf_init_flags, include/linux/sched/coredump.h).
        heir.mdwe = 0 if self.mdwe & 2 else self.mdwe
        heir.thp_disable = self.thp_disable
        return heir
