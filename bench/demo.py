"""bench.demo: the real tools of this machine, by elfolio and by subprocess. In: options. Out: a table.

Every command runs by turns through a template and through `subprocess.run`; output, errors and status must be
equal each time. Exit 1 where they differ. What is missing here is named.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.duel import Compared, compare
from bench.progress import progress
from bench.table import show
from bench.tools import commands, make_input

_TITLE = "The tools of this machine through templates and through subprocess, medians"
_HEADINGS = ("", "elfolio us", "subprocess us", "saved us", "status", "output")


def row(result: Compared) -> tuple[str, ...]:
    """A line of the table."""
    label = result.command.label
    if result.path is None or result.said is None:
        return label, "-", "-", "-", "-", "missing"
    status = str(result.said.status)
    if result.differs is not None:
        return label, "-", "-", "-", status, "DIFFERENT"
    ours, theirs = (statistics.median(taken) / 1000 for taken in (result.ours_ns, result.theirs_ns))
    size = len(result.said.out) + len(result.said.err)
    return label, f"{ours:.0f}", f"{theirs:.0f}", f"{theirs - ours:.0f}", status, f"equal, {size} bytes"


def notes(results: list[Compared]) -> list[str]:
    """What the table has no room for."""
    lines = [f"{result.command.label}: {result.differs}" for result in results if result.differs]
    for result in results:
        if result.path is None:
            lines.append(f"missing: {result.command.tool}; on Debian: apt-get install {result.command.package}")
        elif result.command.tool == "python":
            lines.append(f"python: {result.path}")
    present = [result for result in results if result.path is not None]
    equal = sum(result.differs is None for result in present)
    return [*lines, f"{equal} of {len(present)} equal"]


def as_json(results: list[Compared]) -> dict[str, object]:
    """Every sample."""
    return {
        "elfolio": "bench/demo",
        "version": 1,
        "machine": machine.describe(),
        "tools": [
            {
                "tool": result.command.label,
                "path": result.path,
                "equal": None if result.path is None else result.differs is None,
                "difference": result.differs,
                "status": None if result.said is None else result.said.status,
                "elfolio_ns": result.ours_ns,
                "subprocess_ns": result.theirs_ns,
            }
            for result in results
        ],
    }


def measure() -> list[Compared]:
    """All commands, in a directory that is gone afterwards."""
    results = []
    with tempfile.TemporaryDirectory(prefix="elfolio-demo-") as folder:
        make_input(Path(folder))
        for command in commands():
            progress(command.label)
            results.append(compare(command, Path(folder)))
    progress("")
    return results


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object with every sample instead of the table")
    options = parser.parse_args()
    results = measure()
    if options.json:
        print(json.dumps(as_json(results)))
    else:
        print(show(_TITLE, _HEADINGS, [row(result) for result in results]))
        print(*notes(results), sep="\n")
    return 1 if any(result.differs for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
