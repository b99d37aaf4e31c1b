"""`elfolio warm` as its users see it: a table, an object, statuses, a unit, errors of one line."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import elfolio
from tests.pagecache.files import K, M, mapped_at, need_huge_folios, needs_gcc, program, running, small_folios

as_root = pytest.mark.root

FIELDS = {
    "path": str, "outcome": str, "warm": bool, "why": str, "remedy": str, "bytes": int, "huge_page": int,
    "blocks": int, "had": int, "has": int, "before": dict, "after": dict, "seconds": float, "mapped_by": list,
    "all_processes_seen": bool,
}  # fmt: skip
UNKNOWN = ("had", "has", "before", "after")


def told(*words: str, status: int = 0) -> dict[str, Any]:
    """What --json says."""
    done = elfolio("warm", "--json", *words)
    assert done.status == status, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def complaint(*words: str) -> str:
    """The one line of an error."""
    done = elfolio("warm", *words)
    assert (done.status, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1), done
    return done.stderr.decode().removeprefix("elfolio warm: ")


@as_root
def test_the_object_has_its_schema(tmp_path: Path) -> None:
    """--json prints one object: command, version, files with typed fields, and how many were left out."""
    need_huge_folios(tmp_path)
    small_folios(tmp_path / "file", 4 * M)
    (tmp_path / "small").write_bytes(b"x")
    with mapped_at(tmp_path / "file", 0):
        report = told(str(tmp_path / "file"), str(tmp_path / "small"), status=1)
    assert set(report) == {"elfolio", "version", "skipped", "files", "problems"}
    assert (report["elfolio"], report["version"], report["skipped"]) == ("warm", 1, 0)
    for entry in report["files"]:
        assert set(entry) == set(FIELDS)
        for name, value in entry.items():
            assert type(value) is FIELDS[name] or (value is None and name in UNKNOWN), name
    held, small = report["files"]
    assert (held["outcome"], held["had"], held["has"], held["blocks"], held["warm"]) == ("held", 0, 1, 2, False)
    assert set(held["mapped_by"][0]) == {"pid", "name"}
    assert (small["outcome"], small["has"]) == ("refused", None)


@as_root
def test_the_status_says_whether_all_is_warm(tmp_path: Path) -> None:
    """0 when it is, and a second time; 1 when a file that was named is refused."""
    need_huge_folios(tmp_path)
    path = tmp_path / "file"
    small_folios(path, 4 * M)
    for outcome in (b"warmed", b"warm "):
        done = elfolio("warm", str(path))
        assert (done.status, outcome in done.stdout) == (0, True)
    assert b"4 MiB in folios of 2 MiB" in done.stdout
    refused = elfolio("warm", "/bin/true")
    assert refused.status == 1
    assert b"smaller than a huge page" in refused.stdout


@as_root
def test_what_is_held_is_named_and_rewritten_when_asked(tmp_path: Path) -> None:
    """The processes are listed with what to do; --rewrite does it; a process that maps it still is then to be started
    again."""
    need_huge_folios(tmp_path)
    path = tmp_path / "file"
    data = small_folios(path, 4 * M)
    with mapped_at(path, 0, 2 * M) as process:
        held = elfolio("warm", str(path))
        assert (held.status, b"-> --rewrite" in held.stdout) == (1, True)
        assert f"mapped by: {process.pid} ".encode() in held.stdout
        done = elfolio("warm", "--rewrite", str(path))
        assert (done.status, b"rewritten" in done.stdout) == (0, True)
        assert f"to be started again: {process.pid} ".encode() in done.stdout
    assert path.read_bytes() == data


@as_root
def test_a_file_with_several_names_needs_a_word(tmp_path: Path) -> None:
    """--rewrite alone names the reason; --links all does it."""
    need_huge_folios(tmp_path)
    path = tmp_path / "file"
    small_folios(path, 4 * M)
    os.link(path, tmp_path / "other")
    with mapped_at(path, 0, 2 * M):
        said = complaint("--rewrite", str(path))
        assert ("2 names (hard links)" in said, "--links leave, or all" in said) == (True, True)
        assert elfolio("warm", "--rewrite", "--links", "all", str(path)).status == 0
    assert os.path.samefile(path, tmp_path / "other")


@needs_gcc
@as_root
def test_a_process_is_warmed_by_what_it_executes(tmp_path: Path) -> None:
    """--pid takes the large programs and libraries of a process, and counts the others. What it runs is held; after
    --rewrite it is to be started again, and then all is warm."""
    need_huge_folios(tmp_path)
    path = tmp_path / "program"
    program(path, 8 * M, "-no-pie")
    with running(path) as process:
        (held,) = told("--pid", str(process.pid), status=1)["files"]
        assert (held["path"], held["outcome"]) == (str(path), "held")
        assert process.pid in [holder["pid"] for holder in held["mapped_by"]]
        report = told("--rewrite", "--pid", str(process.pid))
        assert report["files"][0]["outcome"] == "rewritten"
        assert report["skipped"] > 0
    with running(path) as process:
        assert [entry["outcome"] for entry in told("--pid", str(process.pid))["files"]] == ["warm"]


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg; to force: run it on Debian")
def test_a_package_without_large_programs_is_nothing_to_do() -> None:
    """Its files are counted, none is touched, and that is no failure; with --libraries as well."""
    for more in ((), ("--libraries",)):
        report = told("--package", "hostname", *more)
        assert report["files"] == []
        assert report["skipped"] > 0


@needs_gcc
@as_root
def test_libraries_are_those_of_the_program(tmp_path: Path) -> None:
    """--libraries adds the shared objects that are large enough."""
    need_huge_folios(tmp_path)
    library, user = tmp_path / "libbig.so", tmp_path / "user"
    program(library, 8 * M, "-shared", "-fPIC", "-Wl,-z,max-page-size=0x200000")
    program(user, 4 * M, "-no-pie", "-Wl,--no-as-needed", str(library))
    report = told("--libraries", str(user))
    assert [Path(entry["path"]).name for entry in report["files"]] == ["user", "libbig.so"]
    assert all(entry["warm"] for entry in report["files"])


def test_a_unit_comes_and_goes(tmp_path: Path) -> None:
    """--install-unit writes what runs the same command at boot, with absolute paths; --uninstall-unit removes it."""
    (tmp_path / "file").write_bytes(b"x")
    words = ("--install-unit", "--unit-dir", str(tmp_path), "--package", "git", "--libraries", "file")
    done = elfolio("warm", *words, cwd=tmp_path)
    assert done.status == 0, done.stderr
    text = (tmp_path / "elfolio-warm.service").read_text()
    assert f"-m elfolio warm --json --libraries --package git {tmp_path}/file\n" in text
    assert elfolio("warm", "--uninstall-unit", "--unit-dir", str(tmp_path)).status == 0
    assert os.listdir(tmp_path) == ["file"]


WRONG = [
    ((), "no file"),
    (("/no/such/file",), "No such file or directory"),
    (("/",), "not a regular file"),
    (("--pid", "4000000"), "no such process"),
    (("--package", "no-such-package"), "no such package is installed"),
    (("--uninstall-unit", "x"), "stands alone"),
    (("--install-unit",), "no file"),
    (("--install-unit", "--pid", "1"), "without --pid"),
    (("--links", "all", "x"), "--links belongs to --rewrite"),
    (("--links", "some", "x"), "--links"),
    (("--pid", "2"), "it executes from no file that has a name"),
    (("--unit-dir", "x", "x"), "--unit-dir belongs to --install-unit"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_a_mistake_is_one_line(words: tuple[str, ...], said: str) -> None:
    """Status 2, and what is wrong."""
    assert said in complaint(*words)


def test_the_others_are_warmed_beside_one_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there is one line and status 2; what became of those before and behind it is shown all the
    same."""
    (tmp_path / "file").write_bytes(bytes(64 * K))
    words = (str(tmp_path / "file"), str(tmp_path / "none"), "/bin/true")
    done = elfolio("warm", *words)
    assert (done.status, done.stderr) == (2, f"elfolio warm: {tmp_path / 'none'}: No such file or directory\n".encode())
    assert (str(tmp_path / "file") in done.stdout.decode(), b"/bin/true" in done.stdout) == (True, True)
    report = told(*words, status=2)
    assert [entry["path"] for entry in report["files"]] == [words[0], words[2]]
    assert report["problems"] == [{"path": words[1], "reason": "No such file or directory"}]


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """What a file's name has of control characters comes out as escapes."""
    path = tmp_path / "a\x1b[2Jb\n"
    path.write_bytes(bytes(64 * K))
    done = elfolio("warm", str(path))
    assert b"\x1b" not in done.stdout
    assert rb"a\x1b[2Jb\n" in done.stdout
