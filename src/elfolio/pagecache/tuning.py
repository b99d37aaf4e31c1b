"""pagecache.tuning: a file realigned, and made what it was again. In: a path, wishes. Out: a plan, a new file.

The plan is made of the file without its undo record; the new file is written beside the old one, looked at, and takes
its name at once (pagecache.replace).
"""

import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain

from elfolio.elf.constants import ET_DYN
from elfolio.elf.reader import read
from elfolio.elf.rewriting import Move, Rewrite
from elfolio.elf.tail import read_tail
from elfolio.elf.undo import Found, Record, find_record, record_start
from elfolio.elf.write import Piece, pieces, whole
from elfolio.layout.hugepages import PMD, Tier, huge_span
from elfolio.layout.plan import Plan, Reason, Refusal
from elfolio.layout.realign import realign
from elfolio.layout.recheck import differences
from elfolio.layout.segments import Layout, Load
from elfolio.live.cached import look, open_quietly
from elfolio.live.opened import opened
from elfolio.pagecache.replace import Links, NewFile
from elfolio.span import Span

__all__ = ["Differs", "NoRecord", "Subject", "Wishes", "Written", "examined", "folios_of", "undo", "write"]


class NoRecord(OSError):
    """A file that cannot be made what it was (`ENODATA`); `strerror` says why."""

    def __init__(self, why: str, filename: str) -> None:
        super().__init__(errno.ENODATA, why, filename)


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
                is_zero=lambda span: not bytes(body[span.start : span.end]).strip(b"\0"),
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
    if rewrite.is_identity:
        rewrite = _same(subject)
    else:
        record = Record(
            rewrite, _digest([(0, body)], len(body)), _digest(pieces(rewrite, body), rewrite.new_size), record
        ).encoded()
    start = record_start(subject.plan.image, rewrite.new_size) if record else rewrite.new_size
    size = start + len(record)
    in_place = os.path.exists(out) and os.path.samefile(out, subject.path)
    like = subject.path if in_place or _owned(subject.status) else None
    with NewFile(
        out, size, like=like, expected=subject.status if in_place else None, links=links, times=times,
        sparse=bool(rewrite.padding or record), huge=subject.plan.block,
    ) as new:  # fmt: skip
        for offset, view in pieces(rewrite, body, subject.plan.block):
            new.write(offset, view)
        new.write(start, record)
        folios: list[tuple[int, int] | None] = []

        def look_at(fd: int) -> None:
            if check:
                _check(subject, fd, rewrite)
            folios.append(folios_of(fd, subject.plan))

        new.commit(look_at)
    if like is None:
        os.chmod(out, subject.status.st_mode & 0o777)
    return Written(out, size, len(record), check, folios[0])


def folios_of(fd: int, plan: Plan) -> tuple[int, int] | None:
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


def _owned(status: os.stat_result) -> bool:
    """Whether a new file can have the same owner; a copy by somebody else is theirs, without privileges."""
    return os.geteuid() in (0, status.st_uid)


def _same(subject: Subject) -> Rewrite:
    """A copy, with the holes that an earlier run has made."""
    rewrite = subject.plan.rewrite
    if subject.record is None:
        return rewrite
    moves = tuple(Move(m.new, m.new, m.size) for m in subject.record.record.rewrite.moves)
    return Rewrite(rewrite.old_size, rewrite.new_size, rewrite.byteorder, moves, ())


def _digest(parts: Iterable[Piece], size: int) -> bytes:
    """SHA-256 of a file of which these are the pieces."""
    digest, at = hashlib.sha256(), 0
    zeros = bytes(1 << 20)
    for offset, view in chain(parts, [(size, memoryview(b""))]):
        while at < offset:
            count = min(offset - at, len(zeros))
            digest.update(zeros[:count])
            at += count
        digest.update(view)
        at += len(view)
    return digest.digest()


def _check(subject: Subject, fd: int, rewrite: Rewrite) -> None:
    """Raises Differs: against the plan, and whether the way back leads to where it came from."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
        view = memoryview(data)
        body = view[: rewrite.new_size]
        found = list(differences(subject.plan, subject.body, body))
        if not found and not subject.plan.rewrite.is_identity:
            inverse = rewrite.inverse()
            back = _digest(pieces(inverse, body), inverse.new_size)
            if back != _digest([(0, subject.body)], len(subject.body)):
                found.append("undo would not give the file that it was made from")
        body.release()
        view.release()
    if found:
        raise Differs(subject.path, tuple(found))


def undo(path: str, out: str | None = None, *, links: Links = Links.REFUSE) -> int:
    """Makes the file what it was before it was tuned, at its own place or at `out`, and returns its size. Raises
    NoRecord where that cannot be, OSError, ElfError."""
    status = os.stat(path)
    out = path if out is None else out
    in_place = os.path.exists(out) and os.path.samefile(out, path)
    like = path if in_place or _owned(status) else None
    with _mapped(path) as view:
        body, rewrite = _first(view, path)
        with NewFile(out, rewrite.new_size, like=like, expected=status if in_place else None, links=links) as new:
            for offset, piece in pieces(rewrite, body):
                new.write(offset, piece)
            new.commit()
    if like is None:
        os.chmod(out, status.st_mode & 0o777)
    return rewrite.new_size


@contextmanager
def _mapped(path: str) -> Iterator[memoryview]:
    """A file's bytes, whatever it is."""
    with open_quietly(path) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or os.fstat(fd).st_size == 0:
            raise NoRecord("an empty file, or none at all: it was never tuned", path)
        data = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    try:
        yield memoryview(data)
    finally:
        with suppress(BufferError):  # a view of it is still held, by a traceback say: it is closed with that
            data.close()


_GONE = "it has no undo record: it was never tuned, or strip, objcopy or patchelf has rewritten it; install it anew"


def _first(view: memoryview, path: str) -> tuple[memoryview, Rewrite]:
    """What to write so that the file is what it was before all runs, and of which bytes."""
    found = find_record(view, path)
    if found is None:
        raise NoRecord(_GONE, path)
    while True:
        body = view[: found.body]
        if _digest([(0, body)], len(body)) != found.record.body:
            why = "it was changed after it was tuned (its checksum differs): undo would not give the original"
            raise NoRecord(f"{why}; install it anew", path)
        inverse = found.record.rewrite.inverse()
        if _digest(pieces(inverse, body), inverse.new_size) != found.record.original:
            raise NoRecord("its undo record does not give the original (its checksum differs); install it anew", path)
        if not found.record.inner:
            return body, inverse
        view = memoryview(whole(inverse, body) + found.record.inner)
        inner = find_record(view, path)
        if inner is None:
            raise NoRecord("its undo record holds an older one that is damaged; install it anew", path)
        found = inner
