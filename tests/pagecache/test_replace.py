"""pagecache.replace: a file replaced at once or not at all, and nothing of it lost."""

import errno
import fcntl
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.errors import InvalidArgument
from elfolio.pagecache import names, stage
from elfolio.pagecache.replace import CannotReplace, Links, NewFile

M = 1 << 20


def replace(
    path: Path,
    data: bytes = b"new",
    meanwhile: Callable[[], object] = lambda: None,
    check: Callable[[int], None] | None = None,
    **options: Any,
) -> None:
    """In one piece; `meanwhile` is called before the commit."""
    with NewFile(path, len(data), **options) as new:
        new.write(0, data)
        meanwhile()
        new.commit(check)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file, alone in a directory."""
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(b"old")
    return path


def left(path: Path) -> list[str]:
    """The names in its directory."""
    return sorted(os.listdir(path.parent))


pieces = st.lists(st.tuples(st.integers(0, 40000), st.binary(max_size=9000)), max_size=12)


@given(pieces)
def test_pieces_in_any_order_come_to_lie_where_they_belong(pieces: list[tuple[int, bytes]]) -> None:
    """Whatever their sizes and order, and where two overlap the later one counts."""
    size, expected = 49152, bytearray(49152)
    fd = os.memfd_create("elfolio-test")
    try:
        os.ftruncate(fd, size)
        gathered = stage.Stage(fd, size, 16384)
        for offset, data in pieces:
            gathered.put(offset, data)
            expected[offset : offset + len(data)] = data
        gathered.flush()
        assert os.pread(fd, size + 1, 0) == bytes(expected)
    finally:
        os.close(fd)


def test_whole_blocks_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces in the order of their offsets reach the kernel as whole blocks, whatever their own sizes."""
    calls: list[tuple[int, int]] = []
    write = os.pwrite

    def noted(fd: int, data: memoryview, at: int) -> int:
        calls.append((at, len(data)))
        return write(fd, data, at)

    monkeypatch.setattr(os, "pwrite", noted)
    fd = os.memfd_create("elfolio-test")
    try:
        gathered = stage.Stage(fd, 3 * 65536 + 100, 65536)
        for at in range(0, 3 * 65536 + 100, 7000):
            gathered.put(at, bytes(min(7000, 3 * 65536 + 100 - at)))
        gathered.flush()
    finally:
        os.close(fd)
    assert calls == [(0, 65536), (65536, 65536), (131072, 65536), (196608, 100)]


def test_what_does_not_fit_is_refused(old: Path) -> None:
    """A piece beyond the size, or before the beginning, is an error of the caller's, and nothing happens."""
    for offset in (-1, 1):
        with pytest.raises(InvalidArgument), NewFile(old, 3) as new:
            new.write(offset, b"new")
    assert (old.read_bytes(), left(old)) == (b"old", ["file"])


def test_what_it_had_it_has(old: Path) -> None:
    """Mode with set-id bits, attributes, flags, and where asked the times, are those of the file replaced."""
    os.setxattr(old, "user.elfolio", b"kept")
    old.chmod(0o6751)
    os.utime(old, ns=(1_111_111_111, 2_222_222_222))
    subprocess.run(["chattr", "+d", old], check=True)
    before = old.stat()
    replace(old, times=True)
    now = old.stat()
    assert old.read_bytes() == b"new"
    assert now.st_ino != before.st_ino
    fields = ("st_mode", "st_uid", "st_gid", "st_atime_ns", "st_mtime_ns")
    old_stat, new_stat = ([getattr(status, field) for field in fields] for status in (before, now))
    assert new_stat[:3] + new_stat[4:] == old_stat[:3] + old_stat[4:]
    assert os.getxattr(old, "user.elfolio") == b"kept"
    assert "d" in subprocess.run(["lsattr", old], check=True, capture_output=True, text=True).stdout.split()[0]


def test_without_times_it_is_a_new_file(old: Path) -> None:
    """Its modification time is now's, as that of changed contents must be."""
    os.utime(old, ns=(1, 1))
    replace(old)
    assert old.stat().st_mtime > 1_000_000_000


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access list as the attribute has it (posix_acl_xattr.h): tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = (1 << 32) - 1
OWNED = acl((1, 6, NOBODY), (2, 4, 12345), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
INHERITED = acl((1, 7, NOBODY), (2, 7, 54321), (4, 7, NOBODY), (16, 7, NOBODY), (32, 7, NOBODY))


def test_access_lists_are_its_own(old: Path) -> None:
    """It has the old file's access list; where that had none, none is inherited from the directory."""
    os.setxattr(old.parent, "system.posix_acl_default", INHERITED)
    replace(old)
    assert os.listxattr(old) == [name for name in os.listxattr(old) if name != "system.posix_acl_access"]
    os.setxattr(old, "system.posix_acl_access", OWNED)
    mode = old.stat().st_mode
    replace(old)
    assert os.getxattr(old, "system.posix_acl_access") == OWNED
    assert old.stat().st_mode == mode


CAPABILITIES = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""cap_net_bind_service=ep (struct vfs_cap_data)."""


@pytest.mark.root
def test_owner_set_id_bits_and_capabilities_are_set_in_the_order_that_keeps_them(old: Path) -> None:
    """chown takes away set-id bits and capabilities; the new file has all of them, and trusted attributes."""
    os.chown(old, 1234, 5678)
    os.setxattr(old, "security.capability", CAPABILITIES)
    os.setxattr(old, "trusted.elfolio", b"t")
    old.chmod(0o6755)
    replace(old)
    now = old.stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (1234, 5678, 0o6755)
    assert os.getxattr(old, "security.capability") == CAPABILITIES
    assert os.getxattr(old, "trusted.elfolio") == b"t"


LOSSES = """
import os, sys
from elfolio.pagecache.replace import CannotReplace, NewFile
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    with NewFile(sys.argv[1], 3) as new:
        new.write(0, b"new")
        new.commit()
except CannotReplace as error:
    print(error.strerror)
"""


@pytest.mark.root
@pytest.mark.parametrize("lost", ["owner 0 and group 0", "security.capability"])
def test_what_would_be_lost_is_refused(lost: str) -> None:
    """Somebody who may write to the directory, but not give owner or capabilities, changes nothing."""
    folder = Path("/var/tmp") / f"elfolio-test-{os.getpid()}"
    folder.mkdir()
    try:
        folder.chmod(0o777)
        path = folder / "file"
        path.write_bytes(b"old")
        if lost == "security.capability":
            os.chown(path, 65534, 65534)
            os.setxattr(path, lost, CAPABILITIES)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        words = [sys.executable, "-c", LOSSES, str(path)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert lost in done.stdout, done.stderr
        assert (path.read_bytes(), left(path)) == (b"old", ["file"])
    finally:
        shutil.rmtree(folder)


def test_a_link_stays_a_link(old: Path) -> None:
    """What it leads to is replaced."""
    link = old.parent / "link"
    link.symlink_to("file")
    replace(link)
    assert (os.readlink(link), old.read_bytes(), left(old)) == ("file", b"new", ["file", "link"])


def test_a_file_with_several_names_is_replaced_by_consent_only(old: Path) -> None:
    """Refused; or one name leads to the new file; or all of them do, and to one and the same."""
    other = old.parent / "other"
    os.link(old, other)
    with pytest.raises(CannotReplace, match="2 names") as caught:
        replace(old)
    assert (caught.value.errno, caught.value.filename) == (errno.EMLINK, str(old))
    replace(old, b"all", links=Links.ALL)
    assert (old.read_bytes(), os.path.samefile(old, other), old.stat().st_nlink) == (b"all", True, 2)
    replace(old, b"one", links=Links.LEAVE)
    assert (old.read_bytes(), other.read_bytes(), left(old)) == (b"one", b"all", ["file", "other"])


def test_names_elsewhere_are_not_guessed(old: Path) -> None:
    """All names are replaced only if all are in the directory."""
    os.link(old, old.parent.parent / "elsewhere")
    with pytest.raises(CannotReplace, match="only 1 of its 2 names"):
        replace(old, links=Links.ALL)
    assert old.read_bytes() == b"old"


@pytest.mark.root
@pytest.mark.parametrize(("letter", "why"), [("i", "immutable"), ("a", "appended")])
def test_what_may_not_change_is_refused(old: Path, letter: str, why: str) -> None:
    """The refusal says how to allow it."""
    subprocess.run(["chattr", f"+{letter}", old], check=True)
    try:
        with pytest.raises(CannotReplace, match=f"{why}.*chattr -{letter}"):
            replace(old)
    finally:
        subprocess.run(["chattr", f"-{letter}", old], check=True)
    assert (old.read_bytes(), left(old)) == (b"old", ["file"])


@pytest.mark.root
def test_a_signed_file_is_refused(old: Path) -> None:
    """A signature for IMA is of the file, and is not taken over."""
    os.setxattr(old, "security.ima", b"\x03\x02")
    with pytest.raises(CannotReplace, match=r"signed \(security\.ima\)"):
        replace(old)


@pytest.mark.parametrize("when", ["at the start", "at the end", "in between", "after the check"])
def test_a_file_that_has_changed_meanwhile_is_left_alone(old: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that comes while the new file is written wins, up to the last moment; nothing else is left."""
    upgrade = old.parent / "upgrade"
    upgrade.write_bytes(b"upgrade")
    seen = old.stat()
    exchange = names._exchange
    if when == "at the start":
        upgrade.rename(old)
    if when == "after the check":

        def late(directory: int, a: str, b: str) -> bool:
            if upgrade.exists():
                upgrade.rename(old)
            return exchange(directory, a, b)

        monkeypatch.setattr(names, "_exchange", late)

    def meanwhile(when: str) -> None:
        if when == "in between":
            upgrade.rename(old)
        elif when == "at the end":
            old.write_bytes(b"written to")
            upgrade.unlink()

    with pytest.raises(OSError, match="changed meanwhile") as caught:
        replace(old, expected=seen, meanwhile=lambda: meanwhile(when))
    assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, str(old))
    assert old.read_bytes() == (b"written to" if when == "at the end" else b"upgrade")
    assert left(old) == ["file"]


def test_what_is_not_committed_leaves_nothing(old: Path) -> None:
    """Neither without a commit, nor with an error before it or in the check."""

    def bad(fd: int) -> None:
        assert os.pread(fd, 9, 0) == b"new"
        raise KeyboardInterrupt

    with NewFile(old, 3) as new:
        new.write(0, b"new")
    assert not new.committed
    with pytest.raises(KeyboardInterrupt):
        replace(old, check=bad)
    assert (old.read_bytes(), left(old)) == (b"old", ["file"])


def test_a_new_name_is_given_only_if_it_is_free(tmp_path: Path) -> None:
    """With nothing there, an ordinary file appears; one that came meanwhile is kept."""
    path = tmp_path / "file"
    replace(path)
    umask = os.umask(0o22)
    os.umask(umask)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o666 & ~umask)
    path.unlink()
    with pytest.raises(FileExistsError):
        replace(path, meanwhile=lambda: path.write_bytes(b"first"))
    assert (path.read_bytes(), left(path)) == (b"first", ["file"])


def test_it_can_be_like_another_file(old: Path) -> None:
    """What `like` has beside its contents, the new name gets."""
    old.chmod(0o4711)
    path = old.parent / "copy"
    replace(path, like=old)
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (0o4711, b"new")


@pytest.fixture
def without_tmpfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system such as NFS: no files without names."""
    opened = os.open

    def refusing(path: str, flags: int, *args: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "refused by the test")
        return opened(path, flags, *args, **named)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize("exchange", [True, False])
def test_without_files_that_have_no_name(
    old: Path, without_tmpfile: None, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hidden name serves, and is gone afterwards, whether the replacement is committed or not."""
    if not exchange:
        monkeypatch.setattr(names, "_exchange", lambda *_: False)
    with NewFile(old, 3) as new:
        new.write(0, b"new")
        assert len(left(old)) == 2
    assert (old.read_bytes(), left(old)) == (b"old", ["file"])
    replace(old)
    replace(old.parent / "another")
    assert (old.read_bytes(), left(old)) == (b"new", ["another", "file"])


def test_leftovers_are_removed_but_what_is_being_written_is_not(old: Path, without_tmpfile: None) -> None:
    """The next replacement of a file removes what a killed one left, of this file only."""
    with NewFile(old, 3) as first:
        (busy,) = set(left(old)) - {"file"}
        dead, foreign = f"{busy[:-8]}00000000", ".other.elfolio-00000000"
        for name in (dead, foreign):
            (old.parent / name).write_bytes(b"left")
        with NewFile(old, 3):
            assert {busy, foreign} <= set(left(old))
            assert dead not in left(old)
        first.write(0, b"new")
        first.commit()
    assert (old.read_bytes(), left(old)) == (b"new", [foreign, "file"])


def test_a_directory_that_somebody_locks_does_not_hold_it_up(old: Path) -> None:
    """Locks are a courtesy between replacements: whoever may read the directory can take one."""
    fd = os.open(old.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        replace(old)
    finally:
        os.close(fd)
    assert old.read_bytes() == b"new"


def test_it_can_be_executed_at_once(tmp_path: Path) -> None:
    """Nobody has it open for writing when it gets its name, not even the writer."""
    path = tmp_path / "program"
    shutil.copy("/bin/true", path)
    data = path.read_bytes()
    with NewFile(path, len(data)) as new:
        new.write(0, data)
        new.commit()
        assert subprocess.run([path], check=False).returncode == 0


def test_room_is_set_aside_or_not_as_told(tmp_path: Path) -> None:
    """A sparse file takes room for what was written, another one for all of it."""
    for sparse in (True, False):
        path = tmp_path / f"sparse-{sparse}"
        with NewFile(path, 16 * M, sparse=sparse) as new:
            new.write(8 * M, random.Random(1).randbytes(M))
            new.commit()
        assert path.stat().st_size == 16 * M
        assert (path.stat().st_blocks * 512 < 4 * M) is sparse


def killed(folder: Path, *how: str) -> dict[str, str]:
    """Each call at which a replacement was killed, numbered, and what was found then."""
    words = [sys.executable, "-m", "tests.pagecache.killed", str(folder), *how]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split(": ") for line in done.stdout.splitlines()]
    return {f"{number} {call}": state for number, (call, state) in enumerate(lines)}


def test_every_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    """Killed before, after, and for writes amid any call, the name leads to the old file whole or to the new one whole,
    with its mode and attributes; at most one hidden name is left, and the next replacement removes it."""
    found = killed(tmp_path)
    states = list(found.values())
    swapped = next(number for number, call in enumerate(found) if call.endswith("exchange after"))
    assert set(states[:swapped]) <= {"old 0", "old 1"}
    assert set(states[swapped:]) <= {"new 0", "new 1"}
    assert len(found) > 40
    assert sum("pwrite half" in call for call in found) == 3


def test_every_kill_leaves_each_of_several_names_whole(tmp_path: Path) -> None:
    """Names are replaced one after the other, each at once."""
    states = list(killed(tmp_path, "links").values())
    order = ["old old", "new old", "new new"]
    seen = [order.index(state[:-2]) for state in states]
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2}
    assert {state[-1] for state in states} == {"0", "1"}


def test_every_kill_leaves_a_whole_file_without_files_that_have_no_name(tmp_path: Path) -> None:
    """Where a hidden name must serve from the beginning, and is renamed over the old one."""
    states = list(killed(tmp_path, "named").values())
    assert set(states) == {"old 0", "old 1", "new 0"}
    assert states == sorted(states, key=lambda state: state[:3] == "new")


def test_what_is_named_is_on_the_disk(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents and attributes are forced to the disk before the name is given, and the name after it."""
    calls: list[str] = []

    def noted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            calls.append(name)
            return function(*args, **named)

        return call

    for name in ("pwrite", "fchmod", "fsync", "link", "unlink"):
        monkeypatch.setattr(os, name, noted(getattr(os, name), name))
    monkeypatch.setattr(names, "_exchange", noted(names._exchange, "exchange"))
    replace(old)
    assert calls == ["pwrite", "fchmod", "fsync", "link", "exchange", "unlink", "fsync"]
