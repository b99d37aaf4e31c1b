"""READ_ONLY_THP_FOR_FS: what is predicted of file systems without large folios, under kernels that collapse theirs."""

import errno
import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.lab import boot, built, kernels

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = Path(elfolio.__file__).resolve().parent.parent

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.network]


@functools.cache
def probed(version: str) -> dict[str, Any]:
    """What collapse.py says there; one boot for each kernel."""
    try:
        ended = boot.boot(
            built.collapsing_kernel(version),
            [sys.executable, "-m", "tests.lab.collapse"],
            env={"LANG": "C.UTF-8", "PYTHONPATH": f"{PACKAGES}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=ROOT,
            show=[PACKAGES, Path(sys.prefix), Path(sys.base_prefix)],
            timeout=540,
        )
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))
    assert ended.release.startswith(version), ended.console[-2000:]
    assert ended.returncode == 0, ended.stderr + ended.console[-2000:]
    print(f"Linux {ended.release}: booted in {ended.boot_seconds:.0f} s, done after {ended.seconds:.0f} s")
    seen: dict[str, Any] = json.loads(ended.stdout)
    return seen


@pytest.fixture(params=["6.1", "6.12"])
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Before and after 6.8, when mappings need no longer be executable."""
    return probed(str(request.param))


def test_madv_collapse_does_what_is_predicted(seen: dict[str, Any]) -> None:
    """Where the model says `collapse`, MADV_COLLAPSE puts every block into one folio; where it names an obstacle (a
    mapping that is not executable, before 6.8; a file open for writing), it is EINVAL, and none is."""
    for mapping, found in seen["collapse"].items():
        does = set(found["predicted"]) == {"collapse"}
        assert (found["errno"], found["huge"]) == ((0, 2) if does else (errno.EINVAL, 0)), mapping
    assert set(seen["collapse"]["r-x"]["predicted"]) == {"collapse"}
    assert set(seen["collapse"]["r-x writer"]["predicted"]) == {"writer"}


def test_before_6_8_a_mapping_must_be_executable() -> None:
    """The two kernels differ in that, as the model says."""
    assert set(probed("6.1")["collapse"]["r--"]["predicted"]) == {"not-exec"}
    assert set(probed("6.12")["collapse"]["r--"]["predicted"]) == {"collapse"}


def test_khugepaged_does_it_later(seen: dict[str, Any]) -> None:
    """MADV_HUGEPAGE alone makes nothing huge; khugepaged does, with its scan interval shortened, but not while somebody
    has the file open for writing."""
    alone, writer = seen["khugepaged"]["alone"], seen["khugepaged"]["writer"]
    assert (alone["at once"], alone["later"]) == (0, 2)
    assert (writer["at once"], writer["later"]) == (0, 0)


def test_warm_collapses_what_is_mapped(seen: dict[str, Any]) -> None:
    """warm needs no new file there: blocks that a process has mapped become huge too. Whoever opens the file for
    writing afterwards ends that, and changes no byte."""
    found = seen["warm"]
    assert (found["outcome"], found["had"], found["has"], found["wanted"]) == ("warmed", 0, 2, 2)
    assert (found["huge"], found["after a writer"], found["intact"]) == (2, 0, True)
