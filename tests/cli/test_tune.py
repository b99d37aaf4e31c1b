"""`elfolio tune`: exit statuses, what it says, its JSON."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from elfolio.report.tune import Report
from tests.cli.running import ELFOLIO, Outcome, outcome
from tests.cli.test_run_json import mismatches
from tests.layout.files import ET_EXEC, RW, RX, Part, R, linked

PROGRAM = shutil.which("sort") or "/usr/bin/sort"
PIE = linked([Part(R, 0x100), Part(RX, 5 << 20), Part(RW, 0x1000, 0x100)])
FIXED = linked([Part(RX, 5 << 20)], type=ET_EXEC, base=0x400000)


def tune(*words: object) -> Outcome:
    """The command's outcome."""
    return outcome((*ELFOLIO, "tune", *map(str, words)))


def report(*words: object) -> Report:
    """With --json; the object is what its type says."""
    done = tune("--json", *words)
    assert done.stderr == b""
    value: Report = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    return value


@pytest.fixture
def pie(tmp_path: Path) -> Path:
    """A file that gains by p_align."""
    path = tmp_path / "pie"
    path.write_bytes(PIE)
    path.chmod(0o755)
    return path


def test_a_plan_is_shown_and_nothing_written(pie: Path) -> None:
    """Each field with its place and both values, as text and as JSON."""
    done = tune("--plan", pie)
    assert done.status == 0
    assert b"program header 1 p_align" in done.stdout
    assert b"0x200000" in done.stdout
    (file,) = report("--plan", pie)["files"]
    assert (file["status"], file["tier"], file["blocks_before"], file["blocks_after"]) == ("planned", 0, 0, 1)
    assert file["edits"] == [
        {"field": "program header 1 p_align", "offset": 168, "bytes": 8, "old": 4096, "new": 2097152}
    ]
    assert file["random_bits_lost"] == 9
    assert [path.name for path in pie.parent.iterdir()] == ["pie"]
    assert pie.read_bytes() == PIE


def test_written_checked_and_undone(pie: Path) -> None:
    """-o, --check, --undo: 0 each, and the same bytes at the end."""
    out = pie.with_name("out")
    done = tune("--check", pie, "-o", out)
    assert (done.status, done.stderr) == (0, b"")
    assert b"Checked" in done.stdout
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert tune("--undo", out).status == 0
    assert out.read_bytes() == PIE


def test_undo_with_a_plan_writes_nothing(pie: Path) -> None:
    """--plan promises that; the tuned file stays as it is."""
    tune(pie, "--in-place")
    tuned = pie.read_bytes()
    assert tuned != PIE
    assert tune("--undo", "--plan", pie).status == 2
    assert pie.read_bytes() == tuned


def test_a_name_cannot_write_to_the_terminal(pie: Path, tmp_path: Path) -> None:
    """What names have of control characters comes out as escapes, in every line that has one."""
    odd, out = tmp_path / "a\x1b[2J\n", tmp_path / "b\x1b[2J\n"
    shutil.copy(pie, odd)
    (tmp_path / "text\x1b").write_text("none")
    outcomes = [tune(odd, "--plan"), tune(odd, "-o", out), tune("--undo", out, "-o", f"{out}c"), tune(odd, "-o", odd)]
    assert [done.status for done in outcomes] == [0, 0, 0, 0]
    assert rb"a\x1b[2J\n: -> " in outcomes[1].stdout
    outcomes.append(tune(tmp_path / "text\x1b", "--plan"))
    assert not any(b"\x1b" in done.stdout + done.stderr for done in outcomes)


def test_where_nothing_is_won(tmp_path: Path) -> None:
    """It says so and exits with 0; -o copies, --in-place leaves the file alone."""
    path = tmp_path / "fixed"
    path.write_bytes(FIXED)
    inode = path.stat().st_ino
    done = tune("--in-place", path)
    assert (done.status, b"nothing to win" in done.stdout) == (0, True)
    assert path.stat().st_ino == inode
    assert tune(path, "-o", tmp_path / "copy").status == 0
    assert (tmp_path / "copy").read_bytes() == FIXED


def test_in_place_and_twice(pie: Path) -> None:
    """The second run changes nothing."""
    assert tune("--in-place", pie).status == 0
    first, inode = pie.read_bytes(), pie.stat().st_ino
    assert tune("--in-place", pie).status == 0
    assert (pie.read_bytes(), pie.stat().st_ino) == (first, inode)


def test_a_tier_that_is_refused_is_none_the_second_time(tmp_path: Path) -> None:
    """Tier 0 done, tier 1 refused: the next run has nothing to do, says why, and is no failure."""
    broken = bytearray(linked([Part(R, 0x100), Part(RX, 5 << 20)], sections=False))
    broken[40:48] = (1 << 40).to_bytes(8, "little")  # e_shoff
    broken[58:62] = bytes((64, 0, 9, 0))
    path = tmp_path / "broken"
    path.write_bytes(broken)
    assert tune("--in-place", path).status == 0
    done = tune("--in-place", path)
    assert (done.status, b"malformed" in done.stdout) == (0, True)


def test_several_files(pie: Path, tmp_path: Path) -> None:
    """Into a directory; one that is refused makes the status 1, and the others are done."""
    other = tmp_path / "object.o"
    other.write_bytes(linked([Part(RX, 100)], type=1))
    folder = tmp_path / "out"
    assert tune(pie, other, "-o", folder).status == 2  # it is not there
    folder.mkdir()
    done = tune(pie, other, "-o", folder)
    assert (done.status, sorted(p.name for p in folder.iterdir())) == (1, ["pie"])
    assert done.stderr.count(b"\n") == 1
    assert b"object.o: it is an object file" in done.stderr


def test_mistakes_are_one_line(pie: Path, tmp_path: Path) -> None:
    """Each names the thing and the mend, with status 2 and nothing on stdout."""
    text = tmp_path / "text"
    text.write_text("no program\n")
    large = tmp_path / "large"
    large.write_bytes(linked([Part(R, 0x100), Part(RX, 0x9000), Part(R, 0x9000), Part(RW, 0x1000, 0x100)]))
    cases: list[tuple[tuple[object, ...], str]] = [
        ((pie,), "-o OUT"),
        ((pie, "-o", "x", "--in-place"), "exclude each other"),
        ((pie, "-o", "-"), "-o -: nothing is written to standard output"),
        ((pie, "--plan", "--huge", "3M"), "power of two"),
        ((pie, "--plan", "--page-size", "8K"), "4K, 16K and 64K"),
        (("--plan",), "no file"),
        ((pie, "--plan", "--merge", "--tier", "0"), "--tier"),
        (("--plan", "--package", "no-such-package"), "no-such-package"),
        ((text, "--plan"), "no ELF file"),
        ((tmp_path / "absent", "--plan"), "No such file"),
        ((tmp_path, "--plan"), "a directory"),
        (("--undo", pie), "no undo record"),
        ((pie, "--plan", "--page-size", "16K"), "writable and executable"),
        ((large, "--plan", "--page-size", "16K"), "--merge"),
        *(
            (("--undo", pie, option), f"{option} is for tuning")
            for option in ("--plan", "--merge", "--check", "--force")
        ),
    ]
    for words, said in cases:
        done = tune(*words)
        assert (done.status, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1), words
        assert said in done.stderr.decode(), words


def test_a_package_with_its_libraries() -> None:
    """Its ELF files, and what its programs need."""
    if shutil.which("dpkg-query") is None:
        pytest.skip("needs dpkg; runs on Debian and its like")
    paths = [file["path"] for file in report("--plan", "--package", "coreutils")["files"]]
    assert "/usr/bin/sort" in [path.replace("/bin", "/usr/bin").replace("/usr/usr", "/usr") for path in paths]
    assert any(Path(path).name.startswith("libc.so") for path in paths)
    assert not any(path.endswith(".gz") for path in paths)


def test_a_file_whose_name_looks_like_an_option() -> None:
    """-- ends the options."""
    done = tune("--plan", "--", "-x")
    assert (done.status, done.stderr) == (2, b"elfolio tune: -x: No such file or directory\n")


def test_a_program_runs_after_each_tier(tmp_path: Path) -> None:
    """A real one, forced, and with its segments joined."""
    for name, options in (("forced", ["--force"]), ("merged", ["--merge"])):
        out = tmp_path / name
        assert tune(PROGRAM, "-o", out, "--check", *options).status == 0
        done = subprocess.run([out], input=b"b\na\n", capture_output=True, check=True)
        assert done.stdout == b"a\nb\n"


@pytest.mark.root
def test_capabilities_and_owner_are_kept(pie: Path) -> None:
    """In place, of a file that is somebody else's and has file capabilities."""
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service+ep, version 2
    os.chown(pie, 12345, 54321)
    os.setxattr(pie, "security.capability", capability)
    assert tune("--in-place", pie).status == 0
    status = pie.stat()
    assert (status.st_uid, status.st_gid) == (12345, 54321)
    assert os.getxattr(pie, "security.capability") == capability
