"""live.available: how much memory this process may still take. In: /proc, its cgroup. Out: bytes, or None.

The machine's part is MemAvailable. A cgroup's is what its limit leaves, and the page cache that is charged to it, which
the kernel gives up first; a limit of any cgroup above counts as well. Beyond it the kernel kills the process, or slows
it down (memory.high), whatever the machine has.
"""

from collections.abc import Iterator
from pathlib import Path

from elfolio.live.text import number_in, text_of

__all__ = ["available", "in_cgroup", "on_machine"]

_NO_LIMIT = 1 << 60
"""Version 1 writes a number close to 2**63."""


def available(proc: str | Path = "/proc", root: str | Path = "/") -> int | None:
    """Bytes that can be had without swapping; None where nothing tells. `root` is where paths of mounts begin."""
    known = [room for room in (on_machine(proc), in_cgroup(proc, root)) if room is not None]
    return min(known, default=None)


def on_machine(proc: str | Path = "/proc") -> int | None:
    """MemAvailable."""
    for line in text_of(f"{proc}/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def in_cgroup(proc: str | Path = "/proc", root: str | Path = "/") -> int | None:
    """What the limits of its cgroups leave; None where there is none, or where they cannot be seen."""
    rooms = [room for folder in _folders(str(proc), str(root).rstrip("/")) if (room := _room(folder)) is not None]
    return min(rooms, default=None)


def _room(folder: str) -> int | None:
    """Of one cgroup, of either version."""
    limits = [number_in(f"{folder}/{name}") for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    limit = min((one for one in limits if one is not None), default=_NO_LIMIT)
    if limit >= _NO_LIMIT:
        return None
    used = number_in(f"{folder}/memory.current")
    if used is None:
        used = number_in(f"{folder}/memory.usage_in_bytes") or 0
    counts = dict(line.split() for line in text_of(f"{folder}/memory.stat").splitlines())
    # Version 1 counts the cgroup alone without "total_", version 2 always all that is below it.
    own = "total_" if "total_cache" in counts else ""
    cache = sum(int(counts.get(f"{own}{kind}_file", 0)) for kind in ("active", "inactive"))
    return max(limit - used + cache, 0)


def _folders(proc: str, root: str) -> Iterator[str]:
    """Of the process's memory cgroup, and of those above it, as far as they are mounted here."""
    for line in text_of(f"{proc}/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = [*after.split(" ", 2), "", ""][:3]
        words = before.split()
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            path = _path(proc, second=kind == "cgroup2")
            inside = None if path is None else _below(path, words[3])
            if inside is not None:
                parts = [part for part in inside.split("/") if part]
                yield from ("/".join([root + words[4], *parts[:count]]) for count in range(len(parts) + 1))


def _path(proc: str, *, second: bool) -> str | None:
    for line in text_of(f"{proc}/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if (number == "0" and not controllers) if second else "memory" in controllers.split(","):
            return path
    return None


def _below(path: str, mount: str) -> str | None:
    """The path within a mount of the cgroup `mount`; None where it lies outside, as seen from another namespace."""
    if mount == "/":
        return path.lstrip("/") if ".." not in path.split("/") else None
    if path == mount or path.startswith(mount + "/"):
        return path[len(mount) :].lstrip("/")
    return None
