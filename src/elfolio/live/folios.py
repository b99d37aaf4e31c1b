"""live.folios: the folios behind each mapping of a process. In: a process id, /proc. Out: ProcessFolios, or OSError.

pagemap gives every page its frame, and whether anybody else maps it; kpageflags gives the frame's folio. Which pages a
PMD maps says PAGEMAP_SCAN (6.7), before that smaps alone, and only how many. Nothing is faulted in. Read as sums in the
C core, in bounded memory: of a process with 20 GiB too.

Frames are root's (CAP_SYS_ADMIN). Without them order, dirty and KSM are unseen, and all else is told: what is there,
swapped, anonymous or a file's, mapped by others too, mapped by a PMD.
"""

import errno
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from elfolio import _native
from elfolio.kernel.folio import Kind, Run, Sum, bytes_by_order, contpte_pages, unpack_runs, unpack_sums
from elfolio.kernel.space import Vma
from elfolio.kernel.vmflags import VmFlags
from elfolio.layout.hugepages import BLOCKS
from elfolio.live.hideable import hideable
from elfolio.live.maps import read_smaps

__all__ = ["Mapped", "ProcessFolios", "VmaFolios", "frames_for", "read_folios", "runs_of"]

_NONE = Kind(0)


class Mapped(StrEnum):
    """By what a page is mapped."""

    PTE = "pte"
    CONTPTE = "contpte"
    """By PTEs that arm64 could hold as one: whole, aligned, of one folio. Whether it does is shown nowhere."""
    PMD = "pmd"


@dataclass(frozen=True)
class VmaFolios:
    """What is behind one mapping. All sizes in bytes."""

    vma: Vma
    page: int
    sums: tuple[Sum, ...]
    """By order and kind, most pages first. None of a device's memory, which smaps does not count either."""
    pmd: int | None = None
    """Mapped by PMDs, where smaps alone says so and the sums do not; None where they do."""

    def bytes(self, kind: Kind, without: Kind = _NONE) -> int:
        """Bytes of all pages that have one of these, and none of those."""
        return sum(one.pages for one in self.sums if one.kind & kind and not one.kind & without) * self.page

    @property
    def rss(self) -> int:
        """As in smaps: without the zero page, what is swapped out, and hugetlb's pages."""
        out = Kind.ZERO | Kind.SWAPPED | Kind.HUGETLB
        return sum(one.pages for one in self.sums if not one.kind & out) * self.page

    @property
    def anonymous(self) -> int:
        """As in smaps."""
        return self.bytes(Kind.ANON, Kind.SWAPPED | Kind.HUGETLB)

    @property
    def file(self) -> int:
        """Of files, tmpfs and shared memory among them."""
        return self.bytes(Kind.FILE, Kind.HUGETLB)

    @property
    def shared(self) -> int:
        """Mapped more than once (kpagecount above 1)."""
        return self.bytes(Kind.SHARED, Kind.HUGETLB)

    @property
    def zero(self) -> int:
        """The zero page's."""
        return self.bytes(Kind.ZERO)

    @property
    def swapped(self) -> int:
        """Out of memory. Of tmpfs and shared memory it is told nowhere but in smaps."""
        return self.bytes(Kind.SWAPPED)

    @property
    def pss(self) -> int | None:
        """As in smaps: each page divided by how often it is mapped, the sum rounded down to KiB; None where a page
        is shared and kpagecount was not asked, or is hidden."""
        seen = [one for one in self.sums if not one.kind & (Kind.ZERO | Kind.SWAPPED | Kind.HUGETLB)]
        if any(not one.share for one in seen):
            return None
        return sum(one.share for one in seen) >> 22 << 10

    def mapped(self) -> dict[Mapped, int]:
        """Bytes that are there, by what maps them; with the zero page, without hugetlb's."""
        out = dict.fromkeys(Mapped, 0)
        for one in self.sums:
            if not one.kind & (Kind.SWAPPED | Kind.HUGETLB):
                by = Mapped.PMD if one.kind & Kind.PMD else Mapped.CONTPTE if one.kind & Kind.CONTPTE else Mapped.PTE
                out[by] += one.pages * self.page
        if self.pmd is not None:
            out[Mapped.PMD], out[Mapped.PTE] = self.pmd, max(0, out[Mapped.PTE] - self.pmd)
        return out

    def orders(self) -> dict[int, int]:
        """Bytes by the order of their folios, ascending; UNSEEN (-1) first."""
        return bytes_by_order(self.sums, self.page)


@dataclass(frozen=True)
class ProcessFolios:
    """A process, mapping by mapping: not at one moment, unless it is stopped."""

    pid: int
    page: int
    vmas: tuple[VmaFolios, ...]
    how: tuple[str, ...]
    """Which of the kernel's files it rests on."""
    hidden: str = ""
    """What could not be seen, why, and who could; empty if all was."""


def read_folios(
    pid: int,
    vmas: Iterable[Vma] | None = None,
    proc: str | Path = "/proc",
    *,
    pss: bool = False,
    cont: int | None = None,
    pmd: Mapping[int, int] | None = None,
    progress: Callable[[int, int], object] | None = None,
    frames: object = None,
) -> ProcessFolios:
    """The folios behind `vmas`, or all of the process's, with flags as smaps shows them.

    `pss` asks kpagecount how often each shared page is mapped, which takes as long as all the rest; smaps tells it too.
    `cont`: pages that contiguous PTEs map, 0 for none, instead of this machine's. `pmd`: bytes that smaps says PMDs
    map, by a mapping's start, for kernels whose pagemap does not tell. `progress` is called with the mappings done, and
    all. `frames`: what frames_for gave, for threads that share it. Raises ProcessLookupError for one that is gone,
    PermissionError for somebody else's.
    """
    found = tuple(read_smaps(pid, proc)) if vmas is None else tuple(vmas)
    out = []
    with ExitStack() as stack:
        reader = _Reader(stack, pid, Path(proc), cont, pss=pss, frames=frames or frames_for(pid, proc))
        for at, vma in enumerate(found):
            sums = tuple(unpack_sums(reader.read(vma, summing=True)))
            told = None if reader.has_scan or pmd is None else pmd.get(vma.start, 0)
            out.append(VmaFolios(vma, mmap.PAGESIZE, sums, told))
            if progress is not None:
                progress(at + 1, len(found))
        return ProcessFolios(pid, mmap.PAGESIZE, tuple(out), tuple(reader.how()), reader.hidden())


def frames_for(pid: int, proc: str | Path = "/proc") -> object:
    """Room for the words of all frames (64 MiB at most), where the process has so much of the memory that nearly all
    are asked for: each is read once then, which small folios in no order gain by. Else None."""
    try:
        resident = int((Path(proc) / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return _native.frame_cache() if resident > os.sysconf("SC_PHYS_PAGES") // 8 else None


def runs_of(pid: int, vma: Vma, proc: str | Path = "/proc", *, cont: int | None = None) -> tuple[Run, ...]:
    """The runs of one mapping: `start` in pages of the address space. Pages that are not there have none. As many as
    its folios are unlike: a caller with a large mapping asks for a part of it. Raises as read_folios."""
    with ExitStack() as stack:
        return tuple(unpack_runs(_Reader(stack, pid, Path(proc), cont).read(vma, summing=False)))


class _Reader:
    """The kernel's files, open; what they turned out to tell."""

    def __init__(self, stack: ExitStack, pid: int, proc: Path, cont: int | None, *, pss: bool = False,
                 frames: object = None) -> None:  # fmt: skip
        self._frames = frames
        self.has_scan, self._hidden = True, False
        self._cont = contpte_pages(os.uname().machine, mmap.PAGESIZE) if cont is None else cont
        self._pagemap = _gone(stack, proc / str(pid) / "pagemap")
        self._flags = hideable(stack, proc / "kpageflags")
        self._counts = hideable(stack, proc / "kpagecount") if pss else -1

    def read(self, vma: Vma, *, summing: bool) -> bytes:
        """The C core's bytes. A device's memory (VM_PFNMAP, VM_IO) has no folios; nor has [vsyscall], beyond all
        addresses of a process."""
        if vma.flags & (VmFlags.PFNMAP | VmFlags.IO) or vma.end > 1 << 63:
            return b""
        page = mmap.PAGESIZE
        packed, has_scan, hidden = _native.page_folios(
            self._pagemap, self._flags, self._counts, BLOCKS[page][1] // page, self._cont,
            vma.start // page, vma.size // page, summing, self._frames,
        )  # fmt: skip
        self.has_scan = self.has_scan and bool(has_scan)
        self._hidden = self._hidden or bool(hidden)
        return packed

    def how(self) -> Iterator[str]:
        """Names of the files that told something."""
        yield "pagemap"
        if self.has_scan:
            yield "PAGEMAP_SCAN"
        if self._flags >= 0 and not self._hidden:
            yield "kpageflags"
        if self._counts >= 0 and not self._hidden:
            yield "kpagecount"

    def hidden(self) -> str:
        """What nobody but root is told."""
        if self._flags >= 0 and not self._hidden:
            return ""
        seen = "below a huge page's" if self.has_scan else "(and of huge pages: from Linux 6.7)"
        return f"the orders of folios {seen}, what is dirty or merged: frame numbers are root's (CAP_SYS_ADMIN)"


def _gone(stack: ExitStack, path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, "no such process", str(path)) from error
    stack.callback(os.close, fd)
    return fd
