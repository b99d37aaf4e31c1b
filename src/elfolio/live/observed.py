"""live.observed: a running process whole: mappings, folios, blocks kept small. In: a process id. Out: Observed.

smaps says what is there, pagemap and the page flags in which folios, kernel.losses why not in huge mappings. They are
read one after the other: of a process that runs, numbers may differ by what it did meanwhile.
"""

import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from elfolio.kernel.backing import Backing
from elfolio.kernel.blocks import block_sizes
from elfolio.kernel.folio import UNSEEN, Kind, Run
from elfolio.kernel.losses import Loss, candidates, fates, loss, piece_of
from elfolio.kernel.space import Vma, VmFlags
from elfolio.live.backed import FileFacts, Files
from elfolio.live.folios import Mapped, ProcessFolios, VmaFolios, frames_for, read_folios, runs_of
from elfolio.live.processes import Standing, standing
from elfolio.live.vmas import ProcessMemory, VmaUse, read_memory

__all__ = ["Memoryless", "Observed", "Picture", "Seen", "observe", "picture"]

_MUCH = 1 << 30
"""Bytes there from which on a second thread pays."""
_BATCH = 1 << 16
"""Pages whose runs are held at once."""


class Memoryless(Exception):
    """A kernel thread or a zombie; its text says which."""

    def __init__(self, who: Standing) -> None:
        super().__init__(who.memoryless)
        self.who = who


@dataclass(frozen=True, slots=True)
class Seen:
    """One mapping."""

    use: VmaUse
    folios: VmaFolios
    file: FileFacts | None
    """None where there is none, or a device's."""
    losses: tuple[Loss, ...]
    """For each size of block, where a file is behind it that can be seen."""


@dataclass(frozen=True)
class Observed:
    """A process."""

    memory: ProcessMemory
    seen: tuple[Seen, ...]
    folios: ProcessFolios


def observe(pid: int, files: Files, proc: str | Path = "/proc") -> Observed:
    """Raises ProcessLookupError for one that is gone, PermissionError for somebody else's, Memoryless, MapsError."""
    who = standing(pid, proc)
    if who.memoryless:
        raise Memoryless(who)
    memory = read_memory(pid, proc)
    if not memory.uses and (now := standing(pid, proc)).memoryless:
        raise Memoryless(now)
    folios = _folios(pid, memory.uses, proc)
    seen = tuple(
        _seen(pid, use, found, files, switched_off=not memory.huge_pages)
        for use, found in zip(memory.uses, folios.vmas, strict=True)
    )
    return Observed(memory, seen, folios)


def _folios(pid: int, uses: Sequence[VmaUse], proc: str | Path) -> ProcessFolios:
    """Of gigabytes in two threads: the kernel's files take all of the time, and each thread one processor."""
    huge: dict[int, int] = {use.vma.start: use.huge for use in uses}
    vmas = [use.vma for use in uses]
    middle = _middle([use.rss for use in uses])
    if middle is None:
        return read_folios(pid, vmas, proc, pmd=huge)
    from concurrent.futures import ThreadPoolExecutor

    frames = frames_for(pid, proc)
    with ThreadPoolExecutor(1) as second:
        later = second.submit(read_folios, pid, vmas[middle:], proc, pmd=huge, frames=frames)
        first = read_folios(pid, vmas[:middle], proc, pmd=huge, frames=frames)
        rest = later.result()
    return replace(first, vmas=first.vmas + rest.vmas, hidden=first.hidden or rest.hidden)


def _middle(sizes: Sequence[int]) -> int | None:
    """Where to cut so that both sides have about as much; None where that does not pay."""
    whole, before = sum(sizes), 0
    if whole < _MUCH:
        return None
    for at, size in enumerate(sizes):
        if at and before + size / 2 >= whole / 2:
            return at
        before += size
    return None


def _seen(pid: int, use: VmaUse, found: VmaFolios, files: Files, *, switched_off: bool) -> Seen:
    vma = use.vma
    if vma.file is None or vma.flags & (VmFlags.PFNMAP | VmFlags.IO | VmFlags.HUGETLB):
        return Seen(use, found, None, ())
    facts = files.facts(pid, vma)
    if facts.hidden:
        return Seen(use, found, facts, ())
    sizes = block_sizes(facts.policy)
    return Seen(use, found, facts, tuple(_loss(pid, found, facts, files, size, switched_off) for size in sizes))


def _loss(pid: int, found: VmaFolios, facts: FileFacts, files: Files, size: int, switched_off: bool) -> Loss:
    vma = found.vma
    piece = piece_of(vma, facts.pieces)
    stretches = fates(vma, facts.policy, size, piece, file_size=facts.size, switched_off=switched_off)
    written = bool(vma.flags & VmFlags.WRITE) or (piece is not None and piece.written)
    mapped = _mapped(found, size, facts.policy.pmd_size)
    there: Counter[Backing] = Counter()
    for span in () if written else candidates(stretches):
        there += _short(found, mapped, span.size // size, size) or files.backing(pid, vma, span, size)
    return loss(stretches, size, mapped, there, copied=written)


def _mapped(found: VmaFolios, size: int, pmd: int) -> int:
    """Blocks of the file that one entry, or a run of contiguous ones, maps."""
    if found.pmd is not None:  # smaps alone knows
        return (found.mapped()[Mapped.PMD] if not found.anonymous else 0) // size
    kinds = Kind.PMD if size == pmd else Kind.PMD | Kind.CONTPTE
    pages = sum(s.pages for s in found.sums if s.kind & Kind.FILE and s.kind & kinds)
    return pages * found.page // size


def _short(found: VmaFolios, mapped: int, blocks: int, size: int) -> Counter[Backing] | None:
    """Where the process's own pages say all, the page cache need not be asked, which takes longer."""
    if mapped >= blocks:
        return Counter({Backing.FOLIO: blocks})
    orders = found.orders()
    if found.file < found.vma.size or UNSEEN in orders or found.page << max(orders) >= size:
        return None
    return Counter({Backing.SMALLER: blocks})


class Picture(NamedTuple):
    """A mapping in few cells."""

    cell: int
    """Bytes of each."""
    runs: tuple[Run | None, ...]
    """What most pages of a cell are; None where nothing is there."""


def picture(pid: int, vma: Vma, most: int, proc: str | Path = "/proc") -> Picture:
    """In at most so many cells; all empty for a process that has ended. Raises PermissionError."""
    page, pages = mmap.PAGESIZE, vma.size // mmap.PAGESIZE
    each = 1
    while each * most < pages:
        each *= 2
    best: dict[int, dict[tuple[int, Kind], int]] = {}
    if vma.end <= 1 << 63:
        with suppress(ProcessLookupError):
            for run in _runs(pid, vma, proc):
                _spread(run, vma.start // page, each, best)
    return Picture(each * page, tuple(_most(best.get(cell)) for cell in range(-(-pages // each))))


def _runs(pid: int, vma: Vma, proc: str | Path) -> Iterator[Run]:
    step = _BATCH * mmap.PAGESIZE
    for start in range(vma.start, vma.end, step):
        part = replace(vma, start=type(vma.start)(start), end=type(vma.end)(min(start + step, vma.end)))
        yield from runs_of(pid, part, proc)


def _spread(run: Run, first: int, each: int, best: dict[int, dict[tuple[int, Kind], int]]) -> None:
    at = run.start - first
    end = at + run.pages
    while at < end:
        stop = min(end, (at // each + 1) * each)
        counts = best.setdefault(at // each, {})
        counts[run.order, run.kind] = counts.get((run.order, run.kind), 0) + stop - at
        at = stop


def _most(counts: dict[tuple[int, Kind], int] | None) -> Run | None:
    if not counts:
        return None
    order, kind = max(counts, key=lambda one: counts[one])
    return Run(0, counts[order, kind], order, kind, 0)
