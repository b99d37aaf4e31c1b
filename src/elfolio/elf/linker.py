"""elf.linker: which linker made a file. In: program headers, section names, a few sections' bytes. Out: Fingerprint.

Some linkers sign their work: lld, mold and wild in .comment, gold in a note, Go's in the build information of its
programs. GNU ld signs nothing unless --enable-linker-version was given. But each writes the program headers in an order
of its own, which a stripped file keeps. The orders were read off programs, static programs and shared objects made by
GNU ld 2.40 to 2.47, gold 1.16, lld 13 to 23, mold 1.10 and 2.37, and Go 1.23 to 1.24.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from elfolio.elf import constants as c
from elfolio.elf.buffers import byte_view, text
from elfolio.elf.image import ElfImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["SIGNED", "Confidence", "Fingerprint", "Linker", "fingerprint", "identify", "signed_sections"]

Linker = Literal["GNU ld", "gold", "lld", "mold", "Go", "wild", "none", "unknown"]
"""`none` is a file that no linker has finished: an object file, a core file."""
Confidence = Literal["certain", "likely", "possible", "none"]
"""Certain: signed, and the order of the headers agrees. Likely: one of the two, and nothing against it. Possible: the
two differ, or the order is that of several linkers. None: nothing to go by."""

SIGNED = (".comment", ".note.gnu.gold-version", ".go.buildinfo")
"""The sections that `identify` can use the bytes of."""
_ENOUGH = 4096
_USUAL = 64
"""Program headers that are looked at; nobody has more but to fill the memory of whoever remembers them."""

_SIGNATURES: tuple[tuple[Linker, re.Pattern[str]], ...] = (
    ("lld", re.compile(r"Linker: .*\bLLD ([\w.]+)")),
    ("mold", re.compile(r"\bmold ([\w.]+)")),
    ("wild", re.compile(r"Linker: Wild version ([\w.]+)")),
    ("GNU ld", re.compile(r"GNU ld (?:\([^)]*\) |version )?([\w.]+)")),
)
_GOLD = re.compile(rb"gold ([\w.]+)")
_GO_MAGIC, _GO_INLINE = b"\xff Go buildinf:", 2

_LETTERS = {
    **{c.PT_LOAD: "L", c.PT_DYNAMIC: "D", c.PT_INTERP: "I", c.PT_NOTE: "N", c.PT_PHDR: "P", c.PT_TLS: "T"},
    **{c.PT_GNU_EH_FRAME: "E", c.PT_GNU_STACK: "S", c.PT_GNU_RELRO: "R", c.PT_GNU_PROPERTY: "G"},
}
# Each is the order with repetitions taken out; a letter with a question mark may be missing.
_ORDERS: tuple[tuple[Linker, re.Pattern[str], str], ...] = (
    ("lld", re.compile("P?I?L(TL)?T?D?RE?S?G?N?G?"), "PT_GNU_RELRO stands before PT_GNU_STACK"),
    ("lld", re.compile("PI?LT?D?E?SG?N"), "PT_NOTE stands behind PT_GNU_STACK"),
    ("mold", re.compile("PI?NG?N?LT?D?G?EG?S?R?|PI?NLT?D?G?E?SR"), "PT_NOTE before the first PT_LOAD, the rest behind"),
    ("Go", re.compile("PI?NI?LD?T?S?"), "PT_NOTE before the first PT_LOAD, and no PT_GNU_EH_FRAME"),
    (
        "gold",
        re.compile("PLD?N?E?ST?R?|(PI)?LD?N?E?STR?"),
        "PT_TLS behind PT_GNU_STACK, or PT_PHDR without interpreter",
    ),
    ("GNU ld", re.compile("(PI)?LD?NG?T?GE?S?R?"), "PT_GNU_PROPERTY behind PT_NOTE"),
    ("GNU ld", re.compile("(PI)?LD?N?TE?S?R?"), "PT_TLS between PT_NOTE and PT_GNU_STACK"),
    ("GNU ld", re.compile("LD?N?E?S?R?"), "no PT_PHDR in a file without interpreter"),
)
_EITHER = re.compile("PILD?N?E?S?R?")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which linker made a file, and what says so."""

    linker: Linker
    version: str | None
    """As the linker signed it; of Go, the toolchain's."""
    confidence: Confidence
    evidence: tuple[str, ...]
    """A sentence each."""


def fingerprint(image: ElfImage, data: "ReadableBuffer") -> Fingerprint:
    """Of a file that has been read, and its bytes."""
    names = [section.name for section in image.sections]
    return identify(image.header.type, [s.type for s in image.segments], names, signed_sections(image, data))


def signed_sections(image: ElfImage, data: "ReadableBuffer") -> dict[str, bytes]:
    """The first bytes of those sections in which a linker may have signed."""
    view = byte_view(data)
    found = {}
    for section in image.sections:
        if section.name in SIGNED and section.file.end <= len(view):
            found[section.name] = bytes(view[section.offset : section.file.end][:_ENOUGH])
    return found


def identify(
    e_type: int, types: Sequence[int], section_names: Iterable[str], contents: Mapping[str, bytes]
) -> Fingerprint:
    """From e_type, the program headers' types in the file's order, section names (none where they are not known), and
    the bytes of the SIGNED sections by name."""
    signed = _signature(contents)
    if e_type not in (c.ET_EXEC, c.ET_DYN):
        return Fingerprint("none", None, "certain", ("an object or core file: no linker has finished it",))
    ordered, sure, said = _by_order(tuple(types[:_USUAL]))
    if not sure and ordered != "unknown":
        ordered, said = _by_names(tuple(section_names), said)
    if signed is None:
        if ordered == "unknown":
            return Fingerprint("unknown", None, "none", (said,))
        return Fingerprint(ordered, None, "likely" if sure else "possible", (said, "it is not signed"))
    linker, version, where = signed
    if ordered == linker:
        return Fingerprint(linker, version, "certain", (where, said))
    if ordered == "unknown" or not sure:
        return Fingerprint(linker, version, "likely", (where,))
    if linker == "Go":  # the toolchain's signature, which stays when it has another linker finish its work
        return Fingerprint(ordered, None, "likely", (said, where))
    return Fingerprint(linker, version, "possible", (where, f"but as {ordered} has it, {said}"))


def _signature(contents: Mapping[str, bytes]) -> tuple[Linker, str, str] | None:
    """Linker, version, and where it says so."""
    gold = _GOLD.search(contents.get(".note.gnu.gold-version", b""))
    if gold is not None:
        return "gold", gold[1].decode(), "a note of .note.gnu.gold-version"
    comment = text(contents.get(".comment", b""))
    for linker, pattern in _SIGNATURES if comment else ():
        match = pattern.search(comment)
        if match is not None:
            return linker, match[1], f".comment: {match[0]}"
    # A Go program that another linker has finished keeps its build information: the others come first.
    version = _go_version(contents.get(".go.buildinfo", b""))
    return None if version is None else ("Go", version, f".go.buildinfo: {version}")


def _go_version(info: bytes) -> str | None:
    """The toolchain's version from Go's build information (debug/buildinfo): after 32 bytes a length, and the text."""
    if not info.startswith(_GO_MAGIC) or len(info) < 33 or not info[15] & _GO_INLINE:
        return None
    return text(info[33 : 33 + info[32]]) or None


@lru_cache(maxsize=512)
def _by_order(types: tuple[int, ...]) -> tuple[Linker, bool, str]:
    """The linker that orders program headers so, whether no other does, and the sentence for it."""
    order = ""
    for type_ in types:
        letter = _LETTERS.get(type_, "")
        order += letter if letter != order[-1:] else ""
    for linker, pattern, said in _ORDERS:
        if pattern.fullmatch(order) and len(order) > 2:
            return linker, True, f"{said}: the order of {linker}"
    if _EITHER.fullmatch(order):
        return "GNU ld", False, "GNU ld and gold order program headers so"
    return "unknown", False, "no linker that is known here orders program headers so"


def _by_names(names: tuple[str, ...], said: str) -> tuple[Linker, str]:
    """GNU ld or gold, where the headers leave it open: gold puts .dynsym before .gnu.hash."""
    if ".dynsym" in names and ".gnu.hash" in names:
        if names.index(".dynsym") < names.index(".gnu.hash"):
            return "gold", f"{said}; .dynsym stands before .gnu.hash, as gold has it"
        return "GNU ld", f"{said}; .gnu.hash stands before .dynsym, as GNU ld has it"
    return "GNU ld", said
