"""KeyboardInterrupt between any two steps of Python: what was begun is undone, and nothing is closed twice."""

import gc
import os
import signal
from typing import Any

import pytest

import elfolio
from tests.spawn.interrupting import FEWER_POINTS, interrupted
from tests.spawn.probing import alive, children, open_fds

# Exact to the instruction, and so are the exceptions: of a cold start.
pytestmark = pytest.mark.usefixtures("cold")


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
