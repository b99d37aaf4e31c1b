"""spawn.linked: what a program is linked with. In: a process at its entry. Out: Image, to be compared later.

What an exec would map, and what the dynamic linker reads to find that out: each object, the linker's own files, and the
directories that are searched before its cache.
"""

import os
import time
from collections.abc import Iterator

from elfolio.elf.dynamic import Dynamic
from elfolio.spawn.entry import Entry, NotWarm

__all__ = ["Image", "key_now", "linked_with"]

Image = list[tuple[bytes, "tuple[int, ...] | None"]]
"""Paths of what an exec would map, or read to find that out, with the keys it had; None: what was not there."""

_LOADER_FILES = "/etc/ld.so.cache"
_PRELOAD = "/etc/ld.so.preload"
_SEARCHED_BELOW = ("glibc-hwcaps", "tls", "haswell", "xeon_phi", "avx512_1", "x86_64", "aarch64", "atomics")
_FOLDERS_MOST = 64


def key_now(path: bytes) -> tuple[int, ...] | None:
    """What `Image.key` would be of the file that is there; None if there is none."""
    try:
        st = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (
        st.st_dev, st.st_ino, st.st_size, st.st_mode, st.st_uid, st.st_gid,
        st.st_ctime_ns // 10**9, st.st_ctime_ns % 10**9, st.st_mtime_ns // 10**9, st.st_mtime_ns % 10**9,
    )  # fmt: skip


def linked_with(entry: Entry, began: float) -> Image:
    """What must be as it is now, lest an exec would map something else: each object, the dynamic linker's files, and
    the directories that are searched before its cache."""
    since = time.time_ns() - int((time.monotonic() - began) * 1e9) - 20_000_000  # a tick or two
    held: Image = []
    for obj in entry.objects[1:]:
        key = key_now(os.fsencode(obj.path))
        if key is None or (key[0], key[1]) != (obj.device, obj.inode) or key[6] * 10**9 + key[7] >= since:
            raise NotWarm("changing", obj.path, lasts=False)
        held.append((os.fsencode(obj.path), key))
    folders = {folder for obj in entry.objects for folder in _searched(obj.path, obj.dynamic)}
    for path in (_LOADER_FILES, _PRELOAD, *sorted(folders)):
        held.append((os.fsencode(path), key_now(os.fsencode(path))))
    return held


def _searched(path: str, dynamic: Dynamic) -> Iterator[str]:
    origin = os.path.dirname(path)
    for written in dynamic.search_path:
        folder = written.replace("$ORIGIN", origin).replace("${ORIGIN}", origin)
        if "$" in folder or not folder.startswith("/"):
            raise NotWarm("search path", folder)
        folder = os.path.normpath(folder)
        yield folder
        # Searched before the folder itself (dl-load.c, _dl_important_hwcaps; the others before glibc 2.37). A new file
        # in one of them does not show in the folder's own time stamps.
        for below in _SEARCHED_BELOW:
            for place, names, _ in os.walk(f"{folder}/{below}"):
                if len(names) > _FOLDERS_MOST:
                    raise NotWarm("search path", place)
                yield place
