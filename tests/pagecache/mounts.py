"""File systems in images, mounted for a test. In: a kind, a directory. Out: where it is mounted, until the end."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = 400 << 20
"""What mkfs.xfs asks for at least is 300 MiB. The image is sparse."""
_MAKERS = {
    "ext4": (("mkfs.ext4", "-q", "-F"), "e2fsprogs"),
    "xfs": (("mkfs.xfs", "-q"), "xfsprogs"),
    "btrfs": (("mkfs.btrfs", "-q"), "btrfs-progs"),
    "erofs": (("mkfs.erofs",), "erofs-utils"),
}
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def run(*words: str | Path) -> None:
    """Raises with what the command says; skips where a mount is refused."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env={"PATH": _PATH})
    if words[0] == "mount" and done.returncode:
        # A container's root may not mount; an overlay whose upper folder is on an overlay is refused.
        pytest.skip(f"mount: {done.stderr.strip()}; to force: run as a machine's root, --basetemp on ext4")
    assert done.returncode == 0, f"{words}: {done.stderr}"


@contextmanager
def mounted(kind: str, folder: Path, *options: str, tree: Path | None = None) -> Iterator[Path]:
    """An empty file system, or one of what is in `tree`, for those that are never written to. Skips without the tool
    or the kernel's part."""
    need_kernel(kind)
    point, image = folder / "mounted", folder / "image"
    point.mkdir()
    if kind == "tmpfs":
        where: tuple[str | Path, ...] = ("-t", "tmpfs", "-o", ",".join(("size=200M", *options)), "none", point)
    else:
        make(kind, image, *([tree] if tree is not None else []))
        where = ("-t", kind, "-o", ",".join(("loop", *options)), image, point)
    try:
        run("mount", *where)
        try:
            yield point
        finally:
            run("umount", point)
    finally:
        image.unlink(missing_ok=True)
        point.rmdir()


@contextmanager
def overlaid(lower: Path, upper: Path, folder: Path) -> Iterator[Path]:
    """An overlay of the two, as a container's root is one."""
    need_kernel("overlay")
    point, changed, work = folder / "overlaid", upper / "changed", upper / "work"
    for path in (point, changed, work):
        path.mkdir()
    run("mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={changed},workdir={work}", "none", point)
    try:
        yield point
    finally:
        run("umount", point)


def need_kernel(kind: str) -> None:
    """A file system that is a module is there once it has been asked for."""
    subprocess.run(["modprobe", "-q", kind], check=False, env={"PATH": _PATH}) if shutil.which(
        "modprobe", path=_PATH
    ) else 0
    names = [line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()]
    if kind not in names:
        pytest.skip(f"this kernel has no {kind}; to force: a kernel with it, or modprobe {kind}")


def make(kind: str, image: Path, *tree: Path) -> None:
    """The image."""
    words, package = _MAKERS[kind]
    if shutil.which(words[0], path=_PATH) is None:
        pytest.skip(f"needs {words[0]}; to force: apt-get install {package}")
    with image.open("wb") as file:
        file.truncate(SIZE)
    run(*words, image, *tree)
