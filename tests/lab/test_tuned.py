"""`elfolio tune` for larger pages: programs linked for 4 KiB, on an emulated arm64 kernel with pages of 16 KiB."""

import shutil
import subprocess
from pathlib import Path

import pytest

from elfolio.layout.hugepages import Tier
from elfolio.pagecache.tuning import Wishes, examined, write
from tests.lab import boot, kernels

pytestmark = [pytest.mark.qemu("aarch64"), pytest.mark.slow]

SOURCE = """
#include <stdio.h>
static const char table[40000] = "table";
static char zeros[50000], data[30000] = "data";
__thread int counter = 7;
int main(void)
{
    volatile long sum = 0;
    for (int i = 0; i < 40000; i++)
        sum += table[i];
    for (int i = 0; i < 50000; i++)
        sum += zeros[i]++;
    data[29999] = 2;
    printf("%ld %s %d\\n", sum, data, counter);
    return 3;
}
"""
GCC = "aarch64-linux-gnu-gcc"
SAYS = "520 data 7\nstatus 3\n"


def test_a_program_linked_for_4_kib_runs_with_pages_of_16(tmp_path: Path) -> None:
    """It ends by a signal there before, and with what it should say after `tune --merge --page-size 16K`; without
    --merge it is refused, and what was joined is listed."""
    if shutil.which(GCC) is None:
        pytest.skip(f"needs {GCC}; to force: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    carried = tmp_path / "programs"
    carried.mkdir()
    (tmp_path / "a.c").write_text(SOURCE)
    linked, tuned = carried / "linked", carried / "tuned"
    options = ["-O1", "-static", "-Wl,-z,max-page-size=4096,-z,separate-code"]
    subprocess.run([GCC, *options, str(tmp_path / "a.c"), "-o", str(linked)], check=True)
    with examined(linked, Wishes(page=16384)) as subject:
        assert [refusal.reason for refusal in subject.plan.refusals] == ["pages"]
    with examined(linked, Wishes(page=16384, merge=True)) as subject:
        plan = subject.plan
        write(subject, str(tuned), check=True)
    assert plan.tier is Tier.MERGE
    assert [(joint.perms, joint.joined) for joint in plan.joints] == [
        (("r--", "r-x", "r--"), "r-x"),
        (("r--", "rw-"), "rw-"),
    ]
    assert any("RELRO" in note for note in plan.notes)
    script = "cd /run/lab/programs; for f in linked tuned; do ./$f; echo status $?; done"
    try:
        root = kernels.userland("arm64", ("bash", "coreutils", "dash", "util-linux"))
        kernel = kernels.kernel("6.12", "arm64-16k")
        ended = boot.boot(kernel, ["/bin/sh", "-c", script], root=root, carry={"programs": carried}, timeout=400)
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))
    assert ended.returncode == 0, ended.stderr + ended.console[-2000:]
    assert ended.stdout.endswith(SAYS)
    before = ended.stdout.removesuffix(SAYS)
    assert before.endswith(("status 139\n", "status 127\n", "status 126\n")), ended.stdout
