"""kernel.loader: what a dynamic loader maps of one object. In: ElfImage, Policy with its Libc. Out: MappedObject.

Addresses are relative: 0 is the first byte of the object's mapping, wherever that comes to lie. The program and the
interpreter have been mapped by the kernel; of these the loader changes RELRO only (`linked`). Calls and their order are
those of glibc's _dl_map_segments (elf/dl-map-segments.h), musl's map_library (ldso/dynlink.c) and bionic's ElfReader.
"""

import errno
from dataclasses import dataclass, replace

from elfolio.elf.constants import PF_W, PT_GNU_RELRO
from elfolio.elf.image import ElfImage, Segment
from elfolio.kernel.adopting import adopt
from elfolio.kernel.exec_calls import MapError, map_private, protect, unmap, write
from elfolio.kernel.host import Host
from elfolio.kernel.mappable import Mappable, of_policy
from elfolio.kernel.mm import Mm
from elfolio.kernel.policy import Policy
from elfolio.kernel.segments import protection
from elfolio.kernel.space import AddressSpace, OpenFile, Vma, VmFlags
from elfolio.layout.relro import protected_span
from elfolio.span import MappedAddress, Span, round_down, round_up

__all__ = ["LoadError", "MappedObject", "linked", "map_object", "relro_span", "slab_bytes"]

_NONE = VmFlags(0)
_ANYWHERE = Host(task_size=1 << 63, window=1 << 63, stack_top=1 << 63, mmap_min_addr=0, privileged=True)


class LoadError(ValueError):
    """The dynamic loader refuses the object."""


@dataclass(frozen=True)
class MappedObject:
    """One object after dynamic linking. Addresses are relative to its first page."""

    image: ElfImage
    space: AddressSpace
    span: Span
    """From the first page to the last byte's page: all that was reserved for it."""
    holes: tuple[Span, ...]
    """Parts of the span that belong to no segment, mapped or not."""
    past_end: tuple[Span, ...]
    """Parts that map the file where it has ended: to touch them is SIGBUS."""

    @property
    def contiguous(self) -> bool:
        """Whether everything in the span is mapped: what glibc calls l_contiguous, and what programs rely on that take
        every address between an object's first and last for its own. Otherwise a stranger may come to lie there."""
        return not self.space.holes(self.span)

    def at(self, base: int) -> tuple[Vma, ...]:
        """Its mappings where its first page lies at the mapped address `base`."""
        return tuple(_shifted(vma, base, self.space.page) for vma in self.space)


def map_object(image: ElfImage, policy: Policy, file: OpenFile | None = None) -> MappedObject:
    """A shared object as the policy's C library maps it, RELRO protected. Raises LoadError."""
    loads = image.loads
    if not loads:
        raise LoadError(f"{image.name}: object file has no loadable segments")
    _check(image, policy)
    mm = Mm(policy, _ANYWHERE)
    job = _Job(mm, image, of_policy(policy, file or OpenFile(image.name), image.size))
    try:
        {"none": job.glibc, "left": job.musl, "extended": job.bionic, "unmapped": job.glibc}[policy.libc.holes]()
        job.protect_relro()
    except MapError as error:
        raise LoadError(f"{image.name}: {error}") from error
    return _object(image, mm, job.span)


def linked(image: ElfImage, space: AddressSpace, bias: int, policy: Policy, *, relro: bool = True) -> MappedObject:
    """The program or its interpreter, from the `space` of an Execution, after the loader has protected its RELRO.
    glibc's loader does not protect its own where no object needs it by name: `relro` false."""
    page = policy.page_size
    base = bias + round_down(min((s.vaddr for s in image.loads), default=0), page)
    span = Span(0, round_up(max((s.memory.end for s in image.loads), default=0) + bias, page) - base)
    shifted = AddressSpace(tuple(_shifted(vma, -base, page) for vma in space.within(span.shifted(base))), page)
    mm = adopt(Mm(policy, _ANYWHERE), shifted, lambda file: of_policy(policy, file, image.size))
    if relro:
        _Job(mm, image, of_policy(policy, OpenFile(image.name), image.size)).protect_relro()
    return _object(image, mm, span)


def relro_span(image: ElfImage, page: int) -> Span:
    """Linked addresses of the whole pages that are made read-only after relocation; both ends round down, so that an
    end inside a page leaves that page writable (_dl_protect_relro; musl's decode_dyn does the same)."""
    header = image.segment(PT_GNU_RELRO)
    if header is None:
        return Span(0, 0)
    return protected_span(header.vaddr, header.memsz, page)


def slab_bytes(space: AddressSpace, policy: Policy) -> int:
    """Kernel memory of the VMAs alone: their number by sizeof(struct vm_area_struct)."""
    return len(space) * int(policy["vma_bytes"])


def _check(image: ElfImage, policy: Policy) -> None:
    """What glibc refuses (_dl_map_object_from_fd)."""
    page = policy.page_size
    if not policy.libc.rejects_incongruent:
        return
    for s in image.loads:
        if s.align % page:
            raise LoadError(f"{image.name}: ELF load command alignment not page-aligned")
        modulo = page if policy.libc.aligns else max(s.align, 1)
        if (s.vaddr - s.offset) % modulo:
            raise LoadError(f"{image.name}: ELF load command address/offset not properly aligned")


class _Job:
    """The calls, on a working copy in which the object lies at address 0."""

    def __init__(self, mm: Mm, image: ElfImage, file: Mappable) -> None:
        self.mm, self.image, self.file = mm, image, file
        self.page = mm.page
        self.libc = mm.policy.libc
        self.loads = image.loads
        self.lowest = round_down(min((s.vaddr for s in self.loads), default=0), self.page)
        highest = max((s.memory.end for s in self.loads), default=0)
        self.span = Span(0, round_up(highest, self.page) - self.lowest)

    def glibc(self) -> None:
        """One mapping of everything with the first segment's permissions, which keeps the room; holes lose all
        permissions at once; then each further segment over it."""
        first, last = self.loads[0], self.loads[-1]
        if self._start(first) or any(a.vaddr > b.vaddr for a, b in zip(self.loads, self.loads[1:], strict=False)):
            raise MapError(errno.EINVAL, "segments that do not ascend")
        self._map_file(0, self.span.end, first)
        end, upto = self._file_end(first), self._start(last)
        if self.libc.holes == "unmapped":
            unmap(self.mm, end, self.span.end)
        elif any(self._file_end(a) != self._start(b) for a, b in zip(self.loads, self.loads[1:], strict=False)):
            if upto < end:
                raise MapError(errno.EINVAL, "ELF load command address/offset not page-aligned")
            protect(self.mm, end, upto - end, _NONE)
        for segment in self.loads:
            start, end = self._start(segment), self._file_end(segment)
            if segment is not first and end > start:
                self._map_file(start, end - start, segment)
            self._zero(segment, self._end(segment))

    def musl(self) -> None:
        """The same, but a segment is mapped to its end in memory, and holes keep what the first mapping gave them."""
        first = self.loads[0]
        self._map_file(0, self.span.end + round_down(first.offset, self.page), first)
        for segment in self.loads:
            start, end = self._start(segment), round_up(self._end(segment), self.page)
            if start and end > start:
                self._map_file(start, end - start, segment)
            if segment.flags & PF_W:
                self._zero(segment, end)

    def bionic(self) -> None:
        """Room reserved without access; a segment's file mapping reaches as far as the next segment, if the file does.
        The extension came with 16 KiB pages, to save the VMAs of the gaps."""
        map_private(self.mm, 0, self.span.end, _NONE, fixed=True)
        for segment, following in zip(self.loads, (*self.loads[1:], None), strict=True):
            start, end = self._start(segment), self._file_end(segment)
            if following is not None and segment.memsz == segment.filesz:
                file_end = start + round_up(self.file.size, self.page) - round_down(segment.offset, self.page)
                end = max(end, min(self._start(following), file_end))
            if end > start:
                self._map_file(start, end - start, segment)
            self._zero(segment, self._end(segment))

    def protect_relro(self) -> None:
        """After relocation, which has written to it."""
        header = self.image.segment(PT_GNU_RELRO)
        span = relro_span(self.image, self.page).shifted(-self.lowest)
        if header is None or not span.size:
            return
        for area in self.mm.areas:
            if area.flags & VmFlags.WRITE:
                write(self.mm, max(area.start, span.start))
        protect(self.mm, span.start, span.size, VmFlags.READ)

    def _start(self, segment: Segment) -> int:
        return round_down(segment.vaddr, self.page) - self.lowest

    def _file_end(self, segment: Segment) -> int:
        return round_up(segment.vaddr + segment.filesz, self.page) - self.lowest

    def _end(self, segment: Segment) -> int:
        return segment.memory.end - self.lowest

    def _map_file(self, address: int, length: int, segment: Segment) -> None:
        offset = round_down(segment.offset, self.page)
        map_private(self.mm, address, length, protection(segment.flags), self.file, offset, fixed=True)

    def _zero(self, segment: Segment, end: int) -> None:
        """From p_filesz to p_memsz: the rest of the page is written, whole pages are anonymous."""
        if segment.memsz <= segment.filesz:
            return
        zero = segment.vaddr + segment.filesz - self.lowest
        start = round_up(zero, self.page)
        if zero % self.page:
            write(self.mm, zero)
        if end > start:
            map_private(self.mm, start, end - start, protection(segment.flags), fixed=True)


def _object(image: ElfImage, mm: Mm, span: Span) -> MappedObject:
    page = mm.page
    space = AddressSpace(tuple(map(mm.vma, mm.areas)), page)
    lowest = round_down(min((s.vaddr for s in image.loads), default=0), page)
    segments = AddressSpace(tuple(_covers(s, lowest, page) for s in sorted(image.loads, key=lambda s: s.vaddr)), page)
    return MappedObject(image, space, span, segments.holes(span), _past_end(space, image.size, page))


def _covers(segment: Segment, lowest: int, page: int) -> Vma:
    memory = segment.memory.pages(page).shifted(-lowest)
    return Vma(MappedAddress(memory.start), MappedAddress(memory.end), _NONE)


def _past_end(space: AddressSpace, size: int, page: int) -> tuple[Span, ...]:
    """Pages that begin at or after the file's end."""
    found = []
    for vma in space:
        if vma.file is not None:
            backed = max(0, min(vma.size, round_up(size, page) - vma.offset))
            if backed < vma.size:
                found.append(Span(vma.start + backed, vma.end))
    return tuple(found)


def _shifted(vma: Vma, by: int, page: int) -> Vma:
    return replace(
        vma,
        start=MappedAddress(vma.start + by),
        end=MappedAddress(vma.end + by),
        anon_pgoff=vma.anon_pgoff if vma.file is not None else vma.anon_pgoff + by // page,
        name="" if vma.file is None else vma.name,
    )
