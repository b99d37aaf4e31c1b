"""live.frames: what each page of memory is used for, and its zones. In: /proc, as root. Out: flags, MemoryZones.

Reads only. The flags are not of one moment: reading those of 24 GiB takes most of a second.
"""

import re
from pathlib import Path

from elfolio.kernel.memory_map import MemoryZone

__all__ = ["read_page_flags", "read_zones", "waiting_pages"]

_PIECE = 1 << 20


def read_page_flags(proc: Path = Path("/proc")) -> bytes:
    """/proc/kpageflags: 8 bytes for each frame. OSError: it is root's."""
    found = bytearray()
    with open(proc / "kpageflags", "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            found += piece
    return bytes(found[: len(found) & ~7])


def read_zones(proc: Path = Path("/proc")) -> list[MemoryZone]:
    """Those that have memory, from the lowest: /proc/zoneinfo. ValueError: it reads as none."""
    zones = []
    for part in re.split(r"^(?=Node)", (proc / "zoneinfo").read_text(), flags=re.M):
        name = re.match(r"Node +\d+, zone +(\w+)", part)
        guard = re.search(r"protection: \(([\d, ]+)\)", part)
        if name is None or guard is None or not _number(part, "managed"):
            continue
        start, spanned, least, low, high, boost = (
            _number(part, word) for word in ("start_pfn", "spanned", "min", "low", "high", "boost")
        )
        protected = max(map(int, guard[1].split(",")))
        zones.append(MemoryZone(name[1], start, spanned, least, low, high, boost, protected))
    if not zones:
        raise ValueError(f"{proc / 'zoneinfo'}: no zone with memory")
    return sorted(zones, key=lambda zone: zone.start)


def _number(part: str, word: str) -> int:
    found = re.search(rf"^ +{word}:? +(\d+)$", part, re.M)
    return int(found[1]) if found else 0


def waiting_pages(proc: Path = Path("/proc")) -> int:
    """Free pages in the lists of single processors, which flags do not tell from the kernel's."""
    return sum(map(int, re.findall(r"^ +count: +(\d+)$", (proc / "zoneinfo").read_text(), re.M)))
