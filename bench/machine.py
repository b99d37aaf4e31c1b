"""bench.machine: what the figures were taken on. In: this machine. Out: facts without names of it."""

import os
import platform
from pathlib import Path

__all__ = ["available_bytes", "describe", "huge_pages"]


def describe() -> dict[str, str | int]:
    """Processor, number of processors usable, kernel, C library, Python."""
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        # Without what a provider appends: that names the host's kind, and changes nothing here.
        "kernel": platform.release().partition("-")[0],
        "libc": " ".join(platform.libc_ver()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "transparent_huge_pages": huge_pages(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown processor"


def huge_pages() -> str:
    """The mode for anonymous memory: always, madvise, never."""
    try:
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    return modes.partition("[")[2].partition("]")[0]


def available_bytes() -> int:
    """What can be allocated without swapping (MemAvailable of /proc/meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
