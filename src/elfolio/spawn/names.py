"""spawn.names: the right task name for what is executed by descriptor. In: a descriptor, a name. Out: a path.

The kernel names a task after the last component of the path it executes. By descriptor there is none: before
Linux 6.14 the name is the descriptor's number, since then the name of the file itself ("mawk" for a start as
"awk"). So where the kernel would not choose right, the descriptor is executed through a symbolic link that
has the name and leads to /proc/self/fd/N: still the pinned file, whatever has been renamed since.

The links live in one directory of this process's own, removed at exit; a lock on it tells a later process
which directories a killed one has left.
"""

import atexit
import fcntl
import os
import sys
import threading
from contextlib import suppress

__all__ = ["link_for", "needs_link", "remove_links", "unlink_for"]

_PREFIX = "elfolio-names-"


class _Links:
    """This process's directory, made when it is first needed, and the links in it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a template may be collected, and its links go, while it is held
        self.folder: str | None = None
        self.folder_fd = -1
        """Open as long as the directory is in use: it holds the lock that says so."""
        self.known: dict[tuple[int, str], str] = {}


_links = _Links()


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


# 543841d18060 ("exec: fix up /proc/pid/comm in the execveat(AT_EMPTY_PATH) case"), Linux 6.14. Where it was
# backported the link is needless and right all the same.
_NAMED_AFTER_FILE = _kernel() >= (6, 14)


def needs_link(fd: int, name: str) -> bool:
    """Whether execveat of `fd` alone would give the task another name than `name`."""
    if not _NAMED_AFTER_FILE:
        return True
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return True
    return os.path.basename(target.removesuffix(" (deleted)")) != name


def link_for(fd: int, name: str) -> str | None:
    """The path of a link called `name` to the descriptor `fd` of whoever follows it; None where no directory
    can be written to: then the task's name is the kernel's choice."""
    known = _links.known.get((fd, name))
    if known is not None:
        return known
    try:
        with _links.lock:
            folder = f"{_directory()}/{fd}"
            path = f"{folder}/{name}"
            _make_link(folder, path, fd)
            _links.known[fd, name] = path
            return path
    except OSError:
        return None


def _make_link(folder: str, path: str, fd: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(folder)
        # A child that becomes another user must get through.
        os.chmod(folder, 0o711)
    with suppress(FileExistsError):
        os.symlink(f"/proc/self/fd/{fd}", path)


def unlink_for(fd: int) -> None:
    """Removes the links to `fd`, which is about to be closed."""
    with _links.lock:
        if _links.folder is not None:
            _remove(f"{_links.folder}/{fd}")
        for key in [key for key in _links.known if key[0] == fd]:
            del _links.known[key]


def _directory() -> str:
    if _links.folder is None:
        from tempfile import gettempdir

        base = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else gettempdir()
        with suppress(OSError):
            _sweep(base)
        made = _locked_directory(base)
        while made is None:
            made = _locked_directory(base)
        _links.folder, _links.folder_fd = made
        _remove_in_worker()
    return _links.folder


def _remove_in_worker() -> None:
    """A worker of multiprocessing ends without atexit; it has an end of its own. Where its parent had not imported
    multiprocessing, this is no worker."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # After whatever else may start something: multiprocessing's own lowest is -100.
        util.Finalize(None, remove_links, exitpriority=-1000)


def _locked_directory(base: str) -> tuple[str, int] | None:
    """A new directory and the descriptor that locks it; None where another process, which takes a directory
    without a lock for a dead one's, removed it in between."""
    from tempfile import mkdtemp

    path = mkdtemp(prefix=_PREFIX, dir=base)
    try:
        os.chmod(path, 0o711)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(fd, fcntl.LOCK_EX)
    if os.path.isdir(path):
        return path, fd
    os.close(fd)
    return None


def _sweep(base: str) -> None:
    """Removes this user's directories that nobody holds: their process was killed."""
    for name in os.listdir(base):
        path = f"{base}/{name}"
        try:
            if not name.startswith(_PREFIX) or os.lstat(path).st_uid != os.geteuid():
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in os.listdir(fd):
                _remove(f"{path}/{folder}")
            os.rmdir(path)
        except OSError:
            pass
        finally:
            os.close(fd)


def _remove(folder: str) -> None:
    with suppress(OSError):
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)


def remove_links() -> None:
    """Removes this process's directory, if there is one; called at exit, and by who will not get that far."""
    with _links.lock:
        if _links.folder is None:
            return
        path, _links.folder = _links.folder, None
        os.close(_links.folder_fd)  # first: listing a directory takes a descriptor, and there may be no other
        with suppress(OSError):
            for folder in os.listdir(path):
                _remove(f"{path}/{folder}")
            os.rmdir(path)


def _forget() -> None:
    """In a forked child: the directory is the parent's."""
    if _links.folder is not None:
        os.close(_links.folder_fd)
    _links.__init__()  # type: ignore[misc]


atexit.register(remove_links)
os.register_at_fork(after_in_child=_forget)
