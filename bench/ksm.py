"""bench.ksm: what PR_SET_MEMORY_MERGE costs in mappings, and what it saves in memory. In: options. Out: tables.

Two programs are recorded with and without it: the VMAs that they really have beside those that the model gives them,
with the flag set late (before Linux 6.17) and early. Then workers from one template, each with memory_merge=True, wait
while ksmd looks through them; needs root, for ksmd's settings, which are put back.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import elfolio
from bench import machine
from bench.table import show
from elfolio.kernel.policy import Policy
from elfolio.kernel.replaying import Lane, replay
from elfolio.kernel.trace import Log
from elfolio.kernel.trace_record import read_record
from elfolio.kernel.trace_steps import Steps
from elfolio.live.host import policy_here
from elfolio.measure.record import record

KSM = Path("/sys/kernel/mm/ksm")
IMPORTS = "import asyncio, ctypes, decimal, email.mime.text, http.client, json, multiprocessing, sqlite3, ssl, unittest"
SOURCE = '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { return printf("%d", abs(1)) < 0; }\n'
_START = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
merge, root, *words = sys.argv[1:]
if root != "/":
    os.chroot(root)
    os.chdir("/")
assert libc.personality(0x40000) >= 0
assert merge == "0" or libc.prctl(67, 1, 0, 0, 0) == 0
os.execve(words[0], words, {**os.environ, "PYTHONHASHSEED": "0"})
"""
"""Without randomised addresses, so that two runs map the same. The first argument is for PR_SET_MEMORY_MERGE, the
second is the program's root directory."""
_WORKER = f"{IMPORTS}\nimport sys\nprint('ready', flush=True)\nsys.stdin.read()\n"


class Counted(NamedTuple):
    """VMAs at their ends of all processes that a program made."""

    plain: int
    """Live, without the prctl."""
    late: int
    """Predicted from that run, for a kernel that sets the flag late."""
    early: int
    """Predicted from that run, for one that sets it early."""
    without: int
    """Predicted for that one without the prctl."""
    live: int
    """Live, with the prctl."""
    unlike: int
    """Of all processes of both runs, those whose VMAs were not exactly what the replay of their own record says; and
    calls that were answered otherwise than there."""


def recorded(words: Sequence[str], folder: Path, root: str = "/") -> tuple[Path, Path]:
    """Runs a program twice, below that root directory: the record without the prctl, and with it. Raises RecordError
    where this process may not trace."""
    paths = folder / "plain", folder / "merged"
    for flag, path in enumerate(paths):
        argv = [sys.executable, "-c", _START, str(flag), root, *words]
        with open(path, "wb") as file:
            done = record(sys.executable, argv, file.fileno())
        if done.returncode:
            raise SystemExit(f"bench.ksm: {words[0]} ended with {done.returncode}")
    return paths


def counted(plain: Path, merged: Path, own: Policy, late: Policy, early: Policy) -> Counted:
    """Two records, made under a kernel of the policy `own`."""
    flagged = [Lane(late, memory_merge=True), Lane(early, memory_merge=True), Lane(early)]
    first, *predicted = replayed(plain, [Lane(own), *flagged])
    (second,) = replayed(merged, [Lane(own)])
    unlike = sum(end.equal is False for lane in (first, second) for end in lane.endings)
    unlike += first.different + second.different
    late_vmas, early_vmas, without = map(_vmas, predicted)
    return Counted(_real(first), late_vmas, early_vmas, without, _real(second), unlike)


def replayed(path: Path, lanes: list[Lane]) -> list[Lane]:
    """The lanes, after that record."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        replay(Steps().of(read_record(file, Log(str(path)))), lanes)
    return lanes


def _vmas(lane: Lane) -> int:
    return sum(end.vmas for end in lane.endings if end.real is not None)


def _real(lane: Lane) -> int:
    return sum(end.real or 0 for end in lane.endings)


class Shared(NamedTuple):
    """What ksmd did for the workers, all together; bytes."""

    before: int
    """Their memory, each page shared out among its users (Pss), before ksmd ran."""
    after: int
    merged: int
    """Of their pages, those that are merged ones now (ksm_merging_pages)."""
    profit: int
    """What the kernel reckons is saved, less what ksmd remembers of each page that it has seen (ksm_process_profit)."""


@contextmanager
def ksmd() -> Iterator[None]:
    """ksmd at work, and quick; afterwards its settings as they were."""
    wished = {"run": "1", "sleep_millisecs": "10", "pages_to_scan": "4000"}
    before = {name: (KSM / name).read_text().strip() for name in wished}
    nothing_shared = not _ksm("pages_shared")
    try:
        for name in ("pages_to_scan", "sleep_millisecs", "run"):
            (KSM / name).write_text(wished[name])
        yield
    finally:
        if before["run"] == "0" and nothing_shared:
            (KSM / "run").write_text("2")  # else what it knows of these pages would stay until it runs again
        for name, value in before.items():
            (KSM / name).write_text(value)


def workers(count: int, *, fixed: bool = False, scans: int = 6, seconds: float = 60) -> Shared:
    """So many at once, from one template; `fixed`: without randomised addresses. `seconds`: that ksmd gets at most.
    Raises OSError unless root."""
    argv = [sys.executable, "-c", _WORKER]
    if fixed:
        argv = [shutil.which("setarch") or "setarch", "-R", *argv]
    with ExitStack() as stack:
        template = stack.enter_context(elfolio.SpawnTemplate(argv[0], temperature="cold"))
        crew = []
        for _ in range(count):
            child = template.spawn(
                argv,
                stdin=elfolio.PIPE,
                stdout=elfolio.PIPE,
                memory_merge=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
            stack.callback(_end, child)
            crew.append(child)
        for child in crew:
            assert child.stdout is not None
            if child.stdout.readline() != b"ready\n":
                raise SystemExit("bench.ksm: a worker did not start")
        before = sum(_pss(child.pid) for child in crew)
        with ksmd():
            _scanned(scans, seconds)
            return Shared(
                before,
                sum(_pss(child.pid) for child in crew),
                sum(_stat(child.pid, "ksm_merging_pages") for child in crew) * os.sysconf("SC_PAGE_SIZE"),
                sum(_stat(child.pid, "ksm_process_profit") for child in crew),
            )


def _end(child: elfolio.Child) -> None:
    with child:
        child.kill()


def _scanned(scans: int, seconds: float) -> None:
    """Waits for so many whole scans: a page is merged when two in turn found it unchanged."""
    last, deadline = _ksm("full_scans") + scans, time.monotonic() + seconds
    while _ksm("full_scans") < last:
        if time.monotonic() > deadline:
            raise SystemExit(f"bench.ksm: ksmd needs more than {seconds:.0f} s")
        time.sleep(0.05)


def _ksm(name: str) -> int:
    return int((KSM / name).read_text())


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _stat(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/ksm_stat").read_text().splitlines():
        if line.startswith(name + " "):
            return int(line.split()[1])
    return 0


def table(found: Mapping[str, Counted], *, markdown: bool = False) -> str:
    """A line for each program."""
    headings = ("VMAs", "live, without", "late, model", "early, model", "early, without", "live, with", "unlike")
    rows = [[what, *map(str, numbers)] for what, numbers in found.items()]
    return show("With PR_SET_MEMORY_MERGE, and without", headings, rows, markdown=markdown)


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=16)
    options = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory(prefix="elfolio-bench-") as name:
        source = Path(name) / "x.c"
        source.write_text(SOURCE)
        programs = {
            "python, 10 modules": [sys.executable, "-c", IMPORTS],
            "cc": [shutil.which("cc") or "cc", "-O2", "-o", f"{name}/x", str(source)],
        }
        here = policy_here()
        sides = here, here.switched(ksm_early_flag="late"), here.switched(ksm_early_flag="mmap_prepare")
        found = {what: counted(*recorded(words, Path(name)), *sides) for what, words in programs.items()}
    print(table(found))
    ways = {
        "addresses randomised": workers(options.workers),
        "the same addresses (setarch -R)": workers(options.workers, fixed=True),
    }
    rows = [[what, *(f"{size / 2**20:.1f}" for size in shared)] for what, shared in ways.items()]
    sizes = (f"{options.workers} workers, MiB", "Pss before", "after", "merged", "profit")
    print(show("memory_merge=True", sizes, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
