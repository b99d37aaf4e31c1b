"""live.counters: what the kernel counts of memory and devices. In: /proc, /sys. Out: numbers, or None where hidden.

Counters are the whole machine's: what others do meanwhile is in them too.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from elfolio.live.text import number_in, text_of

__all__ = ["DeviceLimits", "block_device", "device_limits", "device_reads", "free_by_order", "vmstat"]


def vmstat(proc: str | Path = "/proc") -> dict[str, int]:
    """/proc/vmstat; empty where it cannot be read."""
    words = text_of(f"{proc}/vmstat").split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def free_by_order(proc: str | Path = "/proc") -> dict[int, int] | None:
    """Free blocks of each order, all zones together, from /proc/buddyinfo; None where it is hidden. Pages on the lists
    of single processors are not among them."""
    found: dict[int, int] = {}
    for line in text_of(f"{proc}/buddyinfo").splitlines():
        for order, count in enumerate(line.partition("zone")[2].split()[1:]):
            found[order] = found.get(order, 0) + int(count)
    return found or None


def block_device(fd: int, proc: str | Path = "/proc") -> int:
    """The device number under an open file: its st_dev, or where that names no device (btrfs) the one it is mounted
    from, the first of several; 0 where there is none (tmpfs, overlay, network)."""
    device = os.fstat(fd).st_dev
    if os.major(device):
        return device
    told = text_of(f"{proc}/self/fdinfo/{fd}").splitlines()
    mount = next((line.split()[1] for line in told if line.startswith("mnt_id:")), "")
    for line in text_of(f"{proc}/self/mountinfo").splitlines():
        if mount and line.startswith(f"{mount} "):
            return _number_of(line.partition(" - ")[2].split()[1])
    return 0


def _number_of(source: str) -> int:
    """Of a mount's source."""
    try:
        status = os.stat(source) if source.startswith("/") else None
    except OSError:
        return 0
    return status.st_rdev if status is not None and stat.S_ISBLK(status.st_mode) else 0


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
    """By number; None for what is no block device's."""
    place = _place(device, sys)
    try:
        name = os.path.basename(os.readlink(place))
    except OSError:
        return None
    queue = f"{place}/queue"
    if not os.path.isdir(queue):
        queue = f"{place}/../queue"  # a partition's disk has it
    transfer, ahead = number_in(f"{queue}/max_sectors_kb"), number_in(f"{queue}/read_ahead_kb")
    return DeviceLimits(
        name,
        number_in(f"{queue}/max_segments"),
        None if transfer is None else transfer << 10,
        None if ahead is None else ahead << 10,
    )


def device_reads(device: int, sys: str | Path = "/sys") -> tuple[int, int] | None:
    """Read requests that the device has finished, and bytes; None where it is none."""
    words = text_of(f"{_place(device, sys)}/stat").split()
    # Documentation/block/stat.rst: read I/Os, read merges, read sectors of 512 bytes.
    return (int(words[0]), int(words[2]) * 512) if len(words) > 2 else None


def _place(device: int, sys: str | Path) -> str:
    return f"{sys}/dev/block/{os.major(device)}:{os.minor(device)}"
