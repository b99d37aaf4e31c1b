"""spawn.tuned: a tuned copy in a program's place. In: the program, open. Out: Tuned: the copy, or why none.

What can be told by a look at the file is told here; only a program large enough to win huge pages costs the import of
what makes and checks copies (pagecache.copies).
"""

import os
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property

from elfolio import _native
from elfolio.spawn.reasons import Reason

__all__ = ["CONSEQUENCES", "REASONS", "Tuned", "tuned_copy", "untuned"]

_SMALLEST = 2 << 20
"""Bytes of a huge page; of the machines that have larger ones no less is one."""
_LOOK_AFTER = 30.0
"""Seconds between two looks at the copy's page cache, which take some milliseconds."""

REASONS = {
    "script": Reason("What is executed is the interpreter.", "Make a template of the interpreter."),
    "audit strict": Reason("The path itself is executed, and no other file.", "Leave out audit='strict'."),
    "unreadable": Reason("It can be executed, but not read."),
    "set-id": Reason("A copy would not have the rights that the file gives."),
    "a security label": Reason("The copy would not have the capabilities, signature or label of the original."),
    "a security profile": Reason("AppArmor confines it by its path; a copy would run unconfined."),
    "not for everybody": Reason("Not everybody may read and execute it, and of its rights the copy has only the mode."),
    "format": Reason("It is no ELF file that can be read whole.", "elfolio explain says where."),
    "no block to win": Reason("It has no whole huge page of text, or none that alignment would win."),
    "already aligned": Reason("Its text can be on huge pages as it is; its own page cache was filled."),
    "refused": Reason("elfolio tune would not touch it.", "elfolio tune --plan says more."),
    "looks at its own path": Reason("It, or a library, looks where it runs from, and would find the copy's directory."),
    "no huge folios": Reason(
        "The file system of the cache gives no huge pages.", "Set XDG_CACHE_HOME to a directory on ext4 or xfs."
    ),
    "no cache directory": Reason("There is no home directory.", "Set XDG_CACHE_HOME."),
    "cache directory": Reason("It is not the user's alone.", "Make it one's own, with mode 0700; or remove it."),
    "cannot be written": Reason("The copy cannot be made or kept.", "Make room, or set XDG_CACHE_HOME."),
    "changing": Reason("It, or the copy, was changed again and again meanwhile.", "Make the template again later."),
    "the copy was changed": Reason("The copy was not the one that was made any more; a new one was."),
    "the copy is refused": Reason("The kernel refused to execute the copy; the original is executed instead."),
}
"""Every word for which a program is not started from a copy, or not from the one before."""

CONSEQUENCES = {
    "path": "/proc/PID/exe, /proc/PID/maps and $ORIGIN lead to the copy in the cache. argv[0] and the task's name are "
    "the original's; AT_EXECFN is /dev/fd/N, as without a copy.",
    "watchers": "fuser, lsof and tools that look for programs to restart see the copy in use, not the original; rules "
    "by path (AppArmor's patterns, fapolicyd, firewalls) see the copy's.",
    "writes": "The original may be written to while children run: the kernel holds that off for the copy alone.",
}
"""What a tuned start cannot make equal to one of the original."""


@dataclass(eq=False)
class Tuned:
    """What came of the wish for a copy."""

    fd: int = -1
    """The copy; -1: none. The template's image owns it."""
    path: str = ""
    of: tuple[int, ...] = ()
    """The identity of the original, and the copy's, in the order of `_native.Image.key`."""
    key: tuple[int, ...] = ()
    won: int = 0
    """Blocks that can be huge mappings, and could not in the original."""
    random_bits_lost: int = 0
    """Of the load address."""
    blocks: tuple[int | None, int] = (None, 0)
    """Of the blocks that can be huge mappings, how many had a folio of that size when they were last looked at (None:
    hidden), and how many there are."""
    reason: str = ""
    """A word of REASONS: why there is none."""
    detail: str = ""
    _looked: float = field(default_factory=time.monotonic)
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def __bool__(self) -> bool:
        return self.fd >= 0

    @cached_property
    def counted(self) -> str:
        """For `stats()`: the word alone, so that the same cause is the same entry."""
        return f"tuned: {self.reason}"

    def look(self) -> None:
        """Fills the copy's page cache again, where it was lost; at most once in some time, and in one thread."""
        now = time.monotonic()
        if self.fd < 0 or now < self._looked + _LOOK_AFTER or not self._busy.acquire(blocking=False):
            return
        try:
            self._looked = now
            from elfolio.pagecache.copies import refill

            self.blocks = refill(self.fd) or self.blocks
        finally:
            self._looked = time.monotonic()
            self._busy.release()


def untuned(reason: str, detail: str = "") -> Tuned:
    """Why there is no copy."""
    return Tuned(reason=reason, detail=detail)


def tuned_copy(pinned: int) -> Tuned:
    """A copy of the program that is open at `pinned`, or why there is none. Raises nothing for files, and may take as
    long as copying the program takes: once, as long as neither changes."""
    try:
        status = os.fstat(pinned)
        os.pread(pinned, 1, 0)
    except OSError as error:
        return untuned("unreadable", str(error))
    if status.st_mode & 0o6000:
        return untuned("set-id")
    if status.st_size < _SMALLEST:
        return untuned("no block to win", "smaller than a huge page")
    if status.st_mode & 0o005 != 0o005 or "system.posix_acl_access" in _attributes(pinned):
        return untuned("not for everybody")
    from elfolio.pagecache.copies import obtain
    from elfolio.pagecache.store import Untuned

    try:
        of = _settled(pinned)
        copy = obtain(pinned, of)
    except Untuned as reason:
        return untuned(reason.reason if reason.reason in REASONS else "changing", reason.detail)
    blocks = copy.warmed.has, copy.warmed.wanted
    return Tuned(copy.fd, copy.path, of, copy.key, copy.won, copy.random_bits_lost, blocks)


def _attributes(fd: int) -> list[str]:
    try:
        return os.listxattr(fd)
    except OSError:
        return []


def _settled(fd: int) -> tuple[int, ...]:
    """The file's identity, once no later write can have the same (native/image.c)."""
    copy = os.dup(fd)
    try:
        return _native.Image([(None, copy)], 0, False).key(0)
    except BaseException:
        os.close(copy)
        raise
