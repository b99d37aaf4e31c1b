"""bench.servers: the processes that do the starting. In: what to start, how often. Out: latencies in ns.

All speak the same lines (floor.c), so that a round can go from one to the next.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypedDict

__all__ = ["Facts", "NoCompiler", "Server", "compile_floor", "greeting", "start_floor", "start_python"]

_HERE = Path(__file__).resolve().parent


class Facts(TypedDict):
    """What a worker says of itself first."""

    lacking: list[str]
    """Subjects it cannot do."""
    memory: dict[str, int]
    """Bytes resident, and in huge pages, by the kernel's names."""


class NoCompiler(Exception):
    """The floor cannot be compiled here."""


class Server:
    """One such process, ended with the `with` block."""

    def __init__(
        self, argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=cwd, env=env)

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        with self._process:
            pass

    def say(self, line: str) -> None:
        """Tells it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """What it says next."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said.endswith("\n") or said.startswith("error"):
            raise RuntimeError(f"{self._process.args!r}: {said.strip() or 'ended too early'}")
        return said

    def take(self, subject: str, count: int, argv: Sequence[str]) -> list[int]:
        """`count` latencies of starting `argv` (an absolute path and arguments) by the way called `subject`,
        after one start that is not counted."""
        self.say("\t".join((subject, str(count + 1), *argv)))
        samples = [int(word) for word in self.line().split()]
        if len(samples) != count + 1:
            raise RuntimeError(f"{subject}: {len(samples)} samples instead of {count + 1}")
        return samples[1:]


def compile_floor(directory: Path) -> Path:
    """floor.c compiled into `directory`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("the C floor needs a compiler: apt-get install gcc libc6-dev")
    program = directory / "floor"
    subprocess.run([compiler, "-O2", "-o", program, _HERE / "floor.c"], check=True)
    return program


def start_floor(program: Path, env: Mapping[str, str] | None = None) -> Server:
    """The C program that does it as plainly as can be; subjects "spawn" and "capture"."""
    return Server([program], env=env)


def start_python(gib: int = 0, env: Mapping[str, str] | None = None) -> Server:
    """A Python that is going to hold `gib` GiB of touched memory."""
    return Server([sys.executable, _HERE / "worker.py", "--gib", str(gib)], env=env)


def greeting(server: Server) -> Facts:
    """What a Python says first, once it holds its memory."""
    facts: Facts = json.loads(server.line())
    return facts
