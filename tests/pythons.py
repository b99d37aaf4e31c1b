"""The Pythons of this machine. In: the PATH, pyenv. Out: Interpreter."""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["VERSIONS", "Interpreter", "interpreters", "plain_environment"]

VERSIONS = [(3, 11), (3, 12), (3, 13)]
"""Those that elfolio is for."""

_ASK = """
import importlib.util as u, json, sys
has = bool(u.find_spec("test") and u.find_spec("test.test_subprocess") and u.find_spec("test.test_asyncio"))
print(json.dumps([sys.version_info[:3], sys.base_prefix, getattr(sys, "_base_executable", sys.executable), has]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python at hand, and whether its `test` package is there."""

    version: tuple[int, ...]
    prefix: str
    executable: str
    has_tests: bool


@functools.cache
def interpreters() -> tuple[Interpreter, ...]:
    """Every Python on the PATH and of pyenv, one for each version and prefix."""
    found: dict[tuple[object, ...], Interpreter] = {}
    for executable in _executables():
        try:
            command = [executable, "-c", _ASK]
            done = subprocess.run(command, check=False, capture_output=True, env=plain_environment(), timeout=60)
            version, prefix, real, has_tests = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue  # a shim of a version that is not there, or no Python
        found.setdefault((*version, prefix), Interpreter(tuple(version), prefix, real, has_tests))
    return tuple(found.values())


def _executables() -> Iterator[str]:
    yield sys.executable
    for name in ("python3", *(f"python{major}.{minor}" for major, minor in VERSIONS)):
        for folder in os.get_exec_path():
            executable = shutil.which(name, path=folder)
            if executable is not None:
                yield executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob("versions/*/bin/python3")))


def plain_environment() -> dict[str, str]:
    """This process's, without what is meant for its own Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
