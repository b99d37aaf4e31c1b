"""kernel.mm_switches: what changed in merging, mremap, KSM and placement. In: nothing. Out: MM_SWITCHES.

"compared" says between which sources a change lies where no commit is named: 5.15.223, 6.1.176, 6.5.13, 6.8.12,
6.12.95, 6.14.11, 6.17.13, 7.0.14, 7.2.13, 7.3.4. "observed" is the behaviour of a running 6.18.44.
"""

from elfolio.kernel.switches import Switch

__all__ = ["MM_SWITCHES"]

_MREMAP = "(mm/mremap.c)"
_VMA = "(mm/vma.c)"

MM_SWITCHES = (
    Switch(
        "move_pmd",
        "mremap moves a page table as one entry of the directory above it where a whole PMD_SIZE moves",
        f"move_normal_pmd {_MREMAP}",
        "5.0 by release; compared: in 5.15.223",
        (((0,), False), ((5, 0), True)),
    ),
    Switch(
        "move_pud",
        "and a whole directory as one entry where a whole PUD_SIZE moves",
        f"move_normal_pud {_MREMAP}",
        "5.11 by release; compared: in 5.15.223",
        (((0,), False), ((5, 11), True)),
    ),
    Switch(
        "dontunmap_shared",
        "MREMAP_DONTUNMAP takes shared and file mappings; before, private anonymous ones only",
        f"vma_to_resize {_MREMAP}",
        "5.13 by release; compared: in 5.15.223",
        (((0,), False), ((5, 13), True)),
    ),
    Switch(
        "realign_pmd",
        "mremap begins at the boundary of the page table below, where both sides allow it, and so moves it whole",
        f"try_realign_addr {_MREMAP}",
        "linux-kernel, May 2023, 'Optimize mremap during mutual alignment within PMD' v4; 6.7; "
        "compared: 6.5.13, 6.8.12",
        (((0,), False), ((6, 7), True)),
    ),
    Switch(
        "anon_thp_align",
        "anonymous memory without an address is aligned to PMD_SIZE: never; where it is longer (any); where its "
        "length is a multiple (multiple)",
        "__get_unmapped_area (mm/mmap.c)",
        "6.7; the multiple from 6.12-rc6; compared: 6.5.13, 6.8.12",
        (((0,), "never"), ((6, 7), "any"), ((6, 12), "multiple")),
        (((6, 11, 7), "multiple"),),
    ),
    Switch(
        "file_thp_align",
        "and so are files whose file system has no rule of its own",
        "__get_unmapped_area (mm/mmap.c)",
        "6.7; read in 6.12.107, and a running 6.12.117 does; compared: gone in 6.14.11",
        (((0,), False), ((6, 7), True), ((6, 14), False)),
    ),
    Switch(
        "uffd_refuses_droppable",
        "userfaultfd does not watch MAP_DROPPABLE memory; before, it was asked of the wrong flags",
        "vma_can_userfault (include/linux/userfaultfd_k.h, mm/userfaultfd.c)",
        "read in 6.12.107, 7.2.13; a running 6.12.117 watches it, 6.18.44 does not",
        (((0,), False), ((6, 18), True)),
    ),
    Switch(
        "map_stack_no_huge",
        "MAP_STACK marks a mapping with VM_NOHUGEPAGE",
        "calc_vm_flag_bits (include/linux/mman.h)",
        "commit c4608d1bf7c6 (6.7); read in 6.12.107, 7.2.13",
        (((0,), False), ((6, 7), True)),
    ),
    Switch(
        "ksm_merge_any",
        "prctl(PR_SET_MEMORY_MERGE) marks all compatible mappings, present and future",
        "ksm_enable_merge_any (mm/ksm.c)",
        "commit d7597f59d1d3 (6.4); compared: 6.1.176, 6.5.13",
        (((0,), False), ((6, 4), True)),
    ),
    Switch(
        "ksm_merge_any_exec",
        "and that survives exec",
        "ksm_execve (include/linux/ksm.h), MMF_INIT_MASK",
        "6.7; compared: 6.5.13, 6.8.12",
        (((0,), False), ((6, 7), True)),
    ),
    Switch(
        "ksm_excludes_droppable",
        "VM_DROPPABLE, which MAP_DROPPABLE sets, exists and is never mergeable",
        "ksm_compatible, earlier vma_ksm_compatible (mm/ksm.c)",
        "6.11; compared: 6.8.12, 6.12.95",
        (((0,), False), ((6, 11), True)),
    ),
    Switch(
        "ksm_early_flag",
        "a new mapping gets VM_MERGEABLE before it looks for neighbours: never (late, so that it never merges); where "
        "there is no file, or shmem, or mmap_prepare (mmap_prepare); where f_op->mmap is missing (no_mmap)",
        f"can_set_ksm_flags_early {_VMA}",
        "linux-mm, May 2025, 'mm: prevent KSM from completely breaking VMA merging' v2 3/4, and V. Babka's reply, "
        "whose alternative is no_mmap; 6.17; compared: 6.14.11, 6.17.13; observed",
        (((0,), "late"), ((6, 17), "mmap_prepare")),
    ),
    Switch(
        "mmap_prepare_files",
        "file systems have mmap_prepare in place of mmap",
        "f_op->mmap_prepare (include/linux/fs.h)",
        "6.17; compared: 6.12.95, 7.3.4",
        (((0,), False), ((6, 17), True)),
    ),
    Switch(
        "merge_close_rule",
        "what vm_ops->close forbids: any merge; to be the upper one (next), which might be swallowed; only to be "
        "swallowed (removed)",
        f"can_merge_remove_vma {_VMA}, earlier may_remove_vma and is_mergeable_vma (mm/mmap.c)",
        "compared: 6.1.176 refuses any, 6.5.13 has may_remove_vma; read in 6.12.107, 7.2.13",
        (((0,), "any"), ((6, 5), "next"), ((6, 12), "removed")),
    ),
    Switch(
        "brk_below_only",
        "a program's zero fill is joined to the mapping below it only, the heap to nothing but itself; before, the one "
        "to that above too, the other to what lies below",
        "do_brk_flags (mm/mmap.c, mm/vma.c)",
        "read in 5.10.223 (vma_merge), 6.1.192, 6.12.107, 7.2.13",
        (((0,), False), ((6, 1), True)),
    ),
    Switch(
        "merge_unfaulted_target",
        "a faulted mapping may merge into an unfaulted neighbour unless it is a fork child's; before, the neighbour's "
        "anon_vma_chain had to have exactly one entry, which an unfaulted one has not",
        f"is_mergeable_anon_vma {_VMA}",
        "6.16, 'mm/vma: fix incorrectly disallowed anonymous VMA merges'; compared: 6.14.11, 6.17.13; observed",
        (((0,), False), ((6, 16), True)),
    ),
    Switch(
        "mmap_above_first",
        "a new mapping between two neighbours asks the upper one first, and the lower one only whether it fits that: "
        "where both are faulted apart, or the upper one is faulted and the lower is not, the upper one grows; else "
        "the lower one is asked first, and grows",
        "mmap_region (mm/mmap.c), later vma_merge_new_range (mm/vma.c)",
        "read in 5.10.223, 6.1.192, 6.12.107; running 6.1.192 does, 6.12.117 does not; 6.1 by the maple tree's series",
        (((0,), False), ((6, 1), True), ((6, 12), False)),
    ),
    Switch(
        "mremap_copied_from_fork_check",
        "that holds for the source of a mremap too, and its anon_vma goes to the neighbour that it merges into",
        f"is_mergeable_anon_vma, vma_expand {_VMA}",
        "6.19; compared: 6.14.11, 6.17.13 has it backported; observed",
        (((0,), False), ((6, 19), True)),
        (((6, 17, 13), True), ((6, 18, 44), True)),
    ),
    Switch(
        "mremap_check_before_unmap",
        "mremap looks at the source before it unmaps the destination",
        f"check_prep_vma {_MREMAP}",
        "6.17; compared: 6.14.11, 6.17.13; observed",
        (((0,), False), ((6, 17), True)),
    ),
    Switch(
        "mremap_multi_vma",
        "mremap moves several mappings and the holes between them at once: MREMAP_FIXED, the same size",
        f"remap_move {_MREMAP}",
        "6.17; compared: 6.14.11, 6.17.13; observed",
        (((0,), False), ((6, 17), True)),
    ),
    Switch(
        "sticky_flags",
        "VM_MAYBE_GUARD marks what MADV_GUARD_INSTALL touched; it hinders no merge, and stays in the result",
        "VMA_STICKY_FLAGS (include/linux/mm.h)",
        "6.19; compared: 6.17.13, 7.0.14; in running 6.18.44 too (which point release brought it is not known)",
        (((0,), False), ((6, 19), True)),
        (((6, 18, 44), True),),
    ),
    Switch(
        "dontunmap_no_self_merge",
        "an untouched mapping that MREMAP_DONTUNMAP keeps, and its copy that touches it: they merge (merge); the copy "
        "merges with others only (others); it merges with nothing (alone)",
        f"copy_vma {_VMA}",
        "7.0.14 has it and 6.17.13 not (compared); 6.1.191, 6.12.114, 7.2.11 by their change logs; read in 6.1.192, "
        "7.2.13; others in running 6.12.117 and 7.2.12",
        (((0,), "merge"), ((7, 0), "others")),
        (((6, 1, 191), "alone"), ((6, 12, 114), "others"), ((7, 2, 0), "merge"), ((7, 2, 11), "others")),
    ),
    Switch(
        "dontunmap_pgoff_reset",
        "and when all of it was moved, its page offset is again that of its address",
        f"dontunmap_complete {_MREMAP}",
        "compared: 6.17.13, 7.0.14; also in Ubuntu's 6.8.0-149; 6.1.191 and 6.12.112 by their change logs; read in "
        "6.1.192; a running 6.12.117 does",
        (((0,), False), ((7, 0), True)),
        (((6, 1, 191), True), ((6, 12, 112), True)),
    ),
    Switch(
        "dontunmap_splits_locked",
        "a locked mapping of which MREMAP_DONTUNMAP moves a part is split there, so that only that part is unlocked; "
        "before, all of it is",
        f"needs_pre_split {_MREMAP}",
        "read in 7.2.13; 6.1.191, 6.12.114, 7.2.11 by their change logs; running 6.1.192, 6.12.117 and 7.2.12 split, "
        "6.18.44 does not",
        (((0,), False), ((7, 0), True)),
        (((6, 1, 191), True), ((6, 12, 114), True), ((7, 2, 0), False), ((7, 2, 11), True)),
    ),
    Switch(
        "mremap_map_count_rule",
        "how many mappings below vm.max_map_count mremap wants: room for what the splits and the unmapping really "
        "need; before, three or five",
        f"check_map_count_against_split {_MREMAP}",
        "compared: 6.17.13, 7.0.14",
        (((0,), False), ((7, 0), True)),
    ),
    Switch(
        "anon_pgoff",
        "private file mappings carry a second, anonymous page offset, which must continue too",
        "struct vm_area_struct (include/linux/mm_types.h)",
        "7.3; compared: 7.2.13, 7.3.4",
        (((0,), False), ((7, 3), True)),
    ),
    Switch(
        "mdwe",
        "prctl(PR_SET_MDWE): no mapping becomes executable that was writable",
        "map_deny_write_exec (include/linux/mman.h)",
        "6.3; PR_MDWE_NO_INHERIT from 6.6",
        (((0,), False), ((6, 3), True)),
    ),
    Switch(
        "mseal",
        "mseal(2) exists",
        "do_mseal (mm/mseal.c)",
        "6.10",
        (((0,), False), ((6, 10), True)),
    ),
    Switch(
        "mseal_each_vma",
        "a call that meets a sealed mapping has changed what lies below it; before, it looked at the whole range first",
        "can_modify_vma, earlier can_modify_mm (mm/vma.h, mm/mseal.c)",
        "commits 4a2dd02b0916, df2a7df9a9aa, 23c57d1fa2b9 (6.12); read in 6.12.107; 6.10 and 6.11 recalled",
        (((0,), False), ((6, 12), True)),
    ),
    Switch(
        "populate_at_once",
        "MADV_POPULATE_ stops at the first hole; before, it went on behind it and said so at the end",
        "madvise_populate (mm/madvise.c)",
        "commit 631426ba1d45 (6.9); read in 6.1.192, 6.12.107; a running 6.1 goes on",
        (((0,), False), ((6, 9), True)),
    ),
    Switch(
        "guard_regions",
        "madvise knows MADV_GUARD_INSTALL and MADV_GUARD_REMOVE",
        "madvise_guard_install (mm/madvise.c)",
        "6.13, on anonymous memory; any from 6.15; read in 7.2.13",
        (((0,), ""), ((6, 13), "anonymous"), ((6, 15), "any")),
    ),
    Switch(
        "dofork_special",
        "MADV_DOFORK is refused of all special mappings (VM_SPECIAL); before, of VM_IO's only: the vdso takes it",
        "madvise_vma_behavior (mm/madvise.c)",
        "read in 5.10.223, 6.1.192, 6.12.107 (VM_IO), 7.2.13 (VM_SPECIAL); 6.18.44 takes it of the vdso; 7.0 a guess",
        (((0,), False), ((7, 0), True)),
    ),
    Switch(
        "uffd_unregister_own",
        "UFFDIO_UNREGISTER takes only what this userfaultfd watches; before, any userfaultfd's",
        "userfaultfd_unregister (fs/userfaultfd.c)",
        "linux-kernel, June 2025, 'userfaultfd: prevent unregistering VMAs through a different userfaultfd' v3 2/4, "
        "which wants no backport; 6.17 by that date; read in 6.12.117, which asks only whether such memory can be "
        "watched, and 7.2.13; running 6.1.192 and 6.12.117 take another's, 6.18.44 and 7.2.12 refuse with EINVAL",
        (((0,), False), ((6, 17), True)),
    ),
)
