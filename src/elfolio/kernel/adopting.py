"""kernel.adopting: an address space given as a value is taken over for work. In: AddressSpace, an empty Mm. Out: Mm.

The value may come from kernel.execve or from a probe. A probe does not see anon_vmas: then every VMA counts as
untouched, until something says otherwise (kernel.model.fault_all).
"""

from collections.abc import Callable
from functools import lru_cache

from elfolio.kernel.anon import AnonVma
from elfolio.kernel.areas import Area
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm
from elfolio.kernel.space import AddressSpace, OpenFile, Vma
from elfolio.kernel.vmflags import VmFlags

__all__ = ["adopt", "known_file"]

_LOCKED = int(VmFlags.LOCKED)
_OWN_NAMES = ("[heap]", "[stack]")
_SHMEM = ("/dev/zero", "/memfd:", "/SYSV", "/dev/shm/", "/anon_hugepage")


@lru_cache(1024)
def known_file(file: OpenFile) -> Mappable:
    """What its path alone tells of a file; whoever knows its file system passes a function of his own."""
    if file.path.startswith("/anon_hugepage"):
        return Mappable(file, kind="hugetlb", fs="hugetlbfs")
    if file.path.startswith("/SYSV"):
        return Mappable(file, kind="shmem", fs="tmpfs", closes=True)
    if file.path.startswith(_SHMEM):
        return Mappable(file, kind="shmem", fs="tmpfs")
    if file.path.startswith(("/dev/", "anon_inode:", "socket:")):
        return Mappable(file, kind="device", fs="devtmpfs")
    return Mappable(file)


def adopt(mm: Mm, space: AddressSpace, mappable: Callable[[OpenFile], Mappable] = known_file) -> Mm:
    """`mm` with the value's VMAs; it must be empty. `[vsyscall]` is no VMA of a process, and left out."""
    anon_vmas: dict[int, AnonVma] = {}
    files: dict[OpenFile, Mappable] = {}
    for vma in space:
        if vma.file is not None and vma.file not in files:
            files[vma.file] = mm.file(mappable(vma.file))
    areas = [_area(mm, vma, files, anon_vmas) for vma in space if vma.name != "[vsyscall]"]
    mm.skip_anon_vmas(max(anon_vmas, default=0))
    mm.areas.fill(areas)
    mm.total = sum(area.end - area.start for area in areas)
    mm.locked = sum(area.end - area.start for area in areas if area.flags & _LOCKED)
    mm.start_brk, mm.brk = space.start_brk, space.brk or space.start_brk
    heap = [vma.end for vma in space if vma.name == "[heap]"]
    if not space.brk and heap:
        mm.brk = max(heap)
    mm.start_stack = space.start_stack
    if space.mmap_base:
        mm.mmap_base = space.mmap_base
    return mm


def _area(mm: Mm, vma: Vma, files: dict[OpenFile, Mappable], anon_vmas: dict[int, AnonVma]) -> Area:
    file = None if vma.file is None else files[vma.file]
    anon = vma.anon_pgoff * mm.page
    area = Area(vma.start, vma.end, int(vma.flags), anon if file is None else vma.offset, file, anon or vma.start)
    if vma.anon_vma is not None:
        made = anon_vmas.setdefault(vma.anon_vma, AnonVma(vma.anon_vma))
        area.anon_vma = made
        area.chain = (made,) * max(1, vma.anon_vma_chain)
    area.closes = vma.closes or (file is not None and file.closes)
    area.uffd, area.anon_name = vma.uffd, vma.anon_name
    if file is None and vma.name.startswith("[") and vma.name not in _OWN_NAMES and not vma.name.startswith("[anon"):
        area.special = vma.name
    return area
