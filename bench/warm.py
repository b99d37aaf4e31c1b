"""bench.warm: what a warm start costs beside plain C and a cold one. In: options. Out: a table of ratios.

For each tool the C program (vfork, execve, waitpid), a cold and a warm template take turns in every round; the C
program twice, as the control. Once in the C locale and once in C.UTF-8: what a tool does to its locale before its own
work is the same for all of them, and is most of the life of some.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.plan import FLOOR, PYTHON, Row, Table
from bench.samples import ratio, spread
from bench.servers import NoCompiler, Server, compile_floor, greeting, start_floor, start_python
from bench.spawn import Samples, fill
from bench.table import show

_ROWS = (
    Row("C: vfork, execve, waitpid", FLOOR, "spawn"),
    Row("the same again (A/A)", FLOOR, "spawn"),
    Row("elfolio cold", PYTHON, "elfolio"),
    Row("elfolio warm", PYTHON, "elfolio warm"),
)
_TOOLS: dict[str, tuple[str, ...]] = {
    "true": (),
    "cat": ("/etc/passwd",),
    "ls": ("/etc",),
    "sed": ("-n", "1p", "/etc/passwd"),
    "awk": ("NR == 1", "/etc/passwd"),
    "head": ("-n", "1", "/etc/passwd"),
    "tail": ("-n", "1", "/etc/passwd"),
    "find": ("/etc/apt", "-name", "*.list"),
    "stat": ("/etc/passwd",),
    "grep": ("root", "/etc/passwd"),
    "git": ("--version",),
    "bash": ("-c", ":"),
    "sh": ("-c", ":"),
}
_LOCALES = ("C", "C.UTF-8")
_HEADINGS = ("", "C us", "cold us", "warm us", "warm times as fast as C", "its quartiles", "A/A")


@dataclass(frozen=True, slots=True)
class Result:
    """One tool in one locale; times in nanoseconds, speeds as multiples of the C program's."""

    tool: str
    floor: float
    cold: float
    warm: float
    speed: tuple[float, float, float]
    """Quartile, median, quartile of the rounds' ratios."""
    control: float


def tables() -> list[Table]:
    """One for each tool that is here."""
    found = {tool: shutil.which(tool) for tool in _TOOLS}
    for tool in (tool for tool, path in found.items() if path is None):
        print(f"left out: {tool}, which is not installed", file=sys.stderr)
    return [Table(tool, tool, (path, *_TOOLS[tool]), _ROWS) for tool, path in found.items() if path is not None]


def measured(options: argparse.Namespace, locale: str) -> Samples:
    """Samples by tool, row and round."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LC_")} | {"LANG": locale}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elfolio-bench-")))
        floor = compile_floor(folder)
        servers: dict[str, Server] = {
            FLOOR: stack.enter_context(start_floor(floor, env=environment)),
            PYTHON: stack.enter_context(start_python(env=environment)),
        }
        greeting(servers[PYTHON])
        return {t.name: fill(t, servers, options.rounds, options.batch) for t in tables()}


def results(samples: Samples) -> list[Result]:
    """What the samples say."""
    made = []
    for tool, (floor, again, cold, warm) in samples.items():
        base, slow, fast = (spread(rounds).middle for rounds in (floor, cold, warm))
        speed = ratio(floor, warm)
        made.append(Result(tool, base, slow, fast, (speed.low, speed.middle, speed.high), ratio(again, floor).middle))
    return made


def report(locale: str, found: list[Result], *, markdown: bool) -> str:
    """The table, and the two figures that are promised."""
    rows = [
        (
            r.tool,
            *(f"{value / 1000:.0f}" for value in (r.floor, r.cold, r.warm)),
            f"{r.speed[1]:.2f}",
            f"{r.speed[0]:.2f} to {r.speed[2]:.2f}",
            f"{r.control:.3f}",
        )
        for r in found
    ]
    text = show(f"Start and wait, LANG={locale}", _HEADINGS, rows, markdown=markdown)
    others = [r.speed[1] for r in found if r.tool != "true"]
    lines = [f"{r.tool}: {r.speed[1]:.2f} times as fast as C" for r in found if r.tool == "true"]
    if others:
        lines.append(f"median over {len(others)} tools: {statistics.median(others):.2f} times as fast as C")
    return f"{text}\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24, metavar="N", help="turns of every row (24)")
    parser.add_argument("--batch", type=int, default=12, metavar="N", help="samples a turn (12)")
    parser.add_argument("--locale", action="append", metavar="LANG", help="default: C and C.UTF-8")
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    options = parser.parse_args()
    if options.rounds < 1 or options.batch < 1:
        parser.error("--rounds and --batch must be at least 1")
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.describe().items()))
    try:
        for locale in options.locale or _LOCALES:
            print(report(locale, results(measured(options, locale)), markdown=options.markdown))
    except NoCompiler as error:
        print(f"bench/warm: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
