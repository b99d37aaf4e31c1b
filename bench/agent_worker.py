"""bench.agent_worker: one process of agents that call tools. In: a backend, lines of JSON. Out: when, and what came.

The agents are autogen-core's, as in the proposal's harness: a call is a message to one of them, its outcome the
answer. The first line is every command line; each further one says which of them to call, in what order, and how many
at a time. `ready` answers the first; the others are answered by times of the monotonic clock in nanoseconds, which
all processes share, digests of what each command said, and temperatures.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler

from bench.agent_backends import BACKENDS, Backend, Outcome, new_backend, new_loop

_KIND = "tools"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The message: call this."""

    argv: list[str]


class ToolAgent(RoutedAgent):
    """Calls tools, in the way it was given."""

    def __init__(self, backend: Backend) -> None:
        super().__init__("Calls tools.")
        self._backend = backend

    # autogen-core resolves these annotations, and looks for the parameter by its name.
    @message_handler
    async def call(self, message: ToolCall, ctx: MessageContext) -> Outcome:
        return await self._backend.call(message.argv)


async def started(backend: Backend) -> SingleThreadedAgentRuntime:
    """A running runtime. Its agents are made at their first message."""
    runtime = SingleThreadedAgentRuntime()
    await ToolAgent.register(runtime, _KIND, lambda: ToolAgent(backend))
    runtime.start()
    return runtime


async def turn(
    runtime: SingleThreadedAgentRuntime, commands: Sequence[list[str]], order: Sequence[int], lanes: int
) -> dict[str, object]:
    """Makes the calls of `order`, indices of `commands`; each of `lanes` agents has one in flight at a time."""
    ended: list[tuple[int, Outcome]] = []
    waiting = iter(order)

    async def lane(number: int) -> None:
        agent = AgentId(_KIND, str(number))
        for index in waiting:
            ended.append((index, await runtime.send_message(ToolCall(commands[index]), agent)))

    began_ns = monotonic_ns()
    await asyncio.gather(*map(lane, range(lanes)))
    return {"began_ns": began_ns, "ended_ns": monotonic_ns(), **told(ended)}


def told(ended: Sequence[tuple[int, Outcome]]) -> dict[str, object]:
    """What there is to compare, taken when the clock has stopped."""
    digests: dict[int, set[str]] = {}
    for index, outcome in ended:
        digests.setdefault(index, set()).add(outcome.digest())
    temperatures = Counter(outcome.temperature for _, outcome in ended if outcome.temperature)
    return {"digests": {index: sorted(seen) for index, seen in digests.items()}, "temperatures": temperatures}


def serve(name: str, report: int) -> None:
    """Until the input ends."""
    loop, backend = new_loop(name), new_backend(name)
    asyncio.set_event_loop(loop)
    try:
        with open(report, "w") as answers:
            commands = json.loads(sys.stdin.readline())
            runtime = loop.run_until_complete(started(backend))
            print("ready", file=answers, flush=True)
            for line in sys.stdin:
                wanted = json.loads(line)
                answer = loop.run_until_complete(turn(runtime, commands, wanted["order"], wanted["lanes"]))
                print(json.dumps(answer), file=answers, flush=True)
        loop.run_until_complete(runtime.stop_when_idle())
    finally:
        backend.close()
        loop.close()


def main() -> None:
    """Serves whoever started it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=list(BACKENDS))
    backend = parser.parse_args().backend
    # An interrupt reaches the whole group; what there is to say about it the harness says.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Nothing that a tool or a library writes may reach the answers.
    report = os.dup(1)
    os.dup2(2, 1)
    serve(backend, report)


if __name__ == "__main__":
    main()
