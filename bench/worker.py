"""bench.worker: a Python that starts programs when told to. In: commands, as floor.c takes. Out: latencies in ns.

A process of its own, so that what one parent holds (memory, an event loop's handlers) is no other's, and so
that the C program and each Python take turns. `--gib N` makes it hold that much touched memory.
"""

import argparse
import json
import mmap
import os
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.subjects import lacking, take

_GIB = 1 << 30


def _held(gib: int) -> mmap.mmap | None:
    """Touched anonymous memory, in whatever pages the host gives to a program that asks for none."""
    if not gib:
        return None
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return mmap.mmap(-1, gib * _GIB, flags=flags)


def _rollup() -> dict[str, int]:
    """Bytes resident, and how many of them in huge pages."""
    facts = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        if name in ("Rss", "AnonHugePages"):
            facts[name] = int(value.split()[0]) * 1024
    return facts


def main() -> None:
    """Serves until its input ends. The first line says what can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=0)
    gib = parser.parse_args().gib
    # The programs started inherit standard output, which is therefore led away before the first one.
    report = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    memory = _held(gib)
    print(json.dumps({"lacking": lacking(), "memory": _rollup()}), file=report, flush=True)
    for line in sys.stdin:
        name, count, *argv = line.rstrip("\n").split("\t")
        print(*take(name, argv, int(count)), file=report, flush=True)
    if memory is not None:
        memory.close()


if __name__ == "__main__":
    main()
