"""bench.load: big files, elfolio beside its peers. In: options. Out: tables of GB/s and processor seconds a GB.

Every load is a process of its own; subjects take turns in every round, one of them twice as the control. Cold: as root
or not, the page cache of these files only is dropped before. --share holds the process to a part of one processor.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.load_media import KINDS, CannotMount, drop, held, read_ahead, touch
from bench.load_subjects import SUBJECTS, Files
from bench.progress import progress
from bench.table import show

_WORKER = Path(__file__).with_name("load_worker.py")
_BASE, _PLAIN = "read() into bytes", "mmap"
_OURS = "elfolio auto"
_HEADINGS = ("", "GB/s", "of", "CPU s/GB", "first pass GB/s", "random GB/s")
Sample = dict[str, float]
Samples = dict[str, list[Sample]]


class Wrong(Exception):
    """A subject that failed, or gave other bytes than the rest."""


def one(subject: str, files: Files, group: Path | None) -> Sample | None:
    """A sample; None where the subject is not installed."""
    words = [sys.executable, str(_WORKER), subject, *files, str(group or "")]
    environment = os.environ | {"RUNAI_STREAMER_CONCURRENCY": "8"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, env=environment)
    if done.returncode == 3:
        return None
    if done.returncode:
        raise Wrong(f"{subject}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    found: Sample = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(files: Files, subjects: list[str], rounds: int, group: Path | None, *, cold: bool) -> Samples:
    """Every subject in every round, beginning with another one each time."""
    samples: Samples = defaultdict(list)
    left = list(subjects)
    for turn in range(rounds):
        for subject in [*left[turn % len(left) :], *left[: turn % len(left)]]:
            progress(f"round {turn + 1} of {rounds}: {subject}")
            if cold:
                drop(files)
            touch(min(2 * Path(files.safetensors).stat().st_size + (256 << 20), machine.available_bytes() // 2))
            try:
                sample = one(subject, files, group)
            except (Wrong, subprocess.TimeoutExpired) as error:
                print(f"left out: {error}", file=sys.stderr)
                sample = None
            if sample is None:
                left.remove(subject)
                samples.pop(subject, None)
            else:
                samples[subject].append(sample)
    progress("")
    _compare(samples)
    return samples


def _compare(samples: Samples) -> None:
    """Subjects that read the file's every byte must have read the same ones; so must those that read tensors."""
    by_size: dict[float, set[float]] = defaultdict(set)
    for subject, found in samples.items():
        if not subject.startswith(("fastsafetensors", "runai")):
            by_size[found[0]["bytes"]] |= {sample["sum"] for sample in found}
    if any(len(sums) > 1 for sums in by_size.values()):
        raise Wrong("subjects disagree on the bytes of the file")


def middle(samples: list[Sample], name: str) -> float:
    """The median."""
    return statistics.median(sample[name] for sample in samples)


def rows(samples: Samples) -> list[tuple[str, ...]]:
    """Of the table."""
    made: list[tuple[str, ...]] = []
    for subject, found in samples.items():
        size = found[0]["bytes"] / 1e9
        rates = sorted(size / sample["seconds"] for sample in found)
        made.append(
            (
                subject,
                f"{statistics.median(rates):.2f}",
                f"{rates[0]:.2f} to {rates[-1]:.2f}",
                f"{middle(found, 'processor') / size:.3f}",
                f"{size / middle(found, 'first'):.2f}",
                f"{size / 4 / middle(found, 'random'):.2f}",
            )
        )
    return made


def verdict(samples: Samples) -> str:
    """How `auto` stands against the fastest peer, against read and against plain mmap."""
    if not {_OURS, _BASE, _PLAIN} <= samples.keys():
        return ""
    rates = {name: found[0]["bytes"] / middle(found, "seconds") / 1e9 for name, found in samples.items()}
    cost = {name: middle(found, "processor") / found[0]["bytes"] for name, found in samples.items()}
    peer = max((name for name in rates if not name.startswith("elfolio")), key=rates.__getitem__)
    shares = [cost[_OURS] / cost[name] if cost[name] else float("nan") for name in (_BASE, _PLAIN)]
    return (
        f"auto: {rates[_OURS] / rates[peer]:.2f} times the rate of the fastest peer ({peer}); "
        f"{shares[0]:.3f} of read()'s processor time a GB, {shares[1]:.3f} of plain mmap's\n"
    )


@contextmanager
def limited(share: float | None) -> Iterator[Path | None]:
    """A control group (of either version, as root) that gives so much of one processor, in periods of 10 ms. The
    worker joins it for the load only."""
    if share is None:
        yield None
        return
    old = Path("/sys/fs/cgroup/cpu")
    group = (old if old.is_dir() else old.parent) / f"elfolio-bench-{os.getpid()}"
    group.mkdir()
    try:
        if group.parent == old:
            (group / "cpu.cfs_period_us").write_text("10000")
            (group / "cpu.cfs_quota_us").write_text(str(int(share * 10_000)))
        else:
            (group / "cpu.max").write_text(f"{int(share * 10_000)} 10000")
        yield group
    finally:
        group.rmdir()


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    """Parsed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", action="append", choices=KINDS, help="file systems (here; the others need root)")
    parser.add_argument("--size", action="append", type=float, metavar="GIB", help="of the file (1)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of every subject (5)")
    parser.add_argument("--subject", action="append", choices=SUBJECTS, metavar="NAME", help=", ".join(SUBJECTS))
    parser.add_argument("--warm", action="store_true", help="also with the file in the page cache")
    parser.add_argument("--share", action="append", type=float, metavar="S", help="part of one processor (0.1, 0.25)")
    parser.add_argument("--read-ahead", type=int, metavar="KB", help="read_ahead_kb for the while (as it is; root)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where files and images are made (temporary files')")
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    parser.add_argument("--raw", type=Path, metavar="FILE", help="every sample as JSON lines, appended")
    options = parser.parse_args(argv)
    if options.rounds < 1 or any(share <= 0 for share in options.share or ()):
        parser.error("--rounds must be at least 1, --share above 0")
    return options


def run(options: argparse.Namespace, kind: str, files: Files, size: float) -> None:
    """All tables of one file system and size."""
    subjects = options.subject or list(SUBJECTS)
    for share in options.share or [None]:
        for cold in (True, False) if options.warm and kind != "tmpfs" else (kind != "tmpfs",):
            with limited(share) as group, read_ahead(files.safetensors, options.read_ahead) as ahead:
                samples = measured(files, subjects, options.rounds, group, cold=cold)
            held_to = f", {share:.0%} of a processor" if share else ""
            held_to += f", read_ahead_kb {ahead}" if ahead is not None else ""
            title = f"{kind}, {size:g} GiB, {'cold' if cold else 'warm'}{held_to}: until every page is touched"
            print(show(title, _HEADINGS, rows(samples), markdown=options.markdown) + verdict(samples), flush=True)
            if options.raw:
                with options.raw.open("a") as out:
                    print(json.dumps({"what": title, "samples": samples}), file=out)


def main() -> int:
    """Exit status."""
    options = options_of()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is mounted is unmounted
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.describe().items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="elfolio-bench-", dir=options.folder) as folder:
        for size in options.size or [1.0]:
            for kind in options.on or ["here"]:
                try:
                    with held(kind, Path(folder), int(size * (1 << 30))) as files:
                        run(options, kind, files, size)
                except (CannotMount, Wrong) as error:
                    print(f"left out: {kind}: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
