"""pagecache.store: a directory of the user's own, for copies of programs. In: names. Out: entries, or Untuned.

It lies in the user's cache, elfolio/tuned, and each entry in it is a directory that appears whole or not at all:

    NAME/copy's name    the copy; there may be none
    NAME/.record        JSON: what it is a copy of, and what it was itself when it was made

What is found there is not believed: whoever could have put it there must be the user, by owner and mode of the
directories, which are opened one by one and not through links.
"""

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from tempfile import mkdtemp
from types import TracebackType
from typing import Any

__all__ = ["RECORD", "Store", "Untuned", "key_of"]

RECORD = ".record"
_FOLDERS = ("elfolio", "tuned")
_NEW, _OLD = ".new-", ".old-"
_RECORD_MOST = 1 << 20
_PATIENCE = 10.0
"""Seconds that a maker waits for another one: longer than a copy takes; one that has been stopped is not waited for."""
_MOST = 64
_MOST_BYTES = 4 << 30
"""Entries, and bytes on the disk, beyond which those that nobody holds go, the longest unused first."""


class Untuned(Exception):
    """Why there is no copy: a word of `elfolio.spawn.tuned.REASONS`, and what it is about."""

    def __init__(self, reason: str, detail: str = "", *, lasts: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.lasts = lasts
        """Whether it is so as long as neither the program nor its libraries change."""


def key_of(status: os.stat_result) -> tuple[int, ...]:
    """A file's identity, in the order of `_native.Image.key`."""
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mode, status.st_uid, status.st_gid,
        *divmod(status.st_ctime_ns, 10**9), *divmod(status.st_mtime_ns, 10**9),
    )  # fmt: skip


def _cache_folder() -> str:
    """XDG_CACHE_HOME where it is absolute, as the specification asks, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return base
    home = os.path.expanduser("~")  # HOME, or the user database
    if not os.path.isabs(home) or home == "/":
        raise Untuned("no cache directory", "neither XDG_CACHE_HOME nor a home directory")
    return os.path.join(home, ".cache")


class Store:
    """The directory, open. Raises Untuned for one that is not the user's alone, OSError for one that cannot be."""

    def __init__(self) -> None:
        base = _cache_folder()
        with ExitStack() as stack:
            os.makedirs(base, 0o700, exist_ok=True)
            self.path = os.path.realpath(base)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for name in _FOLDERS:
                stack.callback(os.close, self.fd)
                self.path = f"{self.path}/{name}"
                self.fd = _own_folder(self.fd, name, self.path, private=name == _FOLDERS[-1])

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One maker at a time, where that can be; correct without, because entries come by rename."""
        until = time.monotonic() + _PATIENCE
        while not _lock(self.fd) and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def record(self, name: str) -> dict[str, Any] | None:
        """An entry's record; None where there is none, or nothing that is one."""
        with suppress(OSError, ValueError):
            fd = os.open(f"{name}/{RECORD}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.fd)
            with open(fd, "rb") as file:
                status = os.fstat(fd)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_size <= _RECORD_MOST:
                    found = json.loads(file.read())
                    return found if isinstance(found, dict) else None
        return None

    @contextmanager
    def fresh(self) -> Iterator[tuple[str, str]]:
        """A new directory for an entry, by its name and by a path; what `keep` has not taken goes with the context."""
        name = os.path.basename(mkdtemp(prefix=_NEW, dir=f"/proc/self/fd/{self.fd}"))
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # tells those of dead makers
            yield name, f"/proc/self/fd/{self.fd}/{name}"
        finally:
            os.close(fd)
            self._remove(name)

    def keep(self, fresh: str, name: str, record: dict[str, Any]) -> None:
        """Gives a fresh entry its record and its name, unless another maker was first."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(f"{fresh}/{RECORD}", flags, 0o600, dir_fd=self.fd), "w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.rename(fresh, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise

    def used(self, name: str) -> None:
        """Notes that an entry is in use."""
        with suppress(OSError):
            os.utime(name, dir_fd=self.fd)

    def discard(self, name: str) -> None:
        """Removes an entry. Whoever has the copy open or runs it keeps that."""
        gone = f"{_OLD}{os.getpid()}-{time.monotonic_ns()}"
        with suppress(FileNotFoundError):
            os.rename(name, gone, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            self._remove(gone)

    def tidy(self, keep: str) -> None:
        """Removes what is of no use any more: copies of programs that have changed or gone, what dead makers left, and
        the longest unused beyond a bound; never `keep`, nor what somebody holds."""
        left: list[tuple[float, int, str]] = []
        for name in os.listdir(self.fd):
            if name == keep:
                continue
            with suppress(OSError):
                if name.startswith((_NEW, _OLD)):
                    self._sweep(name)
                elif not _stands(self.record(name)):
                    self._let_go(name)
                else:
                    left.append((os.stat(name, dir_fd=self.fd).st_mtime, self._bytes(name), name))
        count, total = len(left) + 1, sum(size for _, size, _ in left)
        for _, size, name in sorted(left):
            if count <= _MOST and total <= _MOST_BYTES:
                return
            with suppress(OSError):
                if self._let_go(name):
                    count, total = count - 1, total - size

    def _sweep(self, name: str) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        try:
            if _lock(fd):
                self._remove(name)
        finally:
            os.close(fd)

    def _let_go(self, name: str) -> bool:
        """Removes an entry, unless a template holds the copy: it would find it changed, and make another."""
        with ExitStack() as stack:
            for file in self._files(name):
                fd = os.open(f"{name}/{file}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
                stack.callback(os.close, fd)
                if not _lock(fd):
                    return False
            self.discard(name)
        return True

    def _files(self, name: str) -> list[str]:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _bytes(self, name: str) -> int:
        stats = (os.stat(f"{name}/{file}", dir_fd=self.fd, follow_symlinks=False) for file in self._files(name))
        return sum(status.st_blocks * 512 for status in stats)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            for file in self._files(name):
                os.unlink(f"{name}/{file}", dir_fd=self.fd)
            os.rmdir(name, dir_fd=self.fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _own_folder(parent: int, name: str, path: str, *, private: bool) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Untuned("cache directory", f"{path} is a link, or no directory") from error
        raise
    status = os.fstat(fd)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == os.geteuid() and (mode == 0o700 if private else not mode & 0o022):
        return fd
    os.close(fd)
    if status.st_uid != os.geteuid():
        raise Untuned("cache directory", f"{path} belongs to user {status.st_uid}")
    raise Untuned("cache directory", f"{path} has mode {mode:04o}, not 0700")


def _stands(record: dict[str, Any] | None) -> bool:
    """Whether the program that an entry is about is still the one that it was made of."""
    try:
        return record is not None and list(key_of(os.stat(record["path"]))) == record["key"]
    except (OSError, KeyError, TypeError, ValueError):
        return False
