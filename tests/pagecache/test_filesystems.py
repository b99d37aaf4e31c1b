"""What is predicted of each file system is what its page cache has: loop mounts of ext4, xfs, btrfs, erofs; tmpfs."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elfolio.kernel.blocks import Way
from elfolio.kernel.prediction import predict
from elfolio.live.cached import look
from elfolio.live.host import policy_here
from elfolio.live.opened import opened
from elfolio.pagecache.probe import probe
from elfolio.pagecache.replace import NewFile
from elfolio.pagecache.warm import Outcome, warm
from elfolio.pagecache.window import Window
from elfolio.span import Span
from tests.pagecache.files import HUGE, K, M, huge_pages_when_run, mapped_at, needs_gcc, program, small_folios
from tests.pagecache.mounts import mounted, overlaid

pytestmark = [pytest.mark.root, pytest.mark.slow]

KINDS = ["ext4", "xfs", "btrfs", "erofs", "tmpfs"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Each kind of file system, with a program of 8 MiB of text on it and a file of 8 MiB."""
    kind, tree = str(request.param), tmp_path / "tree"
    tree.mkdir()
    program(tree / "program", 8 * M, "-no-pie")
    small_folios(tree / "file", 8 * M)
    with mounted(kind, tmp_path, tree=tree if kind == "erofs" else None) as point:
        if kind != "erofs":
            for name in ("program", "file"):
                (point / name).write_bytes((tree / name).read_bytes())
                (point / name).chmod(0o755)
        yield point


def predicted(path: Path) -> int:
    """Blocks that explain says could be huge mappings by a fault."""
    with opened(path) as found, opened(found.image.interpreter or "") as loader:
        prediction = predict(found.image, loader.image, policy_here(str(path)), file=found.file)
    return sum(
        block.way is Way.FAULT and not block.writable
        for run in prediction.runs
        if run.size == HUGE
        for block in run.blocks
    )


def largest(path: Path) -> int:
    """Bytes of the largest folio that the file has in the page cache."""
    with path.open("rb") as file:
        return 4096 << max(look(file.fileno()).orders(), default=0)


@needs_gcc
def test_a_program_is_on_the_huge_pages_that_were_predicted(place: Path) -> None:
    """As many blocks as explain predicts have their folio once the file is warm, and are huge mappings when it runs;
    where it predicts none, warm refuses, no folio is that large, and no mapping is."""
    path = place / "program"
    blocks = predicted(path)
    found = warm(str(path))
    assert huge_pages_when_run(path) == blocks
    if blocks:
        assert (found.has, found.wanted) == (blocks, blocks)
        assert largest(path) >= HUGE
    else:
        assert found.outcome is Outcome.REFUSED
        assert "gives no folios of 2 MiB" in found.why
        assert largest(path) < HUGE


@needs_gcc
def test_no_folio_is_larger_than_predicted(place: Path) -> None:
    """Written, read, warmed: the largest folio is at most what the policy says, and is that large where it says more
    than a page."""
    policy = policy_here(str(place / "file"))
    assert largest(place / "file") <= policy.largest_folio
    warm(str(place / "file"))
    assert largest(place / "file") == policy.largest_folio


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_the_probe_agrees(kind: str, tmp_path: Path) -> None:
    """A scratch file finds the same."""
    with mounted(kind, tmp_path) as point:
        assert probe(point).largest == policy_here(str(point)).largest_folio


def test_room_that_lacks_is_found_before_anything_is_written(tmp_path: Path) -> None:
    """A file system that is too full for the new file keeps the old one, and as much room as before."""
    with mounted("tmpfs", tmp_path, "size=6M") as point:
        data = small_folios(point / "file", 4 * M)
        with pytest.raises(OSError, match="No space") as caught:
            NewFile(point / "file", 4 * M).__enter__()
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(point / "file"))
        assert (point / "file").read_bytes() == data
        room = os.statvfs(point)
        assert room.f_bavail * room.f_frsize == 2 * M


@pytest.mark.parametrize("upper", ["ext4", "tmpfs"])
def test_an_overlay_has_the_folios_of_its_layers(upper: str, tmp_path: Path) -> None:
    """A container's file, on a layer that gives large folios, is warmed through the overlay, whatever the layer is that
    takes changes; and replaced there, as any other."""
    (tmp_path / "above").mkdir()
    with (
        mounted("ext4", tmp_path) as lower,
        mounted(upper, tmp_path / "above") as changes,
        overlaid(lower, changes, tmp_path) as point,
    ):
        data = small_folios(lower / "file", 4 * M)
        predicted = policy_here(str(point / "file"))
        assert (predicted.fs.title, predicted.largest_folio) == ("overlay over ext4", predicted.pmd_size)
        assert policy_here(str(point)).fs.layer == upper  # where new files would be
        found = warm(str(point / "file"))
        assert (found.had, found.has, found.wanted) == (0, 2, 2)
        with NewFile(point / "file", 3) as new:
            new.write(0, b"new")
            new.commit()
        assert (point / "file").read_bytes() == b"new"
        assert [path.name for path in point.iterdir() if path.name.startswith(".")] == []
        assert (lower / "file").read_bytes() == data


# --- collapse ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["huge=never", "huge=advise", "huge=within_size", "huge=always"])
def test_files_in_memory_are_collapsed_mapped_or_not(option: str, tmp_path: Path) -> None:
    """On tmpfs nothing can be dropped: MADV_COLLAPSE makes the folios, whatever the mount says of huge pages, and of
    pages too that a process has mapped, which keeps what it reads."""
    with mounted("tmpfs", tmp_path, option) as point:
        data = small_folios(point / "file", 8 * M + 300 * K)
        with mapped_at(point / "file", *range(0, 8 * M, M)) as process:
            found = warm(str(point / "file"))
            assert (found.has, found.wanted, found.is_warm) == (4, 4, True)
            assert process.communicate("go", timeout=60)[0] == f"{data[0]}\n"
        assert (point / "file").read_bytes() == data


def test_a_file_open_for_writing_is_collapsed_in_memory_only(tmp_path: Path) -> None:
    """tmpfs collapses what somebody writes to; where READ_ONLY_THP_FOR_FS does it for others, they refuse it
    (tests/lab), and without that, as here, they refuse always."""
    with mounted("tmpfs", tmp_path) as point, mounted("ext4", _made(tmp_path / "ext4")) as other:
        said = {}
        for folder in (point, other):
            small_folios(folder / "file", 4 * M)
            with (folder / "file").open("r+b") as file, Window(file.fileno(), 4 * M, HUGE, executable=True) as window:
                said[folder] = window.collapse(Span(0, 4 * M).blocks(HUGE))
        collapses = Path("/sys/kernel/mm/transparent_hugepage/file_enabled").exists()
    assert said[point] == 0
    assert said[other] == errno.EINVAL or collapses


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


KHUGEPAGED = Path("/sys/kernel/mm/transparent_hugepage/khugepaged")
WAITS = """
import ctypes, mmap, re, sys, time
file = open(sys.argv[1], "r+b")
mapped = mmap.mmap(file.fileno(), 8 << 20)
for _ in range(2):  # with huge=advise the first call enters no process into khugepaged's list: it asks the old flags
    mapped.madvise(14)
total = sum(mapped[at] for at in range(0, 8 << 20, 4096))
for _ in range(600):
    text = open("/proc/self/smaps").read()
    entry = re.search(re.escape(sys.argv[1]) + r".*?VmFlags", text, re.S)[0]
    huge = sum(map(int, re.findall(r"(?:Shmem|File)PmdMapped: *([0-9]+)", entry)))
    if huge or sys.argv[2] == "once":
        break
    time.sleep(0.1)
    total += sum(mapped[at] for at in range(0, 8 << 20, 4096))
print(huge)
"""


@contextmanager
def hurried_khugepaged() -> Iterator[None]:
    """Scans without pause, until the context ends; its settings are put back."""
    hurried = {"scan_sleep_millisecs": "10", "pages_to_scan": "65536", "alloc_sleep_millisecs": "10"}
    before = {name: (KHUGEPAGED / name).read_text() for name in hurried}
    try:
        for name, value in hurried.items():
            (KHUGEPAGED / name).write_text(value)
        yield
    finally:
        for name, value in before.items():
            (KHUGEPAGED / name).write_text(value)


def huge_after(path: Path, *, wait: bool) -> int:
    """Kilobytes of a mapping with MADV_HUGEPAGE that are on huge pages, at once or when khugepaged has been there."""
    words = [sys.executable, "-c", WAITS, str(path), "wait" if wait else "once"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
    return int(done.stdout)


def test_khugepaged_does_what_the_advice_asks_for(tmp_path: Path) -> None:
    """MADV_HUGEPAGE alone changes nothing of what is there; khugepaged makes it huge when it comes by, which with its
    scan interval shortened is soon."""
    with mounted("tmpfs", tmp_path, "huge=advise") as point:
        small_folios(point / "file", 8 * M)
        assert huge_after(point / "file", wait=False) == 0
        assert largest(point / "file") < HUGE
        with hurried_khugepaged():
            assert huge_after(point / "file", wait=True) > 0
        assert largest(point / "file") >= HUGE
