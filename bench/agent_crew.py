"""bench.agent_crew: the worker processes of one backend. In: calls for each worker. Out: how long they took.

They live for the whole run, so that templates are made once, as an agent's host would; a split takes the first of
them. While one backend has its turn, the others' workers sleep.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.agent_commands import Call
from bench.servers import Server

__all__ = ["Crew", "Turn"]

_WORKER = Path(__file__).resolve().parent / "agent_worker.py"


@dataclass(slots=True)
class Turn:
    """All workers' calls, made once. The clock is the monotonic one, in nanoseconds."""

    calls: int
    spans_ns: list[tuple[int, int]] = field(default_factory=list)
    """Of each worker: when it began and when its last call ended."""
    temperatures: Counter[str] = field(default_factory=Counter)
    digests: dict[int, set[str]] = field(default_factory=dict)
    """By call: what it said. More than one means that it did not always say the same."""

    @property
    def wall_ns(self) -> int:
        """From the first worker's beginning to the last one's end."""
        return max(ended for _, ended in self.spans_ns) - min(began for began, _ in self.spans_ns)


class Crew:
    """Ended with the `with` block."""

    def __init__(self, backend: str, size: int, directory: Path, env: Mapping[str, str]) -> None:
        self.backend = backend
        self._start = [sys.executable, str(_WORKER), backend]
        self._size, self._directory, self._env = size, directory, env
        self._servers: list[Server] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Crew":
        with self._stack:
            for _ in range(self._size):
                server = Server(self._start, cwd=self._directory, env=self._env)
                self._servers.append(self._stack.enter_context(server))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def prepare(self, calls: Sequence[Call]) -> None:
        """Tells every worker the command lines, and has it make each direct call once: what is held from call to
        call is made, and what is read is in memory."""
        commands = json.dumps([call.argv for call in calls])
        for server in self._servers:
            server.say(commands)
        for server in self._servers:
            server.line()
        direct = [index for index, call in enumerate(calls) if call.form == "direct"]
        self.take([direct] * self._size, 2)

    def take(self, shares: Sequence[Sequence[int]], lanes: int) -> Turn:
        """One turn: worker by worker the calls to make, `lanes` at a time in each."""
        taken = Turn(sum(map(len, shares)))
        servers = self._servers[: len(shares)]
        for server, order in zip(servers, shares, strict=True):
            server.say(json.dumps({"order": order, "lanes": lanes}))
        for server in servers:
            answer = json.loads(server.line())
            taken.spans_ns.append((answer["began_ns"], answer["ended_ns"]))
            taken.temperatures.update(answer["temperatures"])
            for index, seen in answer["digests"].items():
                taken.digests.setdefault(int(index), set()).update(seen)
        return taken
