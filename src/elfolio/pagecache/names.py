"""pagecache.names: a finished file gets its name. In: a directory, a descriptor, names. Out: the names lead to it.

Each name leads to the old file, whole, or to the new one, whole, at every moment (rename(2), RENAME_EXCHANGE). A
process that is killed between two calls leaves at most a hidden name behind, which the file's next replacement removes.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Directory", "lock"]

_EXCHANGE = 2
"""RENAME_EXCHANGE (include/uapi/linux/fs.h)."""
_LONGEST = 255
_MARK = ".elfolio-"


class Directory:
    """An open directory, in which names are given: relative to the descriptor, so that it may be moved."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self.fd)

    def open_new(self, name: str, mode: int = 0o600) -> tuple[int, str | None]:
        """A new file for writing, locked, and its hidden name; None where it needs none (O_TMPFILE). The umask takes
        its bits from the mode."""
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            fd = os.open(".", flags | os.O_TMPFILE, mode, dir_fd=self.fd)
            hidden = None
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                raise
            hidden = _hidden(name)
            fd = os.open(hidden, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=self.fd)
        lock(fd)
        return fd, hidden

    def link(self, fd: int, name: str) -> None:
        """Gives the open file this name. Raises FileExistsError for one that is taken."""
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=self.fd, follow_symlinks=True)

    def replace(self, fd: int, hidden: str | None, name: str, old: os.stat_result) -> None:
        """Makes `name` lead to the open file; `hidden` is a name that it has already, and loses. Raises OSError with
        ESTALE where `name` does not lead to the file `old` any more; it then leads where it did."""
        with self._shared():
            other = hidden if hidden is not None else _hidden(name)
            if hidden is None:
                self.link(fd, other)
            try:
                self._swap(other, name, old)
            finally:
                self._drop(other, os.fstat(fd), old)

    def _swap(self, hidden: str, name: str, old: os.stat_result) -> None:
        if not self._leads_to(name, old):
            raise self._stale(name)
        if not _exchange(self.fd, hidden, name):
            os.rename(hidden, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        elif not self._leads_to(hidden, old):  # an upgrade came after the check: it has been moved aside, not lost
            _exchange(self.fd, hidden, name)
            raise self._stale(name)

    def _drop(self, hidden: str, *ours: os.stat_result) -> None:
        """Removes the name, unless it has come to lead to a stranger's file."""
        if any(self._leads_to(hidden, status) for status in ours):
            os.unlink(hidden, dir_fd=self.fd)

    def check(self, name: str, old: os.stat_result) -> None:
        """Raises OSError with ESTALE unless `name` leads to `old`, and nothing of that has changed."""
        try:
            now = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            raise self._stale(name) from None
        if not _same(now, old) or now.st_ctime_ns != old.st_ctime_ns:
            raise self._stale(name)

    def _stale(self, name: str) -> OSError:
        return OSError(errno.ESTALE, "it has changed meanwhile, and was left alone; try again", self.joined(name))

    def joined(self, name: str) -> str:
        """The path that errors name."""
        return os.path.join(self.path, name)

    def names_of(self, status: os.stat_result) -> list[str]:
        """All names that a file has in this directory."""
        return sorted(entry for entry in os.listdir(self.fd) if self._leads_to(entry, status))

    def _leads_to(self, entry: str, status: os.stat_result) -> bool:
        try:
            return _same(os.stat(entry, dir_fd=self.fd, follow_symlinks=False), status)
        except OSError:
            return False

    def sweep(self, name: str) -> None:
        """Removes what killed replacements of `name` left; not while another one is at work in the directory."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        try:
            for entry in os.listdir(self.fd):
                if entry.startswith(_hidden(name)[:-8]) and len(entry) == len(_hidden(name)):
                    self._remove_if_left(entry)
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def _remove_if_left(self, entry: str) -> None:
        """One that is still written is locked."""
        with suppress(OSError):
            fd = os.open(entry, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.fd)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry, dir_fd=self.fd)
            finally:
                os.close(fd)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        """Keeps sweepers away. A sweep takes milliseconds; whoever locks the directory longer is no sweeper."""
        for _ in range(100):
            try:
                fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self.fd, fcntl.LOCK_UN)


def lock(fd: int) -> None:
    """Says that the file is still written, until the descriptor is closed; not every network file system can."""
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _hidden(name: str) -> str:
    """A fresh name beside `name`; all but its last eight characters are the same every time."""
    room = _LONGEST - len(_MARK) - 9
    return f".{os.fsdecode(os.fsencode(name)[:room])}{_MARK}{secrets.token_hex(4)}"


def _same(a: os.stat_result, b: os.stat_result) -> bool:
    """Without ctime, which renaming changes."""
    return os.path.samestat(a, b) and (a.st_size, a.st_mtime_ns, a.st_mode) == (b.st_size, b.st_mtime_ns, b.st_mode)


def _exchange(directory: int, a: str, b: str) -> bool:
    """Swaps two names at once; False where the file system or the C library cannot. Raises OSError."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    done = function(directory, os.fsencode(a), directory, os.fsencode(b), ctypes.c_uint(_EXCHANGE))
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), a, None, b)
