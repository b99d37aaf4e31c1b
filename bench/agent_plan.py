"""bench.agent_plan: which calls, how often, split how, in what order. In: the tools of this machine. Out: workloads.

As in the proposal, the number of calls in flight stays the same and only the number of worker processes changes.
Every worker makes every call of a workload equally often, in an order of its own that all backends share.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.agent_commands import FORMS, Call

__all__ = ["MIXES", "SPLITS", "TOOL_SPLIT", "Split", "Workload", "shares", "turns", "workloads"]


@dataclass(frozen=True, slots=True)
class Split:
    """`workers` processes with `lanes` calls in flight each."""

    workers: int
    lanes: int

    @classmethod
    def parse(cls, text: str) -> "Split":
        """From "4x4". Raises ValueError."""
        workers, x, lanes = text.partition("x")
        split = cls(int(workers), int(lanes))
        if not x or split.workers < 1 or split.lanes < 1:
            raise ValueError(text)
        return split

    def __str__(self) -> str:
        return f"{self.workers}x{self.lanes}"


SPLITS = tuple(Split(workers, 16 // workers) for workers in (1, 2, 4, 8))
"""The proposal's: 16 calls in flight."""
TOOL_SPLIT = Split(4, 4)
"""For each tool by itself, where it is among the splits wanted."""

MIXES = {
    "whole": "the whole mix",
    "no-node": "the mix without node",
    "no-node-python": "the mix without node and python",
    "direct": "direct calls only, without node and python",
    "each": "each tool by itself",
}
"""By the name for the command line; "each" makes one workload of every tool."""
_WITHOUT = {
    "whole": frozenset[str](),
    "no-node": frozenset(("node-small",)),
    "no-node-python": frozenset(("node-small", "python-small")),
    "direct": frozenset(("node-small", "python-small")),
}
_COPIES = {"whole": 8, "no-node": 8, "no-node-python": 16, "direct": 32}
_TOOL_COPIES = {"node-small": 8, "python-small": 16}
_OTHER_TOOL_COPIES = 40
"""So many of each call that a turn takes about a second; a whole number for each worker of every split."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Calls, as indices, each made `copies` times; at `splits`."""

    name: str
    title: str
    calls: tuple[int, ...]
    copies: int
    splits: tuple[Split, ...]
    tool: bool = False
    """One tool by itself."""


def workloads(calls: Sequence[Call], mixes: Sequence[str], splits: Sequence[Split], share: float = 1) -> list[Workload]:
    """What `mixes` names, for the tools that there are. `share` of the usual number of calls."""
    made = []
    for name in mixes:
        if name == "each":
            made += list(_tools(calls, splits, share))
        elif chosen := _members(calls, name):
            made.append(Workload(name, MIXES[name], chosen, _scaled(_COPIES[name], share), tuple(splits)))
    return made


def _tools(calls: Sequence[Call], splits: Sequence[Split], share: float) -> Iterator[Workload]:
    split = TOOL_SPLIT if TOOL_SPLIT in splits else splits[-1]
    for tool in dict.fromkeys(call.tool for call in calls):
        copies = _scaled(_TOOL_COPIES.get(tool, _OTHER_TOOL_COPIES), share)
        indices = tuple(index for index, call in enumerate(calls) if call.tool == tool)
        yield Workload(tool, tool, indices, copies, (split,), tool=True)


def _members(calls: Sequence[Call], mix: str) -> tuple[int, ...]:
    forms = FORMS[:1] if mix == "direct" else FORMS
    return tuple(i for i, call in enumerate(calls) if call.tool not in _WITHOUT[mix] and call.form in forms)


def _scaled(copies: int, share: float) -> int:
    return max(1, round(copies * share))


def shares(workload: Workload, split: Split, number: int) -> list[list[int]]:
    """The calls of each worker in round `number`. Where the copies do not go into the workers, all get one more."""
    each = -(-workload.copies // split.workers)
    dealt = []
    for worker in range(split.workers):
        order = list(workload.calls) * each
        random.Random(f"{workload.name} {split} {number} {worker}").shuffle(order)
        dealt.append(order)
    return dealt


def turns(count: int, rounds: int) -> Iterator[list[int]]:
    """The order of `count` rows in each round: each is first in its turn, and every second round goes backwards."""
    for i in range(rounds):
        order = [(row + i) % count for row in range(count)]
        yield order[::-1] if i % 2 else order
