"""bench.agent_tools: the harness of the kernel's proposal for spawn templates. In: options. Out: its table.

Agents call tools, 16 at a time, in one, two, four or eight processes. Every backend takes its turn in every
round; a delta is the median of the rounds' ratios to asyncio's subprocess, which runs twice, so that a reader sees
how far apart equal things come out. What each call says is hashed and must be equal whoever made it: exit 1 where it
is not. `--json` keeps every turn.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.agent_backends import BACKENDS, BASE, NOTHING, reason_missing
from bench.agent_commands import TOOLS, calls, make_ground
from bench.agent_crew import Crew, Turn
from bench.agent_plan import MIXES, SPLITS, Split, Workload, shares, turns, workloads
from bench.agent_report import Report
from bench.progress import progress

_ROUNDS, _QUICK_ROUNDS = 5, 3
_FEWEST_ROUNDS = 5
"""For a page that is kept."""
_QUICK_SHARE = 0.25
_QUICK_SPLITS = (Split(4, 4),)
_QUICK_MIXES = ("whole", "no-node-python")


def chosen(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A converter of comma-separated names, all of them among `known`."""
    names = list(known)

    def convert(text: str) -> list[str]:
        wanted = text.split(",")
        for name in wanted:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}")
        return [name for name in names if name in wanted]

    return convert


def splits(text: str) -> list[Split]:
    """A converter of comma-separated splits."""
    try:
        return [Split.parse(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 4x4,8x2") from None


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns of every backend ({_ROUNDS})")
    parser.add_argument("--calls", type=float, metavar="SHARE", help="of the usual number of calls a turn (1)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of two mixes at 4x4: a minute, for a look")
    names = ",".join
    parser.add_argument("--tools", type=chosen(TOOLS), default=list(TOOLS), metavar="NAMES", help=names(TOOLS))
    parser.add_argument(
        "--backends", type=chosen(BACKENDS), default=list(BACKENDS), metavar="NAMES", help=names(BACKENDS)
    )
    parser.add_argument("--mixes", type=chosen(MIXES), metavar="NAMES", help=names(MIXES))
    parser.add_argument(
        "--splits", type=splits, metavar="WxN", help="workers x calls in flight in each: 1x16,2x8,4x4,8x2"
    )
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every turn, in nanoseconds")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page (docs/benchmarks.md)")
    options = parser.parse_args()
    options.rounds = options.rounds if options.rounds is not None else _QUICK_ROUNDS if options.quick else _ROUNDS
    options.calls = options.calls if options.calls is not None else _QUICK_SHARE if options.quick else 1
    options.splits = options.splits or (_QUICK_SPLITS if options.quick else SPLITS)
    options.mixes = options.mixes or (_QUICK_MIXES if options.quick else list(MIXES))
    if options.rounds < 1 or options.calls <= 0:
        parser.error("--rounds must be at least 1, and --calls more than 0")
    if options.write is not None and options.rounds < _FEWEST_ROUNDS:
        parser.error(f"--write needs at least {_FEWEST_ROUNDS} rounds")
    if BASE not in options.backends:
        options.backends.insert(0, BASE)
    for file in filter(None, (options.json, options.write)):
        if not os.access(file.parent, os.W_OK):  # said now, not after all has been measured
            parser.error(f"cannot write to {file.parent}")
    return options


def present(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The backends that can be had here, and a line for each of the others."""
    reasons = {name: reason_missing(name) for name in names}
    left_out = [f"{BACKENDS[name]}: {reason}" for name, reason in reasons.items() if reason]
    return [name for name, reason in reasons.items() if reason is None], left_out


def fill(crews: list[Crew], workload: Workload, split: Split, rounds: int) -> dict[str, list[Turn]]:
    """The turns of each backend, by round."""
    taken: dict[str, list[Turn]] = {crew.backend: [] for crew in crews}
    for number, order in enumerate(turns(len(crews), rounds)):
        dealt = shares(workload, split, number)
        for i in order:
            progress(f"{workload.title}, {split}: round {number + 1} of {rounds}, {BACKENDS[crews[i].backend]}")
            taken[crews[i].backend].append(crews[i].take(dealt, split.lanes))
    return taken


def measure(options: argparse.Namespace) -> Report:
    """Everything, in one run."""
    backends, left_out = present(options.backends)
    made, missing = calls(options.tools)
    for line in left_out + missing:
        print(f"left out: {line}", file=sys.stderr)
    wanted = workloads(made, options.mixes, options.splits, options.calls)
    report = Report(machine.describe(), options.rounds, made, left_out + missing)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elfolio-bench-")))
        env = make_ground(place)
        size = max(split.workers for split in options.splits)
        crews = []
        for name in backends:
            progress(f"{BACKENDS[name]}: starting {size} workers")
            crews.append(stack.enter_context(Crew(name, size, place, env)))
            crews[-1].prepare(made)
        for workload in wanted:
            taking = [crew for crew in crews if not (workload.tool and crew.backend == NOTHING)]
            for split in workload.splits:
                report.add(workload, split, fill(taking, workload, split, options.rounds))
    progress("")
    return report


def main() -> int:
    """Exit status."""
    options = parsed()
    if find_spec("autogen_core") is None:
        print("bench/agent_tools: needs autogen-core: pip install autogen-core, or make bench", file=sys.stderr)
        return 2
    try:
        report = measure(options)
    except KeyboardInterrupt:
        progress("")
        print("bench/agent_tools: interrupted", file=sys.stderr)
        return 130
    print(report.text(markdown=options.markdown))
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json()))
    if report.differences():
        return 1
    if options.write is not None:
        options.write.write_text(report.page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
