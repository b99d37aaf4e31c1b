"""load where memory is short: in a small cgroup, and where no free block is as large as a huge page."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import elfolio
from elfolio.pagecache.load_compare import drop_file
from tests.pagecache.files import HUGE, M, need_cold
from tests.pagecache.fragmenting import fragmented

pytestmark = pytest.mark.root

LIMIT, SIZE = 96 * M, 256 * M


def group() -> tuple[Path, str]:
    """A new memory cgroup's folder, and the name of its limit."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        point = Path(before.split()[4], f"elfolio-{os.getpid()}")
        if kind == "cgroup" and "memory" in options.split(","):
            return point, "memory.limit_in_bytes"
        if kind == "cgroup2" and "memory" in (point.parent / "cgroup.subtree_control").read_text().split():
            return point, "memory.max"
    pytest.skip("no memory cgroup is mounted; to force: mount -t cgroup -o memory cgroup FOLDER")


@pytest.fixture
def small() -> Iterator[Path]:
    folder, limit = group()
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"{folder}: {error.strerror}; to force: mount it for writing, as outside of a container")
    try:
        (folder / limit).write_text(str(LIMIT))
        yield folder
    finally:
        folder.rmdir()


IN_GROUP = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
import elfolio
for way in ("auto", "mmap", "readahead", "read", "direct"):
    try:
        with elfolio.load(sys.argv[2], strategy=way) as loaded:
            view = loaded.view()
            right = all(view[at] == at >> 20 & 255 for at in range(0, len(view), 1 << 20))
            view.release()
            print(way, right, any("on demand" in why for why in loaded.report.why))
    except OSError as error:
        print(way, error.errno, "can be had" in str(error))
"""


def test_more_than_its_cgroup_may_have(small: Path, tmp_path: Path) -> None:
    """Of a file larger than the cgroup's limit every byte is right, by a mapping that is read beforehand only in part;
    a copy is ENOMEM. Nobody is killed."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        for at in range(SIZE // M):
            file.write(bytes([at & 255]) * M)
    need_cold(path)
    words = [sys.executable, "-c", IN_GROUP, str(small), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "auto True True",
        "mmap True True",
        "readahead True True",
        "read 12 True",
        "direct 12 True",
    ]


@pytest.mark.slow
def test_a_reservation_gives_its_blocks_to_the_load(tmp_path: Path) -> None:
    """With memory fragmented so that no huge block is free, a load after reserve() lies on huge pages, all of it; one
    without loses many. A minute, and most of the machine's memory."""
    size = 1024 * M
    path = tmp_path / "file"
    with path.open("wb") as file:
        for _ in range(size // M):
            file.write(os.urandom(M))
    shares = {}
    for held in (0, size + 76 * M):
        reservation = elfolio.reserve(held) if held else None
        with fragmented(2560 * M):
            drop_file(str(path))
            with elfolio.load(path, strategy="mmap") as loaded:
                shares[bool(held)] = (loaded.report.huge_blocks or 0) / (size // HUGE)
        if reservation is not None:
            assert reservation.released == size
            reservation.close()
    assert shares[True] > 0.95
    assert shares[False] < 0.9
