"""The simulation held against this machine: memory is fragmented on purpose, a file loaded, and its folios compared.

Run as root: python bench/fragment.py [--calibrate] [--write] [DIRECTORY]

For each level all free memory but a margin is taken, page by page. Of page blocks that are held as a whole some are
given back entirely, and of others every second piece of 2^order pages; a share of all blocks keeps a page that cannot
be moved. Then page flags are read, the file is loaded (mmap, MADV_HUGEPAGE, MADV_POPULATE_READ), and its folios are
looked at. The simulation starts from those flags and reads as many pages. Each level takes a minute, in a process of
its own, which ends after four minutes at the latest; all that it held goes with it. --calibrate runs other levels:
those that the constants in native/buddy.c and native/buddy_compact.c were set by. --write puts the result where the
command's output has it from.
"""

import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.fragment_memory import BLOCK, PAGE, Held, settle
from elfolio.kernel.buddy import ORDERS, Kind
from elfolio.kernel.memory_map import mapped
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


class Level(NamedTuple):
    """How memory is fragmented."""

    whole: float
    """Free blocks of 2 MiB, in parts of what the file needs."""
    order: int
    """Of the pieces that are free elsewhere."""
    pinned: float
    """Share of the held page blocks that compaction cannot empty."""


CHECK = (Level(0.8, 4, 1.0), Level(0.55, 1, 0.97), Level(0.35, 6, 1.0), Level(0.15, 2, 0.9), Level(0.0, 8, 1.0))
CALIBRATION = (Level(0.5, 3, 1.0), Level(0.1, 0, 0.95), Level(0.0, 5, 1.0), Level(0.25, 7, 0.8))


def main(words: list[str]) -> int:
    """The levels in turn."""
    options, places = {word for word in words if word.startswith("--")}, [w for w in words if not w.startswith("--")]
    levels = CALIBRATION if "--calibrate" in options else CHECK
    with tempfile.NamedTemporaryFile(dir=places[0] if places else "/var/tmp") as file:
        fill(file.fileno())
        found = [row for level in levels if (row := apart(level, file.name)) is not None]
    for level, row in zip(levels, found, strict=False):
        _show(level, row)
    if "--write" in options and len(found) == len(levels):
        _write(found, levels)
    return 0 if len(found) == len(levels) else 1


def fill(fd: int) -> None:
    """A file that is not sparse, on the disk."""
    piece = os.urandom(1 << 20)
    for _ in range(FILE >> 20):
        os.write(fd, piece)
    os.fsync(fd)


def apart(level: Level, path: str) -> dict[str, list[float]] | None:
    """In a process that cannot outlive its time, and whose memory goes with it."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        try:
            os.write(into, json.dumps(run(level, path)).encode())
            os._exit(0)
        except BaseException as error:
            print(f"{level}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(1)
    os.close(into)
    with open(out, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    return dict(json.loads(text)) if text else None


def run(level: Level, path: str) -> dict[str, list[float]]:
    """Shares of the file by GROUPS: got, and simulated."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    held = Held(MOST)
    try:
        pinned, free = fragment(held, level)
        settle(iter(waiting_pages, None))
        host, zones, flags, waiting = read_host_memory(), read_zones(), read_page_flags(), waiting_pages()
        got = _shares(_load(fd))
    finally:
        held.close()
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    zone = mapped(flags, zones, host.blocks or {}, pinned=pinned, free=free, waiting=waiting)
    zone.read(Kind.FILE, 3, FILE // PAGE, order=9, window=max(2 * BLOCK, _window(fd)))
    folios = zone.folios(Kind.FILE)
    return {"got": got, "simulated": _shares({order: folios[order] << order for order in range(ORDERS)})}


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
        kept = [at for at in pages if block not in cut or not at >> level.order & 1]
        free += [page for at, page in pages.items() if block in cut and at >> level.order & 1]
        if chance.random() < level.pinned:
            pins.append(pages[chance.choice(kept)])
    held.pin(pins)
    held.release(sorted(free))
    settle(iter(waiting_pages, None))
    held.take_whole(leave=46)  # of the lower zone, which keeps as many for itself
    last = sorted(page for block in given for page in blocks[block].values())
    held.release(last)
    return [frames[page] for page in pins], [frames[page] for page in (*free, *last)]


def _load(fd: int) -> dict[int, int]:
    """Pages by the order of their folios."""
    with mmap.mmap(fd, FILE, prot=mmap.PROT_READ) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, FILE, 32 << 20):
            memory.madvise(_POPULATE_READ, at, 32 << 20)
        return {order: size // PAGE for order, size in look(fd).orders().items() if order >= 0}


def _window(fd: int) -> int:
    """Pages that are read ahead of this file system's files."""
    number = os.fstat(fd).st_dev
    return int(Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb").read_text()) // 4


def _shares(pages: dict[int, int]) -> list[float]:
    every = sum(pages.values()) or 1
    return [sum(n for order, n in pages.items() if low <= order <= high) / every for _, low, high in GROUPS]


def _show(level: Level, row: dict[str, list[float]]) -> None:
    parts = [
        f"{name} {got:.1%} / {simulated:.1%}"
        for (name, _, _), got, simulated in zip(GROUPS, row["got"], row["simulated"], strict=True)
    ]
    worst = max(abs(a - b) for a, b in zip(row["got"], row["simulated"], strict=True))
    print(f"{level}: got / simulated {', '.join(parts)}; {100 * worst:.1f} points", flush=True)


def _write(rows: list[dict[str, list[float]]], levels: tuple[Level, ...]) -> None:
    target = Path(__file__).resolve().parent.parent / "src/elfolio/kernel/real_check.py"
    text = target.read_text()
    machine = f"Linux {os.uname().release}, {os.sysconf('SC_PHYS_PAGES') * PAGE / (1 << 30):.1f} GiB"
    body = "".join(
        f"        Held({level.whole}, {level.order}, {level.pinned}, "
        f"{tuple(round(x, 3) for x in row['got'])}, {tuple(round(x, 3) for x in row['simulated'])}),\n"
        for level, row in zip(levels, rows, strict=True)
    )
    head = text[: text.index("LAST = ")]
    target.write_text(
        f'{head}LAST = RealCheck(\n    "{machine}",\n    "{time.strftime("%Y-%m-%d")}",\n    (\n{body}    ),\n)\n'
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
