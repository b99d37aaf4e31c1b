"""The directory of task names: whose it is, and that it goes."""

import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import elfolio
from elfolio.spawn import names
from tests.spawn.probing import ROOT, in_fresh_host


def name_directories() -> set[str]:
    """The directories of names in both places they may be."""
    return {str(path) for base in ("/dev/shm", "/tmp") for path in Path(base).glob("elfolio-names-*")}


HOST = """
import elfolio, os, sys, signal
template = elfolio.SpawnTemplate(sys.argv[1])
template.spawn(["x", "/dev/null"]).wait()
from elfolio.spawn import names
print(names._links.folder, flush=True)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "fork":
    if not os.fork():
        elfolio.SpawnTemplate(sys.argv[1]).spawn(["x", "/dev/null"]).wait()
        print(names._links.folder, flush=True)
        sys.exit(0)
    os.wait()
    template.spawn(["x", "/dev/null"]).wait()
"""


def run_host(alias: Path, how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HOST, alias, how], cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == (-signal.SIGKILL if how == "kill" else 0)
    return done.stdout.split()


def test_the_directory_goes_with_the_process(probe_path: Path, open_folder: Path) -> None:
    """The directory is gone at exit; that of a killed process is swept by the next; a fork has its own."""
    alias = open_folder / "alias"
    alias.symlink_to(probe_path)
    (gone,) = run_host(alias, "exit")
    assert gone not in name_directories()
    parents, childs = run_host(alias, "fork")
    assert parents != childs
    assert not {parents, childs} & name_directories()
    (left,) = run_host(alias, "kill")
    assert left in name_directories()
    run_host(alias, "exit")
    assert left not in name_directories()
    assert names._links.folder is not None
    assert names._links.folder in name_directories()


def work(alias: str, answer: Connection) -> None:
    """What a worker does: it starts a program under another name, and tells where its links are."""
    with elfolio.SpawnTemplate(alias) as template:
        template.spawn(["x", "/dev/null"]).wait()
    answer.send(names._links.folder)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("busy", [False, True], ids=["", "parent-too"])
def test_the_directory_goes_with_a_worker(method: str, busy: bool, probe_path: Path, open_folder: Path) -> None:
    """A worker of multiprocessing, which ends without atexit, removes its directory, and no other's."""
    alias = open_folder / "alias"
    alias.symlink_to(probe_path)

    def host(alias: str, method: str, busy: bool) -> list[object]:
        import multiprocessing
        import os

        import elfolio
        from elfolio.spawn import names
        from tests.spawn.test_names_directory import work

        if busy:
            elfolio.SpawnTemplate(alias).spawn(["x", "/dev/null"]).wait()
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        worker = context.Process(target=work, args=(alias, theirs))
        worker.start()
        folder = ours.recv()
        worker.join()
        kept = names._links.folder
        return [os.path.exists(folder), folder != kept, (kept is not None and os.path.exists(kept)) == busy]

    assert in_fresh_host(host, str(alias), method, busy) == [False, True, True]


def test_multiprocessing_is_not_imported(probe_path: Path, open_folder: Path) -> None:
    """A host that has no workers does not pay for them."""
    alias = open_folder / "alias"
    alias.symlink_to(probe_path)

    def host(alias: str) -> list[object]:
        import sys

        import elfolio
        from elfolio.spawn import names

        elfolio.SpawnTemplate(alias).spawn(["x", "/dev/null"]).wait()
        return [names._links.folder is not None, any(name.startswith("multiprocessing") for name in sys.modules)]

    assert in_fresh_host(host, str(alias)) == [True, False]


def test_many_processes_make_their_directories_at_once(probe_path: Path, open_folder: Path) -> None:
    """Processes that start together do not sweep away each other's directories: every child has its name."""
    alias = open_folder / "alias"
    alias.symlink_to(probe_path)
    code = (
        "import elfolio, sys; from elfolio.spawn import names\n"
        "template = elfolio.SpawnTemplate(sys.argv[1])\n"
        "print(template.spawn(['x', '/dev/null']).wait(), *elfolio.stats().programs[sys.argv[1]].fallbacks)\n"
    )
    command = [sys.executable, "-c", code, str(alias)]
    for _ in range(3):
        hosts = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(12)]
        assert {host.communicate()[0] for host in hosts} == {"0\n"}


def test_a_directory_without_a_lock_yet() -> None:
    """One process's sweep meets another's directory between its making and its lock: the other notices."""

    def host() -> list[bool]:
        import fcntl
        import os

        from elfolio.spawn import names

        flock = fcntl.flock
        met: list[str] = []

        def sweeping(fd: int, how: int) -> None:
            if not met and not how & fcntl.LOCK_NB:
                met.append(os.readlink(f"/proc/self/fd/{fd}"))
                names._sweep(os.path.dirname(met[0]))  # as another process may, at the worst moment
                assert not os.path.exists(met[0])
            flock(fd, how)

        fcntl.flock = sweeping  # type: ignore[assignment]
        link = names.link_for(0, "zero")
        return [link is not None and os.path.islink(link), len(met) == 1]

    assert in_fresh_host(host) == [True, True]


def test_the_directory_goes_though_no_descriptor_is_left(probe_path: Path, open_folder: Path) -> None:
    """A process that exits with every descriptor in use removes its directory all the same."""
    alias = open_folder / "alias"
    alias.symlink_to(probe_path)
    code = (
        "import elfolio, os, resource, sys; from elfolio.spawn import names\n"
        "with elfolio.SpawnTemplate(sys.argv[1]) as template: template.spawn(['x', '/dev/null']).wait()\n"
        "print(names._links.folder, flush=True)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "while True:\n"
        "    try: os.open('/dev/null', 0)\n"
        "    except OSError: break\n"
    )
    gone = subprocess.check_output([sys.executable, "-c", code, alias], cwd=ROOT, text=True).strip()
    assert gone not in name_directories()
