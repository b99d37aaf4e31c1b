"""bench.startup: what elfolio's own start costs. In: options. Out: a table.

`import elfolio`, `python -m elfolio --version` and the installed command, each beside the same without elfolio: a bare
interpreter, and an installed command whose function does nothing. All take their turns in every round, whose order
changes from round to round; a row that is there twice (A/A) shows how far apart equal things come out.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.samples import Rounds, ratio, spread
from bench.table import show

BARE, AGAIN, IMPORT, MODULE = (
    "python -c pass",
    "the same again (A/A)",
    "python -c 'import elfolio'",
    "python -m elfolio",
)
EMPTY, COMMAND = "an installed command that does nothing", "elfolio --version"
BESIDE = {BARE: BARE, AGAIN: BARE, IMPORT: BARE, MODULE: BARE, EMPTY: EMPTY, COMMAND: EMPTY}
"""What each row is compared with."""


def empty_command(folder: Path, installed: Path) -> Path:
    """A command as the installer writes it, of a function that returns 0."""
    (folder / "empty.py").write_text("def main():\n    return 0\n")
    command = folder / "empty-command"
    command.write_text(installed.read_text().replace("elfolio.cli", "empty"))
    command.chmod(0o755)
    return command


def rows(folder: Path) -> dict[str, list[str]]:
    """Command lines by label; those of the installed command only where there is one."""
    python = sys.executable
    found = {
        BARE: [python, "-c", "pass"],
        AGAIN: [python, "-c", "pass"],
        IMPORT: [python, "-c", "import elfolio"],
        MODULE: [python, "-m", "elfolio", "--version"],
    }
    installed = shutil.which("elfolio", path=str(Path(python).parent))
    if installed is None:
        print("left out: the command elfolio, which is not installed beside this Python", file=sys.stderr)
        return found
    return found | {EMPTY: [str(empty_command(folder, Path(installed)))], COMMAND: [installed, "--version"]}


def started(words: list[str]) -> int:
    """Nanoseconds from the call until it has ended."""
    began = time.perf_counter_ns()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter_ns() - began


def measured(commands: dict[str, list[str]], rounds: int, batch: int) -> dict[str, Rounds]:
    """Samples by row and round."""
    samples: dict[str, list[list[int]]] = {label: [] for label in commands}
    labels = list(commands)
    for number in range(rounds):
        at = number % len(labels)
        for label in labels[at:] + labels[:at]:
            samples[label].append([started(commands[label]) for _ in range(batch)])
    return dict(samples)


def report(samples: dict[str, Rounds], *, markdown: bool) -> str:
    """The table; the last column is the median of the rounds' ratios, with quartiles."""
    lines = []
    for label, mine in samples.items():
        base, beside = samples[BESIDE[label]], ratio(mine, samples[BESIDE[label]])
        more = spread(mine).middle - spread(base).middle
        lines.append(
            (
                label,
                f"{spread(mine).middle / 1e6:.2f}",
                f"{more / 1e6:+.2f}" if base is not mine else "",
                f"{beside.middle:.3f} ({beside.low:.3f}-{beside.high:.3f})" if base is not mine else "1",
            )
        )
    return show("A start, from fork to exit", ("", "ms", "more, ms", "ratio"), lines, markdown=markdown)


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="turns of every row (20)")
    parser.add_argument("--batch", type=int, default=5, metavar="N", help="samples a turn (5)")
    parser.add_argument("--markdown", action="store_true", help="a table for a page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample, in nanoseconds")
    options = parser.parse_args()
    if options.rounds < 1 or options.batch < 1:
        parser.error("--rounds and --batch must be at least 1")
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory(prefix="elfolio-bench-") as folder:
        samples = measured(rows(Path(folder)), options.rounds, options.batch)
    print(report(samples, markdown=options.markdown))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.describe(), "samples": samples}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
