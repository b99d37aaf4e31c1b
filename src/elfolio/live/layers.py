"""live.layers: what a file is really on, where its mount is an overlay. In: a path, mountinfo. Out: Filesystem.

An overlay's mapped files are its layers', and so are their folios. No call tells which layer has a file. mountinfo has
the layers' paths, as whoever mounted them saw them: in a container they lead nowhere. So each is tried, and what is
found there counts only if it is the same file by size and time.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elfolio.kernel.filesystems import Filesystem, filesystem, on_layer

__all__ = ["Mount", "layered", "mount_of"]

_DEPTH = 3
"""Overlays of overlays: FILESYSTEM_MAX_STACK_DEPTH is 2."""
_LOWER = ("lowerdir", "lowerdir+", "datadir+")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo."""

    point: str
    root: str
    """What of the file system is mounted there: / or, of a bind mount, a folder."""
    kind: str
    """Its type's name; empty where no line fits."""
    options: str = ""
    """The file system's own, as the line has them."""


def mount_of(real: str, proc: str | Path = "/proc", pid: int | str = "self") -> Mount:
    """The mount that a path without links lies in, as that process sees it. Raises OSError."""
    best = Mount("", "/", "")
    for line in Path(proc, str(pid), "mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point, fields = _unescaped(before.split()[4]), after.split()
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best.point):  # of mounts over one another the last counts
            best = Mount(point, _unescaped(before.split()[3]), fields[0], fields[-1])
    return best


def layered(
    real: str, status: os.stat_result, proc: str | Path = "/proc", pid: int | str = "self", depth: int = _DEPTH
) -> Filesystem:
    """The file system of a file, an overlay's with what its layer allows; `status` is the file's. Where the layer
    cannot be found the overlay's `is_hidden` says so. Raises OSError where mountinfo cannot be read."""
    mount = mount_of(real, proc, pid)
    if mount.kind != "overlay" or not depth:
        return filesystem(mount.kind)
    path = _layer(real, mount, status)
    return filesystem("overlay") if path is None else on_layer(layered(*path, proc, "self", depth - 1))


def _layer(real: str, mount: Mount, status: os.stat_result) -> tuple[str, os.stat_result] | None:
    """The file in the first layer that has its name, if it is the same one. A new file of a folder would be in the
    upper layer."""
    inside = os.path.normpath(f"{mount.root}/{real[len(mount.point.rstrip('/')) :]}").lstrip("/")
    for folder in _layers(mount.options):
        path = os.path.join(folder, inside)
        try:
            found = os.lstat(path)
        except OSError:
            continue
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(status.st_mode):
            return None  # a whiteout, or another tree
        if stat.S_ISDIR(status.st_mode):
            return path, found
        if found.st_size and not found.st_blocks and "metacopy=on" in mount.options:
            continue  # the upper layer has its owner and mode, a lower one its bytes
        same = (found.st_size, found.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
        return (os.path.realpath(path), found) if same else None
    return None


def _layers(options: str) -> Iterator[str]:
    """The upper layer, then the lower ones, topmost first."""
    words = [_unescaped(word).partition("=")[::2] for word in re.split(r"(?<!\\),", options)]
    yield from (_plain(path) for name, path in words if name == "upperdir")
    for name, paths in words:
        if name in _LOWER:
            yield from (_plain(path) for path in re.split(r"(?<!\\)::?", paths) if path.startswith("/"))


def _plain(path: str) -> str:
    return re.sub(r"\\(.)", r"\1", path)


def _unescaped(text: str) -> str:
    """Of what /proc writes as octal digits: blank, tab, newline, backslash."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)
