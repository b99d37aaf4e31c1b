"""survey.pool: batches shared among processes of this machine. In: batches. Out: what came of each; or WorkersLost.

The processes are forked with the batches in their memory, and take the next one's number from a pipe that was filled
before: reads of a pipe exclude each other. (Reads of a memfd through one shared offset do not: 66 of 1,500 runs had a
number read twice.) What a process finds it writes to a pipe of its own. So nothing has to be started, sent or kept in
step, and when this process dies the others fail at their next write.
"""

import os
import pickle
import selectors
import signal
import struct
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from elfolio.survey.examine import Batch, Examined, examine

__all__ = ["WorkersLost", "in_processes"]

_NUMBER = struct.Struct("=I")
_SHARES = 1024
"""Numbers that any pipe holds: where a user has many pipes open, the next ones have a page only (pipe(7))."""


class WorkersLost(OSError):
    """The processes that did the work were ended from outside; says what to do."""


def in_processes(batches: list[Batch], count: int) -> Iterator[Examined]:
    """What came of each batch, as it comes. Raises WorkersLost where a process ends before its work."""
    size = -(-len(batches) // _SHARES)
    shares = [batches[at : at + size] for at in range(0, len(batches), size)]
    numbers = _filled(len(shares))
    workers: dict[int, BinaryIO] = {}
    try:
        for _ in range(count):
            pid, pipe = _start(shares, numbers)
            workers[pid] = pipe
        left = len(batches)
        for examined in _results(list(workers.values())):
            left -= 1
            yield examined
        if left:
            raise WorkersLost("a worker process was killed, for want of memory perhaps; try --jobs 1")
    finally:
        os.close(numbers)
        for pid, pipe in workers.items():
            pipe.close()
            with suppress(ProcessLookupError, ChildProcessError):  # where SIGCHLD is ignored, nobody is left to reap
                os.kill(pid, signal.SIGKILL)  # one that is done is a zombie, and does not mind
                os.waitpid(pid, 0)


def _filled(count: int) -> int:
    """The end to read from of a pipe with the numbers below `count`, and nothing behind them."""
    reading, writing = os.pipe()
    os.write(writing, b"".join(map(_NUMBER.pack, range(count))))
    os.close(writing)
    return reading


def _start(shares: list[list[Batch]], numbers: int) -> tuple[int, BinaryIO]:
    """A process at work, and the end of its pipe to read from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, os.fdopen(reading, "rb")
    status = 1
    try:
        os.close(reading)
        with os.fdopen(writing, "wb") as out:
            while raw := os.read(numbers, _NUMBER.size):
                for batch in shares[_NUMBER.unpack(raw)[0]]:
                    pickle.dump(examine(batch), out, pickle.HIGHEST_PROTOCOL)
                    out.flush()
        status = 0
    except BrokenPipeError:
        pass  # who asked is gone
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)  # nothing of the parent's is to run at this one's end


def _results(pipes: list[BinaryIO]) -> Iterator[Examined]:
    """Everything that comes out of the pipes, until all are closed."""
    with selectors.DefaultSelector() as ready:
        for pipe in pipes:
            ready.register(pipe, selectors.EVENT_READ, pipe)
        while ready.get_map():
            for key, _ in ready.select():
                try:
                    yield pickle.load(key.data)
                except (EOFError, pickle.UnpicklingError):  # the end, or one that was killed in the middle of a word
                    ready.unregister(key.data)
