"""live.layers: the file system of the layer behind a file of an overlay, from a recorded mountinfo."""

import os
from pathlib import Path

import pytest

from elfolio.kernel.filesystems import Filesystem
from elfolio.live.layers import layered


class Overlay:
    """An upper layer on xfs and two lower ones, on ext4 and btrfs, as mountinfo would show them mounted at /over."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        (folder / "self").mkdir()
        for name in ("upper", "one: a", "two"):
            (folder / name).mkdir()
        written = {name: str(folder / name).replace(":", "\\134:").replace(" ", "\\040") for name in ("one: a", "two")}
        lower = f"lowerdir={written['one: a']}:{written['two']}"
        lines = [
            "1 0 8:0 / / rw - ext4 /dev/a rw",
            f"2 1 8:1 / {folder}/upper rw - xfs /dev/b rw",
            f"3 1 8:2 / {folder}/two rw - btrfs /dev/c rw",
            f"4 1 0:9 / /over rw - overlay overlay rw,{lower},upperdir={folder}/upper,workdir=/w{more}",
            "5 4 0:9 /usr /over/bound rw - overlay overlay rw,lowerdir=" + str(folder / "two"),
        ]
        (folder / "self/mountinfo").write_text("\n".join(lines) + "\n")

    def put(self, path: str, text: str = "x", when: int = 1) -> os.stat_result:
        """A file of a layer."""
        whole = self.folder / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(text)
        os.utime(whole, (when, when))
        return whole.stat()

    def of(self, path: str, status: os.stat_result) -> Filesystem:
        """What is said of the file in the overlay."""
        return layered(path, status, self.folder)


def test_the_topmost_layer_that_has_the_file_counts(tmp_path: Path) -> None:
    """The upper one before the lower ones, these in their order, blanks and colons in their names unescaped."""
    overlay = Overlay(tmp_path)
    status = overlay.put("two/usr/bin/x")
    assert overlay.of("/over/usr/bin/x", status).layer == "btrfs"
    assert overlay.of("/over/bound/bin/x", status).layer == "btrfs"
    status = overlay.put("one: a/usr/bin/x", "y")
    assert overlay.of("/over/usr/bin/x", status).layer == "ext4"
    status = overlay.put("upper/usr/bin/x", "z")
    assert overlay.of("/over/usr/bin/x", status).layer == "xfs"
    assert overlay.of("/over/usr", (tmp_path / "two/usr").stat()).layer == "xfs"


@pytest.mark.parametrize("what", ["size", "time", "kind", "gone"])
def test_another_file_at_that_place_is_none(tmp_path: Path, what: str) -> None:
    """In a container the layers' paths lead to something else, or nowhere: that is told by size, time and kind."""
    overlay = Overlay(tmp_path)
    status = overlay.put("two/x")
    overlay.put("two/x", "xx" if what == "size" else "x", 2 if what == "time" else 1)
    if what in ("kind", "gone"):
        (tmp_path / "two/x").unlink()
    if what == "kind":
        (tmp_path / "two/x").mkdir()
    found = overlay.of("/over/x", status)
    assert (found.name, found.layer, found.is_hidden) == ("overlay", "", True)


def test_a_file_with_only_its_rights_above_has_its_bytes_below(tmp_path: Path) -> None:
    """With metacopy=on a file of the upper layer may be a hole of the right size."""
    overlay = Overlay(tmp_path, ",metacopy=on")
    status = overlay.put("two/x", "x" * 8192)
    with (tmp_path / "upper/x").open("wb") as above:
        above.truncate(8192)
    os.utime(tmp_path / "upper/x", (1, 1))
    assert overlay.of("/over/x", status).layer == "btrfs"


def test_what_is_on_no_overlay_is_itself(tmp_path: Path) -> None:
    """And has no layer."""
    overlay = Overlay(tmp_path)
    status = overlay.put("two/x")
    found = overlay.of(f"{tmp_path}/two/x", status)
    assert (found.name, found.layer, found.is_hidden) == ("btrfs", "", False)
