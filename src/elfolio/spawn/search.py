"""spawn.search: where a program's name leads. In: a name, an environment. Out: paths, one after the other; errors.

The rules are those of `subprocess`, which are those of os._execvpe: every candidate is tried, and if none
starts, the first error that is not about a missing file is the one that counts.
"""

import errno
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

__all__ = ["absolute", "candidates", "first_error", "prefixes"]


def candidates(name: str, env: Any) -> Sequence[str]:
    """What execve is given, one after the other: a name with a slash as it is, any other in each directory of
    PATH. `env`: the environment that the program will have, whose PATH it is; None for this process's own."""
    if "/" in name:
        return (name,)
    # os.get_exec_path takes long to find that os.environ has no bytes in it.
    folders = os.environ.get("PATH", os.defpath) if env is None else tuple(os.get_exec_path(env))
    return [prefix + name for prefix in prefixes(folders)]


@lru_cache(maxsize=16)
def prefixes(folders: str | tuple[str, ...]) -> list[str]:
    """What os.path.join puts before a name."""
    parts = folders.split(os.pathsep) if isinstance(folders, str) else folders
    return [os.path.join(part, "") for part in parts]


def absolute(given: str, cwd: Any) -> str:
    """`given` as a child in `cwd` will find it (None: this process's own); nothing is normalised, as no link is.
    Raises OSError where the working directory has no name."""
    if given.startswith("/") or not given:
        return given
    folder = "" if cwd is None else os.fsdecode(cwd)
    if not folder.startswith("/"):
        folder = os.path.join(os.getcwd(), folder)
    return os.path.join(folder, given)


def first_error(failures: Iterable[int | str]) -> int:
    """The errno that counts, of each candidate's: the first that is not about a missing file, else the last one.
    A path stands for why it is missing: most of a search path leads nowhere, and why is only asked at the end."""
    numbers = [_why_missing(failure) if isinstance(failure, str) else failure for failure in failures]
    return next((n for n in numbers if n not in (errno.ENOENT, errno.ENOTDIR)), numbers[-1])


def _why_missing(path: str) -> int:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno or errno.ENOENT
    return errno.ENOENT
