"""kernel.mapping: mmap, munmap and brk on a working copy. In: calls, Policy, Host. Out: an address space, or an errno.

What execve and a dynamic loader do to an address space is a sequence of these calls. Mappings merge with their
neighbours under the conditions of mm/vma.c (is_mergeable_vma, is_mergeable_anon_vma), which for the calls made here
are the same in all versions.
"""

import errno
from bisect import bisect_left
from dataclasses import dataclass, replace

from elfolio.kernel.host import Host
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import OpenFile, Vma, VmFlags
from elfolio.span import FileOffset, MappedAddress, round_down, round_up

__all__ = ["MapError", "MappedFile", "Mappings"]

_R, _W, _X = VmFlags.READ, VmFlags.WRITE, VmFlags.EXEC
_ACCESS = _R | _W | _X
_MAY = VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC
_DATA_DEFAULT = _R | _W | _MAY
"""VM_DATA_DEFAULT_FLAGS, without the personality's VM_EXEC."""
_LIMIT = 1 << 64


class MapError(Exception):
    """A call failed; `errno` says how."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(why)
        self.errno = number


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file that can be mapped."""

    file: OpenFile
    size: int
    """In bytes: a page that begins at or after it gives SIGBUS."""


class Mappings:
    """An address space being made. Addresses and lengths in bytes."""

    def __init__(self, policy: Policy, host: Host) -> None:
        self.policy = policy
        self.host = host
        self.page = policy.page_size
        self.vmas: list[Vma] = []
        self.sizes: dict[OpenFile, int] = {}
        self.read_implies_exec = False
        """READ_IMPLIES_EXEC of the personality."""
        self._anon_vmas = 0

    # --- the calls --------------------------------------------------------------------------------

    def map(
        self,
        address: int,
        length: int,
        prot: VmFlags,
        mapped: MappedFile | None = None,
        offset: int = 0,
        *,
        fixed: bool = False,
        replaces: bool = True,
    ) -> int:
        """A private mapping; returns its address. `fixed` is MAP_FIXED; without `replaces`, MAP_FIXED_NOREPLACE;
        else an address above 0 is a hint."""
        if not length:
            raise MapError(errno.EINVAL, "a mapping without length")
        if offset % self.page or offset < 0 or offset + length >= _LIMIT:
            raise MapError(errno.EINVAL, "an offset that is no multiple of the page size")
        length, address = round_up(length, self.page), address % _LIMIT
        if fixed:
            self._check_fixed(address, length)
            if not replaces and self._overlapping(address, address + length):
                raise MapError(errno.EEXIST, "something is mapped there")
        else:
            address = self._place(length, mapped, offset, address)
        if self.read_implies_exec and prot & _R:
            prot |= _X
        flags = prot | _MAY
        if prot & _W:
            self._charge(length)
            flags |= VmFlags.ACCOUNT
        self.unmap(address, length)
        if mapped is None:
            self._insert(self._anonymous(address, length, flags))
        else:
            self.sizes[mapped.file] = mapped.size
            self._insert(
                Vma(
                    MappedAddress(address),
                    MappedAddress(address + length),
                    flags,
                    mapped.file,
                    FileOffset(offset),
                    mapped.file.path,
                    anon_pgoff=address // self.page,
                )
            )
        return address

    def brk(self, address: int, length: int, *, executable: bool = False) -> None:
        """Anonymous, zeroed and writable memory at an address, as vm_brk_flags makes it: replaces what is there, and
        joins the mapping before it, never the one after."""
        if not length:
            return
        address %= _LIMIT
        self._check_fixed(address, length)
        self.unmap(address, length)
        flags = _DATA_DEFAULT | VmFlags.ACCOUNT
        if executable or self.read_implies_exec:
            flags |= _X
        self._charge(length)
        self._insert(self._anonymous(address, length, flags), forward=False)

    def unmap(self, address: int, length: int) -> None:
        """Whatever lies there goes; what lies there in part is split."""
        if length <= 0:
            return
        self._split(address)
        self._split(address + length)
        first = bisect_left(self.vmas, address, key=lambda vma: vma.start)
        last = bisect_left(self.vmas, address + length, key=lambda vma: vma.start)
        del self.vmas[first:last]

    def protect(self, address: int, length: int, prot: VmFlags) -> None:
        """mprotect: ENOMEM where a part is not mapped, after what came before it has been changed."""
        end = address + length
        self._split(address)
        self._split(end)
        at = address
        while at < end:
            vma = next((v for v in self.vmas if v.start == at), None)
            if vma is None:
                raise MapError(errno.ENOMEM, "a part is not mapped")
            at = vma.end
            flags = vma.flags & ~_ACCESS | prot
            if flags == vma.flags:
                continue
            if prot & _W and not flags & (VmFlags.ACCOUNT | VmFlags.NORESERVE):
                self._charge(vma.size)
                flags |= VmFlags.ACCOUNT
            elif not prot & _W and vma.file is None and vma.anon_vma is None and self.policy["mprotect_unaccount"]:
                flags &= ~VmFlags.ACCOUNT
            self.vmas.remove(vma)
            self._insert(replace(vma, flags=flags))

    def write(self, address: int) -> bool:
        """A first write to private memory: the mapping gets its anon_vma. False where that faults."""
        index, vma = self._at(address)
        if vma is None or not vma.flags & _W:
            return False
        if vma.file is not None and vma.offset + round_down(address - vma.start, self.page) >= self.sizes[vma.file]:
            return False  # SIGBUS
        if vma.anon_vma is None:
            self.vmas[index] = replace(vma, anon_vma=self._anon_vma_for(index), anon_vma_chain=1)
        return True

    # --- placing ----------------------------------------------------------------------------------

    def place(self, length: int) -> int:
        """Where a mapping without a file and an address would lie."""
        return self._place(length, None, 0, 0)

    def add(self, vma: Vma) -> None:
        """A special mapping of the kernel's, where nothing is."""
        self._insert(vma)

    def _place(self, length: int, mapped: MappedFile | None, offset: int, hint: int) -> int:
        if mapped is not None and self.policy.places_for_huge_pages:
            found = self._place_for_huge_pages(length, offset, hint)
            if found is not None:
                return found
        return self._search(length, hint)

    def _place_for_huge_pages(self, length: int, offset: int, hint: int) -> int | None:
        """As __thp_get_unmapped_area: room for one huge page more is looked for, and the address moved up in it."""
        size = self.policy.pmd_size
        if self.host.bits == 32 and not self.policy["thp_placement_32bit"]:
            return None
        if offset + length - round_up(offset, size) < size:
            return None
        try:
            found = self._search(length + size, hint)
        except MapError:
            return None
        if hint and found == hint:
            return found
        further = (offset - found) % size
        if not further and self.policy["thp_placement_next_huge_page"]:
            return found + size
        return found + further

    def _search(self, length: int, hint: int) -> int:
        if hint:
            at = round_up(max(hint, self.host.mmap_min_addr), self.page)
            if at + length <= self.host.end(at) and not self._in_the_way(at, at + length):
                return at
        return self._highest_gap(length, hint)

    def _in_the_way(self, start: int, end: int) -> bool:
        return any(self._start_with_guard(vma) < end and start < vma.end for vma in self.vmas)

    def _highest_gap(self, length: int, hint: int) -> int:
        if length > self.host.task_size:
            raise MapError(errno.ENOMEM, "longer than the address space")
        end = self.host.mmap_base + self.host.above(hint)
        for vma in reversed(self.vmas):
            if end - max(vma.end, self._lowest) >= length:
                break
            end = min(end, self._start_with_guard(vma))
        if end - self._lowest >= length:
            return end - length
        return self._lowest_gap(length, hint)

    def _lowest_gap(self, length: int, hint: int) -> int:
        """Where nothing is free below mmap_base, from TASK_UNMAPPED_BASE upwards."""
        at = int(self.host.bottom)
        for vma in self.vmas:
            if vma.end <= at:
                continue
            if self._start_with_guard(vma) - at >= length:
                return at
            at = max(at, vma.end)
        if self.host.end(hint) - at < length:
            raise MapError(errno.ENOMEM, "no room")
        return at

    @property
    def _lowest(self) -> int:
        return round_up(max(self.host.mmap_min_addr, self.page), self.page)

    def _start_with_guard(self, vma: Vma) -> int:
        return vma.start - self.host.stack_guard if vma.flags & VmFlags.GROWSDOWN else vma.start

    def _check_fixed(self, address: int, length: int) -> None:
        if length > self.host.task_size or address > self.host.task_size - length:
            raise MapError(errno.ENOMEM, "beyond the address space")
        if address < self.host.mmap_min_addr and not self.host.privileged:
            raise MapError(errno.EPERM, "below vm.mmap_min_addr")

    def _charge(self, length: int) -> None:
        if self.host.memory is not None and length > self.host.memory:
            raise MapError(errno.ENOMEM, "more than all memory")

    # --- the list ---------------------------------------------------------------------------------

    def _anonymous(self, address: int, length: int, flags: VmFlags) -> Vma:
        start, end = MappedAddress(address), MappedAddress(address + length)
        return Vma(start, end, flags, anon_pgoff=address // self.page)

    def _at(self, address: int) -> tuple[int, Vma | None]:
        for index, vma in enumerate(self.vmas):
            if vma.start <= address < vma.end:
                return index, vma
        return 0, None

    def _overlapping(self, start: int, end: int) -> bool:
        return any(vma.start < end and start < vma.end for vma in self.vmas)

    def _split(self, address: int) -> None:
        index, vma = self._at(address)
        if vma is None or vma.start == address:
            return
        self.vmas[index : index + 1] = [
            replace(vma, end=MappedAddress(address)),
            self._from(vma, address),
        ]

    def _from(self, vma: Vma, address: int) -> Vma:
        by = address - vma.start
        return replace(
            vma,
            start=MappedAddress(address),
            offset=FileOffset(vma.offset + by if vma.file is not None else 0),
            anon_pgoff=vma.anon_pgoff + by // self.page,
        )

    def _insert(self, vma: Vma, *, forward: bool = True) -> None:
        index = bisect_left(self.vmas, vma.start, key=lambda other: other.start)
        # The one before first: where their anon_vmas keep both neighbours apart, Linux joins with that.
        if index and self._joins(self.vmas[index - 1], vma):
            index -= 1
            vma = self._joined(self.vmas.pop(index), vma)
        if forward and index < len(self.vmas) and self._joins(vma, self.vmas[index]):
            vma = self._joined(vma, self.vmas.pop(index))
        self.vmas.insert(index, vma)

    def _joins(self, left: Vma, right: Vma) -> bool:
        """Whether two neighbours are one VMA for Linux."""
        if left.end != right.start or (left.flags ^ right.flags) & ~VmFlags.SOFTDIRTY:
            return False
        if left.file != right.file or (left.uffd, left.anon_name) != (right.uffd, right.anon_name):
            return False
        if left.flags & (VmFlags.IO | VmFlags.PFNMAP | VmFlags.DONTEXPAND | VmFlags.MIXEDMAP):
            return False
        if not self._continues(left, right):
            return False
        return left.anon_vma is None or right.anon_vma is None or left.anon_vma == right.anon_vma

    def _continues(self, left: Vma, right: Vma) -> bool:
        if left.file is not None:
            return left.offset + left.size == right.offset
        return left.anon_pgoff + left.size // self.page == right.anon_pgoff

    @staticmethod
    def _joined(left: Vma, right: Vma) -> Vma:
        faulted = left if left.anon_vma is not None else right
        return replace(left, end=right.end, anon_vma=faulted.anon_vma, anon_vma_chain=faulted.anon_vma_chain)

    def _anon_vma_for(self, index: int) -> int:
        """A neighbour's, where they could be one mapping but for their access (find_mergeable_anon_vma); or a new."""
        vma = self.vmas[index]
        for left, right in ((vma, self._neighbour(index + 1)), (self._neighbour(index - 1), vma)):
            if left is None or right is None or left.end != right.start:
                continue
            other = right if left is vma else left
            differ = (left.flags ^ right.flags) & ~(_ACCESS | VmFlags.SOFTDIRTY)
            if not differ and left.file == right.file and self._continues(left, right) and other.anon_vma is not None:
                return other.anon_vma
        self._anon_vmas += 1
        return self._anon_vmas

    def _neighbour(self, index: int) -> Vma | None:
        return self.vmas[index] if 0 <= index < len(self.vmas) else None
