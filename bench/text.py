"""bench.text: what huge pages for text are worth, and what the ways to them cost. In: options. Out: tables.

A program with 16 MiB of text (scattered.c) runs as cp leaves it, tuned, tuned and warmed, with MADV_HUGEPAGE from
inside, and with its text copied to anonymous huge pages (the method of iodlr); in turns, the first of them twice.
Then real programs do a real job, as cp leaves them and tuned and warmed: programs that are position-independent
(tuned), and such as are not (warmed alone). How much of the text is mapped by PMDs is read from pagemap of a process
that is held at its first instruction, after one byte of each block was read through /proc/PID/mem.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.samples import ratio, spread
from bench.table import show
from bench.text_jobs import Job, jobs
from elfolio.elf.constants import PF_X
from elfolio.kernel.folio import Kind
from elfolio.layout.hugepages import PMD, Tier, climb
from elfolio.layout.segments import Layout
from elfolio.live.folios import read_folios
from elfolio.live.opened import opened
from elfolio.measure.hold import held

SOURCE = Path(__file__).with_name("scattered.c")


@dataclass
class Way:
    """How the program with much text is run, and what came of it: a sample for each round."""

    name: str
    program: Path
    mode: str = "plain"
    ready: list[list[int]] = field(default_factory=list)
    """Nanoseconds from the caller's fork until each block was touched."""
    call: list[list[float]] = field(default_factory=list)
    """Nanoseconds a call."""
    faults: list[int] = field(default_factory=list)
    wall: list[list[int]] = field(default_factory=list)


def build(folder: Path) -> Path:
    """The program, position-independent, linked for small pages."""
    made = folder / "scattered"
    options = ["-O2", "-fPIE", "-pie", "-fno-toplevel-reorder", "-Wl,-z,max-page-size=4096"]
    subprocess.run([os.environ.get("CC", "cc"), *options, str(SOURCE), "-o", str(made)], check=True)
    return made


def copied(path: Path, to: Path) -> Path:
    """As cp, install and package managers leave it: small writes, hence small folios."""
    subprocess.run(["cp", "--reflink=never", "--sparse=never", str(path), str(to)], check=True)
    return to


def elfolio(*words: str, status: Sequence[int] = (0,)) -> str:
    """The command's output."""
    done = subprocess.run([sys.executable, "-m", "elfolio", *words], capture_output=True, text=True, check=False)
    if done.returncode not in status:
        raise SystemExit(f"bench.text: elfolio {words[0]}: {done.stderr.strip()}")
    return done.stdout


def forget(path: Path) -> None:
    """Out of the page cache, as after a reboot."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def blocks(path: Path) -> int:
    """The most whole blocks of the executable segments' file bytes that any change without a new address can win."""
    with opened(path) as found:
        ladder = climb(Layout(found.image, 4096), PMD)
    return sum(rung.at(Tier.RELAY) for rung in ladder.rungs if rung.load.segment.flags & PF_X)


def pmd_mapped(path: Path, library: bool, environment: Mapping[str, str]) -> tuple[int, int]:
    """Bytes of the file's text mapped by PMDs once every block was touched, and nanoseconds from exec until then."""
    begin = time.perf_counter_ns()
    with held(str(path), environment=environment) as process:
        target = str(path)
        if library:
            process.to_entry()
            target = environment["LIBRARY"]
        texts = [vma for vma in process.maps() if vma.name == target and "x" in vma.perms]
        with open(f"/proc/{process.pid}/mem", "rb", 0) as memory:
            for vma in texts:
                for address in range(vma.start, vma.end, PMD):
                    os.pread(memory.fileno(), 1, address)
                os.pread(memory.fileno(), 1, vma.end - 4096)
        taken = time.perf_counter_ns() - begin
        found = read_folios(process.pid)
        return sum(
            of.bytes(Kind.PMD) for of in found.vmas if of.vma.name == target and "x" in of.vma.perms
        ), taken  # fmt: skip


def run(way: Way, calls: int) -> None:
    """One sample of each kind."""
    begin = time.monotonic_ns()
    environment = {"SPAWNED": str(begin)}
    words = [str(way.program), way.mode, str(calls)]
    done = subprocess.run(words, env=environment, capture_output=True, check=True)
    way.wall.append([time.monotonic_ns() - begin])
    said = json.loads(done.stdout)
    way.ready.append([said["ready"]])
    way.call.append([said["call"]])
    way.faults.append(said["minor"] + said["major"])


def waiting(way: Way) -> subprocess.Popen[bytes]:
    """A process that has done its work and waits to be looked at."""
    process = subprocess.Popen(
        [str(way.program), way.mode, "1000", "wait"], env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def shared(way: Way) -> tuple[int, int, int]:
    """Of two processes: bytes of text there (Rss), of them a process's own part (Pss), of them mapped by PMDs."""
    both = [waiting(way) for _ in range(2)]
    try:
        text = Path(f"/proc/{both[0].pid}/smaps").read_text()
        rss = pss = huge = 0
        for part in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.M):
            if not part or part.split()[1] != "r-xp" or "[v" in part.split("\n")[0]:
                continue
            if str(way.program) not in part and " 00:00 0 " not in part.split("\n")[0]:
                continue
            numbers = {name: int(kb) * 1024 for name, kb in re.findall(r"^(\w+): +(\d+) kB", part, re.M)}
            rss, pss = rss + numbers["Rss"], pss + numbers["Pss"]
            huge += numbers["FilePmdMapped"] + numbers["AnonHugePages"]
        return rss, pss, huge
    finally:
        for process in both:
            process.communicate()


def named(way: Way, folder: Path, calls: int) -> float | None:
    """The share of perf's samples that it can give a function's name; None where it does not run."""
    perf = shutil.which("perf")
    if perf is None:
        return None
    data = folder / "perf.data"
    words = [perf, "record", "-q", "-e", "cpu-clock:u", "-o", str(data), "--", str(way.program), way.mode, str(calls)]
    if subprocess.run(words, capture_output=True, env=dict(os.environ), check=False).returncode:
        return None
    words = [perf, "script", "-i", str(data), "-F", "ip,sym"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    lines = [line for line in lines if line.strip()]
    return sum("[unknown]" not in line for line in lines) / len(lines) if lines else None


def scattered(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The first table."""
    made = build(folder)
    plain = copied(made, folder / "plain")
    fresh, warm = folder / "tuned", folder / "warmed"
    for path in (fresh, warm):
        elfolio("tune", str(plain), "-o", str(path))
    forget(fresh)
    forget(warm)
    subprocess.run([str(fresh), "plain", "1000"], check=True, capture_output=True)
    elfolio("warm", str(warm))
    ways = [
        Way("as cp leaves it", plain),
        Way("as cp leaves it, again (A/A)", plain),
        Way("tuned, read anew by exec", fresh),
        Way("tuned and warmed", warm),
        Way("MADV_HUGEPAGE from inside", plain, "madvise"),
        Way("copied to anonymous memory", plain, "remap"),
    ]
    for turn in range(options.rounds):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            run(way, options.calls)
    most = blocks(plain) * PMD
    rows = []
    for way in ways:
        rss, pss, huge = shared(way)
        share = named(way, folder, options.calls)
        call, base = spread(way.call), ratio(way.call, ways[0].call)  # type: ignore[arg-type]
        rows.append((
            way.name,
            f"{huge / most:.0%}",
            f"{call.middle:.1f}",
            f"{base.middle:.3f} ({base.low:.3f}-{base.high:.3f})",
            f"{spread(way.ready).middle / 1000:,.0f}",
            f"{spread(way.wall).middle / 1e6:.1f}",
            f"{sorted(way.faults)[len(way.faults) // 2]}",
            f"{pss / rss:.0%}" if rss else "",
            "-" if share is None else f"{share:.0%}",
        ))  # fmt: skip
    heads = ("", "on PMDs", "ns a call", "ratio (quartiles)", "us to ready", "ms in all", "faults", "own", "named")
    print(show(f"16 MiB of text, {options.rounds} rounds", heads, rows, markdown=options.markdown), flush=True)
    return {way.name: {"call": way.call, "ready": way.ready, "wall": way.wall, "faults": way.faults} for way in ways}


@dataclass
class State:
    """A real program's file, as it is and changed."""

    name: str
    path: Path
    share: float
    ready: int
    wall: list[list[int]] = field(default_factory=list)


def states(job: Job, folder: Path) -> Iterator[State]:
    """As cp leaves it, twice; tuned; tuned and warmed. A program that is not position-independent is warmed alone."""
    most = blocks(job.file) * PMD
    before, after, warm = (_place(folder / f"{job.name}-{state}", job) for state in ("cp", "tuned", "warm"))
    copied(job.file, before)
    subprocess.run(job.words(before), env=job.environment(before), capture_output=True, check=False)
    said = elfolio("tune", str(before), "-o", str(after), "--json", "--times", status=(0, 1, 2))
    tuned = after.exists() and json.loads(said)["files"][0]["status"] == "tuned"
    if not tuned:
        copied(job.file, after)
    yield State("as cp leaves it", before, *_share(job, before, most))
    yield State("again (A/A)", before, *_share(job, before, most))
    if tuned:
        forget(after)
        subprocess.run(job.words(after), env=job.environment(after), capture_output=True, check=False)
        yield State("tuned, read anew by exec", after, *_share(job, after, most))
    copied(after, warm)
    elfolio("warm", str(warm), status=(0, 1))
    yield State("tuned, warmed" if tuned else "warmed", warm, *_share(job, warm, most))


def _place(folder: Path, job: Job) -> Path:
    """In a folder of its own, under its own name: some look at how they are called."""
    folder.mkdir()
    return folder / job.file.name


def _share(job: Job, path: Path, most: int) -> tuple[float, int]:
    start = job.program(path)
    environment = {**job.environment(path), "LIBRARY": str(path)}
    huge, taken = pmd_mapped(start, job.library, environment)
    return huge / most if most else 0.0, taken


def real(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The second table."""
    rows: list[tuple[str, ...]] = []
    raw: dict[str, object] = {}
    for job in jobs(folder, options.only):
        found = list(states(job, folder))
        for turn in range(options.jobs):
            for state in found[turn % len(found) :] + found[: turn % len(found)]:
                begin = time.perf_counter_ns()
                subprocess.run(
                    job.words(state.path),
                    env=job.environment(state.path),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=True,
                )
                state.wall.append([time.perf_counter_ns() - begin])
        for state in found:
            to = ratio(state.wall, found[0].wall)
            rows.append((
                f"{job.name}: {state.name}",
                f"{blocks(job.file)}",
                f"{state.share:.1%}",
                f"{state.ready / 1e6:.1f}",
                f"{spread(state.wall).middle / 1e6:.1f}",
                f"{to.middle:.3f} ({to.low:.3f}-{to.high:.3f})",
            ))  # fmt: skip
        raw[job.name] = {state.name: {"share": state.share, "wall": state.wall} for state in found}
        print(show(job.what, ("", "blocks", "on PMDs", "ms to ready", "ms a job", "ratio (quartiles)"), rows,
                   markdown=options.markdown), flush=True)  # fmt: skip
        rows = []
    return raw


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="turns of each way")
    parser.add_argument("--calls", type=int, default=2_000_000)
    parser.add_argument("--jobs", type=int, default=11, help="turns of each real program's file")
    parser.add_argument("--only", nargs="*", help="these real programs")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where files are written: a disk's")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    options = parser.parse_args()
    print(", ".join(f"{name}: {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory(dir=options.folder, prefix=".elfolio-bench-") as folder:
        raw = {"scattered": scattered(options, Path(folder)), "real": real(options, Path(folder))}
    if options.json:
        options.json.write_text(json.dumps(raw))
    return 0


if __name__ == "__main__":
    sys.exit(main())
