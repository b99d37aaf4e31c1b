"""bench.agent_report: turns as the proposal's table. In: turns by workload, split and backend. Out: text, a page, JSON.

Rates are medians of the rounds; a delta is the median of the rounds' ratios, as both had their turns in the same
rounds. Never measures.
"""

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.agent_backends import AGAIN, BACKENDS, BASE, NOTHING
from bench.agent_commands import Call
from bench.agent_crew import Turn
from bench.agent_plan import Split, Workload
from bench.samples import Spread, ratio
from bench.table import show

__all__ = ["Cell", "Report", "delta", "percent"]

_EVEN = 0.03
"""How far from 0 an A/A delta may be before the figures mean little."""
_HEADINGS = ("", "calls", "calls/s", "seconds", "delta", "its quartiles", "ran")
_PAGE = """# Benchmarks

Written by `make bench`, which runs `bench/agent_tools.py`: the harness of the kernel's proposal for spawn templates,
rebuilt. autogen-core's agents call 16 tools, each directly and through `sh -c` and `bash -c`, with 16 calls in
flight; 4x4 means four worker processes with four calls in flight each. The tools search and read generated sources,
ask a small git repository, and run small programs; standard input is /dev/null.

Every backend takes its turn in every round. Calls a second and seconds are medians of the rounds, a delta is the median
of the rounds' ratios of calls a second to those of asyncio's subprocess. That one runs twice: "again" shows how far
apart equal things come out. The floor is the harness without any process. "ran" says at which temperature. asyncio is
that of the Python named below; before 3.12 it waits for each child in a thread.

"""


@dataclass(slots=True)
class Cell:
    """One workload at one split: the turns of each backend, by round."""

    workload: Workload
    split: Split
    turns: Mapping[str, Sequence[Turn]]

    def seconds(self, backend: str) -> float:
        """The median round."""
        return statistics.median(turn.wall_ns for turn in self.turns[backend]) / 1e9

    def calls(self) -> int:
        """Of one turn."""
        return self.turns[BASE][0].calls

    def temperatures(self, backend: str) -> Counter[str]:
        """Of all calls."""
        return sum((turn.temperatures for turn in self.turns[backend]), Counter())


def delta(cell: Cell, backend: str) -> Spread:
    """How many more calls a second than the base makes, as a share; median and quartiles."""
    base, mine = ([[turn.wall_ns] for turn in cell.turns[name]] for name in (BASE, backend))
    more = ratio(base, mine)
    return Spread(more.low - 1, more.middle - 1, more.high - 1)


def percent(share: float) -> str:
    """With its sign."""
    return f"{share:+.1%}"


def _row(cell: Cell, backend: str) -> tuple[str, ...]:
    seconds = cell.seconds(backend)
    figures = (str(cell.calls()), f"{cell.calls() / seconds:.1f}", f"{seconds:.3f}")
    compared = ("", "")
    if backend not in (BASE, NOTHING):
        more = delta(cell, backend)
        compared = (percent(more.middle), f"{percent(more.low)} to {percent(more.high)}")
    ran = cell.temperatures(backend)
    shares = ", ".join(f"{name} {count / ran.total():.0%}" for name, count in ran.most_common())
    label = cell.workload.title if cell.workload.tool else str(cell.split)
    return (f"{label} {BACKENDS[backend]}", *figures, *compared, shares)


@dataclass(slots=True)
class Report:
    """What was measured, on what."""

    machine: Mapping[str, str | int]
    rounds: int
    calls: Sequence[Call]
    left_out: Sequence[str]
    cells: list[Cell] = field(default_factory=list)

    def add(self, workload: Workload, split: Split, turns: Mapping[str, Sequence[Turn]]) -> None:
        """One more cell."""
        self.cells.append(Cell(workload, split, turns))

    def text(self, *, markdown: bool = False) -> str:
        """Everything for a reader."""
        about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.machine.items())
        gap = "\n\n" if markdown else "\n"
        return gap.join((f"{about}; {self.rounds} rounds\n", *self._tables(markdown), *self._notes())) + "\n"

    def page(self) -> str:
        """docs/benchmarks.md."""
        return _PAGE + self.text(markdown=True)

    def _tables(self, markdown: bool) -> Iterator[str]:
        yield self._deltas(markdown)
        by_title: dict[str, list[Cell]] = {}
        for cell in self.cells:
            title = f"Each tool by itself, {cell.split}" if cell.workload.tool else cell.workload.title.capitalize()
            by_title.setdefault(title, []).append(cell)
        for title, cells in by_title.items():
            rows = [_row(cell, backend) for cell in cells for backend in cell.turns]
            yield show(title, _HEADINGS, rows, markdown=markdown)

    def _deltas(self, markdown: bool) -> str:
        """Nothing but the deltas: a line for each workload and split."""
        backends = [name for name in self.cells[0].turns if name not in (BASE, NOTHING)]
        rows = [
            (
                f"{cell.workload.title}, {cell.split}",
                f"{cell.calls() / cell.seconds(BASE):.1f}",
                *(percent(delta(cell, name).middle) for name in backends),
            )
            for cell in self.cells
        ]
        headings = ("", f"{BACKENDS[BASE]} calls/s", *(BACKENDS[name] for name in backends))
        return show("Deltas", headings, rows, markdown=markdown)

    def _notes(self) -> Iterator[str]:
        yield from self.uneven()
        for cell in self.cells:
            if NOTHING in cell.turns and not cell.workload.tool:
                each = cell.seconds(NOTHING) / cell.calls() * 1e6
                yield f"The harness itself, {cell.workload.title}, {cell.split}: {each:.0f} us of wall time a call"
        yield from (f"left out: {line}" for line in self.left_out)
        different = self.differences()
        yield from (f"DIFFERENT: {line}" for line in different)
        if not different:
            yield f"{len(self.said())} command lines, outputs equal across backends: sha256 {self.output_hash()}"

    def uneven(self) -> Iterator[str]:
        """A line for each cell whose equal halves were too far apart."""
        for cell in self.cells:
            same = delta(cell, AGAIN).middle if AGAIN in cell.turns else 0
            if abs(same) > _EVEN:
                yield f"A/A, {cell.workload.title}, {cell.split}: {percent(same)}: too uneven, use an idle machine"

    def said(self) -> dict[int, dict[str, set[str]]]:
        """By call and digest: the backends that said it."""
        said: dict[int, dict[str, set[str]]] = {}
        for cell in self.cells:
            for backend in cell.turns.keys() - {NOTHING}:
                for turn in cell.turns[backend]:
                    for index, seen in turn.digests.items():
                        for digest in seen:
                            said.setdefault(index, {}).setdefault(digest, set()).add(backend)
        return said

    def differences(self) -> list[str]:
        """A line for each call that did not always say the same."""
        return [
            f"{self.calls[index].label}: " + "; ".join(", ".join(sorted(names)) for names in by_digest.values())
            for index, by_digest in sorted(self.said().items())
            if len(by_digest) > 1
        ]

    def output_hash(self) -> str:
        """Of what all calls said."""
        lines = (f"{self.calls[index].label} {sorted(by)}\n" for index, by in sorted(self.said().items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def as_json(self) -> dict[str, object]:
        """Every turn, and what it was taken on."""
        return {
            "elfolio": "bench/agent_tools",
            "version": 1,
            "machine": self.machine,
            "rounds": self.rounds,
            "left_out": self.left_out,
            "differences": self.differences(),
            "output_hash": self.output_hash(),
            "cells": [
                {
                    "workload": cell.workload.name,
                    "split": str(cell.split),
                    "calls": cell.calls(),
                    "commands": [self.calls[index].label for index in cell.workload.calls],
                    "backends": {
                        backend: {
                            "wall_ns": [turn.wall_ns for turn in turns],
                            "spans_ns": [turn.spans_ns for turn in turns],
                            "temperatures": cell.temperatures(backend),
                            "delta": None if backend == NOTHING else delta(cell, backend).middle,
                        }
                        for backend, turns in cell.turns.items()
                    },
                }
                for cell in self.cells
            ],
        }
