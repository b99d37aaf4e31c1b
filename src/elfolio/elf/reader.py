"""elf.reader: an ELF file, read and checked. In: bytes of any buffer. Out: ElfImage or ElfHead, or ElfError.

What the kernel would run is read. A file is refused where its header or its program headers' table is malformed,
because then it has no meaning; anything else that points outside of the file, or does not end, is left out of the
value and stands in `ElfImage.faults`. Whoever wants none of that asks for `strict`.
"""

from typing import TYPE_CHECKING

from elfolio.elf.buffers import byte_view
from elfolio.elf.head import parse_head, table_end
from elfolio.elf.image import ElfHead, ElfImage
from elfolio.elf.notes import read_notes
from elfolio.elf.sections import read_sections
from elfolio.elf.segments import check_segments, read_interpreter, read_tags

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["head_size", "read", "read_head"]


def read(data: "ReadableBuffer", name: str = "", *, strict: bool = False) -> ElfImage:
    """Headers, dynamic section and notes; symbols and contents are not touched.

    `data` is the whole file, `name` what to call it in errors. Nothing is copied but what ends up in the value; of a
    memory map, the pages with headers are read and no others (and the file must not be shortened meanwhile: SIGBUS).
    Raises ElfError for a file without meaning, and with `strict` for the first fault of any other.
    """
    view = byte_view(data)
    head, form, faults = parse_head(view, name, len(view))
    check_segments(head, form, faults)
    sections = read_sections(view, form, head.header, faults)
    image = ElfImage(
        name=name,
        size=len(view),
        header=head.header,
        segments=head.segments,
        sections=sections,
        interpreter=read_interpreter(view, head, faults),
        dynamic=read_tags(view, head, form, faults),
        notes=read_notes(view, form, head.segments, sections, faults),
        faults=tuple(faults),
    )
    if strict and faults:
        raise faults[0].error(name)
    return image


def read_head(data: "ReadableBuffer", name: str = "", size: int | None = None) -> ElfHead:
    """Header and program headers only. `data` is the file's beginning, at least `head_size` bytes of it; `size` is the
    whole file's, where that is more. Raises ElfError."""
    view = byte_view(data)
    return parse_head(view, name, len(view) if size is None else size)[0]


def head_size(data: "ReadableBuffer", name: str = "") -> int:
    """How many bytes of the file `read_head` must have, told from its first 64. Raises ElfError for no ELF file."""
    return table_end(byte_view(data), name)
