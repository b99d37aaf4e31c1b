"""kernel.trace_shapes: how calls that change memory are written in traces. In: nothing. Out: shapes, names of flags.

A shape has a word for each argument: `address`, `number`, `fd`, `-` for one that does not matter, or the name of a
table of flags; with a `?` one that may be missing. The numbers are those of x86-64 and arm64
(include/uapi/asm-generic/mman*.h, linux/mman.h, linux/sched.h, linux/prctl.h).
"""

import errno
import re
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["DESCRIPTORS", "ERRNOS", "FLAGS", "NEW_CALLS", "SHAPES", "number_of"]

SHAPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mmap": ("address", "number", "PROT", "MAP", "fd", "number"),
        "munmap": ("address", "number"),
        "mprotect": ("address", "number", "PROT"),
        "pkey_mprotect": ("address", "number", "PROT", "number"),
        "mremap": ("address", "number", "number", "MREMAP", "address?"),
        "brk": ("address",),
        "madvise": ("address", "number", "MADV"),
        "mlock": ("address", "number"),
        "mlock2": ("address", "number", "MLOCK"),
        "munlock": ("address", "number"),
        "mlockall": ("MCL",),
        "munlockall": (),
        "mseal": ("address", "number", "number"),
        "shmat": ("number", "address", "SHM"),
        "shmdt": ("address",),
        "remap_file_pages": ("address", "number", "PROT", "number", "MAP"),
        "mbind": ("address", "number", "-", "-", "-", "-"),
    }
)
"""Calls whose arguments are all read this way. prctl, ioctl and those that make processes have parsers of their own."""

DESCRIPTORS = frozenset(
    {"open", "openat", "openat2", "creat", "memfd_create", "dup", "dup2", "dup3", "fcntl", "close", "userfaultfd"}
)
"""Calls that say which opening a descriptor is, where a trace has them."""

NEW_CALLS: Mapping[int, str] = MappingProxyType({462: "mseal"})
"""Numbers that an older strace shows as syscall_0x1ce; one number on all machines."""

_PROT = {"NONE": 0, "READ": 1, "WRITE": 2, "EXEC": 4, "SEM": 8, "BTI": 0x10, "MTE": 0x20,
         "GROWSDOWN": 0x1000000, "GROWSUP": 0x2000000}  # fmt: skip
_MAP = {"FILE": 0, "SHARED": 1, "PRIVATE": 2, "SHARED_VALIDATE": 3, "DROPPABLE": 8, "FIXED": 0x10, "ANONYMOUS": 0x20,
        "ANON": 0x20, "32BIT": 0x40, "ABOVE4G": 0x80, "GROWSDOWN": 0x100, "DENYWRITE": 0x800, "EXECUTABLE": 0x1000,
        "LOCKED": 0x2000, "NORESERVE": 0x4000, "POPULATE": 0x8000, "NONBLOCK": 0x10000, "STACK": 0x20000,
        "HUGETLB": 0x40000, "SYNC": 0x80000, "FIXED_NOREPLACE": 0x100000, "UNINITIALIZED": 0x4000000}  # fmt: skip
# A huge page's size is written as the logarithm of its bytes (MAP_HUGE_SHIFT, asm-generic/hugetlb_encode.h).
_HUGE = {"16KB": 14, "64KB": 16, "512KB": 19, "1MB": 20, "2MB": 21, "8MB": 23, "16MB": 24, "32MB": 25, "256MB": 28,
         "512MB": 29, "1GB": 30, "2GB": 31, "16GB": 34}  # fmt: skip
_MAP |= {f"HUGE_{size}": log << 26 for size, log in _HUGE.items()}
_MADV = {"NORMAL": 0, "RANDOM": 1, "SEQUENTIAL": 2, "WILLNEED": 3, "DONTNEED": 4, "FREE": 8, "REMOVE": 9,
         "DONTFORK": 10, "DOFORK": 11, "MERGEABLE": 12, "UNMERGEABLE": 13, "HUGEPAGE": 14, "NOHUGEPAGE": 15,
         "DONTDUMP": 16, "DODUMP": 17, "WIPEONFORK": 18, "KEEPONFORK": 19, "COLD": 20, "PAGEOUT": 21,
         "POPULATE_READ": 22, "POPULATE_WRITE": 23, "DONTNEED_LOCKED": 24, "COLLAPSE": 25, "HWPOISON": 100,
         "SOFT_OFFLINE": 101, "GUARD_INSTALL": 102, "GUARD_REMOVE": 103}  # fmt: skip
_CLONE = {"NEWTIME": 0x80, "VM": 0x100, "FS": 0x200, "FILES": 0x400, "SIGHAND": 0x800, "PIDFD": 0x1000,
          "PTRACE": 0x2000, "VFORK": 0x4000, "PARENT": 0x8000, "THREAD": 0x10000, "NEWNS": 0x20000, "SYSVSEM": 0x40000,
          "SETTLS": 0x80000, "PARENT_SETTID": 0x100000, "CHILD_CLEARTID": 0x200000, "DETACHED": 0x400000,
          "UNTRACED": 0x800000, "CHILD_SETTID": 0x1000000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000,
          "NEWIPC": 0x8000000, "NEWUSER": 0x10000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000, "IO": 0x80000000,
          "CLEAR_SIGHAND": 1 << 32, "INTO_CGROUP": 1 << 33}  # fmt: skip
_PR = {"PR_SET_MM": 35, "PR_SET_THP_DISABLE": 41, "PR_SET_MDWE": 65, "PR_SET_MEMORY_MERGE": 67,
       "PR_SET_VMA": 0x53564D41, "PR_SET_VMA_ANON_NAME": 0, "PR_MDWE_REFUSE_EXEC_GAIN": 1,
       "PR_MDWE_NO_INHERIT": 2}  # fmt: skip


def _prefixed(prefix: str, values: Mapping[str, int]) -> dict[str, int]:
    # perf trace leaves the prefix away.
    return {**values, **{prefix + name: value for name, value in values.items()}}


FLAGS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "PROT": _prefixed("PROT_", _PROT),
        "MAP": _prefixed("MAP_", _MAP),
        "MADV": {**_prefixed("MADV_", _MADV), "MADV_SOFTOFFLINE": 101},
        "MREMAP": _prefixed("MREMAP_", {"MAYMOVE": 1, "FIXED": 2, "DONTUNMAP": 4}),
        "MLOCK": _prefixed("MLOCK_", {"ONFAULT": 1}),
        "MCL": _prefixed("MCL_", {"CURRENT": 1, "FUTURE": 2, "ONFAULT": 4}),
        "SHM": _prefixed("SHM_", {"RDONLY": 0o10000, "RND": 0o20000, "REMAP": 0o40000, "EXEC": 0o100000}),
        "CLONE": {**_prefixed("CLONE_", _CLONE), "SIGCHLD": 17},
        "PR": _PR,
        "UFFD": {f"UFFDIO_REGISTER_MODE_{name}": bit for name, bit in (("MISSING", 1), ("WP", 2), ("MINOR", 4))},
    }
)
"""Table -> name -> bits."""

ERRNOS: Mapping[str, int] = MappingProxyType({name: number for number, name in errno.errorcode.items()})
"""Name -> number."""


_COMMENT = re.compile(r"/\*.*?\*/")


def number_of(text: str, table: str) -> int:
    """The value of `PROT_READ|PROT_WRITE|0x8000 /* PROT_??? */`. Raises KeyError with the part that is none."""
    names, total = FLAGS[table], 0
    if "/*" in text:  # -X verbose puts the names, and their bars, into a comment
        text = _COMMENT.sub("", text)
    for part in text.split("|"):
        word = part.strip()
        value = names.get(word)
        if value is None:
            value = _numeric(word)
        total |= value
    return total


def _numeric(word: str) -> int:
    # A signal in clone's flags; a size as a shift, `21<<MAP_HUGE_SHIFT`.
    left, shift, right = word.partition("<<")
    if shift and right == "MAP_HUGE_SHIFT":
        return _numeric(left) << 26
    if word.startswith("SIG") and word in _SIGNALS:
        return _SIGNALS[word]
    try:
        return int(word, 0)
    except ValueError:
        raise KeyError(word) from None


_SIGNALS = {"SIGKILL": 9, "SIGUSR1": 10, "SIGUSR2": 12, "SIGALRM": 14, "SIGTERM": 15, "SIGCHLD": 17}
