"""pagecache.load_auto: which strategy fits. In: a Job. Out: a way, and why; never by a table of file systems.

What is cached is mapped: reading it again would be slower. What is not is mapped too, and read in huge folios, whether
these come or not: neither the file system's name nor the list of free blocks says it beforehand, for clean cache is
given up for them too, and where none come a mapping was no slower than a copy (docs/load.md has the figures). Direct
reads are nobody's default: a second load would be as cold as the first.
"""

import mmap

from elfolio.live.cached import CachedFile, look
from elfolio.pagecache.load_align import direct_alignment
from elfolio.pagecache.load_copied import by_read
from elfolio.pagecache.load_direct import by_direct
from elfolio.pagecache.load_job import Job
from elfolio.pagecache.load_mapped import by_mmap, is_hugetlb, watched
from elfolio.pagecache.load_memory import HUGE
from elfolio.pagecache.load_report import Strategy
from elfolio.pagecache.load_ways import Way
from elfolio.pagecache.window import drop
from elfolio.span import Span, round_down

__all__ = ["choose"]

_MOSTLY, _HALF = 0.9, 0.5


def choose(job: Job, cached: int | None) -> tuple[Strategy, Way]:
    """`cached`: bytes of it in the page cache, None where that is hidden."""
    if job.into is not None:
        return _into_buffer(job, (cached or 0) / max(job.part.size, 1))
    if is_hugetlb(job.fd):
        job.why.append("a file of hugetlbfs, which is not mapped here: copied")
        return Strategy.READ, by_read
    share = (cached or 0) / max(job.part.size, 1)
    if cached is None:
        job.why.append("how much of it is in the page cache is hidden from this user: mapped on huge folios")
    elif share >= _MOSTLY:
        job.why.append(f"{share:.0%} of it is in the page cache: mapped as it is")
    else:
        job.why.append(_said(share) + ": mapped on huge folios, which are read in whole blocks")
        if cached and job.limit is None:
            _mend(job)
    return Strategy.MMAP, by_mmap if share >= _MOSTLY else watched


def _into_buffer(job: Job, share: float) -> tuple[Strategy, Way]:
    """Where a copy is what the caller wants: not from the disk what is cached already."""
    if share >= _HALF or is_hugetlb(job.fd):
        job.why.append(f"{_said(share)}: copied into the buffer")
        return Strategy.READ, by_read
    try:
        direct_alignment(job.fd)
    except OSError as error:
        job.why.append(f"{error.strerror}: read through the page cache")
        return Strategy.READ, by_read
    job.why.append(f"{_said(share)}: read directly into the buffer")
    return Strategy.DIRECT, by_direct


def _said(share: float) -> str:
    return f"{share:.0%} of it is in the page cache" if share else "nothing of it is in the page cache"


def _mend(job: Job) -> None:
    """What is cached only in part keeps its small folios, and so makes the gaps be read into small ones. Where that is
    less than half of the huge pages, these are dropped, and read again whole; what is dirty or mapped stays."""
    found = look(job.fd, job.part.start, job.part.size)
    broken = _broken(found)
    total = job.part.size // HUGE
    if broken and len(broken) * 2 < total:
        drop(job.fd, broken)
        job.why.append(
            f"{len(broken)} huge pages of it were cached in part: what nobody has mapped was dropped, to be read whole"
        )


def _broken(found: CachedFile) -> list[Span]:
    """Huge pages of the file of which some, not all, is cached."""
    pages = HUGE // mmap.PAGESIZE
    have: dict[int, int] = {}
    for run in found.runs or ():
        at = run.start
        while at < run.end:
            stop = min(run.end, round_down(at, pages) + pages)
            have[at // pages] = have.get(at // pages, 0) + stop - at
            at = stop
    return [Span(block * HUGE, (block + 1) * HUGE) for block, count in sorted(have.items()) if count < pages]
