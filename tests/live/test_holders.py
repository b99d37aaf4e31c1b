"""live.holders and live.packages: who has a file mapped, and what a package has."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from elfolio.live.holders import Holder, holders, mapped_files
from elfolio.live.packages import package_files
from tests.pagecache.files import mapped_at

MAPS = {
    10: "00400000-0041f000 r-xp 00000000 fe:00 77 /opt/tool\n00600000-00601000 rw-p 00000000 00:00 0 \n",
    11: "7f00-7f10 r--p 00000000 00:1f 77 /opt/tool\n",
    12: "7f00-7f10 r--p 00000000 fe:00 78 /opt/tool\n",
    13: "7f00-7f10 r--p 00000000 fe:00 77 /opt/tool (deleted)\n",
    14: "7f00-7f10 r--p 00000000 00:1f 77 /opt/other\n",
}


def record(proc: Path, maps: dict[int, str]) -> None:
    """A recorded /proc."""
    for pid, text in maps.items():
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "maps").write_text(text)
        (proc / str(pid) / "comm").write_text(f"tool-{pid}\n")
    (proc / "self").mkdir()


def status(device: int, inode: int) -> os.stat_result:
    """Of a file."""
    return os.stat_result((0o100755, inode, device, 1, 0, 0, 0, 0, 0, 0))


def test_holders_are_told_by_device_and_inode(tmp_path: Path) -> None:
    """The inode counts, on its device; where maps show another device than stat, as on btrfs, the name as well."""
    record(tmp_path, MAPS)
    found, complete = holders("/opt/tool", status(os.makedev(0xFE, 0), 77), tmp_path)
    assert found == (Holder(10, "tool-10"), Holder(11, "tool-11"), Holder(13, "tool-13"))
    assert complete


def test_a_process_of_this_machine_is_found(tmp_path: Path) -> None:
    """One that has a single page of the file mapped, and nobody else."""
    (tmp_path / "file").write_bytes(bytes(8192))
    with mapped_at(tmp_path / "file", 0) as process:
        found, _ = holders(str(tmp_path / "file"), os.stat(tmp_path / "file"))
    assert [holder.pid for holder in found] == [process.pid]


def test_a_process_executes_from_its_program_and_its_libraries() -> None:
    """mapped_files names the interpreter of this process, each file once, and nothing that is not there."""
    with mapped_at(Path("/bin/true"), 0) as process:
        found = mapped_files(process.pid)
    assert os.path.realpath(sys.executable) in found
    assert any("libc" in path for path in found)
    assert len(set(found)) == len(found)
    assert all(map(os.path.isfile, found))
    assert "/bin/true" not in found  # mapped, but for reading


def test_a_process_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(ProcessLookupError, match="no such process"):
        mapped_files(4_000_000)


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg; to force: run it on Debian")
def test_the_files_of_a_package() -> None:
    """All regular files that dpkg lists, each once, links followed."""
    found = package_files("coreutils")
    assert os.path.realpath("/bin/ls") in found
    assert all(os.path.isfile(path) and not os.path.islink(path) for path in found)
    listed = subprocess.run(["dpkg", "-L", "coreutils"], capture_output=True, text=True, check=True).stdout.split("\n")
    assert {os.path.realpath(path) for path in listed if path and os.path.isfile(path)} == set(found)


@pytest.mark.parametrize("name", ["no-such-package-here", "", "-W"])
def test_what_is_no_package_is_an_error(name: str) -> None:
    """Neither a name that nobody knows nor an option gets to dpkg's other commands."""
    with pytest.raises(OSError) as caught:
        package_files(name)
    assert caught.value.filename == name


def test_without_a_package_manager_files_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="name the files"):
        package_files("coreutils")


def test_rpm_is_asked_where_dpkg_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that only rpm knows is found; what rpm says beside paths is left out."""
    (tmp_path / "file").write_text("x")
    rpm = tmp_path / "rpm"
    rpm.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-ql only-rpm" ] || exit 1\necho "(contains no files)"\necho {tmp_path}/file\n'
    )
    rpm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert package_files("only-rpm") == (str(tmp_path / "file"),)
