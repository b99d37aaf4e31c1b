"""layout.untouchable: files that are better left alone. In: ElfImage, its Tail. Out: Refusals.

A file is refused where something else than its headers knows offsets in it, or its exact bytes: and where its headers
say what cannot be, so that nobody knows which of them somebody relies on.
"""

from collections.abc import Iterator

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage
from elfolio.elf.tail import Tail, TailKind
from elfolio.layout.costs import ALIGN_MOST
from elfolio.layout.finding import size_text
from elfolio.layout.hugepages import Tier
from elfolio.layout.plan import Reason, Refusal
from elfolio.span import is_power_of_two

__all__ = ["refusals_of"]

_SIGNATURES = {
    "signature": "bsign",
    ".sig": "a signature",
    ".signature": "a signature",
    ".SUNW_signature": "elfsign",
    ".note.fdo.integrity": "a checksum of its own file, which it compares",
    ".sha256_sig": "an AppImage's signature",
}
_MODULE = (".modinfo", ".gnu.linkonce.this_module")
_CONTENTS = ("n_namesz", "n_descsz", "sh_name", "sh_addr", "e_shstrndx", "d_tag", "PT_INTERP")
"""Fields whose faults stay what they are: nothing that moves is told by them."""
_LEAVE = "leave it as it is"


def refusals_of(image: ElfImage, tail: Tail) -> Iterator[Refusal]:
    """Why the file must not be touched, every reason there is."""
    yield from _kind(image)
    yield from _made_by_others(image, tail)
    yield from _odd(image)


def _refused(reason: Reason, text: str, mend: str = _LEAVE, tier: Tier = Tier.ALIGN) -> Refusal:
    return Refusal(reason, text, mend, tier)


def _kind(image: ElfImage) -> Iterator[Refusal]:
    names = {c.ET_REL: "an object file", c.ET_CORE: "a core file", c.ET_NONE: "of no type (ET_NONE)"}
    kind = image.header.type
    if kind not in (c.ET_EXEC, c.ET_DYN):
        what = names.get(kind, f"of type {kind:#x}")
        if any(image.section(name) for name in _MODULE):
            what = "a kernel module"
        yield _refused(Reason.NOT_PROGRAM, f"it is {what}: nobody maps it by its program headers")
    elif not any(s.filesz for s in image.loads):
        yield _refused(Reason.NO_LOAD, "no PT_LOAD of it has bytes in the file (a separate debug file?)")


def _made_by_others(image: ElfImage, tail: Tail) -> Iterator[Refusal]:
    at = f"from offset {tail.span.start:#x} on" if tail.span.size else "by its first bytes"
    if tail.kind is TailKind.UPX:
        yield _refused(Reason.PACKED, "UPX has packed it, and unpacks it from its own file", "upx -d FILE, then again")
    elif tail.kind is TailKind.MODULE_SIGNATURE:
        yield _refused(Reason.SIGNED, f"{tail.kind} is appended, {at}")
    elif tail.kind not in (TailKind.NOTHING, TailKind.ZEROS):
        why = f"{tail.kind} is appended, {at}, and found by its distance from the file's end or beginning"
        yield _refused(Reason.PAYLOAD, why, "tune the program before the data is appended")
    for name, what in _SIGNATURES.items():
        if (section := image.section(name)) is not None and section.type != c.SHT_NULL:
            text = f"section {name} at offset {section.offset:#x} holds {what}"
            yield _refused(Reason.SIGNED, text, "tune it before it is signed")
    if image.section(".gnu.prelink_undo") is not None:
        yield _refused(Reason.PRELINKED, "prelink has rewritten it, and keeps its old headers", "prelink -u FILE")


def _odd(image: ElfImage) -> Iterator[Refusal]:
    for fault in image.faults:
        if fault.field not in _CONTENTS:
            # Without a section table that holds water nobody knows what moves with the segments; p_align is no matter.
            tier = Tier.RELAY if fault.field is not None and fault.field.startswith(("e_sh", "sh_")) else Tier.ALIGN
            yield _refused(Reason.MALFORMED, f"it is malformed: {fault.error('')}", _LEAVE, tier)
    for index, s in enumerate(image.segments):
        if s.type != c.PT_LOAD:
            continue
        name = f"program header {index}"
        if s.align > ALIGN_MOST:
            text = f"{name}: p_align is {s.align:#x}, more than {size_text(ALIGN_MOST)}"
            yield _refused(Reason.ALIGN_BOMB, text, "relink with a smaller -Wl,-z,max-page-size")
        elif s.align > 1 and not is_power_of_two(s.align):
            yield _refused(Reason.ODD_ALIGN, f"{name}: p_align {s.align:#x} is no power of two", "relink it")
        if s.filesz > s.memsz:
            yield _refused(Reason.MALFORMED, f"{name}: p_filesz {s.filesz:#x} is more than p_memsz {s.memsz:#x}")
        if s.filesz and (s.vaddr - s.offset) % 4096:
            text = f"{name}: p_vaddr {s.vaddr:#x} and p_offset {s.offset:#x} differ modulo a page, so that mmap refuses"
            yield _refused(Reason.INCONGRUENT, text, "relink it")
