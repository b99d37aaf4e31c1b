"""load: the file's bytes by every strategy, whatever the range; errors that name the file; nothing left behind."""

import asyncio
import errno
import gc
import os
import random
import resource
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import elfolio
from elfolio import _native
from elfolio.pagecache import load_copied, load_job, load_mapped
from elfolio.pagecache.load_compare import CONTROL, compare, drop_file
from elfolio.pagecache.load_memory import Piece, discard
from tests.pagecache.files import HUGE, K, M, need_cold, need_huge_folios, small_folios

WAYS = ("auto", "mmap", "read", "readahead", "direct", "uncached")
COPIES = ("read", "direct", "uncached")
PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 9 * M + 123
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(7).randbytes(SIZE)


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    """A file of 9 MiB and a bit, on the disk, and not cached."""
    file = tmp_path / "file"
    file.write_bytes(content)
    drop_file(str(file))
    return file


def load(path: Path, way: str = "auto", **keywords: object) -> elfolio.LoadedFile:
    """Skips where the kernel or the file system has no such strategy."""
    try:
        return elfolio.load(path, strategy=way, **keywords)  # type: ignore[arg-type]
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip(f"{way}: {error.strerror}; --basetemp chooses another file system")
        raise


def mapped() -> int:
    """Bytes that a load may have mapped: what was advised on huge pages, and files that are no libraries. Stacks and
    heaps of threads that have ended, which the C library keeps for the next ones, are none of them."""
    total = size = 0
    is_file = False
    for line in Path("/proc/self/smaps").read_text(errors="surrogateescape").splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(word, 16) for word in words[0].split("-"))
            size, is_file = end - start, words[4] != "0" and ".so" not in line
        elif words[0] == "VmFlags:" and (is_file or "hg" in words):
            total += size
    return total


@contextmanager
def nothing_mapped() -> Iterator[None]:
    """No megabyte of a load's more afterwards than before."""
    gc.collect()
    before = mapped()
    yield
    gc.collect()
    assert mapped() - before < M


RANGES = ((0, None), (0, 1), (SIZE, None), (SIZE - 1, None), (PAGE, PAGE), (1, 2 * M), (2 * M - 5, 4 * M + 10), (77, 0))


@every_way
@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_the_bytes_are_the_files(path: Path, content: bytes, way: str, offset: int, length: int | None) -> None:
    """Each strategy gives exactly the bytes of the range, aligned or not, to the last one of the file."""
    end = SIZE if length is None else offset + length
    with load(path, way, offset=offset, length=length) as loaded:
        assert bytes(loaded.view()) == content[offset:end]
        assert len(loaded) == end - offset == loaded.report.length


@every_way
def test_an_empty_file_is_loaded(tmp_path: Path, way: str) -> None:
    """No bytes are no error."""
    (tmp_path / "empty").write_bytes(b"")
    with load(tmp_path / "empty", way) as loaded:
        assert bytes(loaded.view()) == b""


@every_way
def test_memory_goes_with_the_last_view(path: Path, content: bytes, way: str) -> None:
    """A view keeps the memory when the LoadedFile is gone; it is read-only; with it all is unmapped."""
    with nothing_mapped():
        view = load(path, way).view()
        gc.collect()
        assert view.readonly
        assert view[-5:] == content[-5:]
        del view


def test_close_refuses_while_a_view_lives(path: Path) -> None:
    """BufferError, and the memory stays; released, it closes; again, nothing; then there is no view."""
    loaded = load(path)
    view = loaded.view()
    with pytest.raises(BufferError, match="view"):
        loaded.close()
    assert view[0] == loaded.view()[0]
    view.release()
    gc.collect()
    loaded.close()
    loaded.close()
    assert loaded.address == 0
    with pytest.raises(ValueError, match="closed"):
        loaded.view()


def test_the_report_says_what_was_done(path: Path) -> None:
    """Bytes, time, processor, strategy, the way and the reason; auto names what it took."""
    with load(path) as loaded:
        report = loaded.report
    assert (report.path, report.offset, report.length) == (str(path), 0, SIZE)
    assert (report.asked, report.strategy) == ("auto", "mmap")
    assert report.how
    assert report.why
    assert report.seconds > 0
    assert report.rate == pytest.approx(SIZE / report.seconds / 1e9)
    assert report.processor_per_gb == pytest.approx(report.processor * 1e9 / SIZE)


@every_way
def test_progress_grows_to_the_whole(path: Path, way: str) -> None:
    """It is told bytes and all, never less than before, and at last everything."""
    told: list[tuple[int, int]] = []
    load(path, way, progress=lambda done, total: told.append((done, total))).close()
    assert told[-1] == (SIZE, SIZE)
    assert told == sorted(told)
    assert {total for _, total in told} == {SIZE}


@every_way
def test_an_interrupt_frees_everything(path: Path, way: str) -> None:
    """KeyboardInterrupt in the middle comes through, and leaves no memory, descriptor or thread."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    threads = threading.active_count()
    with nothing_mapped():
        with pytest.raises(KeyboardInterrupt):
            load(path, way, progress=stop)
        assert threading.active_count() == threads


@every_way
def test_a_cancelled_task_frees_everything(path: Path, way: str) -> None:
    """asyncio: a load in a thread, whose progress raises once its task was cancelled, ends, and leaves nothing."""
    descriptors = len(os.listdir("/proc/self/fd"))
    with nothing_mapped():
        asyncio.run(cancel_three(path, way))
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def cancel_three(path: Path, way: str) -> None:
    """At once."""
    stop = threading.Event()

    def tell(done: int, total: int) -> None:
        stop.wait(10)
        raise asyncio.CancelledError

    tasks = [asyncio.create_task(asyncio.to_thread(elfolio.load, path, strategy=way, progress=tell)) for _ in range(3)]
    await asyncio.sleep(0)
    stop.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError | OSError) for one in found)


def test_an_interrupt_of_threads_frees_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without io_uring too: the memory is given back, once, and only when no thread reads into it any more."""
    monkeypatch.setattr(_native, "ring_read", lambda *words: False)
    readers: list[int] = []
    real = discard
    before = threading.active_count()

    def given_back(piece: Piece) -> None:
        readers.append(threading.active_count() - before)
        real(piece)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(load_job, "discard", given_back)
    with pytest.raises(KeyboardInterrupt):
        load(path, "direct", progress=stop)
    assert readers == [0]


@every_way
def test_a_file_cut_short_is_an_error(path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that becomes shorter under the load is ESTALE with its name, no SIGBUS and no short data."""
    for module, name in ((load_mapped, "_STEP"), (load_copied, "_READ")):
        monkeypatch.setattr(module, name, 2 * M)

    def cut(done: int, total: int) -> None:
        os.truncate(path, 2 * M)

    with nothing_mapped(), pytest.raises(OSError, match="cut short") as caught:
        load(path, way, progress=cut)
    assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, str(path))


@every_way
def test_a_growing_file_is_what_it_was(path: Path, content: bytes, way: str) -> None:
    """What is appended meanwhile is left out."""

    def grow(done: int, total: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with load(path, way, progress=grow) as loaded:
        assert bytes(loaded.view()) == content


def raising(number: int) -> Callable[..., int]:
    def fail(*words: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@every_way
def test_a_disk_that_fails_is_eio(path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO with the file's name, and nothing is left, however the kernel says it: a mapping says EFAULT."""
    monkeypatch.setattr(_native, "populate", raising(errno.EFAULT))
    monkeypatch.setattr(os, "preadv", raising(errno.EIO))
    monkeypatch.setattr(_native, "ring_read", raising(errno.EIO))
    with nothing_mapped(), pytest.raises(OSError) as caught:
        load(path, way)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))


def test_an_old_kernel_reads(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MADV_POPULATE_READ auto takes read and says why; mmap by name is EOPNOTSUPP."""
    monkeypatch.setattr(_native, "populate", raising(errno.EINVAL))
    with elfolio.load(path) as loaded:
        assert (loaded.report.strategy, bytes(loaded.view())) == ("read", content)
        assert any("5.14" in why for why in loaded.report.why)
    with nothing_mapped(), pytest.raises(OSError, match=r"5\.14") as caught:
        elfolio.load(path, strategy="mmap")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_short_reads_go_on(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that gives less than asked is followed by another, in every way that reads."""
    real = os.preadv

    def short(fd: int, rooms: list[memoryview], offset: int, flags: int = 0) -> int:
        with rooms[0][: min(len(rooms[0]), 3 * PAGE)] as less:
            return real(fd, [less], offset, flags)

    monkeypatch.setattr(os, "preadv", short)
    monkeypatch.setattr(_native, "ring_read", lambda *words: False)
    for way in COPIES:
        with load(path, way) as loaded:
            assert bytes(loaded.view()) == content, way


@every_way
def test_signals_do_no_harm(path: Path, content: bytes, way: str) -> None:
    """Under a signal every tenth of a millisecond the bytes are right."""
    heard = 0

    def hear(number: int, frame: object) -> None:
        nonlocal heard
        heard += 1

    was = signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        with load(path, way) as loaded:
            assert bytes(loaded.view()) == content
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, was)
    assert heard


@pytest.mark.parametrize("has_ring", [True, False])
def test_direct_leaves_the_cache_alone(
    path: Path, content: bytes, has_ring: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By io_uring or by threads, and it says which; nothing of the file is cached afterwards."""
    if not has_ring:
        monkeypatch.setattr(_native, "ring_read", lambda *words: False)
    stayed = drop_file(str(path))  # all of it on tmpfs
    with load(path, "direct") as loaded:
        assert bytes(loaded.view()) == content
        assert has_ring or "threads" in loaded.report.how
        assert any(word in loaded.report.how for word in ("threads", "io_uring"))
        assert sum((loaded.orders() or {}).values()) < stayed + PAGE or "fell back" in " ".join(loaded.report.why)


def test_where_a_ring_is_refused_threads_read(path: Path, content: bytes) -> None:
    """A process that gets no io_uring, here for want of a descriptor, reads directly all the same."""
    free = [os.open(path, os.O_RDONLY) for _ in range(2)]
    for fd in free:
        os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, hard))
    try:
        loaded = load(path, "direct")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with loaded:
        assert "threads" in loaded.report.how
        assert bytes(loaded.view()) == content


def test_where_a_ring_gives_up_threads_read(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """ECANCELED is no fault of the file: the kernel had no worker for a request, as under many signals."""
    monkeypatch.setattr(_native, "ring_read", raising(errno.ECANCELED))
    with load(path, "direct") as loaded:
        assert "threads" in loaded.report.how
        assert bytes(loaded.view()) == content


def test_a_ring_tells_of_its_own_errors(path: Path) -> None:
    """A read that the kernel refuses is its errno; a ring deeper than there is room for is EINVAL."""
    with path.open("r+b") as file, elfolio.Buffer(M) as memory:
        if not _native.ring_read(file.fileno(), memory.address, 0, M, M, 64 * K, 4, None):
            pytest.skip("this process may have no io_uring; to force: echo 0 > /proc/sys/kernel/io_uring_disabled")
    with path.open("wb") as file, elfolio.Buffer(M) as memory:
        for number, fd, depth in ((errno.EBADF, file.fileno(), 4), (errno.EINVAL, file.fileno(), 65)):
            with pytest.raises(OSError) as caught:
                _native.ring_read(fd, memory.address, 0, M, M, 64 * K, depth, None)
            assert caught.value.errno == number


def test_cold_comes_in_huge_folios(path: Path) -> None:
    """Where the file system gives them, all whole blocks lie in huge folios after auto."""
    need_huge_folios(path.parent)
    with load(path) as loaded:
        orders = loaded.orders()
    assert loaded.report.cached_before == 0
    if orders is None or -1 in orders:
        pytest.skip("frame numbers are hidden; to force: run as root")
    assert sum(count for order, count in orders.items() if order >= 9) >= 8 * M


def test_what_is_cached_is_mapped(path: Path) -> None:
    """Nothing is read again, and it says so; small folios are named, with the mend."""
    small_folios(path, 8 * M)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read()
    with load(path) as loaded:
        assert "100% of it is in the page cache: mapped as it is" in loaded.report.why
        assert any("elfolio warm" in why for why in loaded.report.why)


def test_orders_are_of_the_file_that_was_loaded(path: Path) -> None:
    """Once the name leads to another file, or none, they are None."""
    with load(path) as loaded:
        assert loaded.orders() is not None
        small_folios(path.parent / "other", M)
        (path.parent / "other").rename(path)
        assert loaded.orders() is None
        path.unlink()
        assert loaded.orders() is None


def test_huge_folios_are_not_called_small(path: Path) -> None:
    """After a load of whole blocks the next one has nothing to complain of."""
    need_huge_folios(path.parent)
    load(path).close()
    with load(path) as loaded:
        assert not any("smaller" in why for why in loaded.report.why)


def test_scraps_in_the_cache_are_mended(path: Path, content: bytes) -> None:
    """Of a huge page cached in part, that part is dropped, and all is read in whole blocks."""
    need_huge_folios(path.parent)
    with path.open("rb", 0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), PAGE, 3 * M)
    with load(path) as loaded:
        assert any("cached in part" in why for why in loaded.report.why)
        orders = loaded.orders() or {}
        assert bytes(loaded.view()) == content
    if -1 not in orders:
        assert orders.get(9, 0) >= 8 * M


def test_huge_pages_are_counted(path: Path) -> None:
    """The report says how many whole huge pages there are, and how many of them lie in one folio, cold and warm; of
    small folios none do, it says so, and every page of theirs is mapped all the same."""
    need_huge_folios(path.parent)
    for _ in ("cold", "warm"):
        with load(path) as loaded:
            assert (loaded.report.blocks, loaded.report.huge_blocks) == (SIZE // HUGE, SIZE // HUGE)
    small_folios(path, SIZE)
    with load(path) as loaded:
        assert (loaded.report.blocks, loaded.report.huge_blocks) == (SIZE // HUGE, 0)
        with open("/proc/self/pagemap", "rb", 0) as pagemap:
            count = -(-SIZE // PAGE)
            entries = os.pread(pagemap.fileno(), 8 * count, loaded.address // PAGE * 8)
        assert len(entries) == 8 * count
        assert all(entry >> 63 for (entry,) in struct.iter_unpack("Q", entries))


def test_where_none_came_it_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folios that were read, and are smaller than asked for, are a reason in the report."""
    need_cold(path)
    monkeypatch.setattr(_native, "populate", lambda *words: (1, 0))
    with load(path) as loaded:
        assert any("came in smaller folios" in why for why in loaded.report.why)


def test_huge_folios_in_vain(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once compaction fails and huge pages do not come, the rest is read into small folios, in the same mapping."""
    need_cold(path)
    count = 0

    def grows() -> int:
        nonlocal count
        count += load_mapped._FAILED
        return count

    real = _native.populate
    monkeypatch.setattr(load_mapped, "_STEP", 2 * HUGE)
    monkeypatch.setattr(load_mapped, "_AHEAD", HUGE)
    monkeypatch.setattr(load_mapped, "_failures", grows)
    monkeypatch.setattr(_native, "populate", lambda *words: (real(*words)[0], 0))
    for offset in (0, 4097, HUGE + 1):
        drop_file(str(path))
        with load(path, offset=offset) as loaded:
            assert bytes(loaded.view()) == content[offset:]
            assert "WILLNEED" in loaded.report.how
            assert any("failed to make huge pages" in why for why in loaded.report.why)


def test_numpy_has_no_copy(path: Path, content: bytes) -> None:
    """An array is a read-only view of the very memory, and keeps it when the LoadedFile is gone."""
    numpy = pytest.importorskip("numpy", reason="needs the package; to force: pip install numpy")
    loaded = load(path)
    address = loaded.address
    array = numpy.frombuffer(loaded, dtype=numpy.uint8)
    del loaded
    gc.collect()
    assert array.__array_interface__["data"] == (address, True)
    assert array[-1] == content[-1]
    assert array.sum() == sum(content)


def test_torch_has_no_copy(path: Path) -> None:
    """A tensor lies in the very memory."""
    torch = pytest.importorskip("torch", reason="needs the package; to force: pip install torch")
    with pytest.warns(UserWarning, match="writ"):
        tensor = torch.frombuffer(load(path), dtype=torch.uint8)
    assert tensor.numel() == SIZE


def test_more_than_memory_is_read_on_demand(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read beforehand than is available; the rest comes as it is touched."""
    need_cold(path)
    monkeypatch.setattr(load_job, "_TRIFLE", M)
    monkeypatch.setattr(load_job, "available", lambda: 4 * M)
    with load(path) as loaded:
        assert any("on demand" in why for why in loaded.report.why)
        assert sum((loaded.orders() or {0: 0}).values()) < SIZE
        assert bytes(loaded.view()) == content


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_needs_memory(path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that would not fit is ENOMEM with the file's name, before anything is read: no swapping."""
    monkeypatch.setattr(load_job, "_TRIFLE", M)
    monkeypatch.setattr(load_job, "available", lambda: M)
    with nothing_mapped(), pytest.raises(OSError, match="can be had") as caught:
        load(path, way)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOMEM, str(path))


BAD = {
    "missing": (lambda folder: folder / "missing", {}, errno.ENOENT),
    "directory": (lambda folder: folder, {}, errno.EISDIR),
    "device": (lambda folder: Path("/dev/zero"), {}, errno.EINVAL),
    "proc": (lambda folder: Path("/proc/self/status"), {}, errno.EINVAL),
    "behind the end": (lambda folder: folder / "file", {"offset": SIZE + 1}, errno.EINVAL),
    "too long": (lambda folder: folder / "file", {"offset": 5, "length": SIZE}, errno.EINVAL),
    "negative": (lambda folder: folder / "file", {"offset": -1}, errno.EINVAL),
    "strategy": (lambda folder: folder / "file", {"strategy": "magic"}, errno.EINVAL),
}


def test_what_cannot_be_mapped_is_read(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file system without mappings auto copies, and says why; mmap by name is EOPNOTSUPP."""
    monkeypatch.setattr(load_mapped, "file_mapping", raising(errno.ENODEV))
    with elfolio.load(path) as loaded:
        assert (loaded.report.strategy, bytes(loaded.view())) == ("read", content)
        assert any("maps no files" in why for why in loaded.report.why)
    with pytest.raises(OSError, match="maps no files") as caught:
        elfolio.load(path, strategy="mmap")
    assert (caught.value.errno, caught.value.filename) == (errno.EOPNOTSUPP, str(path))


@pytest.mark.parametrize(("where", "keywords", "number"), BAD.values(), ids=BAD)
def test_what_cannot_be_loaded(
    path: Path, where: Callable[[Path], Path], keywords: dict[str, int], number: int
) -> None:
    """Each mistake is the kernel's errno, and says what is wrong."""
    with nothing_mapped(), pytest.raises(OSError) as caught:
        elfolio.load(where(path.parent), **keywords)  # type: ignore[arg-type]
    assert caught.value.errno == number


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody is waited for."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="regular"):
        elfolio.load(tmp_path / "fifo")


def test_hugetlbfs_is_copied() -> None:
    """Its mappings would be longer than the room for them: auto copies, mmap is refused."""
    try:
        fd = os.memfd_create("huge", os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"no hugetlbfs: {error.strerror}; to force: a kernel with CONFIG_HUGETLBFS")
    try:
        os.ftruncate(fd, 2 * HUGE)
        with elfolio.load(f"/proc/self/fd/{fd}") as loaded:
            assert (loaded.report.strategy, bytes(loaded.view())) == ("read", bytes(2 * HUGE))
        with pytest.raises(OSError, match="hugetlbfs") as caught:
            elfolio.load(f"/proc/self/fd/{fd}", strategy="mmap")
        assert caught.value.errno == errno.EOPNOTSUPP
    finally:
        os.close(fd)


@every_way
def test_a_load_in_a_thread_can_be_called_off(path: Path, way: str) -> None:
    """What progress raises in another thread comes out there, as asyncio.to_thread needs it."""

    async def cancelled() -> None:
        def stop(done: int, total: int) -> None:
            raise TimeoutError("called off")

        await asyncio.to_thread(load, path, way, progress=stop)

    with pytest.raises(TimeoutError, match="called off"):
        asyncio.run(cancelled())


@pytest.mark.parametrize("way", ["auto", *COPIES])
def test_a_buffer_is_used_again(path: Path, content: bytes, way: str) -> None:
    """Load after load goes into one buffer, which cannot close while a load is open, and whose bytes are the file's."""
    with elfolio.Buffer(SIZE + 3 * PAGE) as buffer:
        for offset in (0, 5, PAGE + 1):
            with load(path, way, into=buffer, offset=offset) as loaded:
                assert bytes(loaded.view()) == content[offset:]
                assert buffer.address <= loaded.address < buffer.address + 3 * PAGE
                with pytest.raises(BufferError):
                    buffer.close()
        buffer.grow(2 * SIZE)


def test_a_buffer_must_fit(path: Path) -> None:
    """One that is too small, and a strategy that copies nothing, are refused."""
    with elfolio.Buffer(M) as buffer:
        with pytest.raises(elfolio.InvalidArgument, match="too small"):
            elfolio.load(path, into=buffer)
        with pytest.raises(elfolio.InvalidArgument, match="no copy"):
            elfolio.load(path, into=buffer, strategy="mmap")


@pytest.mark.parametrize("way", ["auto", *COPIES])
def test_a_buffer_is_free_after_an_error(path: Path, way: str) -> None:
    """What ends a load into a buffer comes through the buffer's own context, which closes."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, OSError)) as caught, elfolio.Buffer(SIZE + PAGE) as buffer:
        elfolio.load(path, strategy=way, into=buffer, progress=stop)
    assert not isinstance(caught.value, OSError) or caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(ValueError, match="closed"):
        buffer.view()


def test_compare_keeps_every_sample(path: Path) -> None:
    """Every strategy and the control, cold and warm, once a round; one that cannot be says why."""
    trials = compare(str(path), rounds=2)
    assert {one.name for one in trials} == {*WAYS, CONTROL}
    assert len(trials) == 2 * (len(WAYS) + 1)
    for one in trials:
        assert (len(one.reports) == 2) is not bool(one.error)
        if not one.warm:
            assert all((report.cached_before or 0) <= one.stayed for report in one.reports)
    assert all(one.reports[0].cached_before for one in trials if one.warm and one.reports)
