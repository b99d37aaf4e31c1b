"""live.freelists: this machine's free memory by order and migrate type. In: /proc. Out: HostMemory. Reads only."""

import re
from dataclasses import dataclass
from pathlib import Path

from elfolio.kernel.buddy import ORDERS, MigrateType

__all__ = ["HostMemory", "read_host_memory"]

_TYPES = {"Unmovable": MigrateType.UNMOVABLE, "Movable": MigrateType.MOVABLE, "Reclaimable": MigrateType.RECLAIMABLE}
_UNMOVABLE = ("SUnreclaim", "SReclaimable", "KernelStack", "PageTables", "Percpu")


@dataclass(frozen=True, slots=True)
class HostMemory:
    """In pages."""

    page: int
    """Bytes of one."""
    total: int
    free: int
    unmovable: int
    """Slab, stacks, page tables, per-cpu data: what /proc/meminfo names; the kernel has more."""
    cache: int
    free_blocks: tuple[int, ...]
    """By order, of all zones: /proc/buddyinfo."""
    by_type: dict[MigrateType, tuple[int, ...]] | None
    """The same by migrate type; None: only root may read /proc/pagetypeinfo. A count above 100,000 is cut there, and is
    what the other types leave of the whole."""
    blocks: dict[MigrateType, int] | None
    """Page blocks of each type."""

    @property
    def unmovable_share(self) -> float:
        """Of memory."""
        return self.unmovable / self.total

    @property
    def unmovable_blocks(self) -> float | None:
        """Share of the page blocks whose type is not movable."""
        if self.blocks is None:
            return None
        return 1 - self.blocks[MigrateType.MOVABLE] / (sum(self.blocks.values()) or 1)

    def free_in(self, order: int) -> float:
        """Share of free memory in blocks of at least this order."""
        pages = [count << at for at, count in enumerate(self.free_blocks)]
        return sum(pages[order:]) / (sum(pages) or 1)


def read_host_memory(proc: Path = Path("/proc"), page: int = 4096) -> HostMemory:
    """Reads /proc/buddyinfo, /proc/meminfo and, where allowed, /proc/pagetypeinfo below `proc`. ValueError: a file
    that reads as none of them; OSError: one that is not there."""
    memory = {
        name: int(kib) * 1024 // page for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", _text(proc, "meminfo"), re.M)
    }
    if "MemTotal" not in memory:
        raise ValueError(f"{proc / 'meminfo'}: no MemTotal")
    whole = _buddyinfo(proc)
    by_type, blocks = _types(proc, whole)
    return HostMemory(
        page=page,
        total=memory["MemTotal"],
        free=memory.get("MemFree", 0),
        unmovable=sum(memory.get(name, 0) for name in _UNMOVABLE),
        cache=memory.get("Cached", 0) + memory.get("Buffers", 0),
        free_blocks=whole,
        by_type=by_type,
        blocks=blocks,
    )


def _text(proc: Path, name: str) -> str:
    return (proc / name).read_text()


def _buddyinfo(proc: Path) -> tuple[int, ...]:
    zones = re.findall(r"^Node +\d+, zone +\S+((?: +\d+)+) *$", _text(proc, "buddyinfo"), re.M)
    rows = [[int(count) for count in zone.split()] for zone in zones]
    if not rows or any(len(row) != ORDERS for row in rows):
        raise ValueError(f"{proc / 'buddyinfo'}: expected zones with {ORDERS} counts each")
    return tuple(map(sum, zip(*rows, strict=True)))


def _types(
    proc: Path, whole: tuple[int, ...]
) -> tuple[dict[MigrateType, tuple[int, ...]] | None, dict[MigrateType, int] | None]:
    try:
        text = _text(proc, "pagetypeinfo")
    except (PermissionError, FileNotFoundError):
        return None, None
    free = {kind: [0] * ORDERS for kind in MigrateType}
    cut = set()
    for name, counts in re.findall(r"^Node +\d+, zone +\S+, type +(\w+)((?: +>?\d+)+) *$", text, re.M):
        if name in _TYPES:
            for order, count in enumerate(counts.split()[:ORDERS]):
                free[_TYPES[name]][order] += int(count.lstrip(">"))
                if count.startswith(">"):
                    cut.add((_TYPES[name], order))
    for kind, order in cut:
        others = sum(free[other][order] for other in MigrateType if other is not kind)
        free[kind][order] = max(free[kind][order], whole[order] - others)
    head = re.search(r"^Number of blocks type((?: +\w+)+)", text, re.M)
    blocks = dict.fromkeys(MigrateType, 0)
    if head is not None:
        names = head[1].split()
        for row in re.findall(r"^Node +\d+, zone +\S+((?: +\d+)+) *$", text[head.end() :], re.M):
            for name, count in zip(names, row.split(), strict=False):
                if name in _TYPES:
                    blocks[_TYPES[name]] += int(count)
    return {kind: tuple(counts) for kind, counts in free.items()}, blocks
