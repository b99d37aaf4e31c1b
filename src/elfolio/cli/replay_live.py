"""cli.replay_live: `elfolio replay --live`. In: a trace's steps. Out: 0, or 1 where model and kernel differ."""

import argparse
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure

if TYPE_CHECKING:
    from elfolio.kernel.policy import Policy
    from elfolio.kernel.trace import Log
    from elfolio.kernel.trace_steps import Step
    from elfolio.measure.oracle_child import OracleChild

__all__ = ["child", "run_live"]

_MOST = 10


def run_live(args: argparse.Namespace, log: "Log", steps: "Iterable[Step]") -> int:
    """Has children of the running kernel do what the trace shows, beside the model."""
    from elfolio.measure.live_replay import replay_live
    from elfolio.measure.oracle import twin
    from elfolio.report.replay_live import as_live_json, as_live_report, as_live_text

    _refuse(log)
    rules = _policy(args.policy)
    with child() as seed:
        found = replay_live(steps, seed, twin(seed, rules))
    problems = [str(problem) for problem in list(log)[:_MOST]]
    report = as_live_report(found, os.uname().release, rules.name, problems, log.unreadable)
    print(as_live_json(report) if args.json else as_live_text(report))
    return 1 if found.difference is not None or log.unreadable else 0


@contextmanager
def child() -> "Iterator[OracleChild]":
    """A child of the running kernel. Raises Failure where none can be traced, or it is lost."""
    from elfolio.measure.oracle_child import oracle_child
    from elfolio.spawn.tracee import TraceeLost

    try:
        with oracle_child(os.readlink("/proc/self/exe")) as seed:
            yield seed
    except TraceeLost as error:
        raise Failure(f"--live: the child was lost: {error}") from error
    except OSError as error:
        raise Failure(f"--live: no child can be traced here: {error.strerror or error}") from error


def _refuse(log: "Log") -> None:
    for fact, here in (("machine", os.uname().machine), ("page", os.sysconf("SC_PAGESIZE"))):
        if log.facts.get(fact, here) != here:
            raise Failure(f"{log.name}: --live: recorded with {fact} {log.facts[fact]}, here it is {here}")


def _policy(names: list[str] | None) -> "Policy":
    from dataclasses import replace

    from elfolio.errors import InvalidArgument
    from elfolio.kernel.policy import policy
    from elfolio.live.host import policy_here

    here = policy_here()
    if names is None:
        return here
    if len(names) > 1:
        raise Failure("--live holds one --policy against the kernel")
    try:
        made = policy(names[0])
    except InvalidArgument as error:
        raise Failure(str(error.strerror)) from error
    return replace(made, machine=here.machine, page_size=here.page_size, thp=here.thp)
