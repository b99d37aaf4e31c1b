"""bench.spawn: what a start costs by elfolio, by its alternatives, and by plain C. In: options. Out: tables.

Every row takes its turn in every round, the order changing from round to round, so that what the machine does
meanwhile falls on all alike. A ratio is the median of the rounds' ratios, with its quartiles; A/A, one subject
twice, shows how far apart equal things come out. `--json` keeps every sample.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.plan import AGAIN, FLOOR, LOOPS, PYTHON, Table, tables
from bench.progress import progress
from bench.samples import ratio, spread
from bench.servers import NoCompiler, Server, compile_floor, greeting, start_floor, start_python
from bench.table import show

_SIZES = (0, 1, 4)
_QUICK_SIZES = (0, 1)
"""GiB. The first touch of memory takes longer than all the starts, where a hypervisor must find it too."""
_EVEN = 0.03
"""How far from 1 an A/A ratio may be before the figures mean little."""
_HEADINGS = ("", "median us", "p10", "p90", "ratio", "its quartiles")

Samples = dict[str, list[list[list[int]]]]
"""By table, row and round."""


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of every row (80)")
    parser.add_argument("--batch", type=int, metavar="N", help="samples a turn (20)")
    parser.add_argument("--quick", action="store_true", help="12 rounds of 8: under half a minute, for a look")
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample, in nanoseconds")
    options = parser.parse_args()
    options.rounds = options.rounds or (12 if options.quick else 80)
    options.batch = options.batch or (8 if options.quick else 20)
    if options.rounds < 1 or options.batch < 1:
        parser.error("--rounds and --batch must be at least 1")
    if options.json is not None:
        try:
            options.json.touch()
        except OSError as error:  # now, not after all has been measured
            parser.error(f"--json: {error}")
    return options


def fitting(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Those that this machine's free memory holds together, with a quarter to spare."""
    room = machine.available_bytes() * 3 // 4
    kept = tuple(gib for i, gib in enumerate(sizes) if sum(sizes[: i + 1]) << 30 <= room)
    for gib in sorted(set(sizes) - set(kept)):
        print(f"left out: {gib} GiB in the parent, more than the free memory allows", file=sys.stderr)
    return kept


def turns(table: Table, rounds: int) -> Iterator[list[int]]:
    """The order of rows in each round: every row is first, last and after every other one in its turn."""
    count = len(table.rows)
    for i in range(rounds):
        order = [(row + i) % count for row in range(count)]
        yield order if i // count % 2 == 0 else order[::-1]


def fill(table: Table, servers: dict[str, Server], rounds: int, batch: int) -> list[list[list[int]]]:
    """Samples by row and round."""
    samples: list[list[list[int]]] = [[] for _ in table.rows]
    for number, order in enumerate(turns(table, rounds)):
        progress(f"{table.title}: round {number + 1} of {rounds}")
        for i in order:
            row = table.rows[i]
            samples[i].append(servers[row.server].take(row.subject, batch, table.argv))
    progress("")
    return samples


def measure(options: argparse.Namespace) -> tuple[list[Table], Samples, dict[str, object]]:
    """Everything, in one run: the tables, their samples, and what the parents with memory held."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elfolio-bench-")))
        servers = {FLOOR: stack.enter_context(start_floor(compile_floor(folder)))}
        parents: dict[str, object] = {}
        lacking: frozenset[str] = frozenset()
        sizes = fitting(_QUICK_SIZES if options.quick else _SIZES)
        for name, gib in ((PYTHON, 0), (LOOPS, 0), *((f"{PYTHON} {gib}", gib) for gib in sizes if gib)):
            servers[name] = stack.enter_context(start_python(gib))
        for name in servers.keys() - {FLOOR}:
            facts = greeting(servers[name])
            parents[name] = facts["memory"]
            lacking |= frozenset(facts["lacking"])
        if lacking:
            print("left out: uvloop, which is not installed (pip install uvloop)", file=sys.stderr)
        wanted = tables(sizes, lacking)
        return wanted, {t.name: fill(t, servers, options.rounds, options.batch) for t in wanted}, parents


def report(table: Table, samples: list[list[list[int]]], *, markdown: bool) -> str:
    """One table, its first row the base of the ratios."""
    rows = []
    for row, rounds in zip(table.rows, samples, strict=True):
        times, share = spread(rounds), ratio(rounds, samples[0])
        figures = (f"{value / 1000:.0f}" for value in (times.middle, times.low, times.high))
        compared = (
            ("1", "") if rounds is samples[0] else (f"{share.middle:.3f}", f"{share.low:.3f} to {share.high:.3f}")
        )
        rows.append((row.label, *figures, *compared))
    return show(table.title, _HEADINGS, rows, markdown=markdown)


def twice(wanted: list[Table], samples: Samples) -> Iterator[str]:
    """The A/A control of each table that has one."""
    for table in wanted:
        again = [i for i, row in enumerate(table.rows) if row.label == AGAIN]
        for i in again:
            same = ratio(samples[table.name][i], samples[table.name][i - 1])
            line = f"A/A, {table.title}: {same.middle:.3f} (quartiles {same.low:.3f} to {same.high:.3f})"
            yield line if abs(same.middle - 1) <= _EVEN else f"{line}: too uneven, run it again on an idle machine"


def as_json(
    options: argparse.Namespace, wanted: list[Table], samples: Samples, parents: dict[str, object]
) -> dict[str, object]:
    """Every sample, and what it was taken on."""
    return {
        "elfolio": "bench/spawn",
        "version": 1,
        "machine": machine.describe(),
        "parents": parents,
        "rounds": options.rounds,
        "batch": options.batch,
        "tables": [
            {
                "name": table.name,
                "command": [table.argv[0].rpartition("/")[2], *table.argv[1:]],
                "rows": [
                    {
                        "label": row.label,
                        "subject": row.subject,
                        "server": row.server,
                        "samples_ns": rounds,
                        "median_ns": spread(rounds).middle,
                        "ratio": ratio(rounds, samples[table.name][0]).middle,
                    }
                    for row, rounds in zip(table.rows, samples[table.name], strict=True)
                ],
            }
            for table in wanted
        ],
    }


def main() -> int:
    """Exit status."""
    options = parsed()
    try:
        wanted, samples, parents = measure(options)
    except NoCompiler as error:
        print(f"bench/spawn: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.describe().items()))
    print(f"{options.rounds} rounds of {options.batch} starts each; ratios are to the first row\n")
    for table in wanted:
        print(report(table, samples[table.name], markdown=options.markdown))
    print("\n".join(twice(wanted, samples)))
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(options, wanted, samples, parents)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
