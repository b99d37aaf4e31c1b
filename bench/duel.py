"""bench.duel: one command by elfolio and by subprocess, by turns. In: a command, a directory. Out: Compared."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns

from bench.tools import Command, environment
from elfolio import SpawnTemplate

__all__ = ["Compared", "Said", "compare", "difference"]

_TURNS = 25
_ENOUGH_NS = 1_000_000_000
"""Of one command: node takes fewer turns."""
_FEWEST = 5


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended."""

    status: int
    out: bytes
    err: bytes


@dataclass(slots=True)
class Compared:
    """One command's turns."""

    command: Command
    path: str | None
    """None: this machine does not have it."""
    ours_ns: list[int] = field(default_factory=list)
    theirs_ns: list[int] = field(default_factory=list)
    said: Said | None = None
    differs: str | None = None


def compare(command: Command, directory: Path) -> Compared:
    """Runs it by turns, until a difference."""
    result = Compared(command, command.path())
    if result.path is None:
        return result
    argv, env = [result.path, *command.arguments], environment(directory)
    with SpawnTemplate(result.path) as template:
        ways = (lambda: _ours(template, argv, directory, env)), (lambda: _theirs(argv, directory, env))
        for turn in range(_TURNS + 1):
            first, second = ways if turn % 2 else ways[::-1]
            said = _timed(first), _timed(second)
            (mine, mine_ns), (usual, usual_ns) = said if turn % 2 else said[::-1]
            result.said, result.differs = usual, difference(mine, usual)
            if result.differs:
                break
            if turn == 0:
                continue  # it reads from the disk
            result.ours_ns.append(mine_ns)
            result.theirs_ns.append(usual_ns)
            if turn >= _FEWEST and sum(result.ours_ns) + sum(result.theirs_ns) > _ENOUGH_NS:
                break
    return result


def difference(mine: Said, usual: Said) -> str | None:
    """The first one, in words."""
    if mine.status != usual.status:
        return f"status {mine.status} by elfolio, {usual.status} by subprocess"
    for name, a, b in (("output", mine.out, usual.out), ("errors", mine.err, usual.err)):
        if a != b:
            shorter = min(len(a), len(b))
            at = next((i for i in range(shorter) if a[i] != b[i]), shorter)
            return f"{name} from byte {at}: {a[at : at + 40]!r} by elfolio, {b[at : at + 40]!r} by subprocess"
    return None


def _timed(way: Callable[[], Said]) -> tuple[Said, int]:
    start = perf_counter_ns()
    said = way()
    return said, perf_counter_ns() - start


def _ours(template: SpawnTemplate, argv: list[str], cwd: Path, env: dict[str, str]) -> Said:
    done = template.run(argv, cwd=cwd, env=env)
    assert isinstance(done.stdout, bytes)
    assert isinstance(done.stderr, bytes)
    return Said(done.returncode, done.stdout, done.stderr)


def _theirs(argv: list[str], cwd: Path, env: dict[str, str]) -> Said:
    null = subprocess.DEVNULL
    done = subprocess.run(argv, cwd=cwd, env=env, stdin=null, capture_output=True, check=False)
    return Said(done.returncode, done.stdout, done.stderr)
