"""elf.versions: symbol versions. In: ElfImage and the file's bytes. Out: versions needed and defined, or ElfError.

The records of DT_VERNEED and DT_VERDEF (Linux Standard Base, "Symbol Versioning"), which are the same in both classes.
They are linked lists; each link must lead forwards, so that reading ends.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elfolio.elf import constants as c
from elfolio.elf.buffers import Strings, byte_view
from elfolio.elf.head import form_of
from elfolio.elf.image import ElfImage, Fault
from elfolio.span import LinkedAddress

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["VersionDefined", "VersionNeeded", "versions_defined", "versions_needed"]


@dataclass(frozen=True, slots=True)
class VersionNeeded:
    """A version that another object must define (Elf64_Vernaux)."""

    library: str
    """vn_file: a name of DT_NEEDED."""
    name: str
    index: int
    """What entries of DT_VERSYM refer to it by."""
    weak: bool


@dataclass(frozen=True, slots=True)
class VersionDefined:
    """A version that this object defines (Elf64_Verdef)."""

    name: str
    index: int
    base: bool
    """It is the object's own name, and no version."""
    parents: tuple[str, ...]


def versions_needed(image: ElfImage, data: "ReadableBuffer") -> tuple[VersionNeeded, ...]:
    """In the file's order; () where there are none."""
    table = _Table.of(image, data, c.DT_VERNEED, c.DT_VERNEEDNUM)
    return () if table is None else tuple(_needed(table))


def versions_defined(image: ElfImage, data: "ReadableBuffer") -> tuple[VersionDefined, ...]:
    """In the file's order; () where there are none."""
    table = _Table.of(image, data, c.DT_VERDEF, c.DT_VERDEFNUM)
    return () if table is None else tuple(_defined(table))


@dataclass
class _Table:
    """Where the records begin, how many they are, and how to read them."""

    name: str
    view: memoryview
    order: str
    start: int
    count: int
    strings: Strings
    left: int
    """Records that still fit into the file: lists that run into each other do not multiply."""

    @classmethod
    def of(cls, image: ElfImage, data: "ReadableBuffer", place: int, number: int) -> "_Table | None":
        view = byte_view(data)
        address, text, size = (image.tag(tag) for tag in (place, c.DT_STRTAB, c.DT_STRSZ))
        count = image.tag(number)
        if address is None or count is None or text is None or size is None:
            return None
        start, at = (image.file_offset(LinkedAddress(where)) for where in (address, text))
        if start is None or at is None:
            why = "version records outside of the file"
            raise Fault(why, None, "DT_VERNEED or DT_VERDEF", address, "an address with bytes").error(image.name)
        strings = Strings(view[at : at + size])
        return cls(image.name, view, form_of(image).order, start, count, strings, len(view) // 8)

    def record(self, form: str, at: int) -> tuple[int, ...]:
        self.left -= 1
        size = struct.calcsize(self.order + form)
        if self.left < 0 or at + size > len(self.view):
            raise Fault("version records outside of the file", at, "vn_next or vd_next").error(self.name)
        return struct.unpack_from(self.order + form, self.view, at)

    def text(self, index: int, at: int) -> str:
        found = self.strings.at(index, at, "vna_name or vda_name")
        if isinstance(found, Fault):
            raise found.error(self.name)
        return found


def _needed(table: _Table) -> Iterator[VersionNeeded]:
    at = table.start
    for _ in range(table.count):
        _, entries, file, aux, following = table.record("HHIII", at)
        library, inner = table.text(file, at), at + aux
        for _ in range(entries):
            _, flags, index, name, further = table.record("IHHII", inner)
            yield VersionNeeded(library, table.text(name, inner), index, bool(flags & c.VER_FLG_WEAK))
            inner += further
        at += following
        if not following:
            return


def _defined(table: _Table) -> Iterator[VersionDefined]:
    at = table.start
    for _ in range(table.count):
        _, flags, index, entries, _, aux, following = table.record("HHHHIII", at)
        names, inner = [], at + aux
        for _ in range(entries):
            name, further = table.record("II", inner)
            names.append(table.text(name, inner))
            inner += further
        if not names:
            raise Fault("version without a name", at, "vd_cnt", entries, "1 or more").error(table.name)
        yield VersionDefined(names[0], index, bool(flags & c.VER_FLG_BASE), tuple(names[1:]))
        at += following
        if not following:
            return
