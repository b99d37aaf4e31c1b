"""bench.pipeline: what a pipeline costs with a shell and without. In: options. Out: tables.

`elfolio.pipeline` against `bash -c` and `sh -c`, each started by `subprocess.run` and from a template, all with
their output captured, in one process. Every row takes its turn in every round, the order changing from round to
round; ratios are medians of the rounds' ratios, with their quartiles, and A/A is one row twice.
"""

import argparse
import gc
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.samples import ratio, spread
from bench.table import show
from elfolio import SpawnTemplate, pipeline

_LINES = 20_000
_EVEN = 0.03
"""How far from 1 an A/A ratio may be before the figures mean little."""
_HEADINGS = ("", "median us", "p10", "p90", "ratio", "its quartiles")
_AGAIN = "the same again (A/A)"

Way = Callable[[], bytes]
Samples = list[list[int]]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages, and what to call them."""

    name: str
    stages: tuple[tuple[str, ...], ...]

    @property
    def line(self) -> str:
        """For a shell."""
        return " | ".join(map(shlex.join, self.stages))


def pipelines(log: Path) -> Iterator[Pipeline]:
    """The shapes that agents write: all is read, a reader ends early, and more stages."""
    some, every = ("grep", "level=error", str(log)), ("grep", "-n", "level", str(log))
    yield Pipeline("grep | head, little to read", (some, ("head", "-n", "20")))
    yield Pipeline("grep | head, which ends early", (every, ("head", "-n", "20")))
    yield Pipeline("grep | cut | sort | uniq -c", (some, ("cut", "-d", " ", "-f", "2"), ("sort",), ("uniq", "-c")))


def make_log(path: Path) -> None:
    """Some of its lines say error."""
    levels = ("info", "debug", "warning")
    lines = (
        f"{i} unit={i % 7} level={'error' if i % 400 == 0 else levels[i % 3]} took={i % 97}" for i in range(_LINES)
    )
    path.write_text("\n".join(lines) + "\n")


def by_subprocess(shell: str, line: str) -> Way:
    """As everybody does."""
    return lambda: subprocess.run([shell, "-c", line], stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


def by_template(template: SpawnTemplate, shell: str, line: str) -> Way:
    """The shell itself started by elfolio."""

    def way() -> bytes:
        out = template.run([shell, "-c", line], check=True).stdout
        assert isinstance(out, bytes)
        return out

    return way


def by_pipeline(stages: tuple[tuple[str, ...], ...]) -> Way:
    """Without a shell."""

    def way() -> bytes:
        out = pipeline(*stages, check=True).stdout
        assert isinstance(out, bytes)
        return out

    return way


def ways(of: Pipeline, stack: ExitStack) -> dict[str, Way]:
    """By label; the first is what the others are divided by. Without pipefail in the shells: a reader that ends early
    would be a failure there, and it costs them nothing."""
    made: dict[str, Way] = {}
    for shell in ("bash", "sh"):
        path = shutil.which(shell)
        if path is None:
            continue
        template = stack.enter_context(SpawnTemplate(path))
        made[f"{shell} -c, subprocess.run"] = by_subprocess(path, of.line)
        made[f"{shell} -c, template.run()"] = by_template(template, path, of.line)
    made["elfolio.pipeline()"] = by_pipeline(of.stages)
    made[_AGAIN] = by_pipeline(of.stages)
    return made


def fill(made: dict[str, Way], rounds: int, batch: int) -> list[Samples]:
    """Nanoseconds by row and round."""
    every = list(made.values())
    if len({way() for way in every}) != 1:  # the first time of each reads from the disk, too
        raise SystemExit("bench/pipeline: the ways do not give the same output")
    samples: list[Samples] = [[] for _ in every]
    for number in range(rounds):
        order = [(i + number) % len(every) for i in range(len(every))]
        for i in order if number // len(every) % 2 == 0 else order[::-1]:
            samples[i].append([_timed(every[i]) for _ in range(batch)])
    return samples


def _timed(way: Way) -> int:
    start = perf_counter_ns()
    way()
    return perf_counter_ns() - start


def report(title: str, labels: list[str], samples: list[Samples], *, markdown: bool) -> str:
    """One table."""
    rows = []
    for label, rounds in zip(labels, samples, strict=True):
        times, share = spread(rounds), ratio(rounds, samples[0])
        figures = (f"{value / 1000:.0f}" for value in (times.middle, times.low, times.high))
        rows.append((label, *figures, f"{share.middle:.3f}", f"{share.low:.3f} to {share.high:.3f}"))
    return show(title, _HEADINGS, rows, markdown=markdown)


def even(title: str, samples: list[Samples]) -> str:
    """The A/A control: the last two rows."""
    same = ratio(samples[-1], samples[-2])
    line = f"A/A, {title}: {same.middle:.3f} (quartiles {same.low:.3f} to {same.high:.3f})"
    return line if abs(same.middle - 1) <= _EVEN else f"{line}: too uneven, run it again on an idle machine"


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="turns of every row (40)")
    parser.add_argument("--batch", type=int, default=10, metavar="N", help="samples a turn (10)")
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample, in nanoseconds")
    options = parser.parse_args()
    if options.rounds < 1 or options.batch < 1:
        parser.error("--rounds and --batch must be at least 1")
    tables, controls = [], []
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.describe().items()))
    print(f"{options.rounds} rounds of {options.batch} runs each; ratios are to the first row\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="elfolio-bench-") as folder, ExitStack() as stack:
        log = Path(folder) / "app.log"
        make_log(log)
        gc.disable()
        for of in pipelines(log):
            made = ways(of, stack)
            samples = fill(made, options.rounds, options.batch)
            print(report(of.name, list(made), samples, markdown=options.markdown), flush=True)
            controls.append(even(of.name, samples))
            tables.append({"name": of.name, "rows": dict(zip(made, samples, strict=True))})
    print("\n".join(controls))
    if options.json is not None:
        facts = {"elfolio": "bench/pipeline", "version": 1, "machine": machine.describe(), "tables": tables}
        options.json.write_text(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
