"""kernel.segments: PT_LOAD segments become mappings. In: ElfImage, Mm. Out: mappings in it, the load bias.

elf_map and elf_load of fs/binfmt_elf.c, and what stood in their place before 6.7 (the switch elf_load). Segments are
taken in the order of the program-header table, which need not be that of their addresses.
"""

import errno

from elfolio.elf.constants import ET_DYN, PF_R, PF_W, PF_X
from elfolio.elf.image import ElfImage, Segment
from elfolio.kernel.exec_calls import MapError, map_private, unmap, write, zeroes
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm
from elfolio.kernel.space import VmFlags
from elfolio.span import round_down, round_up

__all__ = ["Loader", "protection"]

_WORD = 1 << 64


def protection(flags: int) -> VmFlags:
    """p_flags as mmap's protection."""
    pairs = ((PF_R, VmFlags.READ), (PF_W, VmFlags.WRITE), (PF_X, VmFlags.EXEC))
    return VmFlags(sum(bit for flag, bit in pairs if flags & flag))


class Loader:
    """One file's segments: the program's, or the interpreter's."""

    def __init__(self, mm: Mm, image: ElfImage, file: Mappable, *, program: bool) -> None:
        self.mm, self.image, self.file, self.program = mm, image, file, program
        self.policy = policy = mm.policy
        self.page = policy.page_size
        self.total = self._total()

    def _total(self) -> int:
        """total_mapping_size, in bytes; 0 without PT_LOAD."""
        loads = self.image.loads
        if not loads:
            return 0
        if self.policy["total_mapping_any_order"]:
            lowest = min(round_down(s.vaddr, self.page) for s in loads)
            return max(s.memory.end for s in loads) - lowest
        return (loads[-1].memory.end - round_down(loads[0].vaddr, self.page)) % _WORD

    def probe(self) -> int:
        """Where the first segment comes to lie without an address; everything is unmapped again."""
        first = self.image.loads[0]
        found = self._load_one(0, first, self.total, fixed=False)
        unmap(self.mm, found, round_up(self.total, self.page))
        return found

    def load(self, base: int, *, fixed: bool, relative: bool = True) -> int:
        """Maps all segments, the first one's page at `base` or, where that is not fixed, where it is placed. ET_EXEC
        takes its own addresses. Not `relative`: the first segment's own address is what is asked for. Returns the load
        bias."""
        dynamic = self.image.header.type == ET_DYN
        bias = 0
        bss = _Bss(self) if not self.policy["elf_load"] else None
        for index, segment in enumerate(self.image.loads):
            if bss is not None and self.program:
                bss.fill(bias)
            if index:
                self._load_one(bias + segment.vaddr, segment, 0, fixed=True)
            else:
                if dynamic and relative:
                    bias = round_down(base - segment.vaddr, self.page)
                asked = bias + segment.vaddr
                bias = self._load_first(asked, bias, fixed=fixed)
            self._check(bias, segment)
            if bss is not None:
                bss.note(segment)
        if bss is not None:
            bss.finish(bias)
        return bias

    def _load_first(self, asked: int, bias: int, *, fixed: bool) -> int:
        """Returns the bias that holds from now on."""
        first, dynamic = self.image.loads[0], self.image.header.type == ET_DYN
        fixed = fixed or not dynamic
        # Only a program's first segment must find its place free.
        replaces = not self.program or bool(self.policy["total_mapping_fixed_replace"])
        total = self.total if dynamic or not self.program else 0
        found = self._load_one(asked, first, total, fixed=fixed, replaces=replaces)
        if not dynamic:
            return 0
        if self.program:
            return bias + found - round_down(asked, self.page)
        return found - round_down(first.vaddr, self.page)

    def _check(self, bias: int, segment: Segment) -> None:
        """The interpreter's segments are held against TASK_SIZE where they lie, the program's where they are linked."""
        limit = self.mm.host.task_size
        at = segment.vaddr + (0 if self.program else bias)
        if at >= limit or segment.filesz > segment.memsz or segment.memsz > limit or limit - segment.memsz < at:
            raise MapError(errno.EINVAL, "a segment larger in the file than in memory, or out of bounds")

    def _load_one(self, address: int, segment: Segment, total: int, *, fixed: bool, replaces: bool = True) -> int:
        """Returns the address of the segment's first page."""
        address %= _WORD  # a bias may be below 0: unsigned long
        found = self._load_at(address, segment, total, fixed=fixed, replaces=replaces)
        if found >= self.mm.host.task_size:
            raise MapError(errno.EINVAL, "an empty segment beyond the address space")  # BAD_ADDR
        return found

    def _load_at(self, address: int, segment: Segment, total: int, *, fixed: bool, replaces: bool) -> int:
        if not self.policy["elf_load"]:
            return self._map(address, segment, total, fixed=fixed, replaces=replaces)
        within = segment.vaddr % self.page
        at = round_down(address, self.page)
        zero = at
        if segment.filesz:
            at = self._map(address, segment, total, fixed=fixed, replaces=replaces)
            zero = at + within + segment.filesz
            cleared = segment.memsz <= segment.filesz or self._clear(zero)
            if not cleared and segment.flags & PF_W and self.policy["padzero_reported"]:
                raise MapError(errno.EFAULT, "the page where zeroes begin is not in the file")
        if segment.memsz > segment.filesz:
            start, end = round_up(zero, self.page), round_up(at + within + segment.memsz, self.page)
            zeroes(self.mm, start, end - start, executable=bool(segment.flags & PF_X))
        return at

    def _map(self, address: int, segment: Segment, total: int, *, fixed: bool, replaces: bool) -> int:
        """elf_map: the first segment's mapping has room for all, which is then given back."""
        within = segment.vaddr % self.page
        size = round_up(segment.filesz + within, self.page)
        address = round_down(address, self.page)
        if not size:
            return address
        length = round_up(total, self.page) if total else size
        found = map_private(
            self.mm,
            address,
            length,
            protection(segment.flags),
            self.file,
            segment.offset - within,
            fixed=fixed,
            replaces=replaces,
        )
        unmap(self.mm, found + size, length - size)
        return found

    def _clear(self, address: int) -> bool:
        """padzero: the rest of a page is written."""
        return address % self.page == 0 or write(self.mm, address)

    def phdr(self, bias: int) -> int:
        """AT_PHDR."""
        phoff = self.image.header.phoff
        loads = self.image.loads
        if not self.policy["at_phdr_by_segment"]:
            return bias + phoff + (loads[0].vaddr - loads[0].offset if loads else 0)
        holding = [s for s in loads if s.file.covers(phoff)]
        return bias + (phoff - holding[-1].offset + holding[-1].vaddr if holding else 0)

    def brk_end(self, bias: int) -> int:
        """The highest address of any segment, where the heap begins; not rounded."""
        return bias + max((s.memory.end for s in self.image.loads), default=0)


class _Bss:
    """Before 6.7: what lies between the highest p_filesz end and the highest p_memsz end is one area."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.file_end = self.end = 0
        self.executable = False

    def note(self, segment: Segment) -> None:
        self.file_end = max(self.file_end, segment.vaddr + segment.filesz)
        if segment.memory.end > self.end:
            self.end = segment.memory.end
            self.executable = bool(segment.flags & PF_X)

    def fill(self, bias: int) -> None:
        """Before a further segment of a program."""
        if self.end > self.file_end:
            self._zero_pages(bias)
            self.loader._clear(self.file_end + bias)

    def finish(self, bias: int) -> None:
        """After the last one."""
        if self.loader.program:
            self._zero_pages(bias)
            if self.end == self.file_end:
                return
        if not self.loader._clear(self.file_end + bias):
            raise MapError(errno.EFAULT, "the page where zeroes begin cannot be written")
        if not self.loader.program:
            self._zero_pages(bias)

    def _zero_pages(self, bias: int) -> None:
        page = self.loader.page
        start, end = round_up(self.file_end + bias, page), round_up(self.end + bias, page)
        if end > start:
            zeroes(self.loader.mm, start, end - start, executable=self.executable)
