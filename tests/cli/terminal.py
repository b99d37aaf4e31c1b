"""A terminal with somebody at it: starts a program as the leader of a session, types, and waits for what it shows."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

PATIENCE = 60
"""Seconds after which a test has failed; nothing waits that long that works."""


class Terminal:
    """A pseudo-terminal and the program on it. As a context manager it kills and reaps the whole session."""

    def __init__(self, argv: Sequence[str | bytes], env: Mapping[str, str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        # setsid(1) gives it the terminal, without code of ours between fork and exec, and becomes it.
        self._program = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
        )
        self._number = os.stat(os.ttyname(theirs)).st_rdev
        os.close(theirs)
        self.shown = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._session():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(self._ours)
        self._program.kill()
        self._program.wait()

    def _session(self) -> set[int]:
        """The processes that have this terminal as their own, and all that descends from them."""
        everyone = list(stat_lines())
        found = {pid for pid, _, terminal in everyone if terminal == self._number}
        while more := {pid for pid, parent, _ in everyone if parent in found} - found:
            found |= more
        return found

    def type(self, text: str) -> None:
        """Types, with control characters as they are."""
        os.write(self._ours, text.encode())

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Waits until the terminal shows a match, and forgets what was shown up to its end."""
        deadline = time.monotonic() + PATIENCE
        while (match := re.search(pattern, self.shown)) is None:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"{pattern!r} is not in {self.shown!r}")
            try:
                self.shown += os.read(self._ours, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"{pattern!r} is not in {self.shown!r}, which is the end") from None
        self.shown = self.shown[match.end() :]
        return match

    def leader(self) -> int:
        """The program's number."""
        return self._program.pid

    def status(self) -> int:
        """Waits for the program's end; its exit status, negative for a signal."""
        return self._program.wait(PATIENCE)


def stat_lines() -> Iterator[tuple[int, int, int]]:
    """Number, parent's number and terminal of every process: /proc/PID/stat."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
            yield int(name), int(fields[1]), int(fields[4])
