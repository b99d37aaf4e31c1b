"""Cold templates under older kernels: what they promise holds there, or says that it does not."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.lab import boot, kernels

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = Path(elfolio.__file__).resolve().parent.parent

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

FILES = ("test_names.py", "test_template.py", "test_actions.py")
LEFT_OUT = (
    # Dozens of Python hosts take minutes in an emulator.
    "many_processes",
    "goes_with_the_process",
    "what_the_model_does",
    # Where every name needs a link, a host that drops its rights or skips its exit handlers leaves the directory
    # to whoever sweeps next.
    "stays_with_its_process",
    "execute_only",
)


def run(version: str, *command: str | Path, timeout: float) -> boot.Ended:
    """Runs this interpreter with `command` under that kernel, with this elfolio and this repository in sight."""
    try:
        return boot.boot(
            kernels.kernel(version),
            [sys.executable, *command],
            env={
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(PACKAGES),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
            },
            cwd=ROOT,
            show=[PACKAGES, Path(sys.prefix), Path(sys.base_prefix)],
            timeout=timeout,
        )
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))


@functools.cache
def probed(version: str) -> dict[str, Any]:
    """What inside.py says there; one boot for each kernel."""
    ended = run(version, ROOT / "tests/lab/inside.py", timeout=280)
    assert ended.release.startswith(version), ended.console[-2000:]
    assert ended.returncode == 0, ended.stderr + ended.console[-2000:]
    print(f"Linux {ended.release}: booted in {ended.boot_seconds:.0f} s, done after {ended.seconds:.0f} s")
    seen: dict[str, Any] = json.loads(ended.stdout)
    return seen


@pytest.fixture(params=["6.1", "6.12"])
def version(request: pytest.FixtureRequest) -> str:
    """A kernel of Debian 12, older than 6.14's names of tasks and 6.15's exit status of a pidfd."""
    return str(request.param)


@pytest.fixture
def seen(version: str) -> dict[str, Any]:
    """What the probes say under it."""
    return probed(version)


def test_names_are_those_of_a_normal_exec(seen: dict[str, Any]) -> None:
    """comm equals a normal exec's for programs, links, links to links and scripts, by descriptor and strict."""
    assert {"plain", "link", "script"} <= seen["names"].keys()
    assert {kind: set(names) for kind, names in seen["names"].items()} == {
        kind: {names[0]} for kind, names in seen["names"].items()
    }
    assert seen["names"]["link"][0] == "concatenate"
    assert seen["other_user"] == ["65534", "sh"]


def test_statuses(seen: dict[str, Any]) -> None:
    """An exit status is the program's, a signal its negative."""
    assert seen["statuses"] == [0, 7, 255, -15, -9]


def test_descriptors_are_closed(seen: dict[str, Any]) -> None:
    """An inheritable descriptor reaches a child that it is passed to, or that inherits all, and no other."""
    assert seen["descriptors"] == {"descriptor": [1, 0, 0], "strict": [1, 0, 0]}


def test_an_unknowable_status_is_an_error(seen: dict[str, Any]) -> None:
    """Where the host ignores SIGCHLD, and the kernel keeps no status for a pidfd, wait raises and invents none."""
    assert seen["ignored_children"].startswith("ChildProcessError: [Errno 10]")
    assert "SIGCHLD" in seen["ignored_children"]


def test_a_changed_file_is_seen(seen: dict[str, Any]) -> None:
    """A spawn is ESTALE after its file was overwritten, and after its path leads to another one."""
    assert seen["changed_file"] == ["ESTALE", "ESTALE"]


def test_a_write_at_once_behind_a_change_is_seen(seen: dict[str, Any]) -> None:
    """A template made of a file that has just been written sees the next write, though the size is the same."""
    assert seen["unnoticed_writes"] == 0


def test_a_lease_works(seen: dict[str, Any]) -> None:
    """A file on a temporary file system is leased, and still in nobody's way when it has ended."""
    assert seen["lease"]["leased"] is True
    assert seen["lease"]["status"] == -9


def test_a_tree_is_killed(seen: dict[str, Any]) -> None:
    """kill_tree ends child, grandchild, one in another session and an orphan, with a private cgroup and without."""
    assert seen["kill_tree"] == {"plain": [-9, 3, True], "private cgroup": [-9, 3, True]}


def test_memory_merge(version: str, seen: dict[str, Any]) -> None:
    """memory_merge names itself and EINVAL where prctl does not know it (before Linux 6.4), and else works."""
    refused = "EINVAL: [Errno 22] memory_merge: Invalid argument; it needs Linux 6.4, built with CONFIG_KSM"
    assert seen["memory_merge"] == (refused if version == "6.1" else "0")


def test_many_spawns_leave_nothing(seen: dict[str, Any]) -> None:
    """500 spawns end with 0 and leave neither descriptor nor child; nothing was fallen back on: clone3 works."""
    assert seen["many"] == {
        "statuses": [0],
        "fallbacks": ["memory descriptor copied"],  # by other_user, as on any kernel
        "descriptors left": 0,
        "children left": False,
    }


def test_the_everyday_tests_pass() -> None:
    """Templates, names and actions pass their own tests under the oldest kernel."""
    files = [path for name in FILES if (path := ROOT / "tests/spawn" / name).exists()]
    if not files:
        pytest.skip("there are no tests of the spawn room; to force: write them")
    chosen = ["-k", " and ".join(f"not {name}" for name in LEFT_OUT), "-m", "not slow"]
    ended = run("6.1", "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, *files, timeout=540)
    assert ended.returncode == 0, ended.stdout + ended.stderr + ended.console[-2000:]
