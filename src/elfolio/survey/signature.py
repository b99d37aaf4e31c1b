"""survey.signature: which linker made a file, with little reading. In: an open file, its head. Out: Fingerprint.

The section table's end is one read: GNU ld, gold and mold put the section names right before it. Only where a name says
that a linker has signed is there another one.
"""

import os
import struct
from functools import lru_cache
from typing import NamedTuple

from elfolio.elf import constants as c
from elfolio.elf.head import Form, RawHead
from elfolio.elf.linker import SIGNED, Fingerprint, identify

__all__ = ["linker_of"]

_BEFORE = 2048
"""Bytes read before the section table."""
_USUAL = 64
"""Program headers that tell a linker; nobody has more but to fill the memory of whoever remembers them."""
_NAMES, _SIGNATURE = 1 << 20, 4096
_KEYS = tuple((name, name.encode() + b"\0") for name in SIGNED)
_ORDERED = tuple((name, name.encode() + b"\0") for name in (".dynsym", ".gnu.hash"))

_NAME_INDEX = {
    (bits, order): struct.Struct(f"{order}I{rest}x") for bits, rest in ((64, 60), (32, 36)) for order in "<>"
}
"""sh_name alone, of a whole section header."""


class _Table(NamedTuple):
    """The section headers as they stand, and their names."""

    headers: bytes
    names: bytes
    name_index: struct.Struct
    """Of a header, where its name begins."""


def linker_of(fd: int, raw: RawHead, size: int) -> Fingerprint:
    """Of a file `size` bytes long."""
    e_type = raw.fields[0]
    types = tuple([row[0] for row in raw.rows[:_USUAL]])
    table = _table(fd, raw, size) if e_type in (c.ET_EXEC, c.ET_DYN) else None
    if table is None:
        return _identify(e_type, types, (), ())
    signed = tuple([(name, _contents(fd, raw.form, table, key, size)) for name, key in _KEYS if key in table.names])
    made = _identify(e_type, types, (), signed)
    if made.confidence == "certain" or (made.confidence == "likely" and made.version is None):
        return made
    places = sorted((_place(table, key), name) for name, key in _ORDERED)
    return _identify(e_type, types, tuple([name for place, name in places if place >= 0]), signed)


def _table(fd: int, raw: RawHead, size: int) -> _Table | None:
    """None where there are no sections, or they lie outside of the file."""
    form, fields = raw.form, raw.fields
    at, count, index, each = fields[5], fields[11], fields[12], form.section.size
    end = at + count * each
    if not at or fields[10] != each or index >= count or end > size:
        return None
    start = max(0, at - _BEFORE)
    window = os.pread(fd, end - start, start)
    if len(window) != end - start:
        return None
    headers = window[at - start :]
    _, _, _, _, offset, length, *_ = form.section.unpack_from(headers, index * each)
    if offset + length > size:
        return None
    length = min(length, _NAMES)
    inside = start <= offset and offset + length <= end
    names = window[offset - start : offset - start + length] if inside else os.pread(fd, length, offset)
    return _Table(headers, names, _NAME_INDEX[form.bits, form.order])


def _place(table: _Table, key: bytes) -> int:
    """The number of the first section whose name this is; -1 where there is none."""
    for number, (at,) in enumerate(table.name_index.iter_unpack(table.headers)):
        if table.names.startswith(key, at):
            return number
    return -1


def _contents(fd: int, form: Form, table: _Table, key: bytes, size: int) -> bytes:
    """The first bytes of the section of this name."""
    number = _place(table, key)
    if number < 0:
        return b""
    _, _, _, _, offset, length, *_ = form.section.unpack_from(table.headers, number * form.section.size)
    return os.pread(fd, min(length, _SIGNATURE), offset) if offset < size else b""


@lru_cache(maxsize=1024)
def _identify(
    e_type: int, types: tuple[int, ...], names: tuple[str, ...], signed: tuple[tuple[str, bytes], ...]
) -> Fingerprint:
    return identify(e_type, types, names, dict(signed))
