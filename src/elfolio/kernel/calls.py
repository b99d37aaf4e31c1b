"""kernel.calls: operations on an address space as values. In: what a trace or a test says. Out: one tuple each.

Arguments are those of the system calls, numbers of the ABI included; addresses and lengths in bytes, unsigned. Where a
call takes a file descriptor, an operation takes the Mappable behind it: descriptors are the reader's to resolve.
"""

from typing import NamedTuple

from elfolio.kernel.mappable import Mappable

__all__ = [
    "Brk",
    "Madvise",
    "Mlock",
    "Mlockall",
    "Mmap",
    "Mprotect",
    "Mremap",
    "Mseal",
    "Munlock",
    "Munlockall",
    "Munmap",
    "NameVma",
    "Operation",
    "Prctl",
    "Touch",
    "UffdClose",
    "UffdRegister",
    "UffdUnregister",
]


class Mmap(NamedTuple):
    """mmap(2). `flags` are MAP_*; `offset` in bytes."""

    address: int
    length: int
    prot: int
    flags: int
    file: Mappable | None = None
    offset: int = 0


class Munmap(NamedTuple):
    """munmap(2)."""

    address: int
    length: int


class Mprotect(NamedTuple):
    """mprotect(2)."""

    address: int
    length: int
    prot: int


class Mremap(NamedTuple):
    """mremap(2). `flags` are MREMAP_*."""

    address: int
    old_length: int
    new_length: int
    flags: int = 0
    new_address: int = 0


class Brk(NamedTuple):
    """brk(2), the system call: it returns the break, the old one where it fails."""

    address: int


class Madvise(NamedTuple):
    """madvise(2). `advice` is MADV_*."""

    address: int
    length: int
    advice: int


class Mlock(NamedTuple):
    """mlock2(2); mlock(2) without flags."""

    address: int
    length: int
    flags: int = 0


class Munlock(NamedTuple):
    """munlock(2)."""

    address: int
    length: int


class Mlockall(NamedTuple):
    """mlockall(2)."""

    flags: int


class Munlockall(NamedTuple):
    """munlockall(2)."""


class Mseal(NamedTuple):
    """mseal(2)."""

    address: int
    length: int
    flags: int = 0


class Prctl(NamedTuple):
    """prctl(2) with numbers only."""

    option: int
    arg2: int = 0
    arg3: int = 0
    arg4: int = 0
    arg5: int = 0


class NameVma(NamedTuple):
    """prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME); None takes the name away."""

    address: int
    length: int
    name: str | None


class Touch(NamedTuple):
    """A process reads or writes memory: every page of the range, ascending, up to the first that faults."""

    address: int
    length: int = 1
    write: bool = True


class UffdRegister(NamedTuple):
    """ioctl(UFFDIO_REGISTER) of the userfaultfd with that number. `mode` is UFFDIO_REGISTER_MODE_*."""

    uffd: int
    address: int
    length: int
    mode: int = 1


class UffdUnregister(NamedTuple):
    """ioctl(UFFDIO_UNREGISTER)."""

    uffd: int
    address: int
    length: int


class UffdClose(NamedTuple):
    """The last descriptor of a userfaultfd is closed."""

    uffd: int


Operation = (
    Mmap | Munmap | Mprotect | Mremap | Brk | Madvise | Mlock | Munlock | Mlockall | Munlockall | Mseal | Prctl
    | NameVma | Touch | UffdRegister | UffdUnregister | UffdClose
)  # fmt: skip
"""All that an address space can be asked. fork and exec make another one: Mm.fork, Mm.exec."""
