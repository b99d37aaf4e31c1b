"""spawn.cgroup: cgroup v2 directories for children. In: a directory, or nothing. Out: a descriptor to be born into.

A private cgroup holds one child and what descends from it, whatever it does: sessions, groups and dead parents
hide nothing there, and cgroup.kill (Linux 5.14) ends it all at once.
"""

import atexit
import errno
import itertools
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from elfolio.errors import InvalidArgument
from elfolio.spawn.options import StrPath

__all__ = ["PrivateCgroup", "membership"]

_numbers = itertools.count()
_PATIENCE = 1.0
"""Seconds that killed processes get to end."""


_left: "list[PrivateCgroup]" = []
"""Those that something still lived in when their child was reaped; tried again whenever a new one is made."""


class PrivateCgroup:
    """A cgroup of one child's own."""

    def __init__(self, parent: StrPath | None) -> None:
        _remove_left()
        base = Path(os.fsdecode(parent)) if parent is not None else own_cgroup()
        self.path = _made_below(base)
        self._killed = False

    def kill(self) -> bool:
        """SIGKILL to every process in it, by the kernel; False where there is no cgroup.kill."""
        try:
            (self.path / "cgroup.kill").write_text("1")
        except OSError:
            return False
        self._killed = True
        return True

    def members(self) -> list[int]:
        """The processes in it."""
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def remove(self) -> None:
        """Removes it. What was killed gets a moment to end; where something lives on, a later spawn removes it."""
        if self._killed:
            self._await_empty()
        if not self._removed() and self not in _left:
            _left.append(self)

    def _removed(self) -> bool:
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _await_empty(self) -> None:
        """cgroup.events raises POLLPRI when `populated` changes (Documentation/admin-guide/cgroup-v2.rst)."""
        until = time.monotonic() + _PATIENCE
        with suppress(OSError), open(self.path / "cgroup.events", "rb", buffering=0) as events:
            changes = select.poll()
            changes.register(events, select.POLLPRI)
            while b"populated 1" in os.pread(events.fileno(), 256, 0):
                left = until - time.monotonic()
                if left <= 0 or not changes.poll(left * 1000):
                    return


def _made_below(base: Path) -> Path:
    """A new directory; a killed process with our number may have left one of its own."""
    while True:
        path = base / f"elfolio-{os.getpid()}-{next(_numbers)}"
        with suppress(FileExistsError):
            path.mkdir()
            return path


def _remove_left() -> None:
    for _ in range(len(_left)):
        with suppress(IndexError):
            cgroup = _left.pop(0)
            if not cgroup._removed():
                _left.append(cgroup)


atexit.register(_remove_left)
os.register_at_fork(after_in_child=_left.clear)


@contextmanager
def membership(cgroup: StrPath | int | None, private: bool) -> Iterator[tuple[int, PrivateCgroup | None]]:
    """A descriptor to give to clone, open as long as the context lasts, and the private cgroup if there is one.
    What happens to that one afterwards is the caller's to say; on an error it is removed."""
    if isinstance(cgroup, int):
        if private:
            raise InvalidArgument("private_cgroup takes its parent by path")
        yield cgroup, None
        return
    own = PrivateCgroup(cgroup) if private else None
    try:
        fd = _open(own.path if own is not None else cgroup)  # type: ignore[arg-type]
        try:
            yield fd, own
        finally:
            os.close(fd)
    except BaseException:
        if own is not None:
            own.remove()
        raise


def _open(where: StrPath) -> int:
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # Only a cgroup v2 directory has this file; CLONE_INTO_CGROUP would say a bare EBADF.
    if not os.access("cgroup.procs", os.F_OK, dir_fd=fd) or os.access("tasks", os.F_OK, dir_fd=fd):
        os.close(fd)
        raise InvalidArgument(f"{os.fsdecode(where)!r} is not a cgroup v2 directory")
    return fd


def _unescaped(field: str) -> str:
    """mountinfo writes blanks, tabs, newlines and backslashes as octal numbers; see proc(5)."""
    for code in ("040", "011", "012", "134"):
        field = field.replace(f"\\{code}", chr(int(code, 8)))
    return field


def own_cgroup(proc: str = "/proc") -> Path:
    """The directory of this process's own cgroup. Raises OSError (`ENOENT`) without cgroup v2."""
    mounts = Path(proc, "self", "mountinfo").read_text().splitlines()
    where = next((Path(_unescaped(line.split()[4])) for line in mounts if " - cgroup2 " in line), None)
    entry = next((e for e in Path(proc, "self", "cgroup").read_text().splitlines() if e.startswith("0::")), None)
    if where is None or entry is None:
        raise FileNotFoundError(errno.ENOENT, "no cgroup v2 hierarchy is mounted here", "cgroup2")
    return where / entry[3:].lstrip("/")
