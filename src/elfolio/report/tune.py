"""report.tune: plans and what came of them, for people and for programs. In: Plans, outcomes. Out: text, JSON."""

import json
from collections.abc import Iterator, Sequence
from typing import TypedDict

from elfolio.layout.finding import counted, size_text
from elfolio.layout.hugepages import Tier
from elfolio.layout.plan import Plan
from elfolio.report.columns import PLAIN, Ink, columns, plain, size, wrapped

__all__ = ["EditRow", "FileReport", "MoveRow", "RefusalRow", "Report", "as_json", "as_text", "failed_row", "file_row"]


class EditRow(TypedDict):
    """A header's field; `offset` is where it stands in the file as it was."""

    field: str
    offset: int
    bytes: int
    old: int
    new: int


class MoveRow(TypedDict):
    """A range of bytes; offsets in the file as it was, and in the new one."""

    old: int
    new: int
    bytes: int
    copy: bool


class SegmentRow(TypedDict):
    """A PT_LOAD with bytes in the file, and the huge pages that it can have."""

    header: int
    perms: str
    vaddr: int
    blocks_before: int
    blocks_after: int


class RefusalRow(TypedDict):
    """Why a tier is not for this file."""

    reason: str
    text: str
    mend: str
    tier: int


class Range(TypedDict):
    """From `start` up to, not including, `end`."""

    start: int
    end: int


class FoliosRow(TypedDict):
    """Blocks that can be huge mappings."""

    large: int
    """Those that the page cache has as one folio."""
    of: int


class JointRow(TypedDict):
    """Segments that became one."""

    headers: list[int]
    perms: list[str]
    joined: str
    pages: Range | None
    """Linked addresses, where no more than these are concerned."""


class FileReport(TypedDict):
    """One file."""

    path: str
    output: str | None
    status: str
    """planned, tuned, unchanged, copied, refused, undone or failed."""
    tier: int | None
    """None where nothing is changed."""
    block: int
    page: int
    blocks_before: int
    """Huge pages that segments without PF_W can have."""
    blocks_after: int
    random_bits_lost: int
    size_before: int
    size_after: int
    """Without the undo record."""
    record: int
    """Bytes of the undo record."""
    segments: list[SegmentRow]
    edits: list[EditRow]
    moves: list[MoveRow]
    padding: list[Range]
    """Offsets of the new file that hold zeros only."""
    joints: list[JointRow]
    refusals: list[RefusalRow]
    notes: list[str]
    folios: FoliosRow | None
    """None where that was not looked at, or is hidden."""
    checked: bool
    differences: list[str]
    error: str | None


class Report(TypedDict):
    """The object of --json."""

    elfolio: str
    version: int
    files: list[FileReport]


def file_row(
    plan: Plan,
    status: str,
    *,
    output: str | None = None,
    record: int = 0,
    checked: bool = False,
    folios: tuple[int, int] | None = None,
) -> FileReport:
    """Of a file that was read."""
    rewrite = plan.rewrite
    before, after = plan.before.blocks(Tier.AS_IS), plan.after.blocks(Tier.AS_IS)
    return FileReport(
        path=plan.image.name,
        output=output,
        status=status,
        tier=None if plan.tier is Tier.AS_IS else int(plan.tier),
        block=plan.block,
        page=plan.page,
        blocks_before=before,
        blocks_after=after,
        random_bits_lost=plan.random_bits_lost,
        size_before=rewrite.old_size,
        size_after=rewrite.new_size,
        record=record,
        segments=list(_segments(plan)),
        edits=[
            EditRow(field=e.field.name, offset=e.field.at, bytes=e.field.width, old=e.old, new=e.new)
            for e in rewrite.edits
        ],
        moves=[MoveRow(old=m.old, new=m.new, bytes=m.size, copy=m.copy) for m in rewrite.moves],
        padding=[Range(start=span.start, end=span.end) for span in rewrite.padding],
        joints=[
            JointRow(
                headers=list(j.headers),
                perms=list(j.perms),
                joined=j.joined,
                pages=None if j.pages is None else Range(start=j.pages.start, end=j.pages.end),
            )
            for j in plan.joints
        ],
        refusals=[RefusalRow(reason=r.reason.value, text=r.text, mend=r.mend, tier=int(r.tier)) for r in plan.refusals],
        notes=list(plan.notes),
        folios=None if folios is None else FoliosRow(large=folios[0], of=folios[1]),
        checked=checked,
        differences=[],
        error=None,
    )


def failed_row(path: str, status: str, *, error: str | None = None, output: str | None = None) -> FileReport:
    """Of a file that was not read as an ELF file, or need not be."""
    return FileReport(
        path=path, output=output, status=status, tier=None, block=0, page=0, blocks_before=0, blocks_after=0,
        random_bits_lost=0, size_before=0, size_after=0, record=0, segments=[], edits=[], moves=[], padding=[],
        joints=[], refusals=[], notes=[], folios=None, checked=False, differences=[], error=error,
    )  # fmt: skip


def _segments(plan: Plan) -> Iterator[SegmentRow]:
    after = {rung.load.segment.vaddr: rung for rung in plan.after.rungs}
    for rung in plan.before.rungs:
        segment = rung.load.segment
        new = after.get(segment.vaddr)
        yield SegmentRow(
            header=rung.load.index,
            perms=segment.perms,
            vaddr=segment.vaddr,
            blocks_before=rung.at(Tier.AS_IS),
            blocks_after=rung.at(Tier.AS_IS) if new is None else new.at(Tier.AS_IS),
        )


def as_json(files: Sequence[FileReport]) -> str:
    """One object."""
    return json.dumps(Report(elfolio="tune", version=1, files=list(files)))


_TIERS = {0: "p_align edited", 1: "segments moved in the file", 2: "segments merged"}


def as_text(file: FileReport, width: int = 100, ink: Ink = PLAIN, *, details: bool = False) -> str:
    """One file: a line or a few; with `details` every edit and move."""
    lines = [f"{ink('strong', plain(file['path']))}: {_headline(file)}"]
    for text in _sentences(file):
        lines += wrapped(text, width, "  ")
    if details and (file["edits"] or file["padding"]):
        lines += ["", *_edits(file, ink), "", *_moves(file, ink)]
    return "\n".join(lines)


def _headline(file: FileReport) -> str:
    status, tier = file["status"], file["tier"]
    if file["error"] is not None:
        return file["error"]
    if status == "undone":
        return f"as it was before it was tuned ({size(file['size_after'])})" + _to(file)
    if status == "refused":
        return "refused"
    if tier is None:
        nothing = f"nothing to win for huge pages of {size_text(file['block'])}"
        if file["blocks_before"]:
            nothing += f"; {file['blocks_before']} are possible as it is, where the page cache has such folios"
        return nothing + (f"; the same bytes, written in large pieces{_to(file)}" if status == "copied" else "")
    verb = "" if status == "planned" else _to(file) + ", "
    before, after = file["blocks_before"], file["blocks_after"]
    won = f"huge pages of {size_text(file['block'])} possible: {after}, before {before}"
    if file["page"] > 4096:
        won = f"pages of {size_text(file['page'])} can map it; {won}"
    return f"{verb.lstrip()}tier {tier}, {_TIERS[tier]}; {won}"


def _to(file: FileReport) -> str:
    output = file["output"]
    return "" if output is None else " in its place" if output == file["path"] else f" -> {plain(output)}"


def _sentences(file: FileReport) -> Iterator[str]:
    for refusal in file["refusals"]:
        which = "" if refusal["tier"] == 0 else f"no tier {refusal['tier']}: "
        yield f"{which}{refusal['text']}; {refusal['mend']} [{refusal['reason']}]"
    for joint in file["joints"]:
        parts = ", ".join(f"{i} ({perms})" for i, perms in zip(joint["headers"], joint["perms"], strict=True))
        if joint["pages"] is None:
            yield f"Program headers {parts} become one, {joint['joined']}."
        else:
            pages = joint["pages"]
            yield f"Program headers {parts} share {pages['start']:#x} to {pages['end']:#x}, which is {joint['joined']}."
    if file["random_bits_lost"]:
        yield f"It takes {counted(file['random_bits_lost'], 'bit')} of the load address's randomness."
    if 0 < file["size_before"] < file["size_after"]:
        holes = sum(hole["end"] - hole["start"] for hole in file["padding"])
        grown = file["size_after"] - file["size_before"]
        yield f"The file grows by {size(grown)}{f', {size(holes)} of it holes' if holes else ''}."
    yield from file["notes"]
    if file["folios"] is not None and file["folios"]["of"]:
        had, of = file["folios"]["large"], file["folios"]["of"]
        lacking = "" if had == of else "; elfolio warm tries for the others"
        yield f"The page cache has {had} of {of} such blocks as one folio{lacking}."
    if file["checked"] and not file["differences"]:
        yield "Checked: every address has the bytes that it had, and undo gives the file that it was."
    yield from file["differences"]


def _edits(file: FileReport, ink: Ink) -> list[str]:
    rows = [(e["field"], f"{e['offset']:#x}", f"{e['old']:#x}", f"{e['new']:#x}") for e in file["edits"]]
    return columns(("field", "at offset", "is", "becomes"), rows, right=" rrr", ink=ink)


def _moves(file: FileReport, ink: Ink) -> list[str]:
    rows = [(f"{m['new']:#x}", f"{m['bytes']:#x}", _move_words(m)) for m in file["moves"]] + [
        (f"{hole['start']:#x}", f"{hole['end'] - hole['start']:#x}", "zeros, a hole") for hole in file["padding"]
    ]
    return columns(("new offset", "bytes", "what"), sorted(rows, key=lambda row: int(row[0], 16)), right="rr", ink=ink)


def _move_words(move: MoveRow) -> str:
    if move["copy"]:
        return f"a second copy of {move['old']:#x}: the rest of a page that two segments shared"
    return "stays" if move["old"] == move["new"] else f"from {move['old']:#x}"
