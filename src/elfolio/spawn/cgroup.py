"""spawn.cgroup: cgroup v2 directories for children. In: a directory, or nothing. Out: a descriptor to be born into.

A private cgroup holds one child and what descends from it, whatever it does: sessions, groups and dead parents
hide nothing there, and cgroup.kill (Linux 5.14) ends it all at once.
"""

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elfolio.errors import InvalidArgument
from elfolio.spawn.options import StrPath

__all__ = ["PrivateCgroup", "membership"]

_numbers = itertools.count()


class PrivateCgroup:
    """A cgroup of one child's own."""

    def __init__(self, parent: StrPath | None) -> None:
        base = Path(os.fsdecode(parent)) if parent is not None else own_cgroup()
        self.path = base / f"elfolio-{os.getpid()}-{next(_numbers)}"
        self.path.mkdir()

    def kill(self) -> bool:
        """SIGKILL to every process in it, by the kernel; False where there is no cgroup.kill."""
        try:
            (self.path / "cgroup.kill").write_text("1")
        except OSError:
            return False
        return True

    def members(self) -> list[int]:
        """The processes in it."""
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def remove(self) -> bool:
        """Removes it; False while something lives in it still."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True


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


def own_cgroup(proc: str = "/proc") -> Path:
    """The directory of this process's own cgroup. Raises OSError (`ENOENT`) without cgroup v2."""
    mounts = Path(proc, "self", "mountinfo").read_text().splitlines()
    where = next((Path(line.split()[4]) for line in mounts if " - cgroup2 " in line), None)
    entry = next((e for e in Path(proc, "self", "cgroup").read_text().splitlines() if e.startswith("0::")), None)
    if where is None or entry is None:
        raise FileNotFoundError(errno.ENOENT, "no cgroup v2 hierarchy is mounted here", "cgroup2")
    return where / entry[3:].lstrip("/")
