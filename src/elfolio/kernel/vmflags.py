"""kernel.vmflags: the flags of a mapping. In: nothing. Out: VmFlags, and their two-letter names in smaps.

Bits as in include/linux/mm.h (VM_READ and on); the two letters as fs/proc/task_mmu.c shows them on the line VmFlags.
"""

from enum import IntFlag

__all__ = ["MNEMONICS", "VmFlags"]


class VmFlags(IntFlag):
    """vm_flags. Those above bit 31 stand where x86-64 has them; other machines shift a few."""

    READ = 0x1
    WRITE = 0x2
    EXEC = 0x4
    SHARED = 0x8
    MAYREAD = 0x10
    MAYWRITE = 0x20
    MAYEXEC = 0x40
    MAYSHARE = 0x80
    GROWSDOWN = 0x100
    UFFD_MISSING = 0x200
    PFNMAP = 0x400
    MAYBE_GUARD = 0x800
    UFFD_WP = 0x1000
    LOCKED = 0x2000
    IO = 0x4000
    SEQ_READ = 0x8000
    RAND_READ = 0x10000
    DONTCOPY = 0x20000
    DONTEXPAND = 0x40000
    LOCKONFAULT = 0x80000
    ACCOUNT = 0x100000
    NORESERVE = 0x200000
    HUGETLB = 0x400000
    SYNC = 0x800000
    WIPEONFORK = 0x2000000
    DONTDUMP = 0x4000000
    SOFTDIRTY = 0x8000000
    MIXEDMAP = 0x10000000
    HUGEPAGE = 0x20000000
    NOHUGEPAGE = 0x40000000
    MERGEABLE = 0x80000000
    DROPPABLE = 1 << 40
    SEALED = 1 << 42

    @property
    def perms(self) -> str:
        """Four letters, as /proc/PID/maps writes them."""
        return "".join(
            letter if self & bit else "-"
            for letter, bit in (("r", VmFlags.READ), ("w", VmFlags.WRITE), ("x", VmFlags.EXEC))
        ) + ("s" if self & VmFlags.MAYSHARE else "p")


MNEMONICS = {
    "rd": VmFlags.READ,
    "wr": VmFlags.WRITE,
    "ex": VmFlags.EXEC,
    "sh": VmFlags.SHARED,
    "mr": VmFlags.MAYREAD,
    "mw": VmFlags.MAYWRITE,
    "me": VmFlags.MAYEXEC,
    "ms": VmFlags.MAYSHARE,
    "gd": VmFlags.GROWSDOWN,
    "um": VmFlags.UFFD_MISSING,
    "pf": VmFlags.PFNMAP,
    "gu": VmFlags.MAYBE_GUARD,
    "uw": VmFlags.UFFD_WP,
    "lo": VmFlags.LOCKED,
    "io": VmFlags.IO,
    "sr": VmFlags.SEQ_READ,
    "rr": VmFlags.RAND_READ,
    "dc": VmFlags.DONTCOPY,
    "de": VmFlags.DONTEXPAND,
    "lf": VmFlags.LOCKONFAULT,
    "ac": VmFlags.ACCOUNT,
    "nr": VmFlags.NORESERVE,
    "ht": VmFlags.HUGETLB,
    "sf": VmFlags.SYNC,
    "wf": VmFlags.WIPEONFORK,
    "dd": VmFlags.DONTDUMP,
    "sd": VmFlags.SOFTDIRTY,
    "mm": VmFlags.MIXEDMAP,
    "hg": VmFlags.HUGEPAGE,
    "nh": VmFlags.NOHUGEPAGE,
    "mg": VmFlags.MERGEABLE,
    "dp": VmFlags.DROPPABLE,
    "sl": VmFlags.SEALED,
}
"""What stands on an smaps line VmFlags -> the flag."""
