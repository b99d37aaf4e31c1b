"""tests.tune.memory: what a file's segments make of memory under a page size. In: Raw, a page size. Out: Memory.

As Linux does it (elf_load, fs/binfmt_elf.c): whole pages of the file, in the table's order, each over what lies
there; then the rest of the last page is zeroed where the segment is larger in memory and may be written, and zero
pages follow.
"""

from dataclasses import dataclass

from tests.tune.raw import PF_W, Raw, Segment


@dataclass(frozen=True)
class Piece:
    """A part of memory that comes from one place."""

    start: int
    end: int
    offset: int | None
    """Of the first byte in the file; None: zeros."""
    flags: int

    def cut(self, start: int, end: int) -> list["Piece"]:
        """What is left of it when [start, end) is mapped over."""
        if end <= self.start or self.end <= start:
            return [self]
        parts = []
        if self.start < start:
            parts.append(Piece(self.start, start, self.offset, self.flags))
        if end < self.end:
            offset = None if self.offset is None else self.offset + end - self.start
            parts.append(Piece(end, self.end, offset, self.flags))
        return parts


@dataclass(frozen=True)
class Memory:
    """A file in memory, by linked addresses."""

    raw: Raw
    page: int
    pieces: tuple[Piece, ...]
    faults: tuple[str, ...]
    """Why it does not load so, or not whole."""

    def read(self, start: int, size: int) -> bytes | None:
        """The bytes there; None where some are not mapped."""
        out = bytearray()
        for piece in self.pieces:
            low, high = max(piece.start, start), min(piece.end, start + size)
            if low >= high:
                continue
            if low != start + len(out):
                return None
            if piece.offset is None:
                out += bytes(high - low)
                continue
            at = piece.offset + low - piece.start
            found = self.raw.data[at : at + high - low]
            out += found.ljust(high - low, b"\0")  # the file's last page is filled with zeros
        return bytes(out) if len(out) == size else None

    def flags(self, start: int, size: int) -> set[int]:
        """The permissions there."""
        return {piece.flags for piece in self.pieces if piece.start < start + size and start < piece.end}


def memory(raw: Raw, page: int) -> Memory:
    """The file under pages of `page` bytes."""
    pieces: list[Piece] = []
    faults = []
    for segment in raw.loads:
        if segment.filesz and (segment.offset - segment.vaddr) % page:
            faults.append(f"{segment}: its offset is not its address modulo {page:#x}: it cannot be mapped")
            continue
        if segment.filesz and segment.file_end > len(raw.data):
            faults.append(f"{segment}: it goes on behind the file's end")
        for piece in _mapped(segment, page):
            pieces = [part for old in pieces for part in old.cut(piece.start, piece.end)]
            pieces.append(piece)
    return Memory(raw, page, tuple(sorted(pieces, key=lambda p: p.start)), tuple(faults))


def _mapped(segment: Segment, page: int) -> list[Piece]:
    start = segment.vaddr // page * page
    in_file, in_memory = segment.vaddr + segment.filesz, segment.vaddr + segment.memsz
    file_end, end = -(-in_file // page) * page, -(-in_memory // page) * page
    offset = segment.offset - (segment.vaddr - start)
    if not segment.filesz:
        return [Piece(start, end, None, segment.flags)] if segment.memsz else []
    pieces = [Piece(start, file_end, offset, segment.flags)]
    if in_memory > in_file and segment.flags & PF_W and in_file < file_end:
        pieces.append(Piece(in_file, file_end, None, segment.flags))
    if end > file_end:
        pieces.append(Piece(file_end, end, None, segment.flags))
    return pieces


def promised(segment: Segment) -> list[tuple[int, int, bool]]:
    """Address, size, and whether the bytes are the file's: what a segment says of its memory. The zeros behind one that
    may not be written are the kernel's to leave out (padzero's result counts for writable ones only)."""
    found = []
    if segment.filesz:
        found.append((segment.vaddr, segment.filesz, True))
    if segment.memsz > segment.filesz and segment.flags & PF_W:
        found.append((segment.vaddr + segment.filesz, segment.memsz - segment.filesz, False))
    return found
