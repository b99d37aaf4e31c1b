"""live.holders: who has a file mapped. In: its path and status. Out: Holders.

Pages that a process has mapped cannot be dropped from the page cache, and a process keeps the file that it has mapped
when the name comes to lead to another one.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elfolio.live.processes import every_process

__all__ = ["Holder", "holders", "mapped_files"]


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A process."""

    pid: int
    name: str
    """Its comm."""


def holders(path: str, status: os.stat_result, proc: str | Path = "/proc") -> tuple[tuple[Holder, ...], bool]:
    """The processes that have the file mapped, ascending by pid, this one left out; and whether all processes could be
    asked: the maps of others' are hidden from ordinary users. `path` is what maps call the file."""
    found, complete = [], True
    for process in _processes(Path(proc)):
        try:
            if any(_is(line, path, status) for line in _lines(process)):
                found.append(Holder(int(process.name), _comm(process)))
        except PermissionError:
            complete = False
        except OSError:
            continue  # it has ended
    return tuple(sorted(found)), complete


def mapped_files(pid: int, proc: str | Path = "/proc") -> tuple[str, ...]:
    """Paths of the regular files that a process can execute from, in the order of its maps, each once. Those that have
    been removed or replaced since are left out: they have no name to be opened by. Raises ProcessLookupError,
    PermissionError."""
    process = Path(proc, str(pid))
    try:
        lines = list(_lines(process))
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "no such process", str(process)) from error
    paths: dict[str, None] = {}
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) > 5 and "x" in fields[1] and fields[4] != "0" and os.path.isfile(fields[5]):
            paths[fields[5]] = None
    return tuple(paths)


def _processes(proc: Path) -> Iterator[Path]:
    own = os.getpid()
    return (proc / str(pid) for pid in every_process(proc) if pid != own)


def _lines(process: Path) -> Iterator[str]:
    with open(process / "maps", errors="surrogateescape") as file:
        yield from (line.rstrip("\n") for line in file)


def _is(line: str, path: str, status: os.stat_result) -> bool:
    """By device and inode; by name where those differ, as btrfs tells stat a device of its own for each subvolume."""
    fields = line.split(None, 5)
    if fields[4] != str(status.st_ino):
        return False
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    return fields[3] == device or (len(fields) > 5 and fields[5] == path)


def _comm(process: Path) -> str:
    return (process / "comm").read_text(errors="replace").rstrip("\n")
