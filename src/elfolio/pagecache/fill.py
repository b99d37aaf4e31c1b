"""pagecache.fill: the page cache of a file, filled and looked at. In: a descriptor, an Aim. Out: the cache; Seen.

Blocks of which a process has pages mapped are left as they are: these pages cannot be dropped, and what is read into
the gaps between them is in the smallest folios. MADV_COLLAPSE takes them too, where the kernel has it for the file.
"""

import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from elfolio.kernel.folio import Kind
from elfolio.live.cached import CachedFile, look
from elfolio.pagecache.aim import Aim
from elfolio.pagecache.window import Window, drop
from elfolio.span import Span

__all__ = ["ATTEMPTS", "Seen", "fill", "see", "window"]

ATTEMPTS = 4
"""Whether a folio of that order is free is chance; what is not free after so many is not free for now. Memory is not
compacted for it but by the kernel's own attempt."""
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Seen:
    """The page cache of a file."""

    huge: int | None
    """How many of the wanted blocks have a folio of their size; None where it is hidden."""
    orders: dict[int, int] | None
    """Bytes by the order of their folios; None where they are hidden."""
    page: int


def see(fd: int, aim: Aim, *, touch: bool = False) -> Seen:
    """Looks, without reading anything. `touch`: where folios are hidden, the wanted blocks are read through a mapping,
    and smaps tells how many became huge ones."""
    found = look(fd)
    huge = _huge(found, aim.wanted, aim.huge)
    count = None if huge is None else len(huge)
    if count is None and touch:
        with window(fd, aim) as mapped:
            mapped.read(aim.wanted)
            count = mapped.mapped_huge() // aim.huge
    return Seen(count, None if found.runs is None else found.orders(), found.page)


def fill(fd: int, aim: Aim) -> bool:
    """Until every wanted block has its folio, or attempts have run out. What has it already is left alone. Whether
    there are blocks that have none because processes have pages of them mapped. Raises OSError."""
    held: set[Span] = set()
    collapses = True
    with window(fd, aim) as mapped:
        for attempt in range(ATTEMPTS):
            missing, held = _missing(look(fd), aim)
            if not missing and not (held and collapses):
                break
            if attempt:
                time.sleep(_PAUSE)
            mapped.forget()  # what this process has mapped cannot be dropped either
            _read_again(fd, mapped, missing)
            if collapses:
                collapses = mapped.collapse(_whole(look(fd), aim)) != errno.EINVAL
            if mapped.mapped_huge() >= sum(block.size for block in aim.fill if block.end <= aim.size):
                break  # all that was read is in huge mappings here: told to everybody
    return not held.isdisjoint(aim.wanted)


def _read_again(fd: int, mapped: Window, blocks: list[Span]) -> None:
    os.fsync(fd)  # what is dirty is not dropped
    drop(fd, blocks)
    stayed = _cached(look(fd), blocks)
    mapped.read(block for block in blocks if block not in stayed)
    for block in stayed:  # mapped meanwhile, or seen only now: as good as it was, at least
        os.pread(fd, block.size, block.start)


def window(fd: int, aim: Aim) -> Window:
    """A mapping of the file, executable if it may be."""
    try:
        return Window(fd, aim.size, aim.huge, executable=True)
    except PermissionError:  # mounted noexec
        return Window(fd, aim.size, aim.huge)


def _missing(found: CachedFile, aim: Aim) -> tuple[list[Span], set[Span]]:
    """Of what is to be read, the blocks that are in no folio of their size, once a wanted one is not: those that can
    be dropped, and those that somebody has mapped. Where that is hidden, all can. One that ends behind the file is
    always among them."""
    huge = _huge(found, aim.fill, aim.huge)
    if huge is None:
        return list(aim.fill), set()
    if huge.issuperset(aim.wanted):
        return [], set()
    rest = [block for block in aim.fill if block not in huge]
    held = _cached(found, rest, Kind.SHARED)
    return [block for block in rest if block not in held], held


def _whole(found: CachedFile, aim: Aim) -> list[Span]:
    """The wanted blocks that are in no folio of their size; all, where that is hidden."""
    huge = _huge(found, aim.wanted, aim.huge) or frozenset()
    return [block for block in aim.wanted if block not in huge]


def _huge(found: CachedFile, blocks: Iterable[Span], huge: int) -> frozenset[Span] | None:
    """Those that lie in folios of `huge` bytes or more; None where that is hidden."""
    if found.runs is None:
        return None
    order = (huge // found.page).bit_length() - 1
    spans: list[Span] = []
    for run in found.runs:
        if run.order >= order:
            start, end = run.start * found.page, run.end * found.page
            spans.append(Span(spans.pop().start, end) if spans and spans[-1].end == start else Span(start, end))
    return frozenset(block for block in blocks if any(span.encloses(block) for span in spans))


def _cached(found: CachedFile, blocks: Iterable[Span], kind: Kind = Kind.FILE) -> set[Span]:
    """Those of which a page of that kind is cached; none where that is hidden."""
    runs = [Span(run.start * found.page, run.end * found.page) for run in found.runs or () if run.kind & kind == kind]
    return {block for block in blocks if any(run.common(block).size for run in runs)}
