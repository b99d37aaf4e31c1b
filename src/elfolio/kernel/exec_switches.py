"""kernel.exec_switches: what changed in execve, in placement and in maps. In: nothing. Out: EXEC_SWITCHES."""

from elfolio.kernel.switches import Switch

__all__ = ["EXEC_SWITCHES"]

_READ = "read in 5.10.223, 6.1.192, 6.12.107, 7.2.13"

EXEC_SWITCHES = (
    Switch(
        "pie_align",
        "a PIE's base is aligned down to the largest power-of-two p_align of its PT_LOAD segments",
        "maximum_alignment (fs/binfmt_elf.c)",
        "commit ce81bb256a22",
        (((0,), False), ((5, 10), True)),
    ),
    Switch(
        "static_pie_align",
        "so is that of ET_DYN without PT_INTERP: placed once, measured, unmapped, placed again",
        "load_elf_binary (fs/binfmt_elf.c)",
        f"commit 3545deff0ec7; {_READ}; 6.1.140 by its change log, 6.6.92 recalled",
        (((0,), False), ((6, 10), True)),
        (((6, 1, 140), True), ((6, 6, 92), True)),
    ),
    Switch(
        "elf_load",
        "each segment's zero fill is made with the segment; before, one bss between the highest p_filesz end and the "
        "highest p_memsz end, made when the next segment or the end came, and bss-only segments got EINVAL",
        "elf_load, before it set_brk (fs/binfmt_elf.c)",
        f"commit 585a018627b4 (6.7); {_READ}; 6.1.140 by its change log, 6.6.92 recalled",
        (((0,), False), ((6, 7), True)),
        (((6, 1, 140), True), ((6, 6, 92), True)),
    ),
    Switch(
        "padzero_reported",
        "where the rest of a writable segment's last page cannot be zeroed, because it is not in the file, execve "
        "fails; the stable branches that received elf_load go on",
        "padzero, elf_load (fs/binfmt_elf.c)",
        f"commit f9c0a39d9530 (6.7); {_READ}; seen not to fail in 6.1.192",
        (((0,), True),),
        (((6, 1, 140), False), ((6, 6, 92), False)),
    ),
    Switch(
        "total_mapping_any_order",
        "the total size spans from the lowest to the highest PT_LOAD; before, from the first to the last",
        "total_mapping_size (fs/binfmt_elf.c)",
        f"commit 5f501d555653 (5.18); {_READ}",
        (((0,), False), ((5, 18), True)),
    ),
    Switch(
        "total_mapping_fixed_replace",
        "a PIE's first segment replaces what is in its way; later it refuses (MAP_FIXED_NOREPLACE)",
        "load_elf_binary (fs/binfmt_elf.c)",
        f"{_READ}",
        (((0,), True), ((5, 18), False)),
    ),
    Switch(
        "at_phdr_by_segment",
        "AT_PHDR is found through the segment that holds the table; before, e_phoff plus the first segment's address",
        "phdr_addr in load_elf_binary (fs/binfmt_elf.c)",
        f"commit 0da1d5002745 (5.18); {_READ}; 5.10.110 by its change log",
        (((0,), False), ((5, 18), True)),
        (((5, 10, 110), True),),
    ),
    Switch(
        "static_pie_brk_moved",
        "the heap of ET_DYN without PT_INTERP begins at ELF_ET_DYN_BASE even with randomisation off",
        "load_elf_binary, DOC: brk handling (fs/binfmt_elf.c)",
        f"commit 11854fe263eb (6.15); {_READ}; 6.1.140 and 6.12.30 by their change logs, 6.6.92 recalled",
        (((0,), False), ((6, 15), True)),
        (((6, 1, 140), True), ((6, 6, 92), True), ((6, 12, 30), True)),
    ),
    Switch(
        "phdrs_at_most_a_page",
        "a program-header table larger than a page is refused; later 64 KiB is the limit",
        "load_elf_phdrs (fs/binfmt_elf.c)",
        f"{_READ}: in 6.12, gone in 7.2; observed gone in 6.18.44",
        (((0,), True), ((6, 13), False)),
    ),
    Switch(
        "heap_name_touching",
        "a mapping that only touches the empty heap is called [heap]: a program's last bss is, before it calls brk",
        "show_map_vma, later vma_is_initial_heap (fs/proc/task_mmu.c, include/linux/mm.h)",
        f"{_READ}",
        (((0,), True), ((6, 6), False)),
    ),
    Switch(
        "file_thp_placement",
        "a file mapping without address, of 2 MiB or more, is aligned with its offset to PMD_SIZE where the file "
        "system asks for thp_get_unmapped_area; before only for DAX",
        "thp_get_unmapped_area (mm/huge_memory.c)",
        f"commit 1854bc6e2420 (5.18); {_READ}",
        (((0,), False), ((5, 18), True)),
    ),
    Switch(
        "thp_placement_32bit",
        "that alignment also for 32-bit programs",
        "__thp_get_unmapped_area (mm/huge_memory.c)",
        f"commit 4ef9ad19e176 (6.8); {_READ}; 6.1.105 by its change log",
        (((0,), True), ((6, 8), False)),
        (((6, 1, 105), False), ((6, 6, 15), False)),
    ),
    Switch(
        "thp_placement_next_huge_page",
        "top-down, an area that is aligned already moves up by a whole PMD_SIZE, so that consecutive ones touch",
        "__thp_get_unmapped_area (mm/huge_memory.c)",
        f"commit 249608ee4713 (6.8); {_READ}: 6.1.192 is without",
        (((0,), False), ((6, 8), True)),
    ),
    Switch(
        "vdso32_bytes",
        "the size of [vdso] in 32-bit programs on x86-64; it depends on how the kernel was built",
        "vdso_image_32 (arch/x86/entry/vdso)",
        "seen in 5.10.223, 6.1.192, 6.12.117, 6.18.44: 8192; in 7.2.12: 12288",
        (((0,), 8192), ((7, 0), 12288)),
    ),
    Switch(
        "mprotect_unaccount",
        "anonymous memory that was never touched loses VM_ACCOUNT when it is made read-only",
        "mprotect_fixup (mm/mprotect.c)",
        "kernel-policies mprotect_unaccount: 6.7",
        (((0,), False), ((6, 7), True)),
    ),
    Switch(
        "vvar_vclock",
        "the clock pages of [vvar] are a mapping of their own, [vvar_vclock]",
        "vvar_vclock_mapping (arch/x86/entry/vdso/vma.c)",
        f"6.13; {_READ}; observed on 6.18.44",
        (((0,), False), ((6, 13), True)),
    ),
    Switch(
        "vma_bytes",
        "sizeof(struct vm_area_struct), as its slab allocates it on x86-64",
        "struct vm_area_struct (include/linux/mm_types.h)",
        "152 in 6.3.13 (the article); 192 in 6.18.44 (object_size of the slab); those of other versions are estimates",
        (((0,), 200), ((6, 3), 152), ((6, 4), 160), ((6, 14), 192)),
    ),
    Switch(
        "read_only_thp_for_fs",
        "whether CONFIG_READ_ONLY_THP_FOR_FS exists: khugepaged collapses clean pages of read-only mapped files",
        "CONFIG_READ_ONLY_THP_FOR_FS (mm/Kconfig)",
        "5.4; its removal aimed at 7.2",
        (((0,), False), ((5, 4), True), ((7, 2), False)),
    ),
    Switch(
        "read_only_thp_needs_exec",
        "and only for mappings with VM_EXEC",
        "file_thp_enabled (mm/huge_memory.c)",
        "commit 7fbb5e188248 (6.8)",
        (((0,), True), ((6, 8), False)),
    ),
    Switch(
        "set_pmd_asks_advice",
        "MADV_NOHUGEPAGE and PR_SET_THP_DISABLE also keep a fault from mapping a huge folio that is there",
        "do_set_pmd (mm/memory.c)",
        "commit 2b0f922323cc (6.12); read in 6.1.192, 6.12.107, 7.2.13",
        (((0,), False), ((6, 12), True)),
    ),
    Switch(
        "madvise_collapse",
        "MADV_COLLAPSE exists",
        "madvise_collapse (mm/khugepaged.c)",
        "6.1",
        (((0,), False), ((6, 1), True)),
    ),
    Switch(
        "exec_folio_order",
        "readahead through an executable mapping asks for folios of exec_folio_order() (arm64: 64 KiB, elsewhere 0)",
        "exec_folio_order (include/linux/pgtable.h)",
        "6.16 or 6.17",
        (((0,), False), ((6, 17), True)),
    ),
    Switch(
        "base_align_proposal",
        "what else aligns a program's base: nothing; max-folio: the largest power of two in a segment's p_filesz, at "
        "most the file system's largest folio, where p_vaddr and p_offset are multiples of it (v2); pmd-32m: PMD_SIZE "
        "up to 32 MiB, for segments that are not writable, at least that long and whose p_vaddr and p_offset are "
        "multiples of it; tiers: PMD_SIZE limited to 2 MiB, else exec_folio_order (v3)",
        "maximum_alignment (fs/binfmt_elf.c)",
        "linux-fsdevel, March 2026: v2 3/4 'elf: align ET_DYN base to max folio size', and its discussion; "
        "none merged by June 2026",
        (((0,), ""),),
    ),
)
