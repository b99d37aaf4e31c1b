"""A KeyboardInterrupt at any point of elfolio's Python at which a signal could raise one. Holds no tests."""

import dis
import os
import sys
import warnings
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any

CHECKED = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"}
"""After these CPython looks for signals (Python/ceval.c, CHECK_EVAL_BREAKER), and nowhere else."""


FEWER_POINTS = sys.version_info >= (3, 12)
"""sys.settrace reports instructions of fewer frames there."""


class Interrupter:
    """Raises KeyboardInterrupt at the `at`th point in elfolio's Python at which a signal could; in `files` only, if any
    are named."""

    def __init__(self, at: int, files: Collection[str] = ()) -> None:
        self.at = at
        self.files = files
        self.seen = 0
        self.last: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        path = frame.f_code.co_filename
        if f"{os.sep}elfolio{os.sep}" not in path or (self.files and os.path.basename(path) not in self.files):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "return":
            self.last.pop(frame, None)
        if event != "opcode":
            return self._step
        last = self.last.get(frame, "")
        self.last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        if last in CHECKED:
            self.seen += 1
            if self.seen == self.at:
                raise KeyboardInterrupt
        return self._step


def points_of(use: Callable[[], object], files: Collection[str] = ()) -> int:
    """At how many points `use` could be interrupted."""
    return _seen(use, sys.maxsize, files)


def interrupted(use: Callable[[], object], at: int, files: Collection[str] = ()) -> bool:
    """Runs `use`, interrupted at that point; False where it ended before."""
    return _seen(use, at, files) >= at


def _seen(use: Callable[[], object], at: int, files: Collection[str]) -> int:
    interrupter, before, hook = Interrupter(at, files), sys.gettrace(), sys.unraisablehook
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        sys.unraisablehook = lambda _: None  # an interrupt inside a finaliser
        sys.settrace(interrupter)
        try:
            use()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
            sys.unraisablehook = hook
            interrupter.last.clear()  # the frames hold what they were about
    return interrupter.seen
