"""elf.write: a rewritten file's bytes. In: Rewrite, the old file's bytes. Out: pieces, each an offset and a buffer.

A file system gives a folio as large as the piece that is written, at most: so a piece is one huge page or many, and
begins at a multiple of one, wherever bytes of the file do. What is padding only is in none.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from elfolio.elf.rewriting import Edit, Rewrite
from elfolio.span import Span

__all__ = ["Piece", "digest", "pieces", "whole"]

Piece = tuple[int, memoryview]
"""An offset in the new file, and the bytes there."""

_MOST = 32
"""Steps of a piece that is a view of the old file."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What becomes a piece: a range of the new file, and where in the old one all of it stands, if that is one place
    and nothing is edited there."""

    span: Span
    source: int | None


def pieces(rewrite: Rewrite, source: memoryview, step: int = 2 << 20) -> Iterator[Piece]:
    """The new file's bytes by ascending offset; what lies between two pieces is zeros. Raises ValueError where `source`
    is not as long as the old file."""
    if len(source) != rewrite.old_size:
        raise ValueError(f"{len(source)} bytes, and the rewrite is for {rewrite.old_size}")
    edited = _edited(rewrite)
    mixed = _mixed(rewrite, edited, step)
    parts = [_Part(_filled(rewrite, n * step, step), None) for n in mixed]
    parts += _plain(rewrite, mixed, step)
    for part in sorted(parts, key=lambda part: part.span):
        if part.source is None:
            yield part.span.start, memoryview(_built(rewrite, source, part.span))
        else:
            yield part.span.start, source[part.source : part.source + part.span.size]


def whole(rewrite: Rewrite, source: memoryview) -> bytearray:
    """The new file in one buffer, padding and all."""
    out = bytearray(rewrite.new_size)
    for offset, view in pieces(rewrite, source):
        out[offset : offset + len(view)] = view
    return out


def digest(parts: Iterable[Piece], size: int) -> bytes:
    """SHA-256 of a file of which these are the pieces."""
    found, at = hashlib.sha256(), 0
    zeros = bytes(1 << 20)
    for offset, view in chain(parts, [(size, memoryview(b""))]):
        while at < offset:
            count = min(offset - at, len(zeros))
            found.update(zeros[:count])
            at += count
        found.update(view)
        at += len(view)
    return found.digest()


def _edited(rewrite: Rewrite) -> list[tuple[int, Edit]]:
    """Each edit, and where in the new file the field begins: each time that a part of it stands there."""
    return [
        (edit.field.at - move.old + move.new, edit)
        for edit in rewrite.edits
        for move in rewrite.moves
        if move.source.common(edit.field.span).size
    ]


def _mixed(rewrite: Rewrite, edited: list[tuple[int, Edit]], step: int) -> set[int]:
    """The steps that are no plain copy, by number: a range begins or ends within, or something is edited."""
    found = {at // step for move in rewrite.moves for at in move.target if at % step}
    for at, edit in edited:
        found |= {at // step, (at + edit.field.width - 1) // step}
    return found


def _plain(rewrite: Rewrite, mixed: set[int], step: int) -> Iterator[_Part]:
    """The other steps, many neighbours in one part."""
    for move in rewrite.moves:
        inner = move.target.whole_blocks(step)
        at = inner.start
        while at < inner.end:
            end = at
            while end < inner.end and end // step not in mixed and end - at < _MOST * step:
                end += step
            if end > at:
                yield _Part(Span(at, end), at - move.new + move.old)
            at = max(end, at + step)


def _filled(rewrite: Rewrite, start: int, step: int) -> Span:
    """From the first to the last byte of a step that is not padding."""
    window = Span(start, start + step)
    parts = [part for move in rewrite.moves if (part := move.target.common(window)).size]
    return Span(min((p.start for p in parts), default=start), max((p.end for p in parts), default=start))


def _built(rewrite: Rewrite, source: memoryview, span: Span) -> bytearray:
    """Put together from all ranges that reach into it, and edited."""
    out = bytearray(span.size)
    for move in rewrite.moves:
        part = move.target.common(span)
        if part.size:
            back = move.old - move.new
            out[part.start - span.start : part.end - span.start] = source[part.start + back : part.end + back]
            _patch(out, span, rewrite, part, back)
    return out


def _patch(out: bytearray, span: Span, rewrite: Rewrite, part: Span, back: int) -> None:
    """Writes the edits of one range, or as much of each as reaches into it."""
    for edit in rewrite.edits:
        touched = edit.field.span.shifted(-back).common(part)
        raw = edit.new.to_bytes(edit.field.width, rewrite.byteorder)
        for at in range(touched.start, touched.end):
            out[at - span.start] = raw[at + back - edit.field.at]
