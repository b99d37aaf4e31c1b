"""`elfolio folios`: what it shows of files made for it, its object, and how it refuses."""

import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfolio.live.cached import look, open_quietly
from elfolio.live.folios import Mapped, read_folios
from elfolio.report.folios import BlockRow, Report
from tests.cli.running import ELFOLIO, Outcome, outcome
from tests.cli.terminal import Terminal
from tests.cli.test_run_json import mismatches
from tests.elfwriter import EM_AARCH64, EM_X86_64, ET_EXEC, Elf, Ph
from tests.live import slow_folios

M = 1 << 20


def folios(*words: str) -> Outcome:
    """The command's outcome."""
    return outcome((*ELFOLIO, "folios", *words))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory on a disk: /tmp may be a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


def half_cached(path: Path, size: int = 4 * M) -> Path:
    """A file whose second half is on the disk alone."""
    with open(path, "wb", 0) as file:
        file.write(b"x" * size)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), size // 2, size // 2, os.POSIX_FADV_DONTNEED)
    return path


def test_the_object_has_its_schema(folder: Path) -> None:
    """Every field with its type, of an ELF file and of another."""
    done = folios("--json", str(half_cached(folder / "file")), sys.executable)
    assert (done.status, done.stderr) == (0, b"")
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    assert (value["elfolio"], value["version"], value["problems"]) == ("folios", 1, [])
    assert [row["elf"] for row in value["files"]] == [False, True]
    assert value["files"][1]["blocks"]


def test_what_is_cached_is_said(folder: Path) -> None:
    """Bytes, the runs that add up to them, and the same in the text."""
    path = half_cached(folder / "file")
    row = json.loads(folios("--json", str(path)).stdout)["files"][0]
    assert (row["size"], row["cached"], row["dirty"]) == (4 * M, 2 * M, 0)
    assert sum(length for _, length, _, _ in row["runs"]) == 2 * M == sum(one["bytes"] for one in row["orders"])
    text = folios(str(path)).stdout.decode()
    assert "4 MiB on" in text
    assert "2 MiB cached (50%)" in text


@pytest.mark.root
def test_the_map_shows_order_by_place(folder: Path) -> None:
    """A letter each stretch: digits where folios are, dots where nothing is cached."""
    path = half_cached(folder / "file")
    line = next(line for line in folios(str(path)).stdout.decode().splitlines() if line.startswith("folios "))
    letters = line.split()[1]
    assert set(letters[len(letters) // 2 :]) == {"."}
    assert letters[: len(letters) // 2].isdigit()


@pytest.mark.root
def test_a_cold_program_stays_cold(folder: Path) -> None:
    """Of a program that is not cached the segments are shown, and afterwards it still is not."""
    path = folder / "program"
    path.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes())
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for cached in (0, 4096):
        row = json.loads(folios("--json", str(path)).stdout)["files"][0]
        assert row["elf"]
        assert row["segments"]
        assert row["cached"] == cached
        with open_quietly(path) as fd:
            assert look(fd).cached == cached
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            os.pread(fd, 1, 8192)


@pytest.mark.root
def test_blocks_with_folios_are_counted_where_they_are(folder: Path) -> None:
    """Of a program whose text fills huge pages, written in huge pieces: what is said to be possible now is what the
    kernel then maps by PMDs where it is touched, and a block that the cache has lost is said to be lacking."""
    path = folder / "program"
    path.write_bytes(aligned_program(8 * M))
    before = text_row(path)
    assert before["could"] == before["now"] + sum(before["lacking"].values()) == 4
    if "smaller" in before["lacking"]:
        pytest.skip("the file system gave smaller folios: try ext4 from Linux 6.16, or xfs")
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 4 * M, 2 * M, os.POSIX_FADV_DONTNEED)
    after = text_row(path)
    assert (after["could"], after["now"], after["lacking"]) == (4, 3, {"absent": 1})
    with open(path, "rb") as again, slow_folios.mapped(again.fileno(), 8 * M, 2 * M, at=0x2000000000) as address:
        for block in (0, 2, 3):
            ctypes.string_at(address + block * 2 * M, 1)
        one = next(one for one in read_folios(os.getpid()).vmas if one.vma.start == address)
    assert one.mapped()[Mapped.PMD] == after["now"] * 2 * M


def text_row(path: Path) -> BlockRow:
    report: Report = json.loads(folios("--json", str(path)).stdout)
    return next(one for one in report["files"][0]["blocks"] if "x" in one["perms"] and one["block"] == 2 * M)


def aligned_program(text: int) -> bytes:
    """ET_EXEC with one executable segment from offset 2 MiB, linked at 6 MiB."""
    machine = {"x86_64": EM_X86_64, "aarch64": EM_AARCH64}[os.uname().machine]
    segment = Ph(flags=5, offset=2 * M, vaddr=6 * M, align=4096, data=b"\x90" * text)
    return Elf(type=ET_EXEC, machine=machine, entry=6 * M, segments=[segment]).build()


REFUSED = {
    "a directory": ("/usr", b"a directory; give its files, as in: find /usr -type f -exec elfolio folios {} +"),
    "nothing": ("/nowhere", b"No such file or directory"),
    "a device": ("/dev/null", b"not a regular file; give a file on a disk or a tmpfs"),
    "of /proc": ("/proc/self/maps", b"it has no page cache; give a file on a disk or a tmpfs"),
}


@pytest.mark.parametrize(("path", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_file_is_refused_in_a_line(path: str, said: bytes) -> None:
    """One line that names it and the mend, status 2, nothing on stdout."""
    done = folios(path)
    assert (done.status, done.stdout) == (2, b"")
    assert done.stderr == b"elfolio folios: " + path.encode() + b": " + said + b"\n"


def test_one_bad_file_spoils_no_other(folder: Path) -> None:
    """The others are shown, the status is 2, and the object lists it too."""
    path = half_cached(folder / "file")
    done = folios("--json", "/nowhere", str(path))
    value = json.loads(done.stdout)
    assert (done.status, len(value["files"])) == (2, 1)
    assert value["problems"] == [{"path": "/nowhere", "reason": "No such file or directory"}]
    assert folios("/nowhere", str(path)).stdout == folios(str(path)).stdout


def test_empty_and_odd_files(folder: Path) -> None:
    """An empty file, one with a name of control characters, and one that only begins as an ELF file."""
    (folder / "empty").touch()
    (folder / "od\x1b[31md").write_bytes(b"x" * 10)
    (folder / "cut").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(60))
    done = folios(*(str(folder / name) for name in ("empty", "od\x1b[31md", "cut")))
    assert (done.status, done.stderr) == (0, b"")
    assert b"0 B on" in done.stdout
    assert b"\x1b" not in done.stdout
    assert b"Blocks" not in done.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_name_in_no_encoding_of_the_terminal_s(folder: Path, encoding: str) -> None:
    """What standard output has no letter for, and a byte that is no UTF-8, come out as escapes, and end nothing."""
    odd, greek = os.fsencode(folder) + b"/latin\xe9", os.fsencode(folder / "\u03b1")
    for path in (odd, greek):
        Path(os.fsdecode(path)).write_bytes(b"x")
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = outcome((*ELFOLIO, "folios", odd, greek), env=env)
    assert (done.status, done.stderr) == (0, b"")
    assert rb"latin\xe9" in done.stdout
    assert ("\u03b1".encode() if encoding == "utf-8" else rb"\u03b1") in done.stdout


def test_an_option_is_wanted_or_refused() -> None:
    """No file, and an unknown option."""
    assert folios().status == 2
    assert folios("--nothing", "/bin/sh").status == 2
    assert folios("--help").status == 0


@pytest.mark.root
def test_a_terminal_has_colours_and_a_line_that_fits() -> None:
    """As wide as the terminal, orders coloured."""
    with Terminal([*ELFOLIO, "folios", sys.executable]) as terminal:
        terminal.wait_for("each letter")
        assert "\x1b[" in terminal.shown
