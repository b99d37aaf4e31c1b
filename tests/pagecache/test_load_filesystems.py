"""load on other file systems, in loop mounts: the same bytes by every strategy, and a disk's error as EIO."""

import errno
import mmap
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import elfolio
from elfolio.pagecache.load_compare import drop_file
from tests.pagecache.files import M
from tests.pagecache.mounts import make, mounted, need_kernel, overlaid, run
from tests.pagecache.test_load import SIZE, WAYS, nothing_mapped

pytestmark = pytest.mark.root

KINDS = ("ext4", "xfs", "btrfs", "erofs", "tmpfs", "overlay")
REFUSED = {"tmpfs": {"uncached"}, "btrfs": {"uncached"}, "erofs": {"uncached"}, "overlay": {"uncached"}}
"""What a kernel may lack there; what it has, gives the right bytes."""


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Each kind of file system, with a file on it."""
    kind, tree = str(request.param), tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(random.Random(3).randbytes(SIZE))
    if kind == "overlay":
        with overlaid(tree, _folder(tmp_path / "upper"), tmp_path) as point:
            yield point
        return
    with mounted(kind, tmp_path, tree=tree if kind == "erofs" else None) as point:
        if kind != "erofs":
            (point / "file").write_bytes((tree / "file").read_bytes())
        yield point


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_bytes_are_the_files_everywhere(place: Path, request: pytest.FixtureRequest) -> None:
    """Each strategy gives the file's bytes, cold and warm, from an odd offset on, or says that it cannot."""
    path = place / "file"
    expected = path.read_bytes()
    (kind,) = (kind for kind in KINDS if kind in request.node.name)
    for way in WAYS:
        for offset in (0, 5 * M + 1):
            drop_file(str(path))
            try:
                for _ in ("cold", "warm"):
                    with elfolio.load(path, strategy=way, offset=offset) as loaded:
                        assert bytes(loaded.view()) == expected[offset:], (way, offset)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP or way not in REFUSED.get(kind, set()):
                    raise


def test_an_overlays_cache_is_seen(tmp_path: Path) -> None:
    """cachestat counts nothing of an overlay's file; its mapping tells all the same that it is cached."""
    (_folder(tmp_path / "lower") / "file").write_bytes(bytes(4 * M))
    with overlaid(tmp_path / "lower", _folder(tmp_path / "upper"), tmp_path) as point:
        (point / "file").read_bytes()
        with elfolio.load(point / "file") as loaded:
            assert loaded.report.cached_before == 4 * M


@contextmanager
def remounted(image: Path, point: Path) -> Iterator[Path]:
    run("mount", "-t", "btrfs", "-o", "loop", image, point)
    try:
        yield point / "file"
    finally:
        run("umount", point)


def test_a_disks_error_is_eio(tmp_path: Path) -> None:
    """A block whose checksum is wrong is EIO with the file's name by every strategy; nothing stays mapped."""
    need_kernel("btrfs")
    image, point = tmp_path / "image", _folder(tmp_path / "point")
    make("btrfs", image)
    data = random.Random(5).randbytes(4 * M)
    with remounted(image, point) as path:
        path.write_bytes(data)
    with image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        at = mapped.find(data[3 * M : 3 * M + 64])
        assert at >= 0
        mapped[at] ^= 0xFF
    with remounted(image, point) as path:
        for way in WAYS:
            drop_file(str(path))
            with nothing_mapped(), pytest.raises(OSError) as caught:
                elfolio.load(path, strategy=way)
            if caught.value.errno != errno.EOPNOTSUPP:
                assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path)), way
            else:
                assert way == "uncached"
    image.unlink()


AS_NOBODY = """
import os, sys
import elfolio, elfolio.pagecache.load
path = sys.argv[1]
os.setgid(65534); os.setuid(65534)
for way in sys.argv[2:]:
    with elfolio.load(path, strategy=way) as loaded:
        assert bytes(loaded.view()) == open(path, "rb").read(), way
        print(way, loaded.report.strategy, loaded.report.cached_before, *loaded.report.why)
"""


def test_another_users_file_is_loaded() -> None:
    """Without privilege, of a file that is another's, whose cache is hidden: every strategy all the same."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are root's alone
        os.chmod(folder, 0o755)
        path = Path(folder, "file")
        path.write_bytes(random.Random(9).randbytes(3 * M))
        path.chmod(0o644)
        words = [sys.executable, "-c", AS_NOBODY, str(path), "auto", "mmap", "read", "readahead", "direct"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert "None" not in lines[0] or "hidden" in lines[0]
