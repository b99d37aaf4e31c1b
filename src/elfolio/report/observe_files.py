"""report.observe_files: the files behind mappings, what their blocks lose. In: Seen, Loss. Out: rows of the JSON."""

import shlex
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypedDict

from elfolio.kernel.advice import mend
from elfolio.kernel.blocks import Obstacle
from elfolio.report.columns import plain, size
from elfolio.report.folios import lacking_words

if TYPE_CHECKING:
    from elfolio.kernel.losses import Loss
    from elfolio.live.observed import Seen

__all__ = ["BlockRow", "FileRow", "block_row", "file_rows", "joined_files", "why"]


class BlockRow(TypedDict):
    """The blocks of one size that one mapping touches, as in `elfolio folios`."""

    block: int
    blocks: int
    copied: bool
    """Written to: what is written to is copied, page by page. Counted in no sum."""
    mapped: int
    """Mapped as one now."""
    could: int
    now: int
    """Those that could, and of these the ones whose folio is there."""
    lacking: dict[str, int]
    barred: dict[str, int]
    lost: int
    """Bytes in whole blocks that are not mapped as one."""


class FileRow(TypedDict):
    """A file of which a process has whole blocks mapped. Without mappings that are written to; in bytes."""

    path: str
    fs: str
    elf: bool
    """Whether it is an ELF file, and its headers are cached."""
    processes: int
    there: int
    """What page tables lead to, with the same page in two processes as two."""
    blocks: int
    """Whole ones; the counts below are of these."""
    mapped: int
    could: int
    now: int
    lacking: dict[str, int]
    barred: dict[str, int]
    lost: int
    remedy: str
    """A command, or what to do; empty where nothing is lost."""


def block_row(loss: "Loss") -> BlockRow:
    """One mapping's."""
    return BlockRow(
        block=loss.size,
        blocks=loss.blocks,
        copied=loss.copied,
        mapped=loss.mapped,
        could=loss.could,
        now=loss.now,
        lacking={name.value: count for name, count in loss.lacking.items()},
        barred={name.value: count for name, count in loss.barred.items()},
        lost=loss.lost,
    )


def file_rows(found: "Iterable[Seen]", huge_page: int) -> list[FileRow]:
    """Of one process, most bytes lost first."""
    rows = []
    for seen in found:
        for loss in seen.losses:
            if loss.size == huge_page and loss.whole and not loss.copied and seen.file is not None:
                rows.append(_row(seen, loss, seen.file.policy.fs.title))
    return joined_files([rows], huge_page, processes=1)


def _row(seen: "Seen", loss: "Loss", fs: str) -> FileRow:
    outside = (Obstacle.EDGE, Obstacle.END)
    return FileRow(
        path=seen.use.vma.name,
        fs=fs,
        elf=bool(seen.file is not None and seen.file.pieces),
        processes=1,
        there=seen.folios.rss,
        blocks=loss.whole,
        mapped=loss.mapped,
        could=loss.could,
        now=loss.now,
        lacking={name.value: count for name, count in loss.lacking.items()},
        barred={name.value: count for name, count in loss.barred.items() if name not in outside},
        lost=loss.lost,
        remedy="",
    )


def joined_files(groups: Iterable[Iterable[FileRow]], huge_page: int, *, processes: int | None = None) -> list[FileRow]:
    """Rows of the same file as one, most bytes lost first. `processes` as given, or one for each group."""
    sums: dict[str, FileRow] = {}
    for group in groups:
        for row in group:
            one = sums.get(row["path"])
            sums[row["path"]] = row.copy() if one is None else _added(one, row, processes)
    for one in sums.values():
        one["remedy"] = _remedy(one, huge_page)
    return sorted(sums.values(), key=lambda one: (-one["lost"], one["path"]))


def _added(a: FileRow, b: FileRow, processes: int | None) -> FileRow:
    return FileRow(
        path=a["path"],
        fs=a["fs"],
        elf=a["elf"] or b["elf"],
        processes=processes or a["processes"] + b["processes"],
        there=a["there"] + b["there"],
        blocks=a["blocks"] + b["blocks"],
        mapped=a["mapped"] + b["mapped"],
        could=a["could"] + b["could"],
        now=a["now"] + b["now"],
        lacking=dict(Counter(a["lacking"]) + Counter(b["lacking"])),
        barred=dict(Counter(a["barred"]) + Counter(b["barred"])),
        lost=a["lost"] + b["lost"],
        remedy="",
    )


def _remedy(row: FileRow, huge_page: int) -> str:
    """Of what keeps most blocks. A file that has been removed or replaced leaves its processes to be started again."""
    if not row["lost"]:
        return ""
    path = shlex.quote(row["path"])
    if row["path"].endswith(" (deleted)"):
        return "start its processes again: the file has been replaced or removed"
    barred = Counter(row["barred"])
    if sum(barred.values()) <= row["could"] - row["mapped"]:
        return f"elfolio warm {path}" if row["lacking"] else "start its processes again: the folios are there now"
    worst = barred.most_common(1)[0][0]
    if worst == "filesystem" and row["fs"] == "overlay":
        return f"elfolio warm {path} finds out by trial: which file system the overlay's layer is cannot be seen"
    if worst not in ("base", "skewed"):
        return mend(Obstacle(worst), huge_page)
    return f"elfolio tune {path} -o OUT" if row["elf"] else f"in the program: map it at a multiple of {size(huge_page)}"


READY = "with the folio there, not mapped as one yet"


def why(row: "FileRow | BlockRow") -> str:
    """What keeps its blocks, in the words of explain and folios."""
    ready = row["now"] - row["mapped"]
    said = [f"{ready} {READY}"] if ready > 0 else []
    return plain("; ".join(said + lacking_words(row["lacking"], row["barred"])))
