"""spawn.names: the right task name for a program that is executed by descriptor. In: a descriptor, a name. Out: a path.

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
import tempfile
import threading

__all__ = ["link_for", "needs_link", "unlink_for"]

_PREFIX = "elfolio-names-"
_lock = threading.Lock()
_made: tuple[str, int] | None = None
"""The directory and the descriptor that holds its lock."""
_links: dict[tuple[int, str], str] = {}


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
    known = _links.get((fd, name))
    if known is not None:
        return known
    try:
        with _lock:
            folder = f"{_directory()}/{fd}"
            path = f"{folder}/{name}"
            try:
                os.symlink(f"/proc/self/fd/{fd}", path)
            except FileNotFoundError:
                os.mkdir(folder)
                os.chmod(folder, 0o711)
                os.symlink(f"/proc/self/fd/{fd}", path)
            except FileExistsError:
                pass
            _links[fd, name] = path
            return path
    except OSError:
        return None


def unlink_for(fd: int) -> None:
    """Removes the links to `fd`, which is about to be closed."""
    with _lock:
        if _made is not None:
            _remove(f"{_made[0]}/{fd}")
        for key in [key for key in _links if key[0] == fd]:
            del _links[key]


def _directory() -> str:
    global _made
    if _made is None:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else tempfile.gettempdir()
        _sweep(base)
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
        # A child that becomes another user must get through.
        os.chmod(path, 0o711)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _made = path, fd
    return _made[0]


def _sweep(base: str) -> None:
    """Removes this user's directories that nobody holds: their process was killed."""
    for entry in os.scandir(base):
        if not entry.name.startswith(_PREFIX) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
            continue
        try:
            fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in os.listdir(fd):
                _remove(f"{entry.path}/{folder}")
            os.rmdir(entry.path)
        except OSError:
            pass
        finally:
            os.close(fd)


def _remove(folder: str) -> None:
    try:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
    except OSError:
        pass


def _remove_all() -> None:
    global _made
    with _lock:
        if _made is None:
            return
        path, fd = _made
        _made = None
        for folder in os.listdir(path):
            _remove(f"{path}/{folder}")
        os.rmdir(path)
        os.close(fd)


def _forget() -> None:
    """In a forked child: the directory is the parent's."""
    global _made, _lock
    _lock = threading.Lock()
    _links.clear()
    if _made is not None:
        os.close(_made[1])
        _made = None


atexit.register(_remove_all)
os.register_at_fork(after_in_child=_forget)
