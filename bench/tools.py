"""bench.tools: the commands of the demonstration. In: a directory. Out: real input in it, and command lines.

The input is the same at every run: sources, a log, and a git repository with a change.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Command", "commands", "environment", "make_input"]

_MODULES = 40
_FUNCTIONS = 25
_LOG_LINES = 20_000


@dataclass(frozen=True, slots=True)
class Command:
    """A tool, its arguments, and where to get it."""

    tool: str
    arguments: tuple[str, ...]
    package: str
    """Of Debian."""

    @property
    def label(self) -> str:
        return f"git {self.arguments[0]}" if self.tool == "git" else self.tool

    def path(self) -> str | None:
        """The program, or None where it is missing."""
        if self.tool == "python":
            # This very interpreter: `python3` on PATH may be a version manager's shell script.
            return os.path.realpath(sys.executable)
        found = shutil.which(self.tool)
        return None if found is None else os.path.abspath(found)


def commands() -> Iterator[Command]:
    """Every command, to be run in the directory that `make_input` filled. Some end with another status than
    0, and some say something on standard error: that is to be equal too."""
    yield Command("rg", ("-n", "--sort", "path", r"return total_1", "src"), "ripgrep")
    yield Command("grep", ("-rn", "--include=*.py", "def work_1", "src"), "grep")
    yield Command("sed", ("-n", "s/level=error/LEVEL/p", "app.log"), "sed")
    yield Command("awk", ("-F=", "{ n[$NF]++ } END { print n[7], NR }", "app.log"), "mawk")
    yield Command("cat", ("src/module_00.py", "src/module_01.py", "missing"), "coreutils")
    yield Command("head", ("-n", "50", "app.log"), "coreutils")
    yield Command("tail", ("-n", "50", "app.log"), "coreutils")
    yield Command("find", ("src", "-name", "*_1*.py", "-size", "+1k"), "findutils")
    yield Command("stat", ("-c", "%n %s %a %F", "src", "app.log", "missing"), "coreutils")
    yield Command("ls", ("-la", "src"), "coreutils")
    yield Command("git", ("status", "--short", "--branch"), "git")
    yield Command("git", ("diff", "--stat", "-p"), "git")
    yield Command("python", ("-c", "import json; print(json.dumps(sorted(range(5))))"), "python3")
    yield Command("node", ("-e", "console.log([1, 2, 3].map(x => x * x).join())"), "nodejs")
    yield Command("sh", ("-c", "for f in src/*_0*.py; do echo $f; done; exit 3"), "dash")
    yield Command("bash", ("-c", "grep -c error app.log | head -n 1; echo done >&2"), "bash")


def environment(directory: Path) -> dict[str, str]:
    """All that the tools get to see: nothing of the caller's own settings."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "demo",
        "GIT_AUTHOR_EMAIL": "demo@example.org",
        "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
        "GIT_COMMITTER_NAME": "demo",
        "GIT_COMMITTER_EMAIL": "demo@example.org",
        "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    }


def make_input(directory: Path) -> None:
    """Sources, a log and, where there is git, a repository of both in which one source has been changed."""
    source = directory / "src"
    source.mkdir()
    for number in range(_MODULES):
        (source / f"module_{number:02}.py").write_text(_module(number))
    (directory / "app.log").write_text("".join(_log()))
    if shutil.which("git"):
        for words in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "Begin")):
            subprocess.run(["git", *words], cwd=directory, env=environment(directory), check=True)
    changed = source / "module_07.py"
    changed.write_text(changed.read_text().replace("total = 0", "total = 1", 3))


def _module(number: int) -> str:
    head = f'"""Module {number} of the demonstration."""\n\nimport math\n'
    return head + "".join(
        f"\n\ndef work_{i}(limit: int) -> float:\n"
        f'    """Adds up what {i} makes of the numbers below `limit`."""\n'
        "    total = 0\n"
        f"    for n in range({i % 7 + 1}, limit):\n"
        f"        total += math.sqrt(n * {number + 1}) % {i + 2}\n"
        f"    return total_{i % 5}\n"
        for i in range(_FUNCTIONS)
    )


def _log() -> Iterator[str]:
    draw = random.Random(20260101)
    for number in range(_LOG_LINES):
        level = draw.choice(("debug", "info", "info", "info", "error"))
        seconds = number // 20
        time = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        yield f"2026-01-01T{time} level={level} worker={draw.randrange(16)} items={draw.randrange(10)}\n"
