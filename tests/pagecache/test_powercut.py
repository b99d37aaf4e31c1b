"""A replacement, and the power cut in it: what a disk then has is mounted again, and looked at."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pagecache.killed import found
from tests.pagecache.mounts import mounted, run

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_every_power_cut_leaves_a_whole_file(kind: str, tmp_path: Path) -> None:
    """Cut after any call, and amid any write, the name leads to the old file whole until the names are swapped, then
    to either of them whole, and to the new one once the directory has been forced to the disk."""
    copies = tmp_path / "copies"
    copies.mkdir()
    with mounted(kind, tmp_path) as point:
        words = [sys.executable, "-m", "tests.pagecache.cut", str(point), str(tmp_path / "image"), str(copies)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        root = Path(__file__).parent.parent.parent
        done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls = done.stdout.splitlines()
    states = [after_cut(kind, copies / f"{index:03}", tmp_path) for index in range(len(calls))]
    swapped, durable = calls.index("exchange after"), len(calls) - 1 - calls[::-1].index("fsync after")
    assert set(states[:swapped]) == {"old"}
    assert set(states[swapped:durable]) <= {"old", "new"}
    assert set(states[durable:]) == {"new"}
    assert len(calls) > 20


def after_cut(kind: str, image: Path, folder: Path) -> str:
    """What the name leads to once the journal has been replayed, and more if more is left than one hidden name."""
    point = folder / "cut"
    point.mkdir(exist_ok=True)
    # All copies have one UUID, and xfs may still be at the end of the last one.
    run("mount", "-o", "loop,nouuid" if kind == "xfs" else "loop", image, point)
    try:
        left = [name for name in os.listdir(point) if name.startswith(".")]
        return found(point / "file") + (f", and {left}" if len(left) > 1 else "")
    finally:
        run("umount", point)
        image.unlink()
