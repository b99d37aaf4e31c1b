"""bench.load: big files, elfolio beside its peers. In: options. Out: tables of GB/s and processor seconds a GB.

Every load is a process of its own; subjects take turns in every round, `auto` twice as the control. Cold: the page
cache of these files only is dropped before. --share holds the process to a part of one processor.

bench/load_page.py makes a page of what --raw has written, in one run or several.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import NoReturn

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.load_by_tensor import BY_TENSOR
from bench.load_media import KINDS, CannotMount, ballast, drop, held, read_ahead
from bench.load_subjects import SUBJECTS, Files
from bench.load_tables import Case, Sample, Samples, table
from bench.progress import progress

_WORKER = Path(__file__).with_name("load_worker.py")
_PATIENCE = 600
_PEERS = ("numpy", "safetensors", "torch", "fastsafetensors", "runai-model-streamer")
_NOT_INSTALLED = 3


class Wrong(Exception):
    """A subject that failed, or gave other bytes than the rest."""


def one(subject: str, files: Files, group: Path | None, way: str) -> Sample | None:
    """A sample; None where the subject is not installed."""
    words = [sys.executable, str(_WORKER), subject, *files, str(group or ""), way]
    environment = os.environ | {"RUNAI_STREAMER_CONCURRENCY": "8"}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, text=True, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as worker:
        try:
            with ballast(_ballast(files)):
                assert worker.stdout is not None
                worker.stdout.readline()  # all is imported; end of file where it is not
            out, errors = worker.communicate("go\n", timeout=_PATIENCE)
        except BaseException:
            worker.kill()
            raise
    if worker.returncode == _NOT_INSTALLED:
        return None
    if worker.returncode:
        raise Wrong(f"{subject}: {(errors.strip().splitlines() or ['no word'])[-1]}")
    found: Sample = json.loads(out.splitlines()[-1])
    return found


def _ballast(files: Files) -> int:
    """What a load takes at most: the page cache, and a copy. Room is left for the caches that are to stay."""
    return min(2 * Path(files.safetensors).stat().st_size + (256 << 20), machine.available_bytes() // 2)


def measured(case: Case, files: Files, subjects: list[str], rounds: int, group: Path | None, samples: Samples) -> None:
    """Every subject in every round, beginning with another one each time. Adds to the samples."""
    left = list(subjects)
    for turn in range(rounds):
        for subject in [*left[turn % len(left) :], *left[: turn % len(left)]]:
            progress(f"round {turn + 1} of {rounds}: {subject}")
            if case.cold:
                drop(files)
            try:
                sample = one(subject, files, group, case.way)
            except (Wrong, subprocess.TimeoutExpired) as error:
                print(f"left out: {error}", file=sys.stderr)
                sample = None
            if sample is None:
                left.remove(subject)
                samples.pop(subject, None)
            else:
                samples.setdefault(subject, []).append(sample)
    progress("")
    _compare(samples)


def _compare(samples: Samples) -> None:
    """Subjects that read the file's every byte must have read the same ones; so must those that read tensors."""
    by_size: dict[float, set[float]] = defaultdict(set)
    for subject, found in samples.items():
        if not subject.startswith(("fastsafetensors", "runai")):
            by_size[found[0]["bytes"]] |= {sample["sum"] for sample in found}
    if any(len(sums) > 1 for sums in by_size.values()):
        raise Wrong("subjects disagree on the bytes of the file")


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
    parser.add_argument("--state", action="append", choices=("cold", "warm"), help="of the page cache (cold)")
    parser.add_argument("--by-tensor", action="store_true", help="a quarter of the tensors by name, not the whole file")
    parser.add_argument("--share", action="append", type=float, metavar="S", help="part of one processor (0.1, 0.25)")
    parser.add_argument("--read-ahead", type=int, metavar="KB", help="read_ahead_kb for the while (as it is; root)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where files and images are made (temporary files')")
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    parser.add_argument("--raw", type=Path, metavar="FILE", help="every sample as JSON lines, appended")
    options = parser.parse_args(argv)
    if options.rounds < 1 or any(share <= 0 for share in options.share or ()):
        parser.error("--rounds must be at least 1, --share above 0")
    return options


def packages() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for name in _PEERS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def cases(options: argparse.Namespace, kind: str, size: float) -> Iterator[Case]:
    """What is to be measured on one file system. tmpfs is never cold."""
    way = "by tensor" if options.by_tensor else "whole"
    for share in options.share or [None]:
        for state in ["warm"] if kind == "tmpfs" else options.state or ["cold"]:
            yield Case(kind, size, state == "cold", way, share, None)


def run(options: argparse.Namespace, case: Case, files: Files) -> None:
    """One table."""
    known = BY_TENSOR if options.by_tensor else SUBJECTS
    subjects = [name for name in options.subject or known if name in known]
    samples: Samples = {}
    with limited(case.share) as group, read_ahead(files.safetensors, options.read_ahead) as ahead:
        case = replace(case, read_ahead=ahead)
        try:
            measured(case, files, subjects, options.rounds, group, samples)
        finally:  # a run that is ended keeps what it has
            _told(options, case, {subject: samples[subject] for subject in subjects if subject in samples})


def _told(options: argparse.Namespace, case: Case, samples: Samples) -> None:
    print(table(case, samples, markdown=options.markdown), flush=True)
    if options.raw and samples:
        with options.raw.open("a") as out:
            what = {"case": asdict(case), "machine": machine.describe() | packages(), "samples": samples}
            print(json.dumps(what), file=out)


def _end(*_: object) -> NoReturn:
    """Once, so that what is mounted is unmounted in peace: timeout(1) sends the signal twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main() -> int:
    """Exit status."""
    options = options_of()
    signal.signal(signal.SIGTERM, _end)
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.describe().items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="elfolio-bench-", dir=options.folder) as folder:
        for size in options.size or [1.0]:
            for kind in options.on or ["here"]:
                try:
                    with held(kind, Path(folder), int(size * (1 << 30))) as files:
                        for case in cases(options, kind, size):
                            run(options, case, files)
                except (CannotMount, Wrong) as error:
                    print(f"left out: {kind}: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
