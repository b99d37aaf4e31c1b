"""The simulation held against this machine: memory is fragmented on purpose, a file loaded, and its folios compared.

Run as root: python -m bench.fragment [--calibrate] [--keep FOLDER | --kept FOLDER] [--write] [DIRECTORY]

For each level all free memory but a margin is taken, page by page. Of page blocks that are held as a whole some are
given back entirely, and of others every second piece of 2^order pages; a share of all blocks keeps a page that cannot
be moved. Then page flags are read, the file is loaded (mmap, MADV_HUGEPAGE, MADV_POPULATE_READ), and its folios are
looked at. The simulation starts from those flags and reads as many pages: the mean of four seeds. Each level takes a
minute, in a process of its own, which ends after four minutes at the latest; all that it held goes with it.

--calibrate runs other levels: those that the constants in native/buddy.c and native/buddy_compact.c were set by. --keep
leaves what was seen (50 MB a level) in FOLDER, from which --kept simulates again without touching the machine's memory.
--write puts the result where the command's output has it from.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.fragment_memory import PAGE
from bench.fragment_seen import FILE, Level, Seen, apart, fill, keep, kept, shares
from elfolio.kernel.buddy import ORDERS, Kind
from elfolio.kernel.memory_map import mapped
from elfolio.kernel.real_check import GROUPS

SEEDS = range(1, 5)
CHECK = (Level(0.7, 3, 1.0), Level(0.45, 5, 1.0), Level(0.2, 1, 0.95), Level(0.05, 7, 1.0), Level(0.0, 2, 0.98))
CALIBRATION = (Level(0.5, 3, 1.0), Level(0.1, 0, 0.95), Level(0.0, 5, 1.0), Level(0.25, 7, 0.8))


def main(words: list[str]) -> int:
    """The levels in turn."""
    parser = argparse.ArgumentParser(prog="bench.fragment")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("directory", nargs="?", default="/var/tmp")
    given = parser.parse_args(words)
    levels = CALIBRATION if given.calibrate else CHECK
    with tempfile.TemporaryDirectory(dir=given.directory) as own:
        folder = given.kept or given.keep or Path(own)
        if not given.kept:
            folder.mkdir(exist_ok=True)
            _look(levels, Path(own) / "file", folder)
        found = {level: (seen.got, simulated(seen)) for level in levels if (seen := kept(folder, level))}
    for level, (got, foretold) in found.items():
        _show(level, got, foretold)
    if given.write and len(found) == len(levels):
        _write(found)
    return 0 if len(found) == len(levels) else 1


def _look(levels: tuple[Level, ...], file: Path, folder: Path) -> None:
    fill(file)
    for level in levels:
        seen = apart(level, str(file))
        if seen is not None:
            keep(folder, level, seen)


def simulated(seen: Seen) -> list[float]:
    """Shares of the file by GROUPS: means."""
    every = [_simulated(seen, seed) for seed in SEEDS]
    return [sum(each) / len(every) for each in zip(*every, strict=True)]


def _simulated(seen: Seen, seed: int) -> list[float]:
    zone = mapped(
        seen.flags, seen.zones, seen.blocks, pinned=seen.pinned, free=seen.free, waiting=seen.waiting, seed=seed
    )
    zone.read(Kind.FILE, 3, FILE // PAGE, order=9, window=seen.window)
    folios = zone.folios(Kind.FILE)
    return shares({order: folios[order] << order for order in range(ORDERS)})


def _show(level: Level, got: list[float], foretold: list[float]) -> None:
    parts = [f"{name} {real:.1%} / {ours:.1%}" for (name, _, _), real, ours in zip(GROUPS, got, foretold, strict=True)]
    worst = max(abs(a - b) for a, b in zip(got, foretold, strict=True))
    print(f"{level}: got / simulated {', '.join(parts)}; {100 * worst:.1f} points", flush=True)


def _write(found: dict[Level, tuple[list[float], list[float]]]) -> None:
    target = Path(__file__).resolve().parent.parent / "src/elfolio/kernel/real_check.py"
    text = target.read_text()
    machine = f"Linux {os.uname().release.split('-')[0]}, {os.sysconf('SC_PHYS_PAGES') * PAGE / (1 << 30):.1f} GiB"
    body = "".join(
        f"        Held({level.whole}, {level.order}, {level.pinned}, "
        f"{tuple(round(x, 3) for x in got)}, {tuple(round(x, 3) for x in foretold)}),\n"
        for level, (got, foretold) in found.items()
    )
    head = text[: text.index("LAST = ")]
    target.write_text(
        f'{head}LAST = RealCheck(\n    "{machine}",\n    "{time.strftime("%Y-%m-%d")}",\n    (\n{body}    ),\n)\n'
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
