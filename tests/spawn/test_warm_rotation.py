"""Rotation of a warm template's process: by children served and by age, from any number of threads."""

import threading
import time
from pathlib import Path

import pytest

import elfolio
from tests.spawn.kindling import ECHO, compile_dynamic, standing
from tests.spawn.probing import children


@pytest.fixture(scope="module")
def echo(programs: Path) -> Path:
    """A program that ends with the status that its argument says, linked dynamically."""
    return compile_dynamic(programs / "rotated-echo", ECHO)


def served(template: elfolio.SpawnTemplate, wanted: int = 0) -> tuple[int, str]:
    """The process behind the template after one start that must be right, and that start's temperature."""
    child = template.spawn(["echo", str(wanted)])
    assert child.wait() == wanted
    return (standing(template)[0] if template._heat.warm is not None else 0), child.temperature


@pytest.mark.parametrize("most", [1, 3, 10])
def test_rotation_by_count(echo: Path, most: int) -> None:
    """rotate_after=N: no process serves more than N children, and each rotation costs one cold start."""
    by_process: dict[int, int] = {}
    temperatures = []
    with elfolio.SpawnTemplate(echo, temperature="warm", rotate_after=most) as template:
        for wanted in range(6 * (most + 1)):
            process, temperature = served(template, wanted)
            temperatures.append(temperature)
            if temperature == "warm":
                by_process[process] = by_process.get(process, 0) + 1
    assert list(by_process.values()) == [most] * 6
    assert temperatures == (["warm"] * most + ["cold"]) * 6
    reasons = elfolio.stats().programs[str(echo)].fallbacks
    assert reasons["warm: rotated"] >= 6


def test_rotation_by_age(echo: Path) -> None:
    """max_age=SECONDS: a process that is older serves no child; the start after that has a new one."""
    with elfolio.SpawnTemplate(echo, temperature="warm", max_age=0.5) as template:
        first, temperature = served(template)
        assert temperature == "warm"
        assert served(template) == (first, "warm")
        time.sleep(0.6)
        assert served(template) == (0, "cold")
        second, temperature = served(template)
        assert (temperature, second != first) == ("warm", True)


def test_each_process_has_a_layout_of_its_own(echo: Path) -> None:
    """What rotation is for: where things are mapped is new with every process, and the same for its children."""
    layouts = []
    with elfolio.SpawnTemplate("/bin/cat", temperature="warm", rotate_after=2) as template:
        for _ in range(9):
            child = template.run(["cat", "/proc/self/maps"], text=True)
            layouts.append(str(child.stdout).split("-")[0])
    warm = [layout for turn, layout in enumerate(layouts) if turn % 3 < 2]
    assert warm[0::2] == warm[1::2]
    assert len(set(warm)) == 3


def test_rotation_leaves_running_children(echo: Path) -> None:
    """A child outlives the process that it was forked from, and is waited for as ever."""
    with elfolio.SpawnTemplate("/bin/sleep", temperature="warm", rotate_after=1) as template:
        running = [template.spawn(["sleep", "1000"]) for _ in range(6)]
        assert [child.temperature for child in running] == ["warm", "cold"] * 3
        assert all(child.poll() is None for child in running)
        for child in running:
            child.terminate()
            assert child.wait() == -15


def test_rotation_under_threads(echo: Path) -> None:
    """Starts from eight threads while processes are rotated: every status right, one process at a time, none left."""
    wrong: list[object] = []

    def worker(first: int) -> None:
        try:
            for n in range(150):
                wanted = (first + n) % 100
                code = template.spawn(["echo", str(wanted)]).wait()
                if code != wanted:
                    wrong.append((wanted, code))
        except BaseException as error:
            wrong.append(error)

    with elfolio.SpawnTemplate(echo, temperature="warm", rotate_after=7) as template:
        team = [threading.Thread(target=worker, args=(n,)) for n in range(8)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        started = template._heat.started
    assert wrong == []
    # At most every eighth start needs another process; the starts made meanwhile are cold.
    assert 2 < started <= 8 * 150 // 7 + 1
    assert children() == []


def test_closing_while_a_process_is_being_started(echo: Path) -> None:
    """close() from another thread, at any moment of a process's start, leaves none behind."""
    for turn in range(20):
        template = elfolio.SpawnTemplate(echo, temperature="warm")

        def start(template: elfolio.SpawnTemplate = template) -> None:
            try:
                template.spawn(["echo", "0"]).wait()
            except (ValueError, OSError):
                return  # closed

        thread = threading.Thread(target=start)
        thread.start()
        time.sleep(turn * 0.002)
        template.close()
        thread.join()
        assert children() == []
