"""elf.reader: an ELF file, read and checked. In: bytes of any buffer. Out: ElfImage or ElfHead, or ElfError.

What the kernel would run is read. A file is refused where its header or its program headers' table is malformed,
because then it has no meaning; anything else that points outside of the file, or does not end, is left out of the
value and stands in `ElfImage.faults`. Whoever wants none of that asks for `strict`.
"""

from typing import TYPE_CHECKING

from elfolio.elf import constants as c
from elfolio.elf.buffers import byte_view, text
from elfolio.elf.head import Form, table_end
from elfolio.elf.head import read_head as _read_head
from elfolio.elf.image import ElfHead, ElfImage, Fault, Segment
from elfolio.elf.notes import read_notes
from elfolio.elf.sections import read_sections

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["head_size", "read", "read_head"]

_MISPLACED = {64: (8, 32), 32: (4, 16)}
"""Where p_offset and p_filesz stand in a program header."""


def read(data: "ReadableBuffer", name: str = "", *, strict: bool = False) -> ElfImage:
    """Headers, dynamic section and notes; symbols and contents are not touched.

    `data` is the whole file, `name` what to call it in errors. Nothing is copied but what ends up in the value; of a
    memory map, the pages with headers are read and no others (and the file must not be shortened meanwhile: SIGBUS).
    Raises ElfError for a file without meaning, and with `strict` for the first fault of any other.
    """
    view = byte_view(data)
    head, form, faults = _read_head(view, name, len(view))
    _check_segments(head, form, faults)
    sections = read_sections(view, form, head.header, faults)
    image = ElfImage(
        name=name,
        size=len(view),
        header=head.header,
        segments=head.segments,
        sections=sections,
        interpreter=_interpreter(view, head, faults),
        dynamic=_dynamic(view, head, form, faults),
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
    return _read_head(view, name, len(view) if size is None else size)[0]


def head_size(data: "ReadableBuffer", name: str = "") -> int:
    """How many bytes of the file `read_head` must have, told from its first 64. Raises ElfError for no ELF file."""
    return table_end(byte_view(data), name)


def _check_segments(head: ElfHead, form: Form, faults: list[Fault]) -> None:
    """A segment's bytes must lie in the file, and its memory below the end of the address space."""
    offset_at, filesz_at = _MISPLACED[form.bits]
    for index, s in enumerate(head.segments):
        at = head.header.phoff + index * form.segment.size
        if s.filesz and s.offset > head.size:
            faults.append(
                Fault("segment outside of the file", at + offset_at, "p_offset", s.offset, f"at most {head.size:#x}")
            )
        elif s.filesz and s.offset + s.filesz > head.size:
            room = f"at most {head.size - s.offset:#x}"
            faults.append(Fault("segment outside of the file", at + filesz_at, "p_filesz", s.filesz, room))
        if s.type == c.PT_LOAD and s.filesz > s.memsz:
            expected = f"at most p_memsz, {s.memsz:#x}"
            faults.append(Fault("segment larger in the file", at + filesz_at, "p_filesz", s.filesz, expected))
        if s.vaddr + s.memsz > 1 << form.bits:
            expected = f"at most {(1 << form.bits) - s.memsz:#x}"
            faults.append(Fault("segment beyond the address space", at + 2 * offset_at, "p_vaddr", s.vaddr, expected))


def _body(data: memoryview, segment: Segment) -> memoryview | None:
    """A segment's bytes; None where they do not lie in the file, which is a fault already."""
    end = segment.offset + segment.filesz
    return data[segment.offset : end] if end <= len(data) else None


def _interpreter(data: memoryview, head: ElfHead, faults: list[Fault]) -> str | None:
    """PT_INTERP's path: the first one's, as the kernel has it."""
    segment = head.segment(c.PT_INTERP)
    body = None if segment is None or not segment.filesz else _body(data, segment)
    if segment is None or body is None:
        return None
    if len(body) > 4096:  # PATH_MAX, and not a path to be held
        faults.append(Fault("interpreter too long", segment.offset, "p_filesz", len(body), "at most 0x1000"))
        return None
    path, nul, _ = bytes(body).partition(b"\0")
    if not nul:
        faults.append(Fault("interpreter without its NUL", segment.offset, "PT_INTERP", path[-8:], "a NUL"))
    return text(path)


def _dynamic(data: memoryview, head: ElfHead, form: Form, faults: list[Fault]) -> tuple[tuple[int, int], ...]:
    segment = head.segment(c.PT_DYNAMIC)
    body = None if segment is None or not segment.filesz else _body(data, segment)
    if segment is None or body is None:
        return ()
    pair = form.dynamic
    tags: list[tuple[int, int]] = []
    for tag, value in pair.iter_unpack(body[: len(body) // pair.size * pair.size]):
        if tag == c.DT_NULL:
            return tuple(tags)
        tags.append((tag, value))
    end = segment.offset + segment.filesz
    faults.append(Fault("dynamic section without its end", end, "d_tag", None, "DT_NULL, where loaders stop"))
    return tuple(tags)
