"""bench.plan: what is measured against what. In: programs of this machine, memory sizes. Out: tables to fill.

The rows are the README's; the first row of a table is what the others are divided by.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["AGAIN", "FLOOR", "LOOPS", "PYTHON", "Row", "Table", "tables"]

FLOOR = "floor"
PYTHON = "python"
LOOPS = "loops"
"""A Python of its own for the event loops: what they install for SIGCHLD is nobody else's matter."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: a subject of one server."""

    label: str
    server: str
    subject: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that take turns at starting one command."""

    name: str
    title: str
    argv: tuple[str, ...]
    rows: tuple[Row, ...]


AGAIN = "the same again (A/A)"
"""The row above it, measured twice."""

_SPAWN = (
    Row("C: vfork, execve, waitpid", FLOOR, "spawn"),
    Row("elfolio template.spawn().wait()", PYTHON, "elfolio"),
    Row(AGAIN, PYTHON, "elfolio"),
    Row("elfolio.run", PYTHON, "elfolio.run"),
    Row("os.posix_spawn, waitpid", PYTHON, "posix_spawn"),
    Row("subprocess.Popen, wait", PYTHON, "subprocess.Popen"),
    Row("subprocess.run", PYTHON, "subprocess.run"),
    Row("elfolio template.astart, asyncio", LOOPS, "elfolio astart"),
    Row("elfolio template.arun, asyncio", LOOPS, "elfolio arun"),
    Row("asyncio", LOOPS, "asyncio"),
    Row("uvloop", LOOPS, "uvloop"),
)
_CAPTURE = (
    Row("C: two pipes, vfork, execve, poll", FLOOR, "capture"),
    Row("elfolio template.run()", PYTHON, "elfolio capture"),
    Row(AGAIN, PYTHON, "elfolio capture"),
    Row("elfolio.run", PYTHON, "elfolio.run capture"),
    Row("subprocess.run", PYTHON, "subprocess capture"),
    Row("elfolio template.arun, asyncio", LOOPS, "elfolio arun capture"),
    Row("asyncio, communicate", LOOPS, "asyncio capture"),
    Row("uvloop, communicate", LOOPS, "uvloop capture"),
)
_WITH_MEMORY = (
    ("elfolio template.spawn().wait()", "elfolio"),
    ("os.posix_spawn, waitpid", "posix_spawn"),
    ("subprocess.run", "subprocess.run"),
)


def tables(sizes: Iterable[int], lacking: Iterable[str]) -> list[Table]:
    """Every table, without the subjects that are `lacking`. `sizes`: GiB of memory in the parent; the
    servers called "python" and "python 4" have none and four."""
    lacking = frozenset(lacking)
    made = []
    for name, argv in (("true", ("true",)), ("git --version", ("git", "--version"))):
        path = shutil.which(argv[0])
        if path is None:
            continue
        command = (path, *argv[1:])
        for kind, title, rows in (("spawn", "start and wait", _SPAWN), ("capture", "output captured", _CAPTURE)):
            present = tuple(row for row in rows if row.subject not in lacking)
            made.append(Table(f"{kind} {name}", f"{name}: {title}", command, present))
    program = shutil.which("true")
    if program is not None:
        made += [_memory(program, label, subject, tuple(sizes)) for label, subject in _WITH_MEMORY]
    return made


def _memory(program: str, label: str, subject: str, sizes: tuple[int, ...]) -> Table:
    rows = tuple(Row(f"{gib} GiB in the parent", f"{PYTHON} {gib}" if gib else PYTHON, subject) for gib in sizes)
    return Table(f"memory {subject}", f"true, from a parent with memory: {label}", (program,), rows)
