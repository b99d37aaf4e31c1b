"""Real programs under PR_SET_MEMORY_MERGE: as many VMAs as were predicted; and memory that workers share."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from bench import ksm
from elfolio.live.host import policy_here
from elfolio.measure.record import RecordError

pytestmark = pytest.mark.skipif(
    not ksm.KSM.is_dir() or policy_here().version < (6, 7),
    reason="needs a kernel with KSM, 6.7 or later; to force: boot one",
)


@pytest.mark.root
@pytest.mark.parametrize("name", ["python", "cc"])
def test_as_many_mappings_as_predicted(name: str, tmp_path: Path) -> None:
    """Python with many modules, and a compiler with all that it starts: the VMAs of every process are those of the
    replay, with the prctl and without; those with it were predicted from a run without it. A kernel that sets the flag
    late would have more."""
    if shutil.which("cc") is None:
        pytest.skip("needs cc; to force: apt-get install gcc")
    source = tmp_path / "x.c"
    source.write_text("int main(void) { return 0; }\n")
    build = [shutil.which("cc") or "cc", "-O2", "-o", str(tmp_path / "x"), str(source)]
    words = {"python": [sys.executable, "-c", ksm.IMPORTS], "cc": build}
    here = policy_here()
    try:
        paths = ksm.recorded(words[name], tmp_path)
    except RecordError as error:
        pytest.skip(f"this process may not trace: {error}; to force: run it outside of the sandbox")
    found = ksm.counted(*paths, own=here, late=here.switched(ksm_early_flag="late"), early=here)
    assert found.unlike == 0
    assert found.live == found.early
    if here["ksm_early_flag"] != "late":
        assert found.live == found.plain == found.without < found.late


@pytest.mark.root
@pytest.mark.slow
def test_workers_share_their_memory() -> None:
    """16 workers with memory_merge=True and the same addresses give back more than half of their memory; ksmd's
    settings are afterwards what they were."""
    if shutil.which("setarch") is None or not os.access(ksm.KSM / "run", os.W_OK):
        pytest.skip("needs setarch and a writable /sys/kernel/mm/ksm; to force: apt-get install util-linux")
    names = ("run", "pages_to_scan", "sleep_millisecs")
    before = [(ksm.KSM / name).read_text() for name in names]
    shared = ksm.workers(16, fixed=True)
    assert [(ksm.KSM / name).read_text() for name in names] == before
    assert shared.after < shared.before / 2
    assert shared.merged > shared.before / 2
    assert 0 < shared.profit < shared.before
