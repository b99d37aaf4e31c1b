"""bench.agent_commands: the tool calls of the proposal's agents. In: a directory. Out: input in it, command lines.

The 16 tools are those of the kernel's proposal for spawn templates, each called directly and through the two
shells. The work is small and real: sources are searched and read, a repository is asked for its state.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.tools import Command, environment, make_input

__all__ = ["FORMS", "TOOLS", "Call", "calls", "make_ground"]

FORMS = ("direct", "sh -c", "bash -c")
"""How a tool is called: by itself, or as the command line of a shell."""
_LONG_AGO = 1_735_689_600
"""1 January 2025, in seconds: a file older than git's index is not read again by every `git status`."""

TOOLS = {
    "rg": Command("rg", ("-n", "--sort", "path", "return total_1", "src"), "ripgrep"),
    "grep": Command("grep", ("-rn", "--include=*.py", "def work_12", "src"), "grep"),
    "sed": Command("sed", ("-n", "1,40p", "src/module_00.py"), "sed"),
    "awk": Command("awk", ("/def /{ n++ } END { print n, NR }", "src/module_01.py"), "mawk"),
    "cat": Command("cat", ("src/module_02.py", "missing"), "coreutils"),
    "head": Command("head", ("-n", "40", "src/module_03.py"), "coreutils"),
    "tail": Command("tail", ("-n", "40", "src/module_04.py"), "coreutils"),
    "find": Command("find", ("src", "-name", "*_1*.py", "-size", "+1k"), "findutils"),
    "stat": Command("stat", ("-c", "%n %s %a %F", "src", "src/module_05.py", "missing"), "coreutils"),
    "ls": Command("ls", ("-l", "src"), "coreutils"),
    "git-status": Command("git", ("status", "--short", "--branch"), "git"),
    "git-diff": Command("git", ("diff",), "git"),
    "python-small": Command("python", ("-c", "import json; print(json.dumps(sorted(range(5))))"), "python3"),
    "node-small": Command("node", ("-e", "console.log([1, 2, 3].map(x => x * x).join())"), "nodejs"),
    "sh-c": Command("sh", ("-c", 'for f in src/*_0*.py; do echo "$f"; done; exit 3'), "dash"),
    "bash-c": Command("bash", ("-c", "grep -n total src/module_06.py | head -n 5; echo done >&2"), "bash"),
}
"""By the proposal's names. Some end with another status than 0 and say something on standard error."""


@dataclass(frozen=True, slots=True)
class Call:
    """One command line, argv[0] an absolute path."""

    tool: str
    form: str
    argv: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.tool if self.form == "direct" else f"{self.tool} through {self.form}"


def calls(wanted: Iterable[str]) -> tuple[list[Call], list[str]]:
    """Every call of the tools called `wanted`, in all forms; and a line for each of what is missing here."""
    made, missing = [], []
    shells = {form: shutil.which(form.split()[0]) for form in FORMS[1:]}
    for name in wanted:
        command = TOOLS[name]
        path = _python() if command.tool == "python" else command.path()
        if path is None:
            missing.append(f"{name}: {command.tool} is missing; on Debian: apt-get install {command.package}")
            continue
        made.append(Call(name, "direct", (path, *command.arguments)))
        # Python by its path: what a shell finds by the name may be a version manager's script.
        word = path if command.tool == "python" else command.tool
        line = shlex.join((word, *command.arguments))
        made += [Call(name, form, (shell, "-c", line)) for form, shell in shells.items() if shell is not None]
    return made, missing


def _python() -> str:
    """The first python3 on PATH that is a program: a version manager puts shell scripts there. Else this one."""
    for directory in os.get_exec_path():
        path = os.path.abspath(os.path.join(directory, "python3"))
        if os.access(path, os.X_OK) and os.path.isfile(path):
            with open(path, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    return path
    return os.path.realpath(sys.executable)


def make_ground(directory: Path) -> dict[str, str]:
    """Fills `directory`, where the calls are to run, and returns their environment."""
    make_input(directory)
    for file in (directory / "src").iterdir():
        os.utime(file, (_LONG_AGO, _LONG_AGO))
    env = environment(directory)
    if shutil.which("git"):
        # Ends with 1, because one file has been changed.
        subprocess.run(["git", "update-index", "-q", "--refresh"], cwd=directory, env=env, check=False)
    return env
