"""bench.replay: how fast traces are recorded, read and replayed. In: options. Out: tables.

A build of many small C files, byte-compiling of Python's library and starts of the programs at hand are recorded until
there are enough operations; then the record, and a log of strace where that is there, are read and replayed. What
recording costs is measured in turns with the bare command and with strace.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.table import show
from elfolio.kernel.calls import Mmap, Mprotect, Munmap, Operation
from elfolio.kernel.mm import Limits, Mm
from elfolio.kernel.model import apply
from elfolio.kernel.replaying import Lane, replay
from elfolio.kernel.trace import Event, Log
from elfolio.kernel.trace_record import read_record
from elfolio.kernel.trace_steps import Do, Steps
from elfolio.kernel.trace_strace import read_strace
from elfolio.live.host import policy_here
from elfolio.measure.record import record

_SOURCE = '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint f%d(int x) { return printf("%%d", x); }\n'
_TRACED = "trace=memory,process"


def commands(folder: Path) -> Iterator[list[str]]:
    """What is recorded, without end: builds first."""
    (folder / "large.c").write_text("".join(_SOURCE % n for n in range(2000)))
    (folder / "small.c").write_text(_SOURCE % 0)
    library = os.path.dirname(os.__file__)
    compileall = f"import compileall; compileall.compile_dir({library + '/json'!r}, quiet=2, force=True, workers=2)"
    yield ["cc", "-O2", "-c", "-o", os.devnull, str(folder / "large.c")]
    yield [sys.executable, "-c", compileall]
    if shutil.which("node"):
        yield ["node", "-e", "0"]
    while True:
        yield ["sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9 10; do cc -O2 -c -o /dev/null {folder / 'small.c'}; done"]


def recorded(folder: Path, least: int) -> list[Path]:
    """Records that together have at least so many operations."""
    paths: list[Path] = []
    operations = 0
    for words in commands(folder):
        path = folder / f"record{len(paths)}"
        with open(path, "wb") as file:
            done = record(shutil.which(words[0]) or words[0], words, file.fileno())
        if done.returncode:
            raise SystemExit(f"bench.replay: {words[0]} ended with {done.returncode}")
        paths.append(path)
        operations += path.read_bytes().count(b'"c":')
        print(f"\r{operations} operations", end="", file=sys.stderr, flush=True)
        if operations >= least:
            break
    print(file=sys.stderr)
    return paths


def timed(events: Iterable[Event]) -> tuple[list[Event], float]:
    """All of them, and the processor's seconds that it took."""
    begin = time.process_time()
    found = list(events)
    return found, time.process_time() - begin


def speeds(paths: Sequence[Path], log: Path | None) -> list[list[str]]:
    """Rows: reading, converting, replaying."""
    rows = []
    lines = operations = steps_made = equal = ended = different = 0
    reading = converting = replaying = 0.0
    for path in paths:
        read = Log(str(path))
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            events, seconds = timed(read_record(file, read))
        reading += seconds
        lines += read.lines
        steps = Steps()
        begin = time.process_time()
        made = list(steps.of(events))
        converting += time.process_time() - begin
        lane = Lane(policy_here())
        begin = time.process_time()
        replay(made, [lane])
        replaying += time.process_time() - begin
        operations += sum(type(step) is Do for step in made)
        steps_made += len(made)
        different += lane.different
        ended += sum(end.equal is not None for end in lane.endings)
        equal += sum(end.equal is True for end in lane.endings)
    rows.append(["record: reading", f"{lines} lines", f"{lines / reading:,.0f} lines/s"])
    rows.append(["record: converting", f"{steps_made} steps", f"{steps_made / converting:,.0f} steps/s"])
    rows.append(["replaying", f"{operations} operations", f"{operations / replaying:,.0f} operations/s"])
    rows.append(["calls answered otherwise", "", str(different)])
    rows.append(["processes with their real VMAs at the end", "", f"{equal} of {ended}"])
    if log is not None:
        read = Log(str(log))
        with open(log, encoding="utf-8", errors="surrogateescape") as file:
            _, seconds = timed(read_strace(file, read))
        rows.append(["strace: reading", f"{read.lines} lines", f"{read.lines / seconds:,.0f} lines/s"])
    return rows


def sized(counts: Sequence[int], operations: int) -> list[list[str]]:
    """Rows: operations a second in an address space of so many VMAs."""
    rows = []
    for count in counts:
        chance = random.Random(1)
        mm = Mm(policy_here(), None, Limits(max_map_count=1 << 20, ipc_lock=True))
        base, page = 0x100000000, 4096
        for n in range(count):
            apply(mm, Mmap(base + 2 * n * page, page, 3, 0x32))
        work: list[Operation] = []
        for _ in range(operations // 4):
            at = base + 2 * chance.randrange(count) * page
            work += [Mprotect(at, page, 1), Mprotect(at, page, 3), Munmap(at, page), Mmap(at, page, 3, 0x32)]
        begin = time.process_time()
        for operation in work:
            apply(mm, operation)
        seconds = time.process_time() - begin
        rows.append([f"{count} VMAs", f"{len(work) / seconds:,.0f}"])
    return rows


def overhead(folder: Path, rounds: int) -> list[list[str]]:
    """Rows: a build bare, recorded, and under strace, in turns."""
    words = ["sh", "-c", f"for i in 1 2 3 4 5; do cc -O2 -c -o /dev/null {folder / 'small.c'}; done"]
    shell = shutil.which("sh") or "sh"

    def run(faults: bool) -> None:
        with open(folder / "out", "wb") as file:
            record(shell, words, file.fileno(), faults=faults)

    def bare(command: Sequence[str]) -> None:
        subprocess.run(command, check=True)

    ways: dict[str, Callable[[], None]] = {
        "bare": partial(bare, words),
        "bare again (A/A)": partial(bare, words),
        "recorded": partial(run, True),
        "recorded, --no-faults": partial(run, False),
    }
    tool = shutil.which("strace")
    if tool is not None:
        for name, options in (("strace --seccomp-bpf", ["--seccomp-bpf"]), ("strace", [])):
            ways[name] = partial(bare, [tool, "-f", *options, "-o", str(folder / "out"), "-e", _TRACED, *words])
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            samples[name].append(time.perf_counter() - begin)
    return [
        [name, f"{statistics.median(times) * 1000:.0f}", f"{_ratio(times, samples['bare']):.2f}"]
        for name, times in samples.items()
    ]


def _ratio(times: Sequence[float], base: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=210_000, help="record at least so many")
    parser.add_argument("--rounds", type=int, default=7, help="turns for what recording costs")
    options = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory(prefix="elfolio-bench-") as name:
        folder = Path(name)
        paths = recorded(folder, options.operations)
        log = None
        if shutil.which("strace"):
            log = folder / "strace.log"
            words = ["strace", "-f", "-y", "-o", str(log), "-e", _TRACED]
            loop = f"for i in $(seq 40); do cc -O2 -c -o /dev/null {folder / 'small.c'}; done"
            subprocess.run([*words, "sh", "-c", loop], check=True)
        print(show("Reading and replaying", ("", "of", "speed"), speeds(paths, log)))
        sizes = sized((100, 10_000, 65_000), 40_000)
        print(show("By size of the address space", ("", "operations/s"), sizes))
        costs = overhead(folder, options.rounds)
        print(show("What recording a build costs", ("", "ms", "times bare"), costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
