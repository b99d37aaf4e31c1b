"""pagecache.unit: what systemd is asked to do at boot."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from elfolio.pagecache import unit

COMMAND = ["/usr/bin/python3", "-m", "elfolio", "warm", "/opt/a b/50%", 'q"uote\\', "$HOME", "ü\udcff", ""]


def test_it_runs_the_command_before_ordinary_services(tmp_path: Path) -> None:
    """The unit is ordered before basic.target, wanted by it, and gone at shutdown."""
    path = unit.install(["/bin/true", "x"], tmp_path)
    text = Path(path).read_text()
    assert "ExecStart=/bin/true x\n" in text
    for line in ("Before=basic.target shutdown.target", "WantedBy=basic.target", "DefaultDependencies=no"):
        assert f"{line}\n" in text
    assert os.readlink(tmp_path / "basic.target.wants" / unit.NAME) == f"../{unit.NAME}"
    assert (tmp_path / "basic.target.wants" / unit.NAME).exists()


def test_words_reach_the_command_as_they_are() -> None:
    """Spaces, quotes, percent and dollar signs, and bytes that are no UTF-8 are written as systemd.syntax(7) has it."""
    (line,) = [line for line in unit.unit_text(COMMAND).splitlines() if line.startswith("ExecStart=")]
    said = line.removeprefix("ExecStart=")
    assert said == r'/usr/bin/python3 -m elfolio warm "/opt/a b/50%%" "q\"uote\\" "$$HOME" "ü\xff" ""'


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd; to force: apt-get install systemd")
def test_systemd_takes_it(tmp_path: Path) -> None:
    """systemd-analyze has nothing to say of the unit, and a bad one is refused with what it says."""
    text = unit.unit_text(["/bin/true", *COMMAND[4:]])
    unit.verify(text)
    (tmp_path / unit.NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.NAME)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert unit.NAME not in done.stderr
    with pytest.raises(ValueError, match=r"^elfolio-warm\.service"):
        unit.install(["/no/such/program"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_was_written_is_removed_again(tmp_path: Path) -> None:
    """uninstall leaves nothing, twice installed counts once, and other units' links stay."""
    (tmp_path / "basic.target.wants").mkdir()
    (tmp_path / "basic.target.wants" / "other.service").symlink_to("/dev/null")
    for _ in range(2):
        unit.install(["/bin/true"], tmp_path)
    unit.uninstall(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["basic.target.wants", "other.service"]
    with pytest.raises(FileNotFoundError):
        unit.uninstall(tmp_path)


def test_another_ones_unit_is_left_alone(tmp_path: Path) -> None:
    """A unit of that name that somebody else has written is neither replaced nor removed."""
    path = tmp_path / unit.NAME
    path.write_text("[Unit]\n")
    with pytest.raises(FileExistsError, match="elfolio has not written"):
        unit.install(["/bin/true"], tmp_path)
    with pytest.raises(FileExistsError):
        unit.uninstall(tmp_path)
    assert path.read_text() == "[Unit]\n"
