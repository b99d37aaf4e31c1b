"""elf.tail: what stands in a file that no header tells of. In: ElfImage, the file's bytes. Out: Tail.

Self-extracting programs, bundles of interpreters with their scripts, signatures of kernel modules are appended to an
ELF file, and found again from the file's end or by an offset that was written down when it was made.
"""

from dataclasses import dataclass
from enum import StrEnum

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage
from elfolio.span import Span

__all__ = ["NO_TAIL", "Tail", "TailKind", "has_any", "known_end", "read_tail"]


class TailKind(StrEnum):
    """What is appended."""

    NOTHING = "nothing"
    ZEROS = "zeros"
    """Padding."""
    APPIMAGE = "an AppImage's file system"
    MODULE_SIGNATURE = "a kernel module's signature"
    UPX = "UPX's packed program"
    PYINSTALLER = "PyInstaller's archive"
    ZIP = "a ZIP archive"
    OCAML = "OCaml's bytecode"
    UNKNOWN = "data of a kind unknown"


@dataclass(frozen=True, slots=True)
class Tail:
    """The bytes behind everything that headers tell of."""

    span: Span
    """File offsets."""
    kind: TailKind


NO_TAIL = Tail(Span(0, 0), TailKind.NOTHING)

_ENDS = (
    (TailKind.MODULE_SIGNATURE, b"~Module signature appended~\n"),  # scripts/sign-file.c
    (TailKind.PYINSTALLER, b"MEI\014\013\012\013\016"),
    (TailKind.ZIP, b"PK\005\006"),  # APPNOTE.TXT, end of central directory
    (TailKind.OCAML, b"Caml1999X"),
    (TailKind.UPX, b"UPX!"),
)
_LAST = 66 << 10
"""Bytes from the end in which these are looked for: a ZIP archive's comment has 64 KiB at most."""


def known_end(image: ElfImage) -> int:
    """The end, as a file offset, of the last thing that a header tells of."""
    header = image.header
    ends = [header.ehsize, header.phoff + header.phnum * header.phentsize if header.phnum else 0]
    ends += [header.shoff + header.shnum * header.shentsize if header.shoff else 0]
    ends += [s.file.end for s in image.segments if s.filesz]
    ends += [s.file.end for s in image.sections if s.type not in (c.SHT_NULL, c.SHT_NOBITS)]
    return max(ends)


def read_tail(image: ElfImage, data: memoryview) -> Tail:
    """Looks at the file's last bytes and its first ones. UPX and AppImage mark the beginning too, and a program of
    theirs need not have a tail: the span is empty then."""
    end = min(known_end(image), len(data))
    span = Span(end, len(data))
    if bytes(data[8:11]) in (b"AI\1", b"AI\2"):
        return Tail(span, TailKind.APPIMAGE)  # AppImage specification, "Type 1" and "Type 2"
    if not image.sections and b"UPX!" in bytes(data[:1024]):  # the loader's header stands behind the program headers
        return Tail(span, TailKind.UPX)
    if not span.size:
        return Tail(span, TailKind.NOTHING)
    last = bytes(data[max(end, len(data) - _LAST) :])
    for kind, mark in _ENDS:
        if mark in last:
            return Tail(span, kind)
    return Tail(span, TailKind.UNKNOWN if has_any(data[end:]) else TailKind.ZEROS)


def has_any(data: memoryview) -> bool:
    """Whether a byte is not zero, without a copy of all of it."""
    step = 1 << 20
    return any(bytes(data[at : at + step]).strip(b"\0") for at in range(0, len(data), step))
