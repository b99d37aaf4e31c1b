"""Random operations on an address space: tuples of numbers, made into calls by what is mapped at that moment.

A step is (kind, six numbers). `resolve` turns it into an operation, half of the addresses at boundaries of mappings
that exist, some hostile. Steps shrink well, and the same steps always give the same operations.
"""

from elfolio.kernel.abi import ADVICE
from elfolio.kernel.calls import (
    Brk,
    Madvise,
    Mlock,
    Mlockall,
    Mmap,
    Mprotect,
    Mremap,
    Mseal,
    Munlock,
    Munlockall,
    Munmap,
    NameVma,
    Operation,
    Prctl,
    Touch,
    UffdClose,
    UffdRegister,
    UffdUnregister,
)  # fmt: skip
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm

__all__ = ["ARENA", "KINDS", "PAGES", "Step", "resolve"]

Step = tuple[str, int, int, int, int, int, int]
ARENA = 1 << 40
PAGES = 48
_P = 4096
_HUGE = 2 << 20
_TOP = (1 << 47) - _P

KINDS = (
    *["mmap"] * 3,
    *["mmap_fixed"] * 5,
    *["mmap_file"] * 3,
    *["munmap"] * 2,
    *["mprotect"] * 3,
    *["mremap"] * 2,
    *["mremap_fixed"] * 3,
    *["brk"] * 2,
    *["madvise"] * 3,
    *["touch"] * 4,
    *("mlock", "munlock", "mseal", "fork", "uffd", "unuffd", "merge_any", "mlockall", "prctl", "guard", "big", "name"),
)
"""Each kind as often as it shall come, none below a hundredth."""

_ADVICE = (
    "NORMAL", "RANDOM", "SEQUENTIAL", "WILLNEED", "DONTNEED", "FREE", "DONTFORK", "DOFORK", "MERGEABLE", "UNMERGEABLE",
    "HUGEPAGE", "NOHUGEPAGE", "DONTDUMP", "DODUMP", "WIPEONFORK", "KEEPONFORK", "COLD", "PAGEOUT", "POPULATE_READ",
    "POPULATE_WRITE", "DONTNEED_LOCKED", "REMOVE",
)  # fmt: skip
_HOSTILE = (0, _P, 0x10000, 1, _TOP, _TOP + _P, 1 << 47, 1 << 48, 1 << 63, (1 << 64) - _P, (1 << 64) - 1)
_SIZES = (0, 1, _P - 1, _P, 2 * _P, 3 * _P, 5 * _P, 8 * _P)
_HOSTILE_SIZES = (1 << 57, 3 << 57, 1 << 63, (1 << 64) - _P, (1 << 64) - 1)


def resolve(step: Step, mm: Mm, files: tuple[Mappable, ...]) -> Operation | None:
    """The operation; None for a fork, or for what would wait for ever."""
    kind, a, b, c, d, e, f = step
    address, size = _address(a, b, mm), _size(c)
    operation = _plain(kind, address, size, d, e, f, mm, files)
    return None if operation is None or _waits(operation, mm) else operation


def _plain(
    kind: str, address: int, size: int, d: int, e: int, f: int, mm: Mm, files: tuple[Mappable, ...]
) -> Operation | None:
    match kind:
        case "mmap":
            return Mmap(address if d % 3 == 0 else 0, size, _prot(e), _map_flags(f))
        case "mmap_fixed":
            return Mmap(
                _inside(address), min(size, PAGES * _P), _prot(e), _map_flags(f) | (0x10 if d % 5 else 0x100000)
            )
        case "mmap_file":
            file = files[d % len(files)]
            where = (_inside(address), 0x10) if e % 4 else (0, 0)
            offset = _matching(file, address, mm) if f % 2 else (f >> 1) % 8 * _P
            shared = 1 if f % 7 == 0 else 2
            return Mmap(where[0], min(size, PAGES * _P), _prot(e >> 2), shared | where[1], file, offset)
        case "munmap":
            return Munmap(address, _safe(address, size))
        case "mprotect":
            return Mprotect(address, _safe(address, size), _prot(e))
        case "mremap":
            return Mremap(address, _safe(address, size), _size(d), (0, 1, 1, 1, 5, 8)[e % 6], 0)
        case "mremap_fixed":
            new = _safe(address, size) if d % 4 else _size(d >> 2)
            target = _inside(_address(e, f, mm))
            return Mremap(address, _safe(address, size), min(new, 1 << 57), (3, 3, 3, 7, 5, 2)[f % 6], target)
        case "brk":
            return Brk(mm.brk + (d % 9 - 4) * _P + (e % 3) * 100) if d % 7 else Brk(address)
        case "madvise":
            return Madvise(address, _near(address, size), ADVICE[_ADVICE[d % len(_ADVICE)]] if e % 20 else d)
        case "touch":
            return Touch(address, min(size, 8 * _P) or 1, e % 3 > 0)
        case "mlock":
            return Mlock(address, _safe(address, size), (0, 0, 1, 2)[d % 4])
        case "munlock":
            return Munlock(address, _safe(address, size))
        case "mseal":
            return Mseal(_inside(address), min(size, 3 * _P), 0 if d % 8 else 1) if e % 2 else Munlockall()
        case "uffd":
            return UffdRegister(d % 2, _inside(address), min(size, 4 * _P), (1, 1, 2, 3, 0, 4)[e % 6])
        case "name":
            return NameVma(address, _near(address, size), (None, "one", "one", "two", "[three]")[d % 5])
        case "unuffd" if f % 4 == 0:
            return UffdClose(d % 2)
        case "unuffd":
            return UffdUnregister(d % 2, _inside(address), min(size, 4 * _P))
        case "merge_any":
            return Prctl(67 if d % 3 else 68, e % 2 if d % 3 else 0)
        case "mlockall":
            return Mlockall((2, 1, 3, 7, 4, 0, 6)[d % 7]) if e % 2 else Munlockall()
        case "prctl":
            return Prctl(
                (65, 66, 41, 42)[d % 4], (1 if d % 4 in (0, 2) else 0) if e % 3 else 2, f % 2 if f % 3 == 0 else 0
            )
        case "guard":
            return Madvise(address, _near(address, size), ADVICE["GUARD_INSTALL" if d % 3 else "GUARD_REMOVE"])
        case "big":
            length = (d % 4 + 1) * _HUGE + (0, 0, _P, -_P)[e % 4]
            return Mmap(0, length, _prot(f), _map_flags(f >> 3)) if e % 8 else Mmap(0, length, 1, 2, files[0], 0)
        case _:
            return None


def _address(a: int, b: int, mm: Mm) -> int:
    """Half of them at a boundary, some unaligned, some hostile."""
    if a % 32 == 31:
        return _HOSTILE[b % len(_HOSTILE)]
    if a % 2:
        edges = [area for area in mm.areas if ARENA <= area.start < ARENA + PAGES * _P or _placed(area.start)]
        if edges:
            area = edges[b % len(edges)]
            return (area.start, area.end, area.start, area.start - _P)[(b >> 8) % 4] + (1 if a % 64 == 1 else 0)
    return ARENA + b % PAGES * _P


def _placed(address: int) -> bool:
    """Below the vdso, where mappings without an address go; or above the window, where the machine has addresses there
    and a hint asked for them."""
    return 0x7FF000000000 <= address < 0x7FFFF7FF0000 or 1 << 47 <= address < 1 << 62


def _inside(address: int) -> int:
    """Where MAP_FIXED may replace what is there: never the driver's own memory."""
    if ARENA <= address < ARENA + PAGES * _P or address > 1 << 62:
        return address
    return ARENA + (address >> 12) % PAGES * _P + (address & 1)


def _size(c: int) -> int:
    return _HOSTILE_SIZES[c >> 6 & 3] if c % 64 == 63 else _SIZES[c % len(_SIZES)]


def _safe(address: int, size: int) -> int:
    """A length that ends before the driver's own memory begins, or is wrong by itself."""
    if size <= 8 * _P or size + address > 1 << 64:
        return size
    return size if address >= ARENA and size >= 1 << 57 else _P


def _near(address: int, size: int) -> int:
    """The same for a call that does not mind holes on its way to the stack."""
    return size if size <= 8 * _P or size + address > 1 << 64 else _P


def _prot(e: int) -> int:
    return (3, 3, 3, 1, 0, 5, 3, 1, 7, 2, 4, 3)[e % 12]


def _map_flags(f: int) -> int:
    if f % 16 == 15:
        return (0x20, 0x22 | 0x40000, 0x23, 0x28, 0x24)[(f >> 4) % 5]
    shared = 0x21 if f % 11 == 0 else 0x22
    extra = (0, 0, 0, 0x4000, 0x100, 0x8000, 0x2000, 0x20000)[(f >> 4) % 8]
    return shared | extra if extra != 0x100 or f % 3 == 0 else shared


def _matching(file: Mappable, address: int, mm: Mm) -> int:
    """The offset that continues a mapping of this file that ends at the address."""
    area = mm.areas.at_or_below(address - 1)
    if area is not None and area.file is file and area.end == address:
        return area.offset + area.end - area.start
    return 0


def _waits(operation: Operation, mm: Mm) -> bool:
    """Whether it would meet a page that a userfaultfd watches, which nobody provides: what faults there depends on
    pages, not on mappings."""
    if isinstance(operation, Touch):
        end = operation.address + operation.length
        if any(area.special and area.start < end and operation.address < area.end for area in mm.areas):
            return True  # what lies behind [vvar] is no memory
    if all(area.uffd is None for area in mm.areas):
        return False
    match operation:
        case Touch() | Mlock() | Mlockall() | Mremap():
            return True
        case Madvise(advice=advice):
            return advice in (ADVICE["POPULATE_READ"], ADVICE["POPULATE_WRITE"])
        case Mmap(flags=flags):
            return bool(flags & 0xA000) or bool(mm.def_flags)
        case Mprotect():
            return any(area.flags & 0x2000 for area in mm.areas)
        case _:
            return False
