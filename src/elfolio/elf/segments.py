"""elf.segments: what program headers point at. In: the file, its head. Out: interpreter, dynamic tags, faults."""

from elfolio.elf import constants as c
from elfolio.elf.buffers import text
from elfolio.elf.head import Form
from elfolio.elf.image import ElfHead, Fault, Segment

__all__ = ["check_segments", "read_interpreter", "read_tags"]

_MISPLACED = {64: (8, 32), 32: (4, 16)}
"""Where p_offset and p_filesz stand in a program header."""


def check_segments(head: ElfHead, form: Form, faults: list[Fault]) -> None:
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


def read_interpreter(data: memoryview, head: ElfHead, faults: list[Fault]) -> str | None:
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


def read_tags(data: memoryview, head: ElfHead, form: Form, faults: list[Fault]) -> tuple[tuple[int, int], ...]:
    """The first PT_DYNAMIC's tags and values, up to DT_NULL."""
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
