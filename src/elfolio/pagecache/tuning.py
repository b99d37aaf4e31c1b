"""pagecache.tuning: a file realigned. In: a path, wishes. Out: a plan, a new file.

The plan is made of the file without its undo record; the new file is written beside the old one, looked at, and takes
its name at once (pagecache.replace).
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from elfolio.elf.constants import ET_DYN
from elfolio.elf.reader import read
from elfolio.elf.rewriting import Move, Rewrite
from elfolio.elf.tail import has_any, read_tail
from elfolio.elf.undo import Found, Record, find_record, record_start
from elfolio.elf.write import digest, pieces
from elfolio.layout.hugepages import PMD, Tier, huge_span
from elfolio.layout.plan import Plan, Reason, Refusal
from elfolio.layout.realign import realign
from elfolio.layout.recheck import differences
from elfolio.layout.segments import Layout, Load
from elfolio.live.cached import look
from elfolio.live.opened import opened
from elfolio.pagecache.replace import Links, NewFile
from elfolio.span import Span

__all__ = ["Differs", "Subject", "Wishes", "Written", "examined", "new_file", "write"]


class Differs(Exception):
    """The new file is not what the plan says, and was thrown away."""

    def __init__(self, name: str, found: tuple[str, ...]) -> None:
        super().__init__(f"{name}: {found[0]}")
        self.found = found


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a plan is to be for."""

    block: int = PMD
    """Bytes of a huge page."""
    page: int = 4096
    most: Tier = Tier.RELAY
    force: bool = False
    merge: bool = False


@dataclass(frozen=True)
class Subject:
    """A file that was read, and what to do to it."""

    path: str
    status: os.stat_result
    """As it was when the file was opened."""
    data: memoryview
    """All of it; usable while the context lasts."""
    body: memoryview
    """The file without its record."""
    record: Found | None
    """What an earlier run has left in it."""
    plan: Plan


@dataclass(frozen=True)
class Written:
    """What came of it."""

    path: str
    size: int
    record: int
    """Bytes of the undo record; 0 where there is none."""
    checked: bool
    folios: tuple[int, int] | None
    """Of the blocks that can be huge mappings, how many the page cache has as one folio, and how many there are; None
    where the kernel does not show it."""


@contextmanager
def examined(path: str | os.PathLike[str], wishes: Wishes) -> Iterator[Subject]:
    """Reads the file and plans. Raises OSError, ElfError."""
    name = os.fspath(path)
    status = os.stat(name)
    with opened(name) as found, memoryview(found.data) as data:
        record = find_record(data, name)
        # A slice of its own in any case: released before the map of the file is closed.
        with data[: len(data) if record is None else record.body] as body:
            image = found.image if record is None else read(body, name)
            plan = realign(
                image,
                read_tail(image, body),
                block=wishes.block,
                page=wishes.page,
                most=wishes.most,
                force=wishes.force,
                merge=wishes.merge,
                is_zero=lambda span: not has_any(body[span.start : span.end]),
                barred=list(_checksums(name)),
            )
            yield Subject(name, status, data, body, record, plan)


def _checksums(path: str) -> Iterator[Refusal]:
    """FIPS modules compare their own file with a keyed checksum beside it (fipshmac(8))."""
    folder, name = os.path.split(os.path.realpath(path))
    beside = os.path.join(folder, f".{name}.hmac")
    if os.path.exists(beside):
        why = f"its checksum stands in {beside}, and whoever loads it compares"
        yield Refusal(Reason.SIGNED, why, "tune it before fipshmac, or leave it as it is", Tier.ALIGN)


def write(
    subject: Subject,
    out: str,
    *,
    check: bool = False,
    links: Links = Links.REFUSE,
    times: bool = False,
) -> Written:
    """Writes what the plan makes of the file to `out`, which may be the file itself: then in one step, or not at all.
    Where the plan changes nothing the copy is the same, written in large pieces. `check` holds the new file against
    the plan before it gets its name. Raises OSError, CannotReplace, Differs."""
    body, rewrite = subject.body, subject.plan.rewrite
    record = b"" if subject.record is None else bytes(subject.data[subject.record.span.start :])
    original = b""
    if rewrite.is_identity:
        rewrite = _same(subject)
    else:
        original = digest([(0, body)], len(body))
        record = Record(rewrite, original, digest(pieces(rewrite, body), rewrite.new_size), record).encoded()
    start = record_start(subject.plan.image, rewrite.new_size) if record else rewrite.new_size
    size = start + len(record)
    sparse = bool(rewrite.padding or record)
    with new_file(
        out, size, subject.path, subject.status, links=links, times=times, sparse=sparse, huge=subject.plan.block
    ) as new:
        for offset, view in pieces(rewrite, body, subject.plan.block):
            new.write(offset, view)
        new.write(start, record)
        folios: list[tuple[int, int] | None] = []

        def look_at(fd: int) -> None:
            if check:
                _check(subject, fd, rewrite, original)
            folios.append(_folios_of(fd, subject.plan))

        new.commit(look_at)
    return Written(out, size, len(record), check, folios[0])


def _folios_of(fd: int, plan: Plan) -> tuple[int, int] | None:
    """As Written.folios, of an open file that a plan was made for. Raises OSError."""
    spans = [span for rung in plan.after.rungs if not rung.load.is_writable for span in _file_blocks(plan, rung.load)]
    if not spans:
        return 0, 0
    cached = look(fd)
    if cached.runs is None:
        return None
    order = (plan.block // cached.page).bit_length() - 1
    large = [Span(run.start, run.end) for run in cached.runs if run.order >= order]
    had = sum(any(run.encloses(Span(s.start // cached.page, s.end // cached.page)) for run in large) for s in spans)
    return had, len(spans)


def _file_blocks(plan: Plan, load: Load) -> Iterator[Span]:
    """The file offsets of a segment's blocks that can be huge mappings as the file is."""
    bias = -Layout(plan.becomes, plan.page).origin
    segment = load.segment
    mapped = huge_span(segment, plan.block, plan.page, bias=bias)
    if plan.becomes.header.type != ET_DYN or Layout(plan.becomes, plan.page).align >= plan.block:
        yield from mapped.shifted(segment.offset - segment.vaddr - bias).blocks(plan.block)


@contextmanager
def new_file(
    out: str,
    size: int,
    path: str,
    status: os.stat_result,
    *,
    links: Links,
    times: bool = False,
    sparse: bool = False,
    huge: int = PMD,
) -> Iterator[NewFile]:
    """What is made of the file at `path`: in its place, or beside it with the same owner and rights. A copy by who
    cannot give it that owner is theirs, without privileges."""
    in_place = os.path.exists(out) and os.path.samefile(out, path)
    like = path if in_place or os.geteuid() in (0, status.st_uid) else None
    expected = status if in_place else None
    with NewFile(out, size, like=like, expected=expected, links=links, times=times, sparse=sparse, huge=huge) as new:
        yield new
    if like is None:
        os.chmod(out, status.st_mode & 0o777)


def _same(subject: Subject) -> Rewrite:
    """A copy, with the holes that an earlier run has made."""
    rewrite = subject.plan.rewrite
    if subject.record is None:
        return rewrite
    moves = tuple(Move(m.new, m.new, m.size) for m in subject.record.record.rewrite.moves)
    return Rewrite(rewrite.old_size, rewrite.new_size, rewrite.byteorder, moves, ())


def _check(subject: Subject, fd: int, rewrite: Rewrite, original: bytes) -> None:
    """Raises Differs: against the plan, and whether the way back leads to where it came from, by its checksum."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
        view = memoryview(data)
        body = view[: rewrite.new_size]
        found = list(differences(subject.plan, subject.body, body))
        if not found and not subject.plan.rewrite.is_identity:
            inverse = rewrite.inverse()
            if digest(pieces(inverse, body), inverse.new_size) != original:
                found.append("undo would not give the file that it was made from")
        body.release()
        view.release()
    if found:
        raise Differs(subject.path, tuple(found))
