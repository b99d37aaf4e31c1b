"""bench.survey: what `elfolio survey` costs a file, beside other readers and plain C. In: options. Out: two tables.

All take the same ELF files, in turns whose order changes from round to round, on a warm cache, in one process. What the
others do is the least that yields the program headers; elfolio's row has all that a survey says. The second table is
of whole directories, where most files are no ELF files and must be opened to tell. A/A, elfolio twice, shows how far
apart equal things come out.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.table import show
from elfolio.survey.examine import Batch, examine
from elfolio.survey.run import survey

BOUND, OURS, AGAIN = "C: open, read 4 KiB, close", "elfolio", "the same again (A/A)"
_RUN = 50
_TURN = 0.3
"""Seconds at least that a row's turn takes, in as many passes as that needs."""
Pass = Callable[[], float]
"""One pass over all files; the seconds that it took."""


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="*", default=["/usr"], metavar="DIR", help="where the files are (/usr)")
    parser.add_argument(
        "--files", type=int, default=1000, metavar="N", help="ELF files of the first table, spread evenly"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of every row")
    parser.add_argument("--no-tree", action="store_true", help="the first table only")
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample, in seconds")
    return parser.parse_args()


def timed(action: Callable[[], object]) -> Pass:
    """A pass that does `action`."""

    def one() -> float:
        began = time.perf_counter()
        action()
        return time.perf_counter() - began

    return one


def compiled(folder: Path) -> str | None:
    """headers.c as a program; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    out = folder / "headers"
    subprocess.run([compiler, "-O2", "-o", out, Path(__file__).with_name("headers.c")], check=True)
    return str(out)


def bound(program: str, *words: str, paths: list[str] | None = None) -> Pass:
    """A pass of headers.c, by its own clock: starting the program does not count."""

    def one() -> float:
        stdin = "\n".join(paths or [])
        done = subprocess.run([program, *words], input=stdin, check=True, capture_output=True, text=True)
        return int(done.stdout.split(maxsplit=1)[0]) / 1e9

    return one


def with_pyelftools(paths: list[str]) -> None:
    """Program headers by pyelftools."""
    from elftools.elf.elffile import ELFFile

    for path in paths:
        with open(path, "rb") as file:
            for segment in ELFFile(file).iter_segments():
                segment.header.p_vaddr  # noqa: B018


def with_lief(paths: list[str]) -> None:
    """Program headers by LIEF, all parsing switched off that can be."""
    import lief

    lief.logging.disable()
    config = lief.ELF.ParserConfig()
    for name in dir(config):
        if name.startswith("parse_"):
            setattr(config, name, False)
    for path in paths:
        binary = lief.ELF.parse(path, config)
        for segment in binary.segments if binary is not None else ():
            segment.virtual_address  # noqa: B018


def with_readelf(paths: list[str]) -> None:
    """A readelf -lW each file."""
    for path in paths:
        subprocess.run(["readelf", "-lW", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def spread(paths: list[str], count: int) -> list[str]:
    """`count` of the paths, evenly spread in runs of neighbours: a survey goes by directories too."""
    runs = [paths[at : at + _RUN] for at in range(0, len(paths), _RUN)]
    wanted = max(1, min(len(runs), -(-count // _RUN)))
    return [path for i in range(wanted) for path in runs[i * len(runs) // wanted]][:count]


def batches_of(paths: list[str]) -> list[Batch]:
    """The files, as a survey hands them on: by directory."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        folders.setdefault(folder, []).append(name)
    return [list(folders.items())]


def per_file(program: str | None, paths: list[str]) -> dict[str, Pass]:
    """The rows of the first table."""
    batches = batches_of(paths)

    def ours() -> None:
        for batch in batches:
            examine(batch)

    rows = {BOUND: bound(program, "list", paths=paths)} if program else {}
    rows |= {OURS: timed(ours), AGAIN: timed(ours)}
    if find_spec("lief"):
        rows["LIEF"] = timed(lambda: with_lief(paths))
    if find_spec("elftools"):
        rows["pyelftools"] = timed(lambda: with_pyelftools(paths))
    if shutil.which("readelf"):
        rows["readelf -lW"] = timed(lambda: with_readelf(paths))
    return rows


def whole(program: str | None, roots: list[str]) -> dict[str, Pass]:
    """The rows of the second table."""
    rows = {f"{BOUND}, every file": bound(program, "tree", *roots)} if program else {}
    rows |= {f"{OURS}, one process": timed(lambda: survey(roots, jobs=1)), AGAIN: timed(lambda: survey(roots, jobs=1))}
    rows[f"{OURS}, {len(os.sched_getaffinity(0))} processes"] = timed(lambda: survey(roots))
    for name, module, read in (("LIEF", "lief", with_lief), ("pyelftools", "elftools", with_pyelftools)):
        if find_spec(module):
            rows[f"{name}, of what begins as ELF"] = timed(lambda read=read: read(list(elves(roots))))  # type: ignore[misc]
    return rows


def elves(roots: list[str]) -> Iterator[str]:
    """The paths of files that begin as ELF files do, as one would find them in Python."""
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path) and os.path.isfile(path):
                    with open(path, "rb") as file:
                        if file.read(4) == b"\x7fELF":
                            yield path


def measure(rows: dict[str, Pass], rounds: int) -> dict[str, list[float]]:
    """Every row's samples: the median of a turn's passes, after a round that warms the cache."""
    samples: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(-1, rounds):
        order = list(rows)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        for name in order[:: -1 if turn % 2 else 1]:
            passes = [rows[name]()]
            while turn >= 0 and sum(passes) < _TURN:  # what the turn before left in the caches is not the subject
                passes.append(rows[name]())
            if turn >= 0:
                samples[name].append(statistics.median(passes))
    return samples


def table(samples: dict[str, list[float]], against: str, unit: float, form: str) -> list[tuple[str, ...]]:
    """Rows of text: the median in units, its extremes, and the median of the rounds' ratios to `against`."""
    lines = []
    for name, took in samples.items():
        ratios = [a / b for a, b in zip(took, samples[against], strict=True)]
        figures = (statistics.median(took), min(took), max(took))
        lines.append((name, *(f"{figure * unit:{form}}" for figure in figures), f"{statistics.median(ratios):.2f}"))
    return lines


def main() -> int:
    """Measures, and prints both tables."""
    options = parsed()
    found = survey(options.roots)
    paths = [row.path for row in found.rows]
    paths = spread(paths, options.files)
    if not paths:
        print("bench.survey: no ELF file there", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(Path(folder))
        first = measure(per_file(program, paths), options.rounds)
        second = {} if options.no_tree else measure(whole(program, options.roots), max(3, options.rounds // 2))
    headings = ("", "median", "least", "most", "times elfolio")
    print(", ".join(f"{value}" for value in machine.describe().values()) + "\n")
    title = f"One ELF file, microseconds: {len(paths)} of {len(found.rows)} files, {options.rounds} rounds"
    rows = table(first, OURS, 1e6 / len(paths), ".1f")
    print(show(title, headings, rows, markdown=options.markdown))
    if second:
        title = f"All of {' '.join(options.roots)}, seconds: {found.files} files, {len(found.rows)} of them ELF"
        print(show(title, headings, table(second, f"{OURS}, one process", 1, ".2f"), markdown=options.markdown))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine.describe(), "file": first, "tree": second}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
