"""spawn.footprint: what stands ready costs memory. In: the pid of a template's process. Out: who stands by; bytes.

Nothing is kept: each call looks at /proc, some tens of microseconds for each process.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from elfolio import _native

__all__ = ["Footprint", "footprint", "standbys"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of templates' processes and of their children that stand by."""

    processes: int
    rss: int | None
    """Bytes resident, added up; None where the kernel does not tell."""
    pss: int | None
    """The same with shared pages divided among those who share them: what it really costs."""


def footprint(pids: Iterable[int]) -> Footprint:
    """Of templates' processes, with all who stand by for them."""
    family = [member for pid in pids for member in (pid, *standbys(pid))]
    rolls = [roll for pid in family if (roll := _rollup(pid))]
    return Footprint(
        processes=len(family),
        rss=sum(roll["Rss"] for roll in rolls) if rolls else None,
        pss=sum(roll["Pss"] for roll in rolls) if rolls else None,
    )


def standbys(pid: int) -> Iterator[int]:
    """Children of ours that stand at that process's socket."""

    def socket_of(pid: int) -> str | None:
        with suppress(OSError):
            return os.readlink(f"/proc/{pid}/fd/{_native.WARM_FD_CONTROL}")
        return None

    ours = socket_of(pid)
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                if ours is not None and child != pid and socket_of(child) == ours:
                    yield child


def _rollup(pid: int) -> dict[str, int]:
    """Bytes, by the names of /proc/PID/smaps_rollup; empty where it cannot be read."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
    return {}
