"""bench.mremap: what moving memory costs, beside the model's counts. In: options. Out: tables.

One mapping of small pages, all touched, is moved there and back between pairs of places: with the same offset in a
directory of page tables, in a table, in neither. The model (kernel.pages) says how many entries each move touches and
how many tables it makes at its destination; the growth of VmPTE under MREMAP_DONTUNMAP says how many were made.
Then the same memory grows under a neighbour, by mremap as it is and by elfolio.grow. All in turns; each sample is one
call.
"""

import argparse
import ctypes
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.samples import spread
from bench.table import show
from elfolio.kernel.pages import Moves, Side, moves, table_sizes
from elfolio.live.host import policy_here
from elfolio.memory import grow

POLICY = policy_here()
PAGE = POLICY.page_size
TABLE, DIRECTORY, _ = table_sizes(POLICY)
HERE, THERE, AWAY = ((1 << 44) + (n << 40) for n in range(3))
"""Three places where nothing else is, in different directories of the highest level."""

MAYMOVE, FIXED, DONTUNMAP = 1, 2, 4
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = LIBC.mremap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
LIBC.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)


class Pair(NamedTuple):
    """Two places, by their offsets behind HERE and THERE."""

    name: str
    old: int
    new: int


PAIRS = (
    Pair("aligned to a directory", 0, 0),
    Pair("aligned to a directory, again (A/A)", 0, 0),
    Pair("aligned to a table", TABLE, 3 * TABLE),
    Pair("mutual offset of 3 pages", TABLE + 3 * PAGE, 3 * TABLE + 3 * PAGE),
    Pair("mutual offset, directory too", 3 * PAGE, 3 * PAGE),
    Pair("misaligned by a page", 0, PAGE),
)


def mapped(address: int, size: int, prot: int = 3) -> int:
    """Private memory at exactly that address; without huge pages."""
    at: int = LIBC.mmap(address, size, prot, 0x100022, -1, 0)  # MAP_FIXED_NOREPLACE
    if at != address:
        raise SystemExit(f"bench.mremap: mmap: {os.strerror(ctypes.get_errno())}")
    if prot and LIBC.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), 15):  # MADV_NOHUGEPAGE
        raise SystemExit(f"bench.mremap: madvise: {os.strerror(ctypes.get_errno())}")
    return at


def moved(old: int, size: int, new: int, *, grown: int = 0, flags: int = MAYMOVE | FIXED) -> int:
    """mremap, which must succeed."""
    at: int = LIBC.mremap(old, size, grown or size, flags, new)
    if at == ctypes.c_void_p(-1).value:
        raise SystemExit(f"bench.mremap: mremap: {os.strerror(ctypes.get_errno())}")
    return at


def timed(call: Callable[[], int]) -> tuple[int, int]:
    """What it returns, and the nanoseconds that it took."""
    begin = time.perf_counter_ns()
    result = call()
    return result, time.perf_counter_ns() - begin


def page_tables() -> int:
    """VmPTE in bytes."""
    found = re.search(r"VmPTE:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def counted(pair: Pair, size: int) -> Moves:
    """What the model says of a move from the first place to the second."""
    old, new = HERE + pair.old, THERE + pair.new
    return moves(POLICY, Side(old, old), Side(new, new), size)


def made(at: int, pair: Pair, size: int) -> tuple[int, int]:
    """Where the memory is now, and how many tables its move to the second place made."""
    old, new = placed(at, size, HERE + pair.old), THERE + pair.new
    before = page_tables()
    moved(old, size, new, flags=MAYMOVE | FIXED | DONTUNMAP)
    tables = (page_tables() - before) // PAGE
    LIBC.munmap(old, size)
    return new, tables


def placed(at: int, size: int, place: int) -> int:
    """Moves it there, unless it is there; in two steps, since mremap refuses places that overlap."""
    return at if at == place else moved(moved(at, size, AWAY), size, place)


def moving(at: int, size: int, rounds: int) -> tuple[int, dict[str, list[list[int]]]]:
    """Samples of each pair, round by round: there, and back."""
    samples: dict[str, list[list[int]]] = {pair.name: [] for pair in PAIRS}
    for _ in range(rounds):
        for pair in PAIRS:
            old, new = HERE + pair.old, THERE + pair.new
            at = placed(at, size, old)
            _, there = timed(lambda old=old, new=new: moved(old, size, new))  # type: ignore[misc]
            at, back = timed(lambda old=old, new=new: moved(new, size, old))  # type: ignore[misc]
            samples[pair.name].append([there, back])
    return at, samples


def growing(at: int, size: int, rounds: int) -> tuple[int, dict[str, list[list[int]]]]:
    """Samples of growing under a neighbour: by mremap, and by elfolio.grow."""
    ways: dict[str, Callable[[int, int, int], int]] = {
        "mremap(MREMAP_MAYMOVE)": lambda old, length, new: moved(old, length, 0, grown=new, flags=MAYMOVE),
        "elfolio.grow": grow,
    }
    samples: dict[str, list[list[int]]] = {}
    for title, more in (("to twice the size", size), ("by 3 pages", 3 * PAGE)):
        for _ in range(rounds):
            for name, way in ways.items():
                at = placed(at, size, HERE)
                neighbour = mapped(HERE + size, PAGE, 0)
                at, taken = timed(lambda way=way, more=more: way(HERE, size, size + more))  # type: ignore[misc]
                samples.setdefault(f"{title}, {name}", []).append([taken])
                LIBC.munmap(neighbour, PAGE)
                LIBC.munmap(at + size, more)
    return at, samples


def _time(rounds: list[list[int]]) -> tuple[str, str]:
    found = spread(rounds)
    return f"{found.middle / 1000:,.0f}", f"{found.low / 1000:,.0f}-{found.high / 1000:,.0f}"


def main() -> int:
    """Prints the tables; 1 where the kernel made other tables than the model says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="memory that is moved")
    parser.add_argument("--rounds", type=int, default=15, help="turns of every row, at least 1")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    options = parser.parse_args()
    if min(options.rounds, options.mib) < 1:
        parser.error("--rounds and --mib are at least 1")
    size = options.mib << 20
    if machine.available_bytes() < size + (256 << 20):
        raise SystemExit(f"bench.mremap: {options.mib} MiB and 256 more are not available; try --mib")
    print(", ".join(f"{name}: {value}" for name, value in machine.describe().items()))
    at = mapped(HERE, size)
    ctypes.memset(at, 1, size)
    tables: dict[str, int] = {}
    for pair in PAIRS:
        at, tables[pair.name] = made(at, pair, size)
    at, there = moving(at, size, options.rounds)
    at, grown = growing(at, size, options.rounds)
    rows = []
    for pair in PAIRS:
        model = counted(pair, size)
        entries = [f"{n:,}" for n in (model.puds, model.pmds, model.ptes, model.made, tables[pair.name])]
        rows.append([pair.name, *entries, *_time(there[pair.name])])
    headings = ("", "PUD", "PMD", "PTE", "tables made", "VmPTE says", "us", "low-high")
    print(show(f"Moving {options.mib} MiB", headings, rows, markdown=options.markdown))
    rows = [[name, *_time(rounds)] for name, rounds in grown.items()]
    print(show(f"Growing {options.mib} MiB under a neighbour", ("", "us", "low-high"), rows, markdown=options.markdown))
    if options.json:
        options.json.write_text(json.dumps({"moving": there, "growing": grown, "tables": tables}))
    return int(any(counted(pair, size).made != tables[pair.name] for pair in PAIRS))


if __name__ == "__main__":
    sys.exit(main())
