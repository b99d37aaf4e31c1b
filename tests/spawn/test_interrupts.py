"""KeyboardInterrupt between any two steps of Python: what was begun is undone, and nothing is closed twice."""

import dis
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import elfolio
from tests.spawn.probing import alive, children, open_fds

# Exact to the instruction, and so are the exceptions: of a cold start.
pytestmark = pytest.mark.usefixtures("cold")

CHECKED = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"}
"""After these CPython looks for signals (Python/ceval.c, CHECK_EVAL_BREAKER), and nowhere else."""


FEWER_POINTS = sys.version_info >= (3, 12)
"""sys.settrace reports instructions of fewer frames there."""


class Interrupter:
    """Raises KeyboardInterrupt at the `at`th point in elfolio's Python at which a signal could."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        self.last: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if f"{os.sep}elfolio{os.sep}" not in frame.f_code.co_filename:
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


def interrupted(use: Callable[[], object], at: int) -> bool:
    """Runs `use`, interrupted at that point; False where it ended before."""
    interrupter, before, hook = Interrupter(at), sys.gettrace(), sys.unraisablehook
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
    return interrupter.seen >= at


def end_all(template: elfolio.SpawnTemplate) -> None:
    """Ends what an interrupt left running, and has it reaped as a later spawn does."""
    for pid in children():
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    template.spawn(["true"]).wait()


@pytest.fixture
def true() -> Any:
    with elfolio.SpawnTemplate("/bin/true") as template:
        yield template


def test_a_plain_spawn_can_be_interrupted_anywhere(true: elfolio.SpawnTemplate) -> None:
    """Wherever the interrupt comes, a child is either waited for or reaped by the next spawn; no descriptor stays."""
    true.spawn(["true"]).wait()
    before, at = open_fds(), 0
    while interrupted(lambda: true.spawn(["true"]).wait(), at := at + 1):
        end_all(true)
        assert children() == []
        assert open_fds() == before
    assert at > 2 or FEWER_POINTS


def test_a_captured_run_can_be_interrupted_anywhere(true: elfolio.SpawnTemplate, sh: elfolio.SpawnTemplate) -> None:
    """Wherever the interrupt comes, it is the interrupt that is raised, the child ends and is reaped, and no
    descriptor of anybody else's is closed. A pipe's ends may stay between the call that made them and the next
    instruction, as with os.pipe itself."""

    def use() -> None:
        sh.run(["sh", "-c", "cat; echo e >&2"], input=b"x", timeout=60)

    use()
    before, at, kept = open_fds(), 0, 0
    while interrupted(use, at := at + 1):
        end_all(true)
        assert children() == []
        assert before <= open_fds(), at
        extra = open_fds() - before
        kept += bool(extra)
        for fd in extra:
            assert os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
            os.close(fd)
    assert at > 60 or FEWER_POINTS
    assert kept <= at // 8


@pytest.mark.usefixtures("empty_pool")
def test_a_pipeline_can_be_interrupted_anywhere(true: elfolio.SpawnTemplate) -> None:
    """Wherever the interrupt comes, no stage lives on but the one that was just being started; no descriptor stays,
    but those of a pipe that was just being made."""

    def use() -> None:
        elfolio.pipeline(["sh", "-c", "cat; echo e >&2"], ["cat"], ["cat"], input=b"x", timeout=60)

    use()
    true.spawn(["true"]).wait()
    before, at, kept = open_fds(), 0, 0
    while interrupted(use, at := at + 1):
        assert sum(map(alive, children())) <= 1, at
        end_all(true)
        assert children() == []
        assert before <= open_fds(), at
        extra = open_fds() - before
        kept += bool(extra)
        for fd in extra:
            assert os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"), at
            os.close(fd)
    assert at > 100 or FEWER_POINTS
    assert kept <= at // 8
    gc.collect()  # nothing is left that takes one of those for its own, and would close another's


def test_a_template_can_be_interrupted_anywhere(true: elfolio.SpawnTemplate) -> None:
    """Making, using and closing a template leaves nothing but what a pipe's or an open's own instruction held."""

    def use() -> None:
        with elfolio.SpawnTemplate("/usr/bin/awk") as template:
            template.spawn(["awk", "BEGIN {}"]).wait()

    use()
    before, at, kept = open_fds(), 0, 0
    while interrupted(use, at := at + 1):
        end_all(true)
        assert before <= open_fds(), at
        extra = open_fds() - before
        kept += bool(extra)
        for fd in extra:
            os.close(fd)
    assert kept <= at // 8
