"""elf.undo: the record by which a rewritten file becomes what it was. In: Rewrite, checksums. Out: bytes, and back.

It stands behind the file's last byte that a header tells of: so no header has to tell of it, and no address changes.
It begins a page of its own, because what follows a segment in its last page is seen by the program. Its last 64 bytes:

    offset  bytes
    0       8      bytes of the file before the record, without padding (little-endian, as all numbers here)
    8       8      bytes of the record before these 64: JSON, compressed (zlib)
    16      32     SHA-256 of the record before these 64
    48      16     MAGIC
"""

import hashlib
import json
import struct
import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage
from elfolio.elf.rewriting import Edit, Field, Move, Rewrite
from elfolio.errors import ElfError
from elfolio.span import Span, round_up

__all__ = ["MAGIC", "Found", "Record", "find_record", "record_start"]

MAGIC = b"elfolio undo 1\0\0"
_FOOT = struct.Struct("<QQ32s16s")
_MOST = 64 << 20
"""Bytes of a record: that of a file with 65,000 sections has 4 MiB before it is compressed."""


@dataclass(frozen=True)
class Record:
    """What was done to a file."""

    rewrite: Rewrite
    original: bytes
    """SHA-256 of the file as it was."""
    body: bytes
    """SHA-256 of the file as it is, without the record."""
    inner: bytes = b""
    """The record of the file as it was, where that had been rewritten before."""

    def encoded(self) -> bytes:
        """As it is written."""
        r = self.rewrite
        value = {
            "byteorder": r.byteorder,
            "sizes": [r.old_size, r.new_size],
            "moves": [[m.old, m.new, m.size, int(m.copy)] for m in r.moves],
            "edits": [[e.field.name, e.field.at, e.field.width, e.old, e.new] for e in r.edits],
            "original": self.original.hex(),
            "body": self.body.hex(),
            "inner": b64encode(self.inner).decode(),
        }
        raw = zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 9)
        return raw + _FOOT.pack(r.new_size, len(raw), hashlib.sha256(raw).digest(), MAGIC)


@dataclass(frozen=True)
class Found:
    """A file's record."""

    record: Record
    body: int
    """Bytes of the file that are not the record's, nor padding before it."""
    span: Span
    """File offsets of the record."""


def record_start(image: ElfImage, size: int) -> int:
    """Where the record of a file of `size` bytes begins: at the next page, of the largest that its machine may have."""
    return round_up(size, 4096 if image.header.machine in c.SMALL_PAGED else 65536)


def find_record(data: memoryview, name: str = "") -> Found | None:
    """The record at a file's end; None where there is none. Raises ElfError for one that is damaged."""
    at = len(data) - _FOOT.size
    if at < 0 or bytes(data[-len(MAGIC) :]) != MAGIC:
        return None
    body, length, digest, _ = _FOOT.unpack(data[at:])
    if length > min(at, _MOST) or body > at - length:
        raise ElfError(name, "damaged undo record", offset=at, field="size", found=length, expected=f"at most {at:#x}")
    raw = bytes(data[at - length : at])
    if hashlib.sha256(raw).digest() != digest:
        raise ElfError(name, "damaged undo record: its checksum differs", offset=at + 16)
    try:
        record = _decoded(json.loads(zlib.decompressobj().decompress(raw, _MOST)))
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise ElfError(name, f"undo record of a form unknown ({error}): was it written by a later elfolio?") from None
    if record.rewrite.new_size != body:
        raise ElfError(name, "damaged undo record", offset=at, field="body", found=body)
    return Found(record, body, Span(at - length, len(data)))


def _decoded(value: dict[str, Any]) -> Record:
    """Raises ValueError, KeyError, TypeError for what `encoded` has not made."""
    old_size, new_size = map(int, value["sizes"])
    moves = tuple(Move(int(a), int(b), int(n), bool(copy)) for a, b, n, copy in value["moves"])
    edits = tuple(Edit(Field(str(n), int(at), int(w)), int(a), int(b)) for n, at, w, a, b in value["edits"])
    _check_ranges(moves, old_size, new_size)
    if any(
        not (0 < e.field.width <= 8 and 0 <= min(e.old, e.new) <= max(e.old, e.new) < 1 << 8 * e.field.width)
        for e in edits
    ):
        raise ValueError("a value does not fit into its field")
    if value["byteorder"] not in ("little", "big"):
        raise ValueError("no byte order")
    rewrite = Rewrite(old_size, new_size, value["byteorder"], moves, edits)
    rewrite.inverse()  # raises where an edit is of no range
    return Record(rewrite, bytes.fromhex(value["original"]), bytes.fromhex(value["body"]), b64decode(value["inner"]))


def _check_ranges(moves: tuple[Move, ...], old_size: int, new_size: int) -> None:
    """The new file's are apart from each other, and the old file's make all of it: so none is larger than the file that
    the record is in, whoever wrote it."""
    reached = 0
    for move in moves:
        if move.new < reached or move.size < 0 or move.old < 0:
            raise ValueError("ranges overlap")
        reached = move.target.end
    if reached > new_size:
        raise ValueError("a range lies outside of its file")
    at = 0
    for move in sorted((m for m in moves if not m.copy and m.size), key=lambda m: m.old):
        if move.old != at:
            raise ValueError("a range is missing")
        at = move.source.end
    if at != old_size or any(m.source.end > old_size for m in moves):
        raise ValueError("a range is missing")
