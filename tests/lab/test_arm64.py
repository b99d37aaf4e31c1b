"""Warm templates on aarch64, emulated: equal to cold ones, with pages of 4 and of 16 KiB."""

import json
from pathlib import Path

import pytest

from tests.lab import boot, foreign, kernels

pytestmark = [pytest.mark.qemu("aarch64"), pytest.mark.slow]

EXAMPLES = 20
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> foreign.Foreign:
    """What the machine has and carries."""
    try:
        return foreign.prepare("arm64", tmp_path_factory.mktemp("arm64"))
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))


@pytest.mark.parametrize(("version", "flavour", "page"), [("6.1", "arm64", 4096), ("6.12", "arm64-16k", 16384)])
def test_warm_equals_cold(arm64: foreign.Foreign, version: str, flavour: str, page: int) -> None:
    """Everyday programs run warm and end as after a normal start; the mirror sees the same warm and cold, and 95% of
    what starts runs warm."""
    try:
        ended = boot.boot(
            kernels.kernel(version, flavour),
            ["/usr/bin/python3", boot.CARRIED / "tests/lab/warm.py", str(EXAMPLES)],
            env={"LANG": "C.UTF-8", "PYTHONPATH": str(boot.CARRIED), "PYTHONDONTWRITEBYTECODE": "1"},
            root=arm64.root,
            carry=arm64.carry,
            timeout=540,
        )
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))
    assert ended.returncode == 0, ended.stdout + ended.stderr + ended.console[-2000:]
    print(f"Linux {ended.release}: booted in {ended.boot_seconds:.0f} s, done after {ended.seconds:.0f} s")
    seen = json.loads(ended.stdout)
    assert (seen["machine"], seen["page"]) == ("aarch64", page)
    for program, starts in seen["programs"].items():
        assert starts["warm"] == [["warm", *starts["normal"]]] * 3, program
    counts = seen["mirrored"]
    assert counts["examples"] >= EXAMPLES
    assert counts["warm"] >= 0.95 * counts["started"] > 0, counts
