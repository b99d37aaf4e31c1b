"""pagecache.fill: the page cache of a file, filled and looked at. In: a descriptor, an Aim. Out: the cache; Seen.

Blocks of which a process has pages mapped are left as they are: these pages cannot be dropped, and what is read into
the gaps between them is in the smallest folios. MADV_COLLAPSE takes them too, where the kernel has it for the file.
"""

import errno
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from elfolio.kernel.folio import Kind
from elfolio.live.cached import CachedFile, look
from elfolio.pagecache.aim import Aim
from elfolio.pagecache.window import Window, drop
from elfolio.span import Span

__all__ = ["ATTEMPTS", "Seen", "fill", "read_again", "see", "window"]

ATTEMPTS = 4
"""Whether a folio of that order is free is chance; what is not free after so many is not free for now. Memory is not
compacted for it but by the kernel's own attempt."""
_PAUSE = 0.05
_TELL_SIZES = frozenset({"kpageflags", "PAGEMAP_SCAN", "stat"})
"""The answers of the kernel (CachedFile.how) by which a folio as large as a huge page is told from others."""


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
    whose page table then tells."""
    found = look(fd)
    huge = _huge(found, aim.wanted, aim.huge)
    if huge is None and touch:
        with window(fd, aim) as mapped:
            mapped.read(aim.wanted)
            huge = mapped.huge_blocks(aim.wanted)
    return Seen(None if huge is None else len(huge), None if found.runs is None else found.orders(), found.page)


def fill(fd: int, aim: Aim) -> bool:
    """Until every wanted block has its folio, or attempts have run out. What has it already is left alone. Whether
    there are blocks that have none because processes have pages of them mapped. Raises OSError."""
    state = _State([], set())
    collapses = True
    with window(fd, aim) as mapped:
        for attempt in range(ATTEMPTS):
            state = _state(fd, aim, mapped)
            if not state.missing and not (state.held and collapses):
                break
            if attempt:
                time.sleep(_PAUSE)
            mapped.forget()  # what this process has mapped cannot be dropped either
            read_again(fd, mapped, state.missing)
            if collapses:
                left = _state(fd, aim, mapped)
                wanted = sorted({*left.missing, *left.held}.intersection(aim.wanted))
                collapses = mapped.collapse(wanted) != errno.EINVAL
        else:
            state = _state(fd, aim, mapped)
            mapped.forget()
            _read_plainly(fd, state.missing)
    return not state.held.isdisjoint(aim.wanted)


@dataclass(frozen=True, slots=True)
class _State:
    """Of what is to be read, the blocks that are in no folio of their size; none, once no wanted one is left."""

    missing: list[Span]
    """Those that can be dropped, as far as can be seen; one that ends behind the file is always among them."""
    held: set[Span]
    """Those of which somebody has a page mapped."""


def _state(fd: int, aim: Aim, mapped: Window) -> _State:
    found = look(fd)
    huge = _huge(found, aim.fill, aim.huge)
    if huge is None:
        mapped.read(aim.fill)
        huge = mapped.huge_blocks(aim.fill) or frozenset()
    if huge.issuperset(aim.wanted):
        return _State([], set())
    rest = [block for block in aim.fill if block not in huge]
    held = _cached(found, rest, aim.huge, Kind.SHARED)
    return _State([block for block in rest if block not in held], held)


def read_again(fd: int, mapped: Window, blocks: list[Span]) -> None:
    """Drops the blocks and reads them, but for those of which something stays: that is mapped."""
    with suppress(OSError):  # a file system that is never written to has no such call (erofs: EINVAL)
        os.fsync(fd)  # what is dirty is not dropped
    drop(fd, blocks)
    stayed = _cached(look(fd), blocks, mapped.huge)
    mapped.read(block for block in blocks if block not in stayed)
    _read_plainly(fd, stayed, again=False)


def _read_plainly(fd: int, blocks: Iterable[Span], *, again: bool = True) -> None:
    """For blocks that can have no huge folio: readahead gives them larger ones than faults do that meet what is cached
    already."""
    for block in blocks:
        if again:
            drop(fd, [block])
        os.pread(fd, block.size, block.start)


def window(fd: int, aim: Aim) -> Window:
    """A mapping of the file, executable if it may be."""
    try:
        return Window(fd, aim.size, aim.huge, executable=True)
    except PermissionError:  # mounted noexec
        return Window(fd, aim.size, aim.huge)


def _huge(found: CachedFile, blocks: Iterable[Span], huge: int) -> frozenset[Span] | None:
    """Those that lie in folios of `huge` bytes or more; None where that is hidden."""
    if found.runs is None or _TELL_SIZES.isdisjoint(found.how):
        return None
    order = (huge // found.page).bit_length() - 1
    spans: list[Span] = []
    for run in found.runs:
        if run.order >= order:
            start, end = run.start * found.page, run.end * found.page
            spans.append(Span(spans.pop().start, end) if spans and spans[-1].end == start else Span(start, end))
    return frozenset(blocks).intersection(block for span in spans for block in span.whole_blocks(huge).blocks(huge))


def _cached(found: CachedFile, blocks: Iterable[Span], huge: int, kind: Kind = Kind.FILE) -> set[Span]:
    """Those of which a page of that kind is cached; none where that is hidden."""
    runs = (Span(run.start * found.page, run.end * found.page) for run in found.runs or () if run.kind & kind == kind)
    return set(blocks).intersection(block for run in runs for block in run.blocks(huge))
