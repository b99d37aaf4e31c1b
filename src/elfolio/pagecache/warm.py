"""pagecache.warm: a file's page cache in the largest folios. In: a path. Out: Warmed, before and after.

What is clean and unmapped is dropped, and read again in whole blocks; what is mapped stays as it is, and only a new
file can have other folios (`rewrite`), which programs see when they start again. On file systems whose pages the kernel
collapses neither is needed.
"""

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from elfolio.kernel.policy import Policy
from elfolio.live.cached import open_quietly
from elfolio.live.holders import Holder, holders
from elfolio.live.host import policy_here
from elfolio.pagecache.aim import Aim, Pointless, aim_at
from elfolio.pagecache.fill import ATTEMPTS, Seen, fill, read_again, see, window
from elfolio.pagecache.probe import probe
from elfolio.pagecache.replace import Links, NewFile
from elfolio.span import Span

__all__ = ["Outcome", "Warmed", "rewrite", "warm"]


class Outcome(StrEnum):
    """What came of it."""

    WARM = "warm"
    """Every block that could be a huge mapping has its folio, and had it before."""
    WARMED = "warmed"
    """Every such block has it now."""
    PARTLY = "partly"
    """Some have."""
    HELD = "held"
    """Pages that processes have mapped could not be dropped."""
    REFUSED = "refused"
    """It would win nothing."""
    REWRITTEN = "rewritten"
    """The name leads to a new file, whose blocks have their folios."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """One file, before and after."""

    path: str
    outcome: Outcome
    why: str = ""
    """Why it is not all warm; empty where it is."""
    remedy: str = ""
    size: int = 0
    huge: int = 0
    """Bytes of a huge page."""
    wanted: int = 0
    """Blocks that could be huge mappings."""
    had: int | None = None
    """How many of them had a folio of that size before; None where it is hidden."""
    has: int | None = None
    before: dict[int, int] | None = None
    """Bytes in the page cache by the order of their folios; None where they are hidden."""
    after: dict[int, int] | None = None
    seconds: float = 0.0
    holders: tuple[Holder, ...] = ()
    """Processes that have the file, or the one that it replaced, mapped."""
    all_seen: bool = True
    """Whether every process could be asked."""
    page: int = 0
    """Bytes of a page, for `before` and `after`."""

    @property
    def is_warm(self) -> bool:
        """Whether every block that could be a huge mapping has its folio now."""
        return self.outcome in (Outcome.WARM, Outcome.WARMED, Outcome.REWRITTEN) and self.has == self.wanted

    @property
    def is_refused(self) -> bool:
        """Whether nothing was tried."""
        return self.outcome is Outcome.REFUSED

    @property
    def needs_new_file(self) -> bool:
        """Whether `rewrite` could do more."""
        return self.outcome in (Outcome.HELD, Outcome.PARTLY)


def warm(path: str, *, whole: bool = False, force: bool = False) -> Warmed:
    """Fills the page cache with the file. Takes no privilege but to read it; raises OSError where that fails."""
    began = time.monotonic()
    with _opened(path) as fd:
        status = os.fstat(fd)
        policy = policy_here(path)
        try:
            aim = aim_at(path, status.st_size, policy, whole=whole, force=force)
            after = before = see(fd, aim)
            held = False
            if before.huge != len(aim.wanted):
                _check_file_system(path, fd, aim, policy)
                held = fill(fd, aim)
                after = see(fd, aim, touch=True)
        except Pointless as refused:
            return Warmed(path, Outcome.REFUSED, refused.why, refused.remedy, status.st_size, policy.pmd_size)
        found = _judged(path, aim, before, after, time.monotonic() - began)
        return found if found.is_warm else _with_holders(found, status, None if after.orders is None else held)


def _judged(path: str, aim: Aim, before: Seen, after: Seen, seconds: float) -> Warmed:
    wanted = len(aim.wanted)
    found = Warmed(
        path, Outcome.WARMED, "", "", aim.size, aim.huge, wanted, before.huge, after.huge, before.orders, after.orders,
        seconds, page=after.page,
    )  # fmt: skip
    if after.huge == wanted:
        return replace(found, outcome=Outcome.WARM if before.huge == wanted else Outcome.WARMED)
    why = f"no folio of that size was free in {ATTEMPTS} attempts"
    return replace(found, outcome=Outcome.PARTLY, why=why, remedy="try again when more memory is free")


def _with_holders(found: Warmed, status: os.stat_result, held: bool | None) -> Warmed:
    """`held`: whether pages are mapped that could not be dropped; None where that is hidden."""
    if held is False:
        return found
    who, complete = holders(os.path.realpath(found.path), status)
    if held or who:
        why, remedy = "what processes have mapped cannot be dropped", "--rewrite, then start them again"
        return replace(found, outcome=Outcome.HELD, why=why, remedy=remedy, holders=who, all_seen=complete)
    why = f"{found.why}, or processes of other users have it mapped"
    return found if complete else replace(found, why=why, all_seen=False)


def _check_file_system(path: str, fd: int, aim: Aim, policy: Policy) -> None:
    """Raises Pointless where the file system gives no folio as large as a huge page, by what is known of it and by
    trial: kernels are patched, some collapse pages of files, and an overlay's files are those of its layers."""
    if policy.largest_folio >= aim.huge:
        return
    first = list(aim.wanted[:1])
    with window(fd, aim) as mapped:
        read_again(fd, mapped, first)
        if mapped.huge_blocks(first) or mapped.collapse(first) == 0:
            return
    folder = os.path.dirname(os.path.realpath(path))
    if _largest(folder, os.stat(folder).st_dev, aim.huge) < aim.huge:
        name = policy.fs.name or "its file system"
        raise Pointless(
            f"{name} gives no folios of {aim.huge >> 20} MiB in this kernel, which collapses no pages of its files",
            "move it to xfs (large folios from Linux 5.18), or to ext4 with Linux 6.16 or later",
        )


@lru_cache(maxsize=16)
def _largest(folder: str, device: int, huge: int) -> int:
    """By a scratch file in the directory, once for each file system; 0 where none can be made."""
    try:
        return probe(folder, huge).largest or 0
    except OSError:
        return 0


@contextmanager
def _opened(path: str) -> Iterator[int]:
    with open_quietly(path) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        yield fd


def rewrite(
    path: str, found: Warmed, *, links: Links = Links.REFUSE, whole: bool = False, force: bool = False
) -> Warmed:
    """Makes a new file of the same contents, in huge folios, and gives it the name; `found` is what `warm` said. The
    processes in `holders` keep the old one until they start again. Raises OSError, CannotReplace; where the new file
    would have no more than the old one, the old one stays."""
    began = time.monotonic()
    with _opened(path) as fd:
        status = os.fstat(fd)
        aim = aim_at(path, status.st_size, policy_here(path), whole=whole, force=force)
        with NewFile(path, status.st_size, expected=status, links=links, sparse=True, times=True) as new:
            _copy(fd, new, _data(fd, status.st_size), aim.huge)
            seen: list[Seen] = []

            def check(fresh: int) -> None:
                fill(fresh, aim)
                seen.append(see(fresh, aim, touch=True))
                if (seen[0].huge or 0) <= (found.has or 0):
                    raise OSError(errno.EAGAIN, "a new file would have no more huge folios; nothing was changed", path)

            who, complete = holders(os.path.realpath(path), status)
            new.commit(check)
    done = replace(
        found, outcome=Outcome.REWRITTEN, why="", remedy="", has=seen[0].huge, after=seen[0].orders, holders=who,
        all_seen=complete, seconds=found.seconds + time.monotonic() - began,
    )  # fmt: skip
    if done.has == done.wanted:
        return done
    return replace(done, why=f"no folio of that size was free in {ATTEMPTS} attempts", remedy="try again later")


def _data(fd: int, size: int) -> list[Span]:
    """The parts of a file that are no holes."""
    spans: list[Span] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return spans
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        spans.append(Span(start, at))
    return spans


def _copy(fd: int, new: NewFile, spans: Sequence[Span], piece: int) -> None:
    for span in spans:
        at = span.start
        while at < span.end:
            data = os.pread(fd, min(piece, span.end - at), at)
            if not data:
                raise OSError(errno.ESTALE, "it has become shorter meanwhile, and was left alone; try again", new.path)
            new.write(at, data)
            at += len(data)
