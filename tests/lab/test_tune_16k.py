"""elfolio tune --merge: programs for arm64 that were linked for pages of 4 KiB, under kernels with pages of 16 and of
4 KiB, emulated. What fails there before runs there afterwards, and what explain says of each is what happens."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import boot, kernels
from tests.tune.checker import check
from tests.tune.driver import elfolio
from tests.tune.raw import PF_W, PF_X, load

pytestmark = [pytest.mark.qemu("aarch64"), pytest.mark.slow]

GCC = "aarch64-linux-gnu-gcc"
SOURCE = Path(__file__).parents[1] / "tune/exercise.c"
PACKAGES = ("base-files", "coreutils", "dash", "util-linux")
SMALL = ("-Wl,-z,max-page-size=4096", "-Wl,-z,common-page-size=4096")
APART = "-Wl,-z,separate-code"
MERGED: dict[str, tuple[str, ...]] = {
    "pie": (APART,),
    "exec": (APART, "-no-pie"),
    "static": (APART, "-static"),
    "static-pie": (APART, "-static-pie"),
    "norelro": (APART, "-Wl,-z,norelro"),
}
"""Constants stand between text and data."""
BESIDE: dict[str, tuple[str, ...]] = {
    f"beside-{size}": ("-Wl,-z,noseparate-code", f"-DTABLE={size}") for size in range(40000, 56000, 4000)
}
"""Text ends a page of 4 KiB before data begins: three of these four have both in one page of 16 KiB."""
RUN = 'for f in "$0"/*; do echo "== ${f##*/}"; "$f" 2>/dev/null; echo "status $?"; done'
ENDED = 7
"""Exit status of exercise.c."""


@dataclass(frozen=True)
class Programs:
    """Each linked for 4 KiB ("small"), that one tuned, and linked for 64 KiB ("large")."""

    folder: Path
    rows: dict[str, dict[str, Any]]
    """What tune said of each."""

    def path(self, kind: str, variant: str) -> Path:
        """One of them."""
        return self.folder / f"{kind}-{variant}"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Built and tuned here."""
    if shutil.which(GCC) is None:
        pytest.skip(f"needs {GCC}; to force: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    found = Programs(tmp_path_factory.mktemp("arm64"), {})
    for variant, options in {**MERGED, **BESIDE}.items():
        for kind, pages in (("small", SMALL), ("large", ("-Wl,-z,max-page-size=65536",))):
            command = [GCC, "-w", "-O1", "-o", found.path(kind, variant), SOURCE, *options, *pages]
            subprocess.run(command, check=True, capture_output=True)
        words = ("--merge", "--page-size", "16K", "--json", "-o")
        done = elfolio("tune", found.path("small", variant), *words, found.path("tuned", variant))
        found.rows[variant] = json.loads(done.stdout)["files"][0]
    return found


def _ended(programs: Programs, version: str, flavour: str) -> dict[str, tuple[str, int]]:
    """Output and status of each, under a kernel."""
    try:
        ended = boot.boot(
            kernels.kernel(version, flavour),
            ["/bin/sh", "-c", RUN, boot.CARRIED / "programs"],
            root=kernels.userland("arm64", PACKAGES),
            carry={"programs": programs.folder},
            timeout=540,
        )
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))
    assert ended.returncode == 0, ended.stdout + ended.stderr + ended.console[-2000:]
    parts = re.findall(r"^== (\S+)\n(.*?)^status (\d+)$", ended.stdout, re.MULTILINE | re.DOTALL)
    return {name: (text, int(status)) for name, text, status in parts}


def test_runs_where_it_could_not(programs: Programs) -> None:
    """Under 16 KiB each fails as it was linked, and runs as it was tuned, like one linked for 64 KiB."""
    found = _ended(programs, "6.12", "arm64-16k")
    for variant in MERGED:
        text, status = found[f"large-{variant}"]
        assert status == ENDED, variant
        assert found[f"small-{variant}"][1] > 125, f"{variant}: it was not to run"
        assert found[f"tuned-{variant}"] == (text, status), variant


def test_still_runs_where_it_did(programs: Programs) -> None:
    """Under 4 KiB all of them run, before and after."""
    found = _ended(programs, "6.1", "arm64")
    for variant in MERGED:
        small, tuned = (found[f"{kind}-{variant}"] for kind in ("small", "tuned"))
        assert small == tuned, variant
        assert tuned[1] == ENDED, variant


def test_explain_says_so(programs: Programs) -> None:
    """`explain --page-size 16K` finds errors in each before, and none afterwards."""
    for variant in MERGED:
        assert _errors(programs.path("small", variant)), variant
        assert not _errors(programs.path("tuned", variant)), variant


def _errors(path: Path) -> set[str]:
    done = elfolio("explain", "--page-size", "16K", "--policy", "linux-6.12", "--json", path)
    assert done.stdout, done.stderr
    return {f["id"] for f in json.loads(done.stdout)["findings"] if f["severity"] == "error"}


def test_joined_permissions_are_listed(programs: Programs) -> None:
    """The same program in memory under 16 KiB; what was joined is said, and nothing is writable and executable."""
    for variant in MERGED:
        row = programs.rows[variant]
        before, after = load(programs.path("small", variant)), load(programs.path("tuned", variant))
        assert check(before, after, merged=16384) == [], variant
        assert (row["status"], row["tier"]) == ("tuned", 2), variant
        assert ["r--", "r-x", "r--"] in [joint["perms"] for joint in row["joints"]], variant
        assert not any(s.flags & PF_W and s.flags & PF_X for s in after.loads), variant


def test_never_writable_and_executable(programs: Programs) -> None:
    """Text and data that would share a page of 16 KiB are refused, and nothing is written; where they do not, they
    are not."""
    refused = 0
    for variant in BESIDE:
        row = programs.rows[variant]
        text, data = load(programs.path("small", variant)).loads
        share = (text.vaddr + text.filesz - 1) // 16384 >= data.vaddr // 16384
        assert row["status"] == ("refused" if share else "tuned"), variant
        assert programs.path("tuned", variant).exists() is not share, variant
        assert not share or "write-and-execute" in [refusal["reason"] for refusal in row["refusals"]], variant
        refused += share
    assert refused
