"""bench.load_worker: one load in a process of its own. In: a subject, two paths. Out: a line of JSON.

Once all is imported it says so, and waits for a line on standard input. The load is timed until every page has been
touched, so that what comes lazily is counted where it belongs.
"""

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from bench.load_by_tensor import by_tensor
from bench.load_subjects import SUBJECTS, Files

_CHUNK = 1 << 20
_PAGE = 4096


def _processor() -> float:
    """Of this process, all its threads, io_uring's workers among them; not of the kernel's own threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _in(group: str) -> Iterator[None]:
    """In that control group of processor time; after it in the one above."""
    if not group:
        yield
        return
    for folder in (group, os.path.dirname(group)):
        with open(os.path.join(folder, "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))
        if folder == group:
            yield


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, processor seconds, the result."""
    used, begun = _processor(), time.perf_counter()
    result = work()
    return time.perf_counter() - begun, _processor() - used, result


def main() -> int:
    """Exit status: 3 where the subject is not installed."""
    subject, files, group, way = sys.argv[1], Files(*sys.argv[2:4]), sys.argv[4], sys.argv[5]
    try:
        load = by_tensor(subject, files) if way == "by tensor" else SUBJECTS[subject](files)
    except ImportError as error:
        print(error, file=sys.stderr)
        return 3
    import numpy

    def loaded() -> list[Any]:
        pieces = load()
        for piece in pieces:
            piece[::_PAGE].max(initial=0)
        return pieces

    def words(piece: Any) -> Any:
        return piece[: piece.size // 8 * 8].view("u8")

    print("ready", flush=True)
    sys.stdin.readline()
    with _in(group):
        seconds, processor, pieces = timed(loaded)
    first, _, total = timed(lambda: sum(int(numpy.add.reduce(words(piece), dtype="u8")) for piece in pieces))
    chunks = [piece[at : at + _CHUNK] for piece in pieces for at in range(0, piece.size, _CHUNK)]
    random.Random(7).shuffle(chunks)
    again, _, _ = timed(lambda: [chunk.max(initial=0) for chunk in chunks[: len(chunks) // 4]])
    size = sum(piece.size for piece in pieces)
    figures = {"seconds": seconds, "processor": processor, "first": first, "random": again, "bytes": size}
    print(json.dumps(figures | {"sum": total % (1 << 64)}))
    sys.stdout.flush()
    os._exit(0)  # what a peer does when it is torn down is not measured, nor waited for


if __name__ == "__main__":
    sys.exit(main())
