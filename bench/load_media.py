"""bench.load_media: files on file systems. In: a kind, a folder. Out: a mounted place with the files, until the end.

Loop devices use direct I/O: else a cold load would come from the page cache of the image.
"""

import json
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.load_subjects import Files
from elfolio.live.cached import cachestat

__all__ = ["KINDS", "CannotMount", "ballast", "drop", "held", "read_ahead", "write_files"]

KINDS = ("here", "ext4", "ext4-small", "xfs", "btrfs", "erofs", "tmpfs")
"""`here` is the file system that the folder is on; `ext4-small` is ext4 with data=journal, which takes no folios larger
than a page (ext4_should_enable_large_folio, fs/ext4/inode.c): the same file system and device, small folios."""
_TENSOR = 32 << 20
_SPARE = 600 << 20
_SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class CannotMount(Exception):
    """What is missing."""


def _run(*words: str | Path) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={"PATH": _SEARCH}, timeout=600)
    except FileNotFoundError:
        raise CannotMount(f"{words[0]} is not installed") from None
    if done.returncode:
        raise CannotMount(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout.strip()


def write_files(folder: Path, size: int) -> Files:
    """Tensors of 32 MiB, `size` bytes in all, as safetensors and as torch.save writes them. What cannot be compressed
    is the same in each: the data."""
    model, saved = folder / "model.safetensors", folder / "model.pt"
    block = os.urandom(_TENSOR)
    count = size // _TENSOR
    header = {
        f"layer.{at}": {
            "dtype": "F32",
            "shape": [_TENSOR // 4096, 1024],
            "data_offsets": [at * _TENSOR, (at + 1) * _TENSOR],
        }
        for at in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with model.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for at in range(count):
            file.write(at.to_bytes(8, "little") + block[8:])
        os.fsync(file.fileno())
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError:
        return Files(str(model), "")
    torch.save(load_file(model), saved)
    with saved.open("rb") as file:
        os.fsync(file.fileno())
    return Files(str(model), str(saved))


def drop(files: Files) -> None:
    """Takes the page cache of these files only. Raises CannotMount where more than 1% stays."""
    for path in filter(None, files):
        fd = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # EINVAL: a file system that is never written to
                os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            size, told = os.fstat(fd).st_size, cachestat(fd, 0, 0)
            if told is not None and told.cached * mmap.PAGESIZE > size // 100:
                raise CannotMount(f"{told.cached} pages of {Path(path).name} cannot be dropped from the page cache")
        finally:
            os.close(fd)


@contextmanager
def read_ahead(path: str, kilobytes: int | None) -> Iterator[int | None]:
    """The device's read_ahead_kb, set to that many for the while (as root); None where it has none, as tmpfs. Plain
    mappings and reads live by it."""
    device = os.stat(path).st_dev
    file = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if not file.exists():
        yield None
        return
    before = file.read_text()
    try:
        if kilobytes is not None:
            file.write_text(str(kilobytes))
        yield int(file.read_text())
    finally:
        if kilobytes is not None:
            file.write_text(before)


@contextmanager
def ballast(size: int) -> Iterator[None]:
    """Memory that has been touched, given back at the end: what is allocated next comes from it. Where a hypervisor was
    given the free pages (balloon free-page reporting, two seconds after they became free), the first touch of each is
    a fault there, up to 2 s a GB, which would fall to whoever comes first."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with suppress(OSError):  # EINVAL: a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1
        yield


@contextmanager
def held(kind: str, folder: Path, size: int) -> Iterator[Files]:
    """The files on a file system of that kind. Raises CannotMount."""
    with ExitStack() as stack:
        place = folder / kind
        place.mkdir()
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        if kind == "here":
            yield write_files(place, size)
            return
        point, image = place / "mounted", place / "image"
        point.mkdir()
        room = 2 * size + _SPARE
        if kind == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", f"size={room},huge=within_size", "none", point)
            stack.callback(_run, "umount", point)
            yield write_files(point, size)
            return
        if kind == "erofs":
            tree = place / "tree"
            tree.mkdir()
            names = write_files(tree, size)
            _run("mkfs.erofs", image, tree)
            shutil.rmtree(tree)
            _mount(stack, kind, image, point, "ro")
            yield Files(*(name and str(point / Path(name).name) for name in names))
            return
        with image.open("wb") as file:
            file.truncate(room)
        made, _, small = kind.partition("-")
        _run(f"mkfs.{made}", *(("-q", "-F") if made == "ext4" else ("-q",)), image)
        _mount(stack, made, image, point, "rw,data=journal" if small else "rw")
        yield write_files(point, size)


def _mount(stack: ExitStack, kind: str, image: Path, point: Path, mode: str) -> None:
    device = _run("losetup", "-f", "--show", "--direct-io=on", image)
    stack.callback(_run, "losetup", "-d", device)
    _run("mount", "-t", kind, "-o", mode, device, point)
    stack.callback(_run, "umount", point)
