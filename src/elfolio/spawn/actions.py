"""spawn.actions: what a child does to itself before it executes. In: descriptors, paths, signals. Out: frozen values.

The eight actions of the kernel proposal for spawn templates (RFC v1, include/uapi/linux/spawn_template.h),
with `Chdir` beside `Fchdir`. They are carried out in the child, in order, after the keyword options and
before the descriptors from 3 up are closed. Each value checks itself when it is made; what cannot be right
raises `InvalidArgument` (`EINVAL`) there, before anything starts.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from elfolio.errors import InvalidArgument

__all__ = [
    "MAX_ACTIONS",
    "Action",
    "Chdir",
    "Close",
    "CloseRange",
    "Dup2",
    "Fchdir",
    "Open",
    "SigDefault",
    "SigMask",
]

MAX_ACTIONS = 256
"""SPAWN_TEMPLATE_MAX_ACTIONS of the proposal (fs/spawn_template.c)."""

LAST_FD = 0x7FFFFFFF
AT_FDCWD = -100
"""Linux's AT_FDCWD: relative paths start at the child's working directory."""

# include/uapi/linux/openat2.h
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
_RESOLVE_ALL = 0x3F

_O_TMPFILE = getattr(os, "O_TMPFILE", 0)
_OPEN_FLAGS = (
    os.O_ACCMODE
    | os.O_CREAT
    | os.O_EXCL
    | os.O_NOCTTY
    | os.O_TRUNC
    | os.O_APPEND
    | os.O_NONBLOCK
    | os.O_DSYNC
    | os.O_SYNC
    | os.O_ASYNC
    | os.O_DIRECT
    | getattr(os, "O_LARGEFILE", 0)
    | 0o100000  # O_LARGEFILE: 0 in the headers of 64-bit systems, a flag to the kernel
    | os.O_DIRECTORY
    | os.O_NOFOLLOW
    | os.O_NOATIME
    | os.O_CLOEXEC
    | os.O_PATH
    | _O_TMPFILE
)


def check_fd(value: object, name: str) -> None:
    """Raises InvalidArgument unless `value` can be a descriptor."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LAST_FD:
        raise InvalidArgument(f"{name} must be a descriptor from 0 to {LAST_FD}, not {value!r}")


def _path(value: object, name: str) -> None:
    try:
        encoded = os.fsencode(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgument(f"{name} must be a path, not {value!r}") from None
    if not encoded or b"\0" in encoded:
        raise InvalidArgument(f"{name} must be a path, not empty and without NUL, not {value!r}")


def _signals(values: Iterable[int]) -> frozenset[int]:
    try:
        signals = frozenset(int(sig) for sig in values)
    except (TypeError, ValueError):
        raise InvalidArgument(f"signals must be numbers from 1 to 64, not {values!r}") from None
    for sig in signals:
        if not 1 <= sig <= 64:
            raise InvalidArgument(f"signals run from 1 to 64, not {sig}")
    return signals


@dataclass(frozen=True, slots=True)
class Close:
    """Closes `fd`; `EBADF` where it is not open."""

    fd: int

    def __post_init__(self) -> None:
        check_fd(self.fd, "fd")


@dataclass(frozen=True, slots=True)
class Dup2:
    """Makes `newfd` a copy of `fd`, inherited unless `cloexec`.

    Equal numbers only check that `fd` is open, change nothing (not its close-on-exec flag either), and
    refuse `cloexec`.
    """

    fd: int
    newfd: int
    cloexec: bool = False

    def __post_init__(self) -> None:
        check_fd(self.fd, "fd")
        check_fd(self.newfd, "newfd")
        if self.cloexec and self.fd == self.newfd:
            raise InvalidArgument(f"Dup2 of {self.fd} onto itself takes no flags")


@dataclass(frozen=True, slots=True)
class Fchdir:
    """Makes the directory open at `fd` the working directory."""

    fd: int

    def __post_init__(self) -> None:
        check_fd(self.fd, "fd")


@dataclass(frozen=True, slots=True)
class Chdir:
    """Makes `path` the working directory; a relative one starts from that of the moment."""

    path: str | bytes | os.PathLike[str]

    def __post_init__(self) -> None:
        _path(self.path, "path")


@dataclass(frozen=True, slots=True)
class Open:
    """Opens `path` at exactly `newfd`, by openat2(2): `flags`, `mode` and `resolve` are its `struct open_how`.

    `mode` stays None unless a file is created (then 0o666 if not given, less the umask). `dirfd` is where a
    relative path starts. Without `os.O_CLOEXEC` in `flags` the program inherits the descriptor.
    """

    newfd: int
    path: str | bytes | os.PathLike[str]
    flags: int = os.O_RDONLY
    mode: int | None = None
    dirfd: int = AT_FDCWD
    resolve: int = 0

    def __post_init__(self) -> None:
        check_fd(self.newfd, "newfd")
        _path(self.path, "path")
        if self.dirfd != AT_FDCWD:
            check_fd(self.dirfd, "dirfd")
        if self.flags < 0 or self.flags & ~_OPEN_FLAGS:
            raise InvalidArgument(f"unknown open flags {self.flags & ~_OPEN_FLAGS:#x}")
        if self.resolve & ~_RESOLVE_ALL:
            raise InvalidArgument(f"unknown resolve flags {self.resolve & ~_RESOLVE_ALL:#x}")
        if self.resolve & RESOLVE_BENEATH and self.resolve & RESOLVE_IN_ROOT:
            raise InvalidArgument("RESOLVE_BENEATH and RESOLVE_IN_ROOT exclude each other")
        if self.mode is not None and (not self.creates or not 0 <= self.mode <= 0o7777):
            raise InvalidArgument(f"mode {self.mode!r} goes with O_CREAT or O_TMPFILE, from 0 to 0o7777")

    @property
    def creates(self) -> bool:
        """Whether these flags may create a file, so that a mode means something."""
        return bool(self.flags & os.O_CREAT) or (_O_TMPFILE != 0 and self.flags & _O_TMPFILE == _O_TMPFILE)


@dataclass(frozen=True, slots=True)
class CloseRange:
    """Closes what is open from `first` to `last`, or only marks it close-on-exec; see close_range(2).

    `unshare` is accepted for the proposal's sake: a child never shares its descriptor table.
    """

    first: int
    last: int = LAST_FD
    cloexec: bool = False
    unshare: bool = False

    def __post_init__(self) -> None:
        check_fd(self.first, "first")
        check_fd(self.last, "last")
        if self.first > self.last:
            raise InvalidArgument(f"CloseRange from {self.first} to {self.last} runs backwards")


@dataclass(frozen=True, slots=True)
class SigMask:
    """The set of signals that the program starts with blocked. SIGKILL and SIGSTOP are left out, as always."""

    signals: frozenset[int]

    def __init__(self, signals: Iterable[int] = ()) -> None:
        object.__setattr__(self, "signals", _signals(signals))


@dataclass(frozen=True, slots=True)
class SigDefault:
    """Signals set back to their default action; others that the parent ignores stay ignored, as over exec."""

    signals: frozenset[int]

    def __init__(self, signals: Iterable[int] = ()) -> None:
        object.__setattr__(self, "signals", _signals(signals))


Action: TypeAlias = Close | Dup2 | Fchdir | Chdir | Open | CloseRange | SigMask | SigDefault
