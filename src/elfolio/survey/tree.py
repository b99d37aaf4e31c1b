"""survey.tree: the regular files below some directories. In: paths. Out: Batches of names, and what cannot be listed.

Symbolic links are not followed, but for those that are given. The kernel's own trees (/proc, /sys) hold no files to
survey, and reading some of what is there has effects.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

from elfolio.survey.examine import Batch
from elfolio.survey.rows import Problem

__all__ = ["Listed", "list_files"]

_NOT_FILES = frozenset(("/proc", "/sys", "/dev"))
BATCH = 512
"""Files: some milliseconds of work, so that one slow disk or lost worker keeps nobody waiting long."""


class Listed(NamedTuple):
    """A tree's files, not looked at yet."""

    batches: list[Batch]
    files: int
    problems: list[Problem]


def list_files(roots: Iterable[str]) -> Listed:
    """Every regular file below `roots`, or at them, in the directories' own order. Raises OSError for a root that does
    not exist or cannot be listed; other directories that cannot are among the problems."""
    gathering = _Gathering()
    pending = []
    for root in roots:
        try:
            path = os.path.realpath(root, strict=True)
            is_folder = os.path.isdir(path)
            if is_folder:
                os.scandir(path).close()
        except OSError as error:
            raise OSError(error.errno, error.strerror, root) from error
        if is_folder:
            pending.append(path)
        else:
            folder, name = os.path.split(path)
            gathering.add(folder, [name])
    while pending:
        folder = pending.pop()
        names, folders = _entries(folder, gathering.problems)
        pending += folders
        if names:
            gathering.add(folder, names)
    return gathering.listed()


def _entries(folder: str, problems: list[Problem]) -> tuple[list[str], list[str]]:
    """The names of the regular files in a directory, and the paths of its directories."""
    names, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
                elif entry.is_dir(follow_symlinks=False) and entry.path not in _NOT_FILES:
                    folders.append(entry.path)
    except OSError as error:
        problems.append(Problem(folder, "unreadable", error.strerror or str(error)))
    return names, folders


class _Gathering:
    """Names, cut into batches as they come."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._batches: list[Batch] = []
        self._open: Batch = []
        self._room = BATCH
        self._files = 0

    def add(self, folder: str, names: list[str]) -> None:
        self._files += len(names)
        while names:
            self._open.append((folder, names[: self._room]))
            names = names[self._room :]
            self._room -= len(self._open[-1][1])
            if self._room == 0:
                self._close()

    def _close(self) -> None:
        self._batches.append(self._open)
        self._open, self._room = [], BATCH

    def listed(self) -> Listed:
        if self._open:
            self._close()
        return Listed(self._batches, self._files, self.problems)
