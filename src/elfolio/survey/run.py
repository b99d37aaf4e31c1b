"""survey.run: a whole survey. In: directories, how many processes or which cluster. Out: Survey, or OSError."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from elfolio.survey.examine import Batch, Examined, examine
from elfolio.survey.pool import in_processes
from elfolio.survey.rows import Problem, Row
from elfolio.survey.tree import list_files

__all__ = ["Survey", "as_seen_here", "once", "survey"]

Progress = Callable[[int, int, int], None]
"""Called with the files done, all files, and the ELF files found."""

_ALONE = 4
"""Batches: below that, another process does not pay."""


class Survey(NamedTuple):
    """What was found."""

    roots: tuple[str, ...]
    files: int
    """Regular files looked at."""
    rows: list[Row]
    """One each ELF file that has a head, by path; of several names of one file the first."""
    problems: list[Problem]
    """By path."""
    seconds: float


def survey(
    roots: Iterable[str], *, jobs: int | None = None, cluster: str | None = None, progress: Progress | None = None
) -> Survey:
    """Looks at every regular file below `roots`. `jobs` processes share the work (as many as this process has CPUs,
    unless given), or the Dask cluster at the address `cluster`, whose workers see the same files. Raises OSError for a
    root that is not there, WorkersLost for workers that are gone."""
    began = time.perf_counter()
    names = tuple(roots)
    listed = list_files(names)
    rows: list[Row] = []
    problems = listed.problems
    done = 0
    for examined in _examined(listed.batches, jobs, cluster):
        rows += examined.rows
        problems += examined.problems
        done += examined.files
        if progress is not None:
            progress(done, listed.files, len(rows))
    if cluster is not None:
        rows = [as_seen_here(row) for row in rows]
    rows.sort(key=lambda row: row.path)
    return Survey(names, listed.files, once(rows), sorted(set(problems)), time.perf_counter() - began)


def as_seen_here(row: Row) -> Row:
    """The row with this machine's device number. Of a network's file system each machine makes up its own, so that
    those of two workers neither show that files are one nor that they are two."""
    try:
        facts = os.lstat(row.path)
    except OSError:
        return row
    return row._replace(device=facts.st_dev, inode=facts.st_ino)


def once(rows: Iterable[Row]) -> list[Row]:
    """Each file once, under the first of its names."""
    seen: dict[tuple[int, int], Row] = {}
    for row in rows:
        seen.setdefault((row.device, row.inode), row)
    return list(seen.values())


def _examined(batches: list[Batch], jobs: int | None, cluster: str | None) -> Iterator[Examined]:
    if cluster is not None:
        from elfolio.survey.cluster import examine_on

        return examine_on(cluster, batches)
    count = min(len(os.sched_getaffinity(0)) if jobs is None else jobs, len(batches))
    if count <= 1 or len(batches) < _ALONE:
        return map(examine, batches)
    return in_processes(batches, count)
