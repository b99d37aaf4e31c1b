"""pagecache.warm: the page cache in huge folios, without a byte changed, or the reason why not."""

import errno
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from elfolio.kernel.filesystems import filesystem
from elfolio.live.cached import look
from elfolio.live.holders import Holder
from elfolio.live.host import policy_here
from elfolio.pagecache import warm as module
from elfolio.pagecache.replace import CannotReplace, Links
from elfolio.pagecache.warm import Outcome, Warmed, rewrite, warm
from elfolio.pagecache.window import Window, drop
from elfolio.span import Span
from tests.pagecache.files import (
    HUGE,
    K,
    M,
    huge_pages_when_run,
    mapped_at,
    need_huge_folios,
    needs_gcc,
    program,
    small_folios,
)

as_root = pytest.mark.root
SIZE = 8 * M + 300 * K + 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory on a file system with large folios."""
    need_huge_folios(tmp_path)
    return tmp_path


def in_huge_folios(path: Path) -> int:
    """Bytes of the file that are, by another look than warm's."""
    with path.open("rb") as file:
        return sum(count for order, count in look(file.fileno()).orders().items() if order >= 9)


@as_root
def test_small_folios_become_huge_ones(folder: Path) -> None:
    """Every block of a file that cp has written has its folio afterwards, its contents are as they were, and before and
    after are told. A second time there is nothing to do."""
    path = folder / "file"
    data = small_folios(path, SIZE)
    found = warm(str(path))
    assert (found.outcome, found.had, found.has, found.wanted) == (Outcome.WARMED, 0, 4, 4)
    assert found.before is not None
    assert found.after is not None
    assert set(found.before) <= {0, 1, 2, 3, 4}
    assert found.after[9] == in_huge_folios(path) == 8 * M
    assert path.read_bytes() == data
    again = warm(str(path))
    assert (again.outcome, again.had, again.has, again.is_warm) == (Outcome.WARM, 4, 4, True)


@as_root
def test_what_is_not_on_the_disk_yet_is_not_in_the_way(folder: Path) -> None:
    """Dirty pages cannot be dropped: they are written first."""
    path = folder / "file"
    path.write_bytes(b"")
    with path.open("wb", 0) as file:
        for _ in range(4 * M // (64 * K)):
            file.write(bytes(range(256)) * 256)
        assert warm(str(path)).has == 2
    assert path.read_bytes() == bytes(range(256)) * (4 * M // 256)


@as_root
def test_what_is_not_cached_is_read(folder: Path) -> None:
    """A cold file comes in whole blocks, its end too."""
    path = folder / "file"
    small_folios(path, SIZE)
    with path.open("rb") as file:
        drop(file.fileno(), [Span(0, SIZE)])
        assert look(file.fileno()).cached == 0
        found = warm(str(path))
        assert (found.had, found.has) == (0, 4)
        assert look(file.fileno()).cached == -(-SIZE // 4096) * 4096


def plain_reads(fd: int, size: int) -> None:
    """As most programs read."""
    for at in range(0, size, HUGE):
        os.pread(fd, HUGE, at)


def readahead(fd: int, size: int) -> None:
    """What vmtouch and systemd-readahead ask for."""
    os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
    plain_reads(fd, size)


def plain_mapping(fd: int, size: int) -> None:
    """Touched page by page, as a program maps data."""
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapped:
        for at in range(0, size, 4096):
            mapped[at]


def as_code(fd: int, size: int) -> None:
    """Touched through an executable mapping, as the kernel runs it."""
    with mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC) as mapped:
        for at in range(0, size, 4096):
            mapped[at]


def huge_window(fd: int, size: int) -> None:
    """As warm does."""
    with Window(fd, size, HUGE) as window:
        window.read(Span(0, size).blocks(HUGE))


@as_root
@pytest.mark.parametrize("way", [plain_reads, readahead, plain_mapping, as_code])
def test_no_other_way_of_reading_gives_more(folder: Path, way: Callable[[int, int], None]) -> None:
    """The trial behind warm: of a cold file of 16 MiB, faults with MADV_HUGEPAGE make huge folios of all but what is
    not free, and reads, readahead and other mappings never more."""
    path = folder / "file"
    small_folios(path, 16 * M)
    given = []
    with path.open("rb") as file:
        for read in (way, huge_window):
            drop(file.fileno(), [Span(0, 16 * M)])
            read(file.fileno(), 16 * M)
            given.append(in_huge_folios(path))
    assert given[0] <= given[1]
    assert given[1] > 0


@as_root
def test_what_is_mapped_is_left_as_it_is(folder: Path) -> None:
    """Of a file that a process has pages of mapped, the blocks of these pages keep their folios and lose none of their
    pages, the others become huge; the process is named."""
    path = folder / "file"
    small_folios(path, SIZE)
    with mapped_at(path, 0, 4 * M + 12345) as process:
        found = warm(str(path))
        assert (found.outcome, found.had, found.has, found.wanted) == (Outcome.HELD, 0, 2, 4)
        assert Holder(process.pid, Path(sys.executable).resolve().name[:15]).pid in [who.pid for who in found.holders]
        assert "--rewrite" in found.remedy
        assert found.after is not None
        assert found.after[4] >= 4 * M
        assert found.after.get(0, 0) < 64 * K
        assert found.needs_new_file


@as_root
def test_a_new_file_is_warm_and_the_old_one_stays_with_its_holders(folder: Path) -> None:
    """rewrite gives the name a new file of the same contents and attributes, all of it in huge folios; who has the old
    one mapped keeps it, and is named."""
    path = folder / "file"
    data = small_folios(path, SIZE)
    path.chmod(0o751)
    os.setxattr(path, "user.elfolio", b"kept")
    before = path.stat()
    with mapped_at(path, *range(0, SIZE, M)) as process:
        found = rewrite(str(path), warm(str(path)))
        assert (found.outcome, found.has, found.wanted, found.is_warm) == (Outcome.REWRITTEN, 4, 4, True)
        assert [who.pid for who in found.holders] == [process.pid]
        assert process.communicate("go", timeout=60)[0] == f"{data[0]}\n"
    now = path.stat()
    assert now.st_ino != before.st_ino
    assert (now.st_mode, now.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert os.getxattr(path, "user.elfolio") == b"kept"
    assert path.read_bytes() == data
    assert in_huge_folios(path) == 8 * M
    assert os.listdir(folder) == ["file"]


@as_root
def test_several_names_are_replaced_by_consent_only(folder: Path) -> None:
    """A file with hard links is not rewritten unless it is said what becomes of the other names."""
    path, other = folder / "file", folder / "other"
    small_folios(path, 4 * M)
    os.link(path, other)
    with mapped_at(path, 0, 2 * M):
        found = warm(str(path))
        with pytest.raises(CannotReplace) as caught:
            rewrite(str(path), found)
        assert caught.value.errno == errno.EMLINK
        assert rewrite(str(path), found, links=Links.ALL).has == 2
    assert os.path.samefile(path, other)


@as_root
def test_holes_stay_holes(folder: Path) -> None:
    """A rewritten sparse file takes no more room than before, and its blocks are huge all the same."""
    path = folder / "file"
    small_folios(path, 2 * M)
    with path.open("r+b") as file:
        file.truncate(16 * M)
        file.seek(9 * M)
        file.write(b"end")
    os.sync()
    room = path.stat().st_blocks
    data = path.read_bytes()
    with mapped_at(path, *range(0, 16 * M, M)):
        found = rewrite(str(path), warm(str(path)))
    assert (found.has, found.wanted) == (8, 8)
    assert path.stat().st_blocks <= room + 64
    assert path.read_bytes() == data


@as_root
def test_a_new_file_that_is_no_better_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no huge folios can be had, the old file stays."""
    path = folder / "file"
    small_folios(path, 4 * M)
    monkeypatch.setattr(module, "fill", lambda fd, aim: drop(fd, aim.fill))
    inode = path.stat().st_ino
    found = replace(warm(str(path)), has=2)
    with pytest.raises(OSError, match="nothing was changed") as caught:
        rewrite(str(path), found)
    assert (caught.value.errno, path.stat().st_ino, os.listdir(folder)) == (errno.EAGAIN, inode, ["file"])


@as_root
def test_attempts_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folio of that size is free, it ends after four attempts, says so, and leaves the file cached."""
    path = folder / "file"
    small_folios(path, SIZE)
    reads: list[list[Span]] = []

    def in_small_folios(window: Window, blocks: Iterable[Span]) -> None:
        reads.append(list(blocks))
        as_code(cached, SIZE)

    with path.open("rb") as file:
        cached = file.fileno()
        monkeypatch.setattr(Window, "read", in_small_folios)
        found = warm(str(path))
        assert look(file.fileno()).cached == -(-SIZE // 4096) * 4096
    assert (found.outcome, found.has, found.wanted) == (Outcome.PARTLY, 0, 4)
    assert found.why == "no folio of that size was free in 4 attempts"
    assert found.needs_new_file
    assert len(reads) == 4


AS_NOBODY = """
import json, sys
from elfolio.pagecache.warm import warm
found = warm(sys.argv[1])
print(json.dumps([found.outcome, found.had, found.has, found.wanted]))
"""


@as_root
@pytest.mark.parametrize("owner", [0, 65534])
def test_it_takes_no_privilege(folder: Path, owner: int) -> None:
    """A user who may only read the file warms it all the same, and is told of every block; what was before is hidden
    from all but its owner."""
    path = folder / "file"
    small_folios(path, SIZE)
    path.chmod(0o644)
    os.chown(path, owner, owner)
    for above in (folder, *folder.parents):
        if not os.stat(above).st_mode & 1:
            above.chmod(os.stat(above).st_mode | 0o711)
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", AS_NOBODY, str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome, had, has, wanted = json.loads(done.stdout)
    assert (outcome, has, wanted) == ("warmed", 4, 4)
    assert had == (None if owner == 0 else 0)
    assert in_huge_folios(path) == 8 * M


# --- what is refused ---------------------------------------------------------------------------------------


def refused(path: Path) -> Warmed:
    """Warmed, and refused."""
    found = warm(str(path))
    assert found.outcome is Outcome.REFUSED, found
    assert found.is_refused
    assert not found.is_warm
    return found


def test_a_small_file_is_refused(tmp_path: Path) -> None:
    """A file without a whole huge page wins nothing, an empty one too."""
    for size in (0, 1, HUGE - 4096):
        (tmp_path / "file").write_bytes(bytes(size))
        assert refused(tmp_path / "file").why == "it is smaller than a huge page of 2 MiB"


def test_what_is_no_regular_file_is_an_error(tmp_path: Path) -> None:
    """A directory, a FIFO that nobody writes to, and what is not there: the kernel's errors, and no waiting."""
    os.mkfifo(tmp_path / "fifo")
    for path, number in ((tmp_path, errno.EINVAL), (tmp_path / "fifo", errno.EINVAL), (tmp_path / "no", errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            warm(str(path))
        assert (caught.value.errno, caught.value.filename) == (number, str(path))


def test_a_file_system_without_large_folios_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is known of it, tried with a collapse and a scratch file; the refusal names it and where to move to."""
    here = replace(policy_here(str(tmp_path)), fs=filesystem("ext2"))
    small_folios(tmp_path / "file", 4 * M)
    monkeypatch.setattr(module, "policy_here", lambda path: here)
    monkeypatch.setattr(module, "_largest", lambda *_: 64 * K)
    monkeypatch.setattr(Window, "collapse", lambda *_: errno.EINVAL)
    monkeypatch.setattr(Window, "huge_blocks", lambda *_: frozenset())
    found = refused(tmp_path / "file")
    assert "ext2 gives no folios of 2 MiB" in found.why
    assert "xfs" in found.remedy


@as_root
def test_the_trial_counts_more_than_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that gives large folios where none are known to be is believed."""
    here = replace(policy_here(str(folder)), fs=filesystem("ext2"))
    small_folios(folder / "file", 4 * M)
    monkeypatch.setattr(module, "policy_here", lambda path: here)
    assert warm(str(folder / "file")).has == 2


LINKED = [
    (("-no-pie",), 8 * M, "warmed", ""),
    (("-pie", "-Wl,-z,max-page-size=0x200000"), 8 * M, "warmed", ""),
    (("-pie",), 8 * M, "refused", "load address is no multiple"),
    (("-no-pie", "-Wl,-z,separate-code"), 2 * M, "refused", "none of its mappings has a whole block"),
]


@needs_gcc
@as_root
@pytest.mark.parametrize(("options", "text", "outcome", "why"), LINKED)
def test_what_is_said_to_help_helps(folder: Path, options: tuple[str, ...], text: int, outcome: str, why: str) -> None:
    """A program that is warmed runs on as many huge pages as were said to be possible; one that is refused has none,
    before and after it is forced."""
    path = folder / "program"
    program(path, text, *options)
    assert huge_pages_when_run(path) == 0
    found = warm(str(path))
    assert found.outcome == outcome
    assert why in found.why
    if outcome == "refused":
        warm(str(path), force=True)
    assert huge_pages_when_run(path) == (found.wanted if outcome == "warmed" else 0)
    assert (found.wanted > 0) == (outcome == "warmed")


@needs_gcc
@as_root
def test_what_nothing_maps_is_read_only_if_asked(folder: Path) -> None:
    """Of a program with debug information, that stays on the disk unless all of it is wanted."""
    path = folder / "program"
    program(path, 4 * M, "-no-pie")
    os.truncate(path, 64 * M)
    for whole in (False, True):
        with path.open("rb") as file:
            drop(file.fileno(), [Span(0, path.stat().st_size)])
            found = warm(str(path), whole=whole)
            assert found.is_warm
            assert ((look(file.fileno()).cached or 0) == 64 * M) is whole


LOADER = """
import ctypes, re, sys
library = ctypes.CDLL(sys.argv[1])
ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, "big")), int(sys.argv[2]))
smaps = open("/proc/self/smaps").read()
entries = re.findall(re.escape(sys.argv[1]) + r"\\n.*?^FilePmdMapped: *([0-9]+)", smaps, re.S | re.M)
print(sum(map(int, entries)) // 2048)
"""


@needs_gcc
@as_root
@pytest.mark.parametrize("options", [(), ("-Wl,-z,max-page-size=0x200000",)])
def test_a_library_is_on_huge_pages_too(folder: Path, options: tuple[str, ...]) -> None:
    """As many blocks of a shared object as are said to be possible are huge mappings in a program that loads it."""
    path = folder / "libbig.so"
    program(path, 8 * M, "-shared", "-fPIC", *options)
    words = [sys.executable, "-c", LOADER, str(path), str(8 * M)]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == "0\n"
    found = warm(str(path))
    loaded = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert int(loaded) == (found.has or 0) == found.wanted
    assert found.wanted >= 3 or found.is_refused
