"""install() and uninstall(): the drop-ins in place of the standard ones, for a whole program, and back again."""

import asyncio
import asyncio.subprocess
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

import elfolio
from elfolio.spawn.install import install, uninstall
from tests.spawn.comparing import all_ours
from tests.spawn.probing import in_fresh_host

pytestmark = pytest.mark.usefixtures("empty_pool")

PLACES: list[tuple[ModuleType, str]] = [
    (subprocess, "Popen"),
    (asyncio, "create_subprocess_exec"),
    (asyncio, "create_subprocess_shell"),
    (asyncio.subprocess, "create_subprocess_exec"),
    (asyncio.subprocess, "create_subprocess_shell"),
]


def there() -> list[object]:
    """What the replaced names mean at present."""
    return [getattr(module, name) for module, name in PLACES]


STANDARD = there()
OURS = [getattr(elfolio, name) for _, name in PLACES]


@pytest.fixture(autouse=True)
def standard_again() -> Iterator[None]:
    """Whatever a test does, the next one finds the standard library."""
    yield
    uninstall()
    for (module, name), value in zip(PLACES, STANDARD, strict=True):
        setattr(module, name, value)


def spawned(program: str) -> int:
    """How often elfolio has started this program."""
    programs = elfolio.stats().programs
    return sum(stats.spawns for path, stats in programs.items() if os.path.basename(path) == program)


def test_what_was_there_comes_back() -> None:
    """install puts ours into the five places and into no other; uninstall puts back the very same objects."""
    modules = (subprocess, asyncio, asyncio.subprocess, os)
    before = [dict(vars(module)) for module in modules]
    install()
    assert there() == OURS
    for module, names in zip(modules, before, strict=True):
        changed = {(module, name) for name, value in vars(module).items() if names.get(name) is not value}
        assert changed == {place for place in PLACES if place[0] is module}
    uninstall()
    assert [dict(vars(module)) for module in modules] == before


def test_twice_is_once() -> None:
    """A second install and a second uninstall change nothing."""
    install()
    install()
    assert there() == OURS
    uninstall()
    assert there() == STANDARD
    uninstall()
    assert there() == STANDARD


def test_a_context_manager_takes_them_back() -> None:
    """At the end of `with` they are gone, after an exception too; an inner `with` leaves them to the outer."""

    def fail() -> None:
        with install():
            with install():
                assert there() == OURS
            assert there() == OURS
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert there() == STANDARD


def test_somebody_elses_replacement_stays() -> None:
    """A name that another library has replaced since is left to it; the others come back."""

    class Theirs(subprocess.Popen[bytes]):
        pass

    install()
    subprocess.Popen = Theirs  # type: ignore[misc,assignment]
    uninstall()
    assert there() == [Theirs, *STANDARD[1:]]


def test_somebody_elses_earlier_replacement_comes_back() -> None:
    """What install finds is what uninstall puts back, though it is not the standard library's."""

    class Theirs(subprocess.Popen[bytes]):
        pass

    subprocess.Popen = Theirs  # type: ignore[misc,assignment]
    with install():
        assert there() == OURS
    assert there() == [Theirs, *STANDARD[1:]]


def test_asyncio_honours_a_later_popen() -> None:
    """Where another library has replaced Popen after install, our asyncio functions start through that one."""
    asked = []

    class Theirs(STANDARD[0]):  # type: ignore[misc,valid-type]
        def _execute_child(self, *arguments: object) -> None:
            asked.append(arguments[0])
            super()._execute_child(*arguments)

    async def start() -> int:
        return await (await asyncio.create_subprocess_exec("sh", "-c", "exit 6")).wait()

    with install():
        subprocess.Popen = Theirs  # type: ignore[misc]
        assert asyncio.run(start()) == 6
    assert asked == [("sh", "-c", "exit 6")]


def test_the_standard_functions_go_through_templates() -> None:
    """run, call, check_call, check_output, getoutput and os.popen start by templates while installed."""
    shell = os.path.basename("/bin/sh")
    before = spawned(shell)
    with install(), all_ours():
        assert subprocess.run(["/bin/sh", "-c", "exit 3"], check=False).returncode == 3
        assert subprocess.call(["/bin/sh", "-c", "exit 4"]) == 4
        assert subprocess.check_call(["/bin/sh", "-c", "exit 0"]) == 0
        assert subprocess.check_output("echo a", shell=True) == b"a\n"
        assert subprocess.getoutput("echo b") == "b"
        with os.popen("echo c; exit 5") as stream:
            assert stream.read() == "c\n"
            assert os.waitstatus_to_exitcode(stream.close() or 0) == 5
        assert spawned(shell) - before == 6
    assert subprocess.run(["/bin/sh", "-c", "exit 3"], check=False).returncode == 3
    assert spawned(shell) - before == 6


def test_asyncio_goes_through_templates() -> None:
    """create_subprocess_exec and _shell, and the loop's own subprocess_exec, start by templates while installed."""

    async def host() -> list[int | None]:
        loop = asyncio.get_running_loop()
        protocol = asyncio.subprocess.SubprocessStreamProtocol(2**16, loop)
        transport, _ = await loop.subprocess_exec(lambda: protocol, "/bin/sh", "-c", "exit 3")
        process = asyncio.subprocess.Process(transport, protocol, loop)
        children = [
            process,
            await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 4"),
            await asyncio.create_subprocess_shell("exit 5"),
        ]
        return [await child.wait() for child in children]

    before = spawned("sh")
    with install(), all_ours():
        assert asyncio.run(host()) == [3, 4, 5]
    assert spawned("sh") - before == 3


def test_many_threads_may_install_at_once() -> None:
    """Eight threads that install and uninstall leave the standard library as it was."""
    start = threading.Barrier(8)

    def work(_: int) -> None:
        start.wait()
        for _ in range(200):
            with install():
                pass

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert there() == STANDARD


def test_before_anything_else_is_imported() -> None:
    """Installed first thing, it also reaches what imports `Popen` and asyncio's functions by name afterwards."""

    def host() -> list[object]:
        import elfolio

        elfolio.install()
        from asyncio import create_subprocess_exec
        from subprocess import Popen, check_output

        ours = [Popen is elfolio.Popen, create_subprocess_exec is elfolio.create_subprocess_exec]
        return [*ours, check_output(["/bin/sh", "-c", "echo a"], text=True), elfolio.stats().standard]

    assert in_fresh_host(host) == [True, True, "a\n", {}]
