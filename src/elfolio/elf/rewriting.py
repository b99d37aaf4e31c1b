"""elf.rewriting: what is to change in a file. In: fields and ranges of bytes. Out: Rewrite, frozen, and its inverse.

Edits are named by where the field stands in the file as it was: so a range that is moved, or stands in the new file
twice, takes its edits along.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from elfolio.elf.head import Form
from elfolio.span import Span

__all__ = ["Edit", "Field", "Move", "Rewrite", "header_field", "section_field", "segment_field"]


@dataclass(frozen=True, slots=True)
class Field:
    """Where a number of the format stands."""

    name: str
    """Of which header, and the specification's name: `program header 3 p_align`."""
    at: int
    """File offset."""
    width: int
    """Bytes."""

    @property
    def span(self) -> Span:
        """File offsets."""
        return Span(self.at, self.at + self.width)


@dataclass(frozen=True, slots=True)
class Edit:
    """A field's new value."""

    field: Field
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes that the new file has at another place, or at the same."""

    old: int
    new: int
    size: int
    copy: bool = False
    """They stand in another range already: of a page that two segments shared, each now has one for itself."""

    @property
    def source(self) -> Span:
        """File offsets in the file as it was."""
        return Span(self.old, self.old + self.size)

    @property
    def target(self) -> Span:
        """File offsets in the new file."""
        return Span(self.new, self.new + self.size)


@dataclass(frozen=True)
class Rewrite:
    """A new file, made of the ranges of an old one, with zeros wherever none of them stands."""

    old_size: int
    new_size: int
    byteorder: Literal["little", "big"]
    moves: tuple[Move, ...]
    """By new offset, apart from each other there. Every byte of the old file is in one that is no copy."""
    edits: tuple[Edit, ...]
    """No two of the same byte, and none of a field that two moves tear apart, copies aside."""

    @property
    def is_identity(self) -> bool:
        """Whether the new file is the old one."""
        return not self.edits and all(m.old == m.new for m in self.moves) and self.new_size == self.old_size

    @property
    def padding(self) -> tuple[Span, ...]:
        """Offsets of the new file that hold zeros alone, as holes where the file system has them."""
        ends = [(0, 0), *((m.new, m.new + m.size) for m in self.moves), (self.new_size, self.new_size)]
        return tuple(Span(a[1], b[0]) for a, b in pairwise(ends) if a[1] < b[0])

    def target(self, span: Span) -> Span | None:
        """Where the bytes of `span` stand in the new file; None where they were torn apart."""
        for move in self.moves:
            if not move.copy and move.source.encloses(span):
                return span.shifted(move.new - move.old)
        return None

    def inverse(self) -> "Rewrite":
        """The rewrite of the new file that gives the old one. Raises ValueError for edits of a field torn apart."""
        moves = [Move(m.new, m.old, m.size) for m in self.moves if not m.copy]
        moves.sort(key=lambda m: m.new)
        edits = []
        for edit in self.edits:
            target = self.target(edit.field.span)
            if target is None:
                raise ValueError(f"{edit.field.name} is torn apart")
            edits.append(Edit(Field(edit.field.name, target.start, edit.field.width), edit.new, edit.old))
        return Rewrite(self.new_size, self.old_size, self.byteorder, tuple(moves), tuple(edits))


_HEADER = {
    64: {"phoff": (32, 8), "shoff": (40, 8), "phnum": (56, 2)},
    32: {"phoff": (28, 4), "shoff": (32, 4), "phnum": (44, 2)},
}
_SEGMENT = {
    64: {"type": (0, 4), "flags": (4, 4), "offset": (8, 8), "vaddr": (16, 8), "paddr": (24, 8), "filesz": (32, 8)}
    | {"memsz": (40, 8), "align": (48, 8)},
    32: {"type": (0, 4), "offset": (4, 4), "vaddr": (8, 4), "paddr": (12, 4), "filesz": (16, 4), "memsz": (20, 4)}
    | {"flags": (24, 4), "align": (28, 4)},
}
_SECTION = {64: {"offset": (24, 8)}, 32: {"offset": (16, 4)}}


def header_field(form: Form, name: str) -> Field:
    """A field of Elf64_Ehdr or Elf32_Ehdr, without its `e_`: phoff, shoff, phnum."""
    at, width = _HEADER[form.bits][name]
    return Field(f"e_{name}", at, width)


def segment_field(form: Form, phoff: int, index: int, name: str) -> Field:
    """A field of a program header, without its `p_`, in the table at `phoff`."""
    at, width = _SEGMENT[form.bits][name]
    return Field(f"program header {index} p_{name}", phoff + index * form.segment.size + at, width)


def section_field(form: Form, shoff: int, index: int, name: str) -> Field:
    """sh_offset, without its `sh_`, of a section header in the table at `shoff`."""
    at, width = _SECTION[form.bits][name]
    return Field(f"section {index} sh_{name}", shoff + index * form.section.size + at, width)
