"""live.counters: what the kernel counts of memory and devices. In: /proc, /sys. Out: numbers, or None where hidden.

Counters are the whole machine's: what others do meanwhile is in them too.
"""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DeviceLimits", "available", "device_limits", "device_reads", "free_by_order", "vmstat"]


def vmstat(proc: str | Path = "/proc") -> dict[str, int]:
    """/proc/vmstat; empty where it cannot be read."""
    return {name: int(value) for name, value in (line.split() for line in _lines(Path(proc, "vmstat")))}


def free_by_order(proc: str | Path = "/proc") -> dict[int, int] | None:
    """Free blocks of each order, all zones together, from /proc/buddyinfo; None where it is hidden. Pages on the lists
    of single processors are not among them."""
    found: dict[int, int] = {}
    for line in _lines(Path(proc, "buddyinfo")):
        for order, count in enumerate(line.partition("zone")[2].split()[1:]):
            found[order] = found.get(order, 0) + int(count)
    return found or None


def available(proc: str | Path = "/proc") -> int | None:
    """Bytes that can be had without swapping (MemAvailable); of the machine, whatever a cgroup may say."""
    for line in _lines(Path(proc, "meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """Of a block device's queue."""

    name: str
    max_segments: int | None
    """Pieces of memory that one request may name: small folios fill it before `max_transfer` is reached."""
    max_transfer: int | None
    """Bytes of one request (max_sectors_kb)."""
    read_ahead: int | None
    """Bytes (read_ahead_kb)."""


def device_limits(device: int, sys: str | Path = "/sys") -> DeviceLimits | None:
    """By st_dev; None for what is no block device's (tmpfs, overlay, btrfs, network)."""
    place = _place(device, sys)
    if place is None:
        return None
    queue = place / "queue" if (place / "queue").is_dir() else place.parent / "queue"  # a partition's disk has it
    transfer, ahead = _number(queue / "max_sectors_kb"), _number(queue / "read_ahead_kb")
    return DeviceLimits(
        place.name,
        _number(queue / "max_segments"),
        None if transfer is None else transfer << 10,
        None if ahead is None else ahead << 10,
    )


def device_reads(device: int, sys: str | Path = "/sys") -> tuple[int, int] | None:
    """Read requests that the device has finished, and bytes; None where it is none."""
    place = _place(device, sys)
    words = "".join(_lines(place / "stat")).split() if place else []
    # Documentation/block/stat.rst: read I/Os, read merges, read sectors of 512 bytes.
    return (int(words[0]), int(words[2]) * 512) if len(words) > 2 else None


def _place(device: int, sys: str | Path) -> Path | None:
    path = Path(sys, "dev", "block", f"{os.major(device)}:{os.minor(device)}")
    return path.resolve() if path.exists() else None


def _number(path: Path) -> int | None:
    words = "".join(_lines(path)).split()
    return int(words[0]) if words and words[0].isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
