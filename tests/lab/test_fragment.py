"""The simulation against this machine, whose memory is fragmented on purpose: bench/fragment.py, one level."""

import os
import tempfile
from pathlib import Path

import pytest

from bench import fragment
from bench.fragment_memory import LEFT, PAGE, available
from bench.fragment_seen import Level, apart, fill

LARGE = 12 << 30


def test_no_level_was_used_for_calibration() -> None:
    """The levels that are checked are others than those that the model's constants were set by."""
    assert not set(fragment.CHECK) & set(fragment.CALIBRATION)


@pytest.mark.slow
@pytest.mark.root
def test_a_file_gets_the_folios_that_are_simulated() -> None:
    """Half of the file's blocks are free, every other block has a page that cannot move: what it gets is what was
    predicted from the page flags, by no more than 15 points a group; and all memory is given back."""
    if os.sysconf("SC_PHYS_PAGES") * PAGE < LARGE or available() < LEFT + (6 << 30):
        pytest.skip("needs 12 GiB of memory with 9 available; to force: a machine with more")
    before = available()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        fill(Path(folder) / "file")
        found = apart(Level(0.5, 4, 1.0), f"{folder}/file")
    assert found is not None
    assert max(abs(a - b) for a, b in zip(found.got, fragment.simulated(found), strict=True)) <= 0.15
    assert available() > before - (2 << 30)
