"""kernel.space: an address space as a value. In: what mapped it, a model or a probe. Out: Vma, AddressSpace, frozen.

A model and a running process give the same type, so that comparing them is a function of two values. A `Vma` carries
what Linux asks when it decides whether two neighbours become one (struct vm_area_struct, mm/vma.c); a probe leaves at
their defaults those fields that /proc does not show.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from elfolio.kernel.vmflags import VmFlags
from elfolio.span import FileOffset, MappedAddress, Span

__all__ = ["AddressSpace", "OpenFile", "VmFlags", "Vma"]

_START_OF_FILE = FileOffset(0)
_NOWHERE = MappedAddress(0)

_NAME_COLUMN = 25 + 8 * 6 - 1
"""Where /proc/PID/maps of a 64-bit kernel begins a name (show_vma_header_prefix, fs/proc/task_mmu.c)."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """The struct file behind a mapping. Two openings of one inode are two, whose mappings never merge."""

    path: str
    inode: int = 0
    major: int = 0
    """Of the device that stat(2) and maps show, which for btrfs and overlayfs is not always the file system's own."""
    minor: int = 0
    opening: int = 0
    """Which opening it is, counted by whoever made the value; equal numbers, one struct file."""


@dataclass(frozen=True, slots=True)
class Vma:
    """One struct vm_area_struct. Addresses and offsets are in bytes, `anon_pgoff` in pages."""

    start: MappedAddress
    end: MappedAddress
    flags: VmFlags
    file: OpenFile | None = None
    offset: FileOffset = _START_OF_FILE
    """Of the first byte in the file; 0 for what has none, as maps shows it."""
    name: str = ""
    """As maps prints it: the file's path, [heap], [stack], [anon:...]; empty for none."""
    anon_pgoff: int = 0
    """Where its anonymous pages stand in their own order: start >> PAGE_SHIFT when made, rewritten by mremap."""
    anon_vma: int | None = None
    """Which anon_vma it has; None before the first write fault into private memory."""
    anon_vma_chain: int = 0
    """Entries of its anon_vma_chain: 1 after a fault, more in a fork's child."""
    closes: bool = False
    """Whether vm_ops->close exists: such a mapping may be extended, and (from 6.5) not swallowed."""
    uffd: int | None = None
    """Which userfaultfd watches it."""
    anon_name: str | None = None
    """Of prctl(PR_SET_VMA_ANON_NAME)."""

    @property
    def span(self) -> Span:
        """Mapped addresses."""
        return Span(self.start, self.end)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start

    @property
    def perms(self) -> str:
        """As maps prints them: `r-xp`."""
        return self.flags.perms

    @property
    def seen(self) -> tuple[int, int, str, int, str]:
        """What /proc/PID/maps shows of it, without device and inode: start, end, perms, offset, name."""
        return self.start, self.end, self.perms, self.offset, self.name

    def line(self) -> str:
        """Its line of /proc/PID/maps, without the newline."""
        file = self.file or OpenFile("")
        head = (
            f"{self.start:08x}-{self.end:08x} {self.perms} {self.offset:08x} "
            f"{file.major:02x}:{file.minor:02x} {file.inode} "
        )
        return f"{head:<{_NAME_COLUMN}} {self.name}" if self.name else head


@dataclass(frozen=True)
class AddressSpace:
    """The VMAs of one process by ascending address, none overlapping, and what its memory descriptor remembers."""

    vmas: tuple[Vma, ...]
    page: int = 4096
    """Bytes of a page."""
    start_brk: MappedAddress = _NOWHERE
    """Where the heap begins; 0 where nobody knows."""
    brk: MappedAddress = _NOWHERE
    start_stack: MappedAddress = _NOWHERE
    mmap_base: MappedAddress = _NOWHERE
    """Below it mappings are placed, top-down."""
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", tuple(vma.start for vma in self.vmas))

    def __iter__(self) -> Iterator[Vma]:
        return iter(self.vmas)

    def __len__(self) -> int:
        return len(self.vmas)

    def at(self, address: int) -> Vma | None:
        """The VMA that contains it."""
        at = bisect_right(self._starts, address) - 1
        return self.vmas[at] if at >= 0 and address < self.vmas[at].end else None

    def within(self, span: Span) -> tuple[Vma, ...]:
        """The VMAs that overlap it, whole."""
        return tuple(vma for vma in self.vmas if vma.start < span.end and span.start < vma.end)

    def holes(self, span: Span) -> tuple[Span, ...]:
        """The parts of `span` without any VMA."""
        found = []
        at = span.start
        for vma in self.within(span):
            if at < vma.start:
                found.append(Span(at, vma.start))
            at = max(at, vma.end)
        if at < span.end:
            found.append(Span(at, span.end))
        return tuple(found)

    def maps(self) -> str:
        """The text of /proc/PID/maps."""
        return "".join(vma.line() + "\n" for vma in self.vmas)
