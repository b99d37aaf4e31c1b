"""spawn.install: the drop-ins in place of the standard ones. In: a running program. Out: one that uses templates.

Replaced are `subprocess.Popen`, and with it everything that calls it: `subprocess.run`, `os.popen`, asyncio's
loops; and asyncio's `create_subprocess_exec` and `create_subprocess_shell`. Names that were imported before
(`from subprocess import Popen`) stay what they were, and so do classes derived from the old Popen; `os.system`,
`os.posix_spawn`, `os.fork` and multiprocessing do not come by here at all.
"""

import threading
from types import ModuleType, TracebackType

__all__ = ["Installed", "install", "uninstall"]

_lock = threading.Lock()
_replaced: list[tuple[ModuleType, str, object, object]] = []
"""Module, name, what was there, what is there now."""


class Installed:
    """What `install` returns; as a context manager it takes back at the end what that call put in place."""

    def __init__(self, placed: bool) -> None:
        self._placed = placed

    def __enter__(self) -> "Installed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._placed:
            uninstall()


def install() -> Installed:
    """Puts the drop-ins in place of the standard library's, for the whole program; once more changes nothing, so
    that the inner of two `with install()` leaves them to the outer.

    Call it early: see above for what it cannot reach.
    """
    import asyncio
    import asyncio.subprocess as asyncio_subprocess
    import subprocess

    from elfolio.spawn.aio_popen import create_subprocess_exec, create_subprocess_shell
    from elfolio.spawn.popen import Popen

    with _lock:
        placed = not _replaced
        if placed:
            _replace(subprocess, "Popen", Popen)
            for module in (asyncio, asyncio_subprocess):
                _replace(module, "create_subprocess_exec", create_subprocess_exec)
                _replace(module, "create_subprocess_shell", create_subprocess_shell)
    return Installed(placed)


def _replace(module: ModuleType, name: str, ours: object) -> None:
    _replaced.append((module, name, getattr(module, name), ours))
    setattr(module, name, ours)


def uninstall() -> None:
    """Puts back what `install` found. A name that somebody has replaced since stays theirs."""
    with _lock:
        while _replaced:
            module, name, before, ours = _replaced.pop()
            if getattr(module, name) is ours:
                setattr(module, name, before)
