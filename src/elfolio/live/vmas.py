"""live.vmas: what a running process has mapped, and what stands behind it. In: a process id, /proc. Out: ProcessMemory.

smaps tells of each VMA how much of it is there, and of what kind; status and ksm_stat tell of the process.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elfolio.kernel.space import Vma
from elfolio.live.maps import MapsError, parse_smaps

__all__ = ["ProcessMemory", "VmaUse", "read_memory"]

_HEAD = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
_ITEM = re.compile(r"([A-Za-z_]+): +(\d+) kB")
_KEPT = ("Rss", "Pss", "Anonymous", "Swap", "KSM", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")


@dataclass(frozen=True, slots=True)
class VmaUse:
    """A VMA and its pages. In bytes."""

    vma: Vma
    rss: int
    anonymous: int
    swap: int
    ksm: int
    """Shared by same-page merging; 0 also where the kernel does not say (before 6.8)."""
    pss: int = 0
    """Each page divided by how many map it."""
    anon_huge: int = 0
    """AnonHugePages, and so on: mapped by huge pages."""
    shmem_huge: int = 0
    file_huge: int = 0

    @property
    def huge(self) -> int:
        """Mapped by huge pages."""
        return self.anon_huge + self.shmem_huge + self.file_huge

    @property
    def written(self) -> bool:
        """Whether it has anonymous pages; one that had them once may have none now."""
        return bool(self.anonymous or self.swap)


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """A process at one moment. In bytes."""

    pid: int
    name: str
    uses: tuple[VmaUse, ...]
    page_tables: int
    """VmPTE."""
    ksm: Mapping[str, int | bool]
    """ksm_stat: rmap items, merging and zero pages, profit in bytes, and whether all is mergeable; empty where the
    kernel has none."""
    max_map_count: int
    """How many VMAs it may have; 0 where that is not known."""
    huge_pages: bool = True
    """False: prctl(PR_SET_THP_DISABLE)."""


def read_memory(pid: int, proc: str | Path = "/proc") -> ProcessMemory:
    """Raises ProcessLookupError for one that is gone, PermissionError, MapsError."""
    root = Path(proc)
    folder = root / str(pid)
    try:
        smaps = (folder / "smaps").read_bytes().decode("utf-8", "surrogateescape")
        status = (folder / "status").read_text(errors="surrogateescape")
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "no such process", str(folder)) from error
    return ProcessMemory(
        pid,
        _line(status, "Name"),
        tuple(_uses(smaps, str(folder / "smaps"))),
        int(_line(status, "VmPTE").removesuffix("kB") or 0) * 1024,
        _ksm(folder / "ksm_stat"),
        _number(root / "sys/vm/max_map_count"),
        _line(status, "THP_enabled") != "0",
    )


def _uses(text: str, name: str) -> Iterator[VmaUse]:
    """[vsyscall] is shown, and is no VMA of the process."""
    vmas = parse_smaps(text, name)
    counts: list[dict[str, int]] = []
    for line in text.split("\n"):
        if _HEAD.match(line):
            counts.append(dict.fromkeys(_KEPT, 0))
        elif (found := _ITEM.match(line)) is not None and found[1] in _KEPT:
            counts[-1][found[1]] = int(found[2]) * 1024
    if len(counts) != len(vmas):
        raise MapsError(name, 0, f"{len(counts)} heads", f"heads of {len(vmas)} VMAs")
    for vma, of in zip(vmas, counts, strict=True):
        if vma.name != "[vsyscall]":
            huge = (of["AnonHugePages"], of["ShmemPmdMapped"], of["FilePmdMapped"])
            yield VmaUse(vma, of["Rss"], of["Anonymous"], of["Swap"], of["KSM"], of["Pss"], *huge)


def _ksm(path: Path) -> dict[str, int | bool]:
    try:
        text = path.read_text()
    except OSError:  # without CONFIG_KSM there is no such file; of others' processes it may be hidden
        return {}
    found: dict[str, int | bool] = {}
    for line in text.splitlines():
        # `ksm_merge_any: no`, but `ksm_rmap_items 0`
        name, _, value = line.replace(":", " ").partition(" ")
        value = value.strip()
        found[name] = value == "yes" if value in ("yes", "no") else int(value) if value.lstrip("-").isdigit() else 0
    return found


def _line(status: str, name: str) -> str:
    found = re.search(rf"^{name}:[ \t]*(.*)$", status, re.M)
    return found[1].strip() if found else ""


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
