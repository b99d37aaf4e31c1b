"""live.backed: the files behind a process's mappings. In: a process id, its Vma. Out: FileFacts; what is cached.

A file is opened through /proc/PID/map_files, which leads to it whatever its name has come to (root's, or with
CAP_CHECKPOINT_RESTORE); else through the process's root by its name, if the inode is still the same. What was found is
kept: most files of a machine's processes are the same few libraries.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from elfolio import _native
from elfolio.elf.reader import read_head
from elfolio.errors import ElfError
from elfolio.kernel.backing import Backing
from elfolio.kernel.filesystems import Filesystem, filesystem
from elfolio.kernel.losses import Piece, backed, pieces
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import Vma
from elfolio.live.cached import cachestat, look, open_quietly
from elfolio.live.layers import layered
from elfolio.span import Span

__all__ = ["FileFacts", "Files"]

_WINDOW = 1 << 30
"""Bytes of a file whose runs are held at once."""
_LARGE = 16 << 30
"""Bytes from which on cachestat is asked first, which is quick over what is not cached."""
_MAGIC = {
    0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs", 0xE0F5E1E2: "erofs",
    0x794C7630: "overlay", 0x6969: "nfs", 0x65735546: "fuse", 0x73717368: "squashfs", 0x01021997: "9p",
}  # fmt: skip
"""f_type of statfs(2): include/uapi/linux/magic.h, and fs/xfs, fs/fuse."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that a process has mapped."""

    path: str
    """As maps has it."""
    size: int
    """In bytes; 0 where it cannot be seen."""
    policy: Policy
    """This machine's, with the file's file system."""
    pieces: tuple[Piece, ...] = ()
    """Of an ELF file whose headers are cached; they are not read for this."""
    hidden: str = ""
    """Why it cannot be looked at."""


_Key = tuple[int, int, int]


class Files:
    """What is known of files; of one moment, because page caches change."""

    def __init__(self, policy: Policy, proc: str | Path = "/proc") -> None:
        self._policy, self._proc = policy, Path(proc)
        self._facts: dict[_Key, FileFacts] = {}
        self._counts: dict[tuple[_Key, Span, int], Counter[Backing]] = {}

    def facts(self, pid: int, vma: Vma) -> FileFacts:
        """Of a mapping that a file is behind."""
        key = _key(vma)
        if key not in self._facts:
            try:
                with self._opened(pid, vma) as fd:
                    self._facts[key] = self._read(fd, vma, pid)
            except OSError as error:
                # Another process may let us see it: what is hidden is not kept.
                return FileFacts(vma.name, 0, self._policy, hidden=error.strerror or str(error))
        return self._facts[key]

    def backing(self, pid: int, vma: Vma, file: Span, size: int) -> Counter[Backing]:
        """What the page cache has of each block of `size` bytes in `file`, a range of whole blocks."""
        at = (_key(vma), file, size)
        if at not in self._counts:
            try:
                with self._opened(pid, vma) as fd:
                    self._counts[at] = _counted(fd, file, size, self._policy.page_size)
            except OSError:
                return Counter({Backing.UNSEEN: file.size // size})
        return self._counts[at]

    @contextmanager
    def _opened(self, pid: int, vma: Vma) -> Iterator[int]:
        with open_quietly(self._way(pid, vma)) as fd:
            yield fd

    def _way(self, pid: int, vma: Vma) -> Path:
        """A path that leads to the very file. A device is never opened: that could start something."""
        folder, inode = self._proc / str(pid), vma.file.inode if vma.file is not None else 0
        reason = "the file behind it has another name by now, or none"
        for path in (folder / f"map_files/{vma.start:x}-{vma.end:x}", Path(f"{folder}/root{vma.name}")):
            try:
                status = os.stat(path)
            except OSError as error:
                reason = reason if isinstance(error, FileNotFoundError) else error.strerror or reason
                continue
            if status.st_ino == inode and stat.S_ISREG(status.st_mode):
                return path
        raise OSError(0, reason)

    def _read(self, fd: int, vma: Vma, pid: int) -> FileFacts:
        status = os.fstat(fd)
        size, name = status.st_size, _MAGIC.get(_native.file_system(fd))
        known = filesystem(name) if name and name != "overlay" else _layered(vma.name, status, self._proc, pid)
        policy = replace(self._policy, fs=known)
        return FileFacts(vma.name, size, policy, _pieces(fd, vma.name, size, policy.page_size))


def _key(vma: Vma) -> _Key:
    return (vma.file.major, vma.file.minor, vma.file.inode) if vma.file is not None else (0, 0, 0)


def _layered(path: str, status: os.stat_result, proc: Path, pid: int) -> Filesystem:
    try:
        return layered(path, status, proc, pid)
    except OSError:
        return filesystem("")


def _pieces(fd: int, name: str, size: int, page: int) -> tuple[Piece, ...]:
    """From the first page, and only if it is cached: reading it by itself would make a small folio of it. The table of
    any linker's output ends there."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    if not look(fd, 0, page).cached:
        return ()
    try:
        return pieces(read_head(os.pread(fd, page, 0), name, size), page)
    except ElfError:
        return ()


def _counted(fd: int, file: Span, size: int, page: int) -> Counter[Backing]:
    counts: Counter[Backing] = Counter()
    step = max(_WINDOW, size)
    for start in range(file.start, file.end, step):
        part = Span(start, min(start + step, file.end))
        told = cachestat(fd, part.start, part.size) if file.size > _LARGE else None
        if told is not None and not told.cached:
            counts[Backing.ABSENT] += part.size // size
            continue
        runs = look(fd, part.start, part.size).runs
        counts += Counter({Backing.UNSEEN: part.size // size}) if runs is None else backed(runs, part, size, page)
    return counts
