"""pagecache.formats.several: files of tensors loaded beside one another. In: parts. Out: nothing; they are in memory.

One file at a time leaves the device idle while its mapping is made, and a filesystem that reads in small pieces never
fills the device: so a few at once, each in a thread.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from elfolio.pagecache.formats.part import Part, Progress

__all__ = ["load_all"]

_AT_ONCE = 4


class _Cancelled(Exception):
    """Another file's load failed, or was interrupted."""


class _Sum:
    """The progress of all as one, called from one thread at a time; ends every load once `stop` is set."""

    def __init__(self, total: int, told: Progress | None) -> None:
        self.stop = threading.Event()
        self._total = total
        self._told = told
        self._lock = threading.Lock()
        self._done: dict[int, int] = {}

    def of(self, number: int) -> Progress:
        def tell(done: int, _: int) -> None:
            if self.stop.is_set():
                raise _Cancelled
            with self._lock:
                self._done[number] = done
                if self._told is not None:
                    self._told(sum(self._done.values()), self._total)

        return tell


def load_all(parts: Sequence[Part], strategy: str, at_once: int | None, progress: Progress | None) -> None:
    """Every part, `at_once` (4) at a time, in their order. The first error ends the others, and is raised; so does
    KeyboardInterrupt."""
    workers = min(len(parts), at_once or _AT_ONCE)
    total = _Sum(sum(part.size for part in parts), progress)
    if workers < 2:
        for number, part in enumerate(parts):  # in this thread: an interrupt reaches the load itself
            part.load(strategy, total.of(number))
        return
    with ThreadPoolExecutor(workers, "elfolio-load") as pool:
        try:
            jobs = [pool.submit(part.load, strategy, total.of(number)) for number, part in enumerate(parts)]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        except BaseException:
            total.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
