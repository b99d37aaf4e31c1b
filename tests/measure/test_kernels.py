"""measure.verify under other kernels, in virtual machines: each has its own policy, by its own version."""

import json
import os
import sys
from pathlib import Path

import pytest

import elfolio
from tests.lab import boot, kernels

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = Path(elfolio.__file__).resolve().parent.parent
PROGRAMS = (
    "/usr/bin/cat",
    "/usr/bin/bash",
    "/usr/bin/perl",
    "/usr/sbin/ldconfig",
    "/usr/bin/python3.11",
    "/usr/bin/git",
)

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


@pytest.mark.skipif(kernels.OWN != "amd64", reason="the odd programs are x86's; to force: run on x86-64")
@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_the_model_of_that_kernel(version: str) -> None:
    """Three hundred odd programs and six of this system's: the same VMAs, errno or signal as that kernel's policy says.
    The file system is tmpfs and 9p there: what ext4 does is this machine's to show."""
    programs = [path for path in PROGRAMS if os.path.exists(path)]
    try:
        ended = boot.boot(
            kernels.kernel(version),
            [sys.executable, ROOT / "tests/measure/elsewhere.py", "300", *programs],
            env={"LANG": "C.UTF-8", "PYTHONPATH": f"{PACKAGES}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=ROOT,
            show=[PACKAGES, ROOT, Path(sys.prefix), Path(sys.base_prefix)],
            timeout=280,
        )
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))
    assert ended.returncode == 0, ended.stderr + ended.console[-2000:]
    found = json.loads(ended.stdout)
    print(f"Linux {found['release']}: first instruction {found['first']}, objects {found['objects']}")
    assert found["release"].startswith(version)
    assert found["misses"] == []
    assert found["first"][0] == found["first"][1] >= 300
    assert found["objects"][0] == found["objects"][1] >= 3 * len(programs)
