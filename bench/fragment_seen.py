"""One level of fragmentation on this machine: made, and a file loaded into it. In: a level. Out: what was seen."""

import mmap
import os
import pickle
import random
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bench.fragment_memory import BLOCK, PAGE, Held, settle
from elfolio.kernel.buddy import MigrateType
from elfolio.kernel.memory_map import MemoryZone
from elfolio.kernel.real_check import GROUPS
from elfolio.live.cached import look
from elfolio.live.frames import read_page_flags, read_zones, waiting_pages
from elfolio.live.freelists import read_host_memory

FILE = 1 << 30
PIECES = 7 << 30
"""Most bytes of page blocks of which every second piece is given back."""
MOST = 20 << 30
"""Bytes that are held, at most."""
SECONDS = 240
_POPULATE_READ = 22
_STEP = 32 << 20


class Level(NamedTuple):
    """How memory is fragmented."""

    whole: float
    """Free blocks of 2 MiB, in parts of what the file needs."""
    order: int
    """Of the pieces that are free elsewhere."""
    pinned: float
    """Share of the held page blocks that compaction cannot empty."""


class Seen(NamedTuple):
    """Memory before the load, as mapped() takes it; and what came of the load."""

    flags: bytes
    zones: list[MemoryZone]
    blocks: dict[MigrateType, int]
    pinned: list[int]
    free: list[int]
    waiting: int
    window: int
    """Pages that are read ahead."""
    got: list[float]
    """Shares of the file by GROUPS."""
    work: dict[str, int]
    """The kernel's own counts of reclaim and compaction during the load: /proc/vmstat."""


def fill(path: Path) -> None:
    """A file of FILE bytes that is not sparse, on the disk."""
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(FILE >> 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def apart(level: Level, path: str) -> Seen | None:
    """In a process that cannot outlive its time, and whose memory goes with it."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        try:
            with open(into, "wb") as pipe:
                pipe.write(pickle.dumps(see(level, path)))
            os._exit(0)
        except BaseException as error:
            print(f"{level}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(1)
    os.close(into)
    with open(out, "rb") as file:
        found = file.read()
    _, status = os.waitpid(child, 0)
    return pickle.loads(found) if status == 0 else None


def keep(folder: Path, level: Level, seen: Seen) -> None:
    """For kept()."""
    _place(folder, level).write_bytes(pickle.dumps(seen))


def kept(folder: Path, level: Level) -> Seen | None:
    """What keep() was given. Only from where nobody else may write: it is a pickle."""
    place = _place(folder, level)
    return pickle.loads(place.read_bytes()) if place.exists() else None


def _place(folder: Path, level: Level) -> Path:
    return folder / f"{level.whole}-{level.order}-{level.pinned}"


def see(level: Level, path: str) -> Seen:
    """Fragments memory, loads the file, and gives everything back."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    held = Held(MOST)
    try:
        pinned, free = fragment(held, level)
        settle(iter(waiting_pages, None))
        host, zones, flags, waiting = read_host_memory(), read_zones(), read_page_flags(), waiting_pages()
        before = _counts()
        got = shares(_load(fd))
        work = {name: count - before[name] for name, count in _counts().items() if count != before[name]}
    finally:
        held.close()
        settle(iter(waiting_pages, None))
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return Seen(flags, zones, dict(host.blocks or {}), pinned, free, waiting, max(2 * BLOCK, _window(fd)), got, work)


def fragment(held: Held, level: Level) -> tuple[list[int], list[int]]:
    """Frames that are pinned, and frames that were given back."""
    chance = random.Random(str(level))
    held.take()
    frames = held.frames()
    blocks: dict[int, dict[int, int]] = {}
    for page, frame in enumerate(frames):
        if frame:
            blocks.setdefault(frame // BLOCK, {})[frame % BLOCK] = page
    # What lies below 4 GiB is another zone's.
    full = [block for block, pages in blocks.items() if len(pages) == BLOCK and block >= 2048]
    chance.shuffle(full)
    whole = round(level.whole * FILE / (BLOCK * PAGE))
    given, cut = full[:whole], set(full[whole : whole + PIECES // (BLOCK * PAGE)])
    free, pins = [], []
    for block in blocks.keys() - set(given):
        pages = blocks[block]
        stay = [at for at in pages if block not in cut or not at >> level.order & 1]
        free += [page for at, page in pages.items() if block in cut and at >> level.order & 1]
        if chance.random() < level.pinned:
            pins.append(pages[chance.choice(stay)])
    held.pin(pins)
    now = held.frames()  # compaction may have moved them until then
    held.release(sorted(free))
    settle(iter(waiting_pages, None))
    held.take_whole(leave=46)  # of the lower zone, which keeps as many for itself
    last = sorted(page for block in given for page in blocks[block].values())
    held.release(last)
    return [now[page] for page in pins], [now[page] for page in (*free, *last)]


def shares(pages: dict[int, int]) -> list[float]:
    """By GROUPS, from pages by the order of their folios."""
    every = sum(pages.values()) or 1
    return [sum(n for order, n in pages.items() if low <= order <= high) / every for _, low, high in GROUPS]


def _load(fd: int) -> dict[int, int]:
    """Pages by the order of their folios, each piece as it was read: later the kernel may reclaim some of it."""
    found: Counter[int] = Counter()
    with mmap.mmap(fd, FILE, prot=mmap.PROT_READ) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, FILE, _STEP):
            memory.madvise(_POPULATE_READ, at, _STEP)
            for order, size in look(fd, at, _STEP).orders().items():
                found[order] += size // PAGE
    del found[-1]
    return found


def _counts() -> dict[str, int]:
    text = Path("/proc/vmstat").read_text()
    return {name: int(count) for name, count in re.findall(r"^((?:compact|pgsteal|pgmigrate)_\w+) (\d+)$", text, re.M)}


def _window(fd: int) -> int:
    number = os.fstat(fd).st_dev
    return int(Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb").read_text()) // 4
