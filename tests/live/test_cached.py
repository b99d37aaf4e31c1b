"""live.cached: a file's folios, against a slow reader of the same kernel files, and that looking changes nothing."""

import ctypes
import errno
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elfolio.kernel.folio import UNSEEN, Kind
from elfolio.live.cached import CachedFile, cachestat, look, open_quietly
from tests.live import slow_folios

PAGE = mmap.PAGESIZE
M = 1 << 20
K = 1 << 10


def write(path: Path, size: int, piece: int) -> Path:
    """A file written in pieces of so many bytes, and on the disk."""
    with open(path, "wb", 0) as file:
        for _ in range(size // piece):
            file.write(b"\x5a" * piece)
        os.fsync(file.fileno())
    return path


def drop(path: Path) -> None:
    """Out of the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seen(path: Path, start: int = 0, length: int | None = None) -> CachedFile:
    with open_quietly(path) as fd:
        return look(fd, start, length)


def orders(found: CachedFile) -> list[int | None]:
    """A page's order each; None for what is not cached."""
    out: list[int | None] = [None] * -(-found.size // found.page)
    for run in found.runs or ():
        out[run.start : run.end] = [run.order] * run.pages
    return out


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory on a disk: /tmp may be a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


WAYS = {"small pieces": 4 * K, "64 KiB": 64 * K, "one MiB": M, "huge": 4 * M}


@pytest.mark.root
@pytest.mark.parametrize("piece", WAYS.values(), ids=WAYS)
def test_orders_are_those_that_a_slow_reader_counts(folder: Path, piece: int) -> None:
    """Page for page the order is that of a reader that counts heads and tails one by one, however it was written."""
    path = write(folder / "file", 2 * M, min(piece, 2 * M))
    found = seen(path)
    with open(path, "rb") as file:
        assert orders(found) == slow_folios.orders_of(file.fileno(), 2 * M)
    assert (found.cached, found.hidden) == (2 * M, "")
    assert sum(found.orders().values()) == 2 * M
    assert {order: bytes >> 12 + order for order, bytes in found.orders().items()} == found.folios


@pytest.mark.root
def test_a_part_of_a_folio_has_the_folio_s_order(folder: Path) -> None:
    """A look that begins and ends within a folio says the folio's order, not that of what it saw of it."""
    path = write(folder / "file", 2 * M, 2 * M)
    whole = orders(seen(path))
    largest = max(order for order in whole if order is not None)
    if largest < 2:
        pytest.skip("no large folios here: try ext4 from Linux 6.16, or xfs")
    at = whole.index(largest)
    part = seen(path, (at + 1) * PAGE, 2 * PAGE)
    assert part.runs is not None
    assert [(run.start, run.pages, run.order, run.folios) for run in part.runs] == [(at + 1, 2, largest, 1)]
    assert (part.start, part.length, part.cached) == ((at + 1) * PAGE, 2 * PAGE, 2 * PAGE)


def test_a_cold_file_stays_cold(folder: Path) -> None:
    """Nothing is read from the disk, and nothing is cached afterwards that was not before."""
    path = write(folder / "file", 8 * M, M)
    drop(path)
    with open(path, "rb") as file:
        os.pread(file.fileno(), 1, 4 * M)
        before = slow_mincore(file.fileno(), 8 * M)
        assert 0 < sum(before) < 2048, "the file was not dropped: is this a tmpfs?"
        read = bytes_read()
        for _ in range(3):
            found = look(file.fileno())
        assert bytes_read() == read
        assert slow_mincore(file.fileno(), 8 * M) == before
        told = cachestat(file.fileno())
        assert told is None or told.cached == sum(before)
    assert found.cached == sum(before) * PAGE
    assert [order is not None for order in orders(found)] == before


def slow_mincore(fd: int, size: int) -> list[bool]:
    with slow_folios.mapped(fd, size) as address:
        return slow_folios.in_core(address, size)


def bytes_read() -> int:
    """From disks, by this process."""
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))


REFERENCED, LRU, ACTIVE = 1 << 2, 1 << 5, 1 << 6


@pytest.mark.root
@pytest.mark.parametrize("piece", [4 * K, 2 * M], ids=["small", "huge"])
def test_looking_is_no_use_of_a_page(folder: Path, piece: int) -> None:
    """Neither referenced nor active, and the access time as before: reclaim and other readers see no difference."""
    path = write(folder / "file", 2 * M, piece)
    drop(path)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        os.pread(file.fileno(), 2 * M, 0)
        frames = slow_folios.frames_of(file.fileno(), 2 * M)
    os.utime(path, (1, 1))
    marks = [marks_of(frame) for frame in frames]
    for _ in range(4):
        seen(path)
    assert [marks_of(frame) for frame in frames] == marks
    assert path.stat().st_atime == 1


def marks_of(frame: int | None) -> int:
    flags = 0 if frame is None else slow_folios.word("/proc/kpageflags", frame)
    return flags & (REFERENCED | ACTIVE)


def test_holes_are_not_cached(folder: Path) -> None:
    """What was never written or read has no folio, and a look makes none."""
    path = folder / "sparse"
    with open(path, "wb") as file:
        file.truncate(512 * M)
        file.seek(300 * M)
        file.write(b"x" * 8 * K)
    found = seen(path)
    assert found.cached == 8 * K
    assert [order is not None for order in orders(found)].index(True) == 300 * M // PAGE
    assert path.stat().st_blocks * 512 < M


def test_an_empty_file_has_nothing(folder: Path) -> None:
    """No bytes, no runs, no error."""
    (folder / "empty").touch()
    found = seen(folder / "empty")
    assert (found.size, found.cached, found.runs, found.orders(), found.hidden) == (0, 0, (), {}, "")


def test_what_is_dirty_is_said(folder: Path) -> None:
    """Bytes written and not on the disk are dirty; after fsync none are."""
    path = folder / "file"
    with open(path, "wb", 0) as file:
        file.write(b"x" * M)
        dirty = seen(path).dirty
        os.fsync(file.fileno())
    assert dirty == M
    after = seen(path)
    assert (after.dirty, after.writeback) == (0, 0)


@pytest.mark.root
def test_what_others_map_is_shared(folder: Path) -> None:
    """A folio that a process has mapped is marked, and one that only the look itself mapped is not."""
    path = write(folder / "file", 2 * M, M)
    with open(path, "rb") as file:
        with slow_folios.mapped(file.fileno(), PAGE) as address:
            ctypes.string_at(address, 1)
            shared = [run for run in seen(path).runs or () if run.kind & Kind.SHARED]
        assert shared
        assert shared[0].start == 0
        assert not [run for run in seen(path).runs or () if run.kind & Kind.SHARED]


def test_a_file_cut_short_under_the_look(folder: Path) -> None:
    """A file that others shorten and lengthen meanwhile gives an answer each time, and kills nobody (SIGBUS)."""
    path = folder / "file"
    path.write_bytes(b"x" * 16 * M)
    done = threading.Event()

    def cut() -> None:
        with open(path, "r+b", 0) as file:
            while not done.is_set():
                file.truncate(PAGE)
                file.truncate(16 * M)
                os.pwrite(file.fileno(), b"y" * 4 * M, 8 * M)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        for _ in range(30):
            found = seen(path)
            assert found.cached is not None
            assert 0 <= found.cached <= 16 * M
    finally:
        done.set()
        thread.join()


def test_a_tmpfs_has_a_page_cache_too() -> None:
    """Files of /dev/shm and memfds are seen, and holes in them stay holes."""
    fd = os.memfd_create("folios")
    try:
        os.ftruncate(fd, 4 * M)
        os.pwrite(fd, b"x" * M, M)
        found = look(fd)
        assert found.cached == M
        assert os.fstat(fd).st_blocks * 512 == M
        assert {run.kind & (Kind.FILE | Kind.SHMEM) for run in found.runs or ()} <= {Kind.FILE, Kind.FILE | Kind.SHMEM}
    finally:
        os.close(fd)


def test_hugetlb_pages_are_counted_and_not_made() -> None:
    """A file of hugetlbfs tells how much of it is allocated; a look allocates nothing."""
    try:
        fd = os.memfd_create("huge", os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"no hugetlbfs: {error.strerror}; to force: a kernel with CONFIG_HUGETLBFS")
    try:
        os.ftruncate(fd, 4 * M)
        found = look(fd)
        assert (found.cached, found.runs) == (0, None)
        assert "none is looked for" in found.hidden
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/proc/self/maps", errno.ENODEV),
        ("/proc/cpuinfo", errno.ENODEV),
        ("/sys/kernel/mm/transparent_hugepage/enabled", errno.ENODEV),
        ("/", errno.EISDIR),
        ("/dev/null", errno.EINVAL),
    ],
)
def test_what_has_no_page_cache_is_refused(path: str, number: int) -> None:
    """Files of /proc, directories and devices are refused with an errno of their own."""
    with pytest.raises(OSError) as caught:
        seen(Path(path))
    assert caught.value.errno == number


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    """A FIFO without a writer is refused at once."""
    os.mkfifo(folder / "pipe")
    with pytest.raises(OSError) as caught:
        seen(folder / "pipe")
    assert caught.value.errno == errno.EINVAL


AS_NOBODY = """
import ctypes, os, sys
from elfolio.live.cached import look, open_quietly
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, int(sys.argv[2]), 0, 0, 0)  # PR_SET_DUMPABLE: else /proc/self/pagemap is root's
with open_quietly(sys.argv[1]) as fd:
    found = look(fd)
print(found.cached, found.dirty, found.orders(), found.how, found.hidden.split(":")[0])
"""


def as_nobody(path: Path, dumpable: bool = True) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", AS_NOBODY, str(path), str(int(dumpable))]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.root
def test_one_s_own_file_without_privilege(folder: Path) -> None:
    """Its owner learns what is cached and dirty, and of folios those as large as a huge page."""
    os.chmod(folder, 0o755)
    path = write(folder / "file", 2 * M, 4 * K)
    huge = write(folder / "huge", 4 * M, 4 * M)
    for one in (path, huge):
        os.chown(one, 65534, 65534)
    assert as_nobody(path).startswith(f"{2 * M} 0 {{{UNSEEN}: {2 * M}}} ")
    truth = seen(huge).orders()
    rest = 4 * M - truth.get(9, 0)
    expected = ({UNSEEN: rest} if rest else {}) | ({9: truth[9]} if 9 in truth else {})
    assert as_nobody(huge).startswith(f"{4 * M} 0 {expected} ('mincore', 'pagemap', 'cachestat', 'PAGEMAP_SCAN')")


@pytest.mark.root
def test_without_pagemap_mincore_is_left(folder: Path) -> None:
    """A process that may not open its own pagemap, because it is not dumpable, still tells what is cached."""
    os.chmod(folder, 0o755)
    path = write(folder / "file", 2 * M, M)
    os.chown(path, 65534, 65534)
    assert as_nobody(path, dumpable=False).startswith(f"{2 * M} 0 {{{UNSEEN}: {2 * M}}} ('mincore', 'cachestat')")


@pytest.mark.root
def test_somebody_else_s_file_without_privilege(folder: Path) -> None:
    """mincore calls everything cached to those who may not know: that is seen, and said, and nothing is touched."""
    os.chmod(folder, 0o755)
    path = write(folder / "file", 2 * M, M)
    os.chmod(path, 0o644)
    drop(path)
    said = as_nobody(path)
    with open(path, "rb") as file:
        told = cachestat(file.fileno())
    assert told is None or told.cached == 0
    assert said.startswith(("None None {} () what is cached", "0 0 {} ('cachestat',) where it is cached"))


def test_progress_is_told(folder: Path) -> None:
    """Batch by batch, up to the whole."""
    path = folder / "sparse"
    with open(path, "wb") as file:
        file.truncate(600 * M)
    heard: list[tuple[int, int]] = []
    with open_quietly(path) as fd:
        look(fd, progress=lambda done, all: heard.append((done, all)))
    assert heard == [(256 * M, 600 * M), (512 * M, 600 * M), (600 * M, 600 * M)]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("piece", [4 * K, 2 * M], ids=["small", "huge"])
def test_a_look_costs_little_more_than_a_touch_of_each_page(folder: Path, piece: int) -> None:
    """Of a GiB, in processor time: at most six times what any reader of a mapped file pays."""
    path = write(folder / "file", 1024 * M, piece)
    with open(path, "rb") as file:
        touching = min(cost(lambda: touched(file.fileno(), 1024 * M)) for _ in range(5))
        looking = min(cost(lambda: look(file.fileno())) for _ in range(5))
    assert looking < 6 * touching + 0.02


def cost(work: Callable[[], object]) -> float:
    """In seconds of this process's processor time."""
    before = time.process_time()
    work()
    return time.process_time() - before


def touched(fd: int, size: int) -> None:
    """A byte of each 16 pages, which is how many a fault maps."""
    with slow_folios.mapped(fd, size) as address:
        for at in range(address, address + size, 16 * PAGE):
            ctypes.string_at(at, 1)
