"""kernel.exec_calls: the calls of execve and of a dynamic loader. In: Mm, bytes. Out: an address, or MapError.

What they do is the model's to say (kernel.mapping_calls, brk, protection, faults): vm_mmap and vm_munmap (mm/util.c,
mm/mmap.c) are the system calls, vm_brk_flags is brk's second half, clear_user a write. Where one fails, so does the
whole attempt: here a failure is an exception, which says why.
"""

from errno import EEXIST, EINVAL, ENOMEM, EOVERFLOW, EPERM

from elfolio.kernel.abi import MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_PRIVATE
from elfolio.kernel.brk import vm_brk
from elfolio.kernel.calls import Mmap, Mprotect, Munmap, Touch
from elfolio.kernel.faults import touch
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mapping_calls import enough_memory, mmap, munmap
from elfolio.kernel.mm import Mm
from elfolio.kernel.protection import mprotect
from elfolio.kernel.vmflags import VmFlags

__all__ = ["MapError", "map_private", "protect", "unmap", "write", "zeroes"]

_WORD = 1 << 64
_WHY = {
    EEXIST: "something is mapped there",
    EPERM: "below vm.mmap_min_addr",
    EOVERFLOW: "beyond the end of any file",
}


class MapError(Exception):
    """A call failed; `errno` says how."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(why)
        self.errno = number


def map_private(
    mm: Mm,
    address: int,
    length: int,
    prot: VmFlags,
    file: Mappable | None = None,
    offset: int = 0,
    *,
    fixed: bool = False,
    replaces: bool = True,
) -> int:
    """A private mapping; returns its address. `fixed` is MAP_FIXED; without `replaces`, MAP_FIXED_NOREPLACE; else an
    address above 0 is a hint."""
    length %= _WORD
    if not length:
        raise MapError(EINVAL, "a mapping without length")
    if offset % mm.page or not 0 <= offset < _WORD - mm.align(length):
        raise MapError(EINVAL, "an offset that is no multiple of the page size")
    flags = MAP_PRIVATE if file is not None else MAP_PRIVATE | MAP_ANONYMOUS
    if fixed:
        flags |= MAP_FIXED if replaces else MAP_FIXED_NOREPLACE
    return _done(mm, length, mmap(mm, Mmap(address % _WORD, length, int(prot), flags, file, offset)), fixed=fixed)


def zeroes(mm: Mm, start: int, length: int, *, executable: bool = False) -> None:
    """Anonymous, zeroed and writable memory from a page's address on, in place of what is there (vm_brk_flags)."""
    _done(mm, length, vm_brk(mm, start % _WORD, length, executable=executable), fixed=True)


def unmap(mm: Mm, address: int, length: int) -> None:
    """Whatever lies there goes. Neither the kernel nor a loader asks whether this works; without length it does
    not, and changes nothing."""
    if length > 0:
        munmap(mm, Munmap(address, length))


def protect(mm: Mm, address: int, length: int, prot: VmFlags) -> None:
    """mprotect: what comes before a part that is not mapped has been changed when it fails."""
    if mprotect(mm, Mprotect(address, length % _WORD, int(prot))):
        raise MapError(ENOMEM, "a part is not mapped")


def write(mm: Mm, address: int) -> bool:
    """A write of one byte; False where that faults."""
    return touch(mm, Touch(address)) == 0


def _done(mm: Mm, length: int, result: int, *, fixed: bool) -> int:
    if result >= 0:
        return result
    why = _WHY.get(-result)
    if why is None:
        too_much = not enough_memory(mm, length)
        why = "more than all memory" if too_much else "beyond the address space" if fixed else "no room"
    raise MapError(-result, "longer than the address space" if length > mm.host.task_size else why)
