"""KeyboardInterrupt while a warm template's process is made: nobody is left behind, and the template goes on."""

import os
import time
from collections.abc import Iterator

import pytest

import elfolio
from elfolio.spawn import thermostat
from tests.conftest import every_child
from tests.spawn.interrupting import interrupted, points_of
from tests.spawn.probing import alive, open_fds

MAKERS = ("child.py", "template.py", "thermostat.py", "warming.py")
"""Where processes and descriptors change hands; elsewhere values are computed."""


@pytest.fixture
def reaper() -> Iterator[elfolio.SpawnTemplate]:
    """A cold template, whose starts reap what was abandoned."""
    with elfolio.SpawnTemplate("/bin/true", temperature="cold") as template:
        template.spawn(["true"]).wait()
        yield template


def start_warm(template: elfolio.SpawnTemplate) -> None:
    template.spawn(["true"]).wait()


def await_quiet() -> None:
    """Until no child runs: one that was being started may be on its way to its end."""
    deadline = time.monotonic() + 5
    while any(map(alive, every_child())):
        assert time.monotonic() < deadline, "lives on"
        time.sleep(0.001)


def interrupt_at(at: int, files: tuple[str, ...], reaper: elfolio.SpawnTemplate) -> set[int]:
    """One start that makes the process, interrupted there; what was left of descriptors, which are closed."""
    before = open_fds()
    with elfolio.SpawnTemplate("/bin/true", temperature="warm") as template:
        interrupted(lambda: start_warm(template), at, files)
        start_warm(template)
        assert template._heat.warm is not None or template._heat.reason is not None, at
    await_quiet()
    reaper.spawn(["true"]).wait()
    assert every_child() == [], at
    assert before <= open_fds(), at
    extra = open_fds() - before
    for fd in extra:
        os.close(fd)
    return extra


def points(files: tuple[str, ...]) -> int:
    with elfolio.SpawnTemplate("/bin/true", temperature="warm") as template:
        start_warm(template)
    with elfolio.SpawnTemplate("/bin/true", temperature="warm") as template:
        return points_of(lambda: start_warm(template), files)


@pytest.mark.parametrize(("files", "every"), [(MAKERS, 1), pytest.param((), 31, marks=pytest.mark.slow)])
def test_the_making_of_a_process_can_be_interrupted_anywhere(
    reaper: elfolio.SpawnTemplate, files: tuple[str, ...], every: int
) -> None:
    """Wherever the interrupt comes: no process of it lives on when the template is closed, all are reaped, nobody's
    descriptor is closed, and the template starts programs afterwards. A descriptor may stay between the call that made
    it and the next instruction, as with os.pipe itself."""
    thermostat.cool()
    total = points(files)
    assert total > 20
    kept = [at for at in range(1, total + 1, every) if interrupt_at(at, files, reaper)]
    assert len(kept) <= max(2, total // every // 8), kept
