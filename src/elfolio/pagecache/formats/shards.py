"""pagecache.formats.shards: which files an index of shards names. In: a path. Out: tensors by file, or FormatError.

The index that transformers writes beside sharded safetensors files: an object with `weight_map`, which gives for each
tensor the file it is in, in the index's own directory.
"""

import os
import stat

from elfolio.live.cached import open_quietly
from elfolio.pagecache.formats.fault import FormatError
from elfolio.pagecache.formats.safetensors import LONGEST
from elfolio.pagecache.formats.strictjson import Members, parse

__all__ = ["is_index", "read_index"]


def is_index(path: str) -> bool:
    """Whether the name is that of an index: model.safetensors.index.json."""
    return path.endswith(".json")


def read_index(path: str) -> dict[str, frozenset[str]]:
    """Names of tensors by the path of their file, in the order in which the index first names the files. Raises
    FormatError; OSError for an index that cannot be read."""
    members = _members(path)
    maps = [value for name, value in members if name == "weight_map"]
    if len(maps) != 1 or not isinstance(maps[0], Members):
        raise FormatError(path, "no index of safetensors files: it needs an object weight_map, once")
    folder, files, seen = os.path.dirname(path), dict[str, set[str]](), set[str]()
    for name, file in maps[0]:
        if name in seen:
            raise FormatError(path, f"tensor {name[:200]!r} twice")
        if not isinstance(file, str) or not _is_plain(file):
            raise FormatError(path, f"tensor {name[:200]!r} is in {file!r:.200}, which is no name of a file beside it")
        seen.add(name)
        files.setdefault(os.path.join(folder, file), set()).add(name)
    return {file: frozenset(names) for file, names in files.items()}


def _members(path: str) -> Members:
    with open_quietly(path) as fd, open(fd, "rb", closefd=False) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FormatError(path, "not a regular file")
        raw = file.read(LONGEST + 1)
    if len(raw) > LONGEST:
        raise FormatError(path, f"an index of more than {LONGEST} bytes")
    try:
        members = parse(raw.decode())
    except ValueError as error:
        raise FormatError(path, f"its index is no JSON: {error}") from None
    if not isinstance(members, Members):
        raise FormatError(path, "its index is no JSON object")
    return members


def _is_plain(file: str) -> bool:
    """Whether it names a file in the index's directory, and cannot lead out of it. A symbolic link there may: caches
    of downloaded models are made of them."""
    return file not in ("", ".", "..") and "/" not in file and "\0" not in file
