"""report.observe: running processes' mappings. In: Observed, why neighbours are two. Out: the command's JSON.

The text, the table and the page are made from the object that --json prints.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from elfolio.kernel.vmflags import VmFlags
from elfolio.report.observe_files import BlockRow, FileRow, block_row
from elfolio.report.observe_folios import Folios, folios_of

if TYPE_CHECKING:
    from elfolio.kernel.neighbours import Apart
    from elfolio.live.observed import Observed, Seen
    from elfolio.live.vmas import ProcessMemory

__all__ = ["Mapping", "Problem", "Process", "Report", "as_json", "as_process", "as_report"]


class Unmerged(TypedDict):
    """Why a VMA and the one below it, which it touches, are two."""

    rule: str
    because: str
    source: str
    certain: bool
    differ: list[str]
    """Flags that one has and the other has not, as smaps names them."""


class Mapping(TypedDict):
    """A VMA. Sizes in bytes; from smaps, those of `folios` from pagemap."""

    start: int
    end: int
    perms: str
    offset: int
    name: str
    rss: int
    pss: int
    anonymous: int
    swap: int
    huge: int
    """The sum of the next three, smaps' AnonHugePages, ShmemPmdMapped, FilePmdMapped."""
    anon_huge: int
    shmem_huge: int
    file_huge: int
    ksm: int
    mergeable: bool
    """Whether it has KSM's flag."""
    below: Unmerged | None
    """None where it touches none below."""
    folios: Folios
    blocks: list[BlockRow]
    """For each size of block, where a file is behind it that can be seen."""
    hidden: str
    """Why the file behind it cannot be seen."""


class Ksm(TypedDict):
    """Same-page merging. None: the kernel does not say."""

    merge_any: bool | None
    """prctl(PR_SET_MEMORY_MERGE)."""
    mergeable_vmas: int
    mergeable_bytes: int
    merging_pages: int | None
    zero_pages: int | None
    profit: int | None
    """Bytes saved, less what it costs to keep account."""


class Process(TypedDict):
    """One of them."""

    pid: int
    name: str
    vmas: int
    max_map_count: int
    touching: int
    """Pairs of neighbours that touch."""
    unmerged: dict[str, int]
    """Those, by rule."""
    mapped: int
    rss: int
    huge: int
    page_tables: int
    huge_pages: bool
    """False: prctl(PR_SET_THP_DISABLE)."""
    ksm: Ksm
    folios: Folios
    lost: int
    """Bytes in whole blocks of files, of the huge page's size, that are not mapped as one."""
    how: list[str]
    """Which of the kernel's files folios rest on, and what they hide."""
    hidden: str
    mappings: list[Mapping] | None
    """None in a table of many processes."""


class Problem(TypedDict):
    """A process that could not be looked at."""

    pid: int
    name: str
    reason: str


class Report(TypedDict):
    """Everything."""

    elfolio: str
    version: int
    time: float
    """Seconds since 1970 when it was looked at."""
    policy: str
    page: int
    huge_page: int
    processes: list[Process]
    files: list[FileRow]
    """Those with whole blocks, most bytes lost first, of all processes together."""
    problems: list[Problem]
    left_out: dict[str, int]
    """Processes without memory, or that ended meanwhile, by what they are."""


def as_report(
    processes: list[Process],
    files: list[FileRow],
    problems: list[Problem],
    left_out: dict[str, int],
    *,
    policy: str,
    page: int,
    huge_page: int,
    time: float,
) -> Report:
    """The object."""
    return Report(
        elfolio="observe",
        version=1,
        time=time,
        policy=policy,
        page=page,
        huge_page=huge_page,
        processes=processes,
        files=files,
        problems=problems,
        left_out=left_out,
    )


def as_json(report: Report) -> str:
    """One line."""
    return json.dumps(report, ensure_ascii=True)


def as_process(found: "Observed", apart: "Sequence[Apart]", files: Sequence[FileRow], *, whole: bool = True) -> Process:
    """`apart` counts VMAs as `found` has them; `files` are its own; `whole`: with its mappings."""
    memory = found.memory
    below = {one.lower + 1: one for one in apart}
    return Process(
        pid=memory.pid,
        name=memory.name,
        vmas=len(memory.uses),
        max_map_count=memory.max_map_count,
        touching=len(apart),
        unmerged=dict(Counter(one.rule for one in apart).most_common()),
        mapped=sum(use.vma.size for use in memory.uses),
        rss=sum(use.rss for use in memory.uses),
        huge=sum(use.huge for use in memory.uses),
        page_tables=memory.page_tables,
        huge_pages=memory.huge_pages,
        ksm=_ksm(memory),
        folios=folios_of(found.folios.vmas, found.folios.page),
        lost=sum(row["lost"] for row in files),
        how=list(found.folios.how),
        hidden=found.folios.hidden,
        mappings=[_mapping(seen, below.get(index)) for index, seen in enumerate(found.seen)] if whole else None,
    )


def _ksm(memory: "ProcessMemory") -> Ksm:
    marked = [use for use in memory.uses if use.vma.flags & VmFlags.MERGEABLE]
    any_ = memory.ksm.get("ksm_merge_any")
    return Ksm(
        merge_any=None if any_ is None else bool(any_),
        mergeable_vmas=len(marked),
        mergeable_bytes=sum(use.vma.size for use in marked),
        merging_pages=_known(memory, "ksm_merging_pages"),
        zero_pages=_known(memory, "ksm_zero_pages"),
        profit=_known(memory, "ksm_process_profit"),
    )


def _known(memory: "ProcessMemory", name: str) -> int | None:
    value = memory.ksm.get(name)
    return None if value is None else int(value)


def _mapping(seen: "Seen", below: "Apart | None") -> Mapping:
    use, vma = seen.use, seen.use.vma
    return Mapping(
        start=vma.start,
        end=vma.end,
        perms=vma.perms,
        offset=vma.offset,
        name=vma.name,
        rss=use.rss,
        pss=use.pss,
        anonymous=use.anonymous,
        swap=use.swap,
        huge=use.huge,
        anon_huge=use.anon_huge,
        shmem_huge=use.shmem_huge,
        file_huge=use.file_huge,
        ksm=use.ksm,
        mergeable=bool(vma.flags & VmFlags.MERGEABLE),
        below=None if below is None else _unmerged(below),
        folios=folios_of([seen.folios], seen.folios.page),
        blocks=[block_row(one) for one in seen.losses],
        hidden=seen.file.hidden if seen.file is not None else "",
    )


def _unmerged(one: "Apart") -> Unmerged:
    return Unmerged(rule=one.rule, because=one.because, source=one.source, certain=one.certain, differ=list(one.differ))
