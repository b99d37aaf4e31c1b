"""layout.relink: what another link of the same sections would make. In: ElfImage, LinkMode. Out: Relinked.

The linked file alone is enough: it holds the sections with their sizes and alignments, and a linker's second half
needs little else. What it would need and the file does not say, is said in the result, never guessed in silence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage, Section, Segment
from elfolio.errors import InvalidArgument
from elfolio.layout import relink_lld
from elfolio.layout.relink_doubts import doubts
from elfolio.layout.relink_mode import CodeSeparation, LinkMode, LldVersion
from elfolio.layout.relink_origin import NEWEST_LLD, Origin, common_page_size, image_base, origin, own_max_page_size
from elfolio.layout.relink_relr import Relr
from elfolio.layout.sections import Piece, Sizes, pieces_of, section_table, string_table_size

__all__ = ["CODES", "NINE_SIZES", "LinkMode", "Relinked", "nine_modes", "relink"]

CODES: tuple[CodeSeparation, ...] = get_args(CodeSeparation)
NINE_SIZES = (4 << 10, 64 << 10, 2 << 20)
"""The max-page-sizes of "Exploring the section layout in linker output" (MaskRay, 2023)."""


@dataclass(frozen=True, slots=True)
class Relinked:
    """A file as the linker would write it."""

    segments: tuple[Segment, ...]
    """All program headers, in the linker's order."""
    sections: tuple[Section, ...]
    """All section headers, the null section too, in the linker's order."""
    size: int
    """Of the file, in bytes."""
    uncertain: tuple[str, ...]
    """Why something may differ from the linker's own result, a sentence each; empty where nothing is known to."""


def relink(image: ElfImage, mode: LinkMode, data: bytes | memoryview = b"") -> Relinked:
    """What `mode` would make of the sections of `image`.

    `data` is the file's contents; only .comment and .relr.dyn are looked at, and without it they are unknown.
    Raises InvalidArgument for a file without section headers or without PT_LOAD.
    """
    if len(image.sections) < 2 or not image.loads:
        raise InvalidArgument(
            f"{image.name or 'this file'} has no section headers or no PT_LOAD: nothing to link again"
        )
    made_by = origin(image, data)
    result = _linked(image, mode, made_by, data)
    reasons = [*result.uncertain, *doubts(image, mode, made_by, result.sections)]
    if made_by.linker == mode.linker and not any(_same(image, own) for own in _own_modes(image, made_by, data)):
        reasons.append(
            "the file is not what its sections would give in any mode: a linker script, an option that is not "
            "known here, or a change after linking"
        )
    return replace(result, uncertain=tuple(dict.fromkeys(reasons)))


def nine_modes(
    image: ElfImage, data: bytes | memoryview = b"", mode: LinkMode | None = None
) -> dict[tuple[CodeSeparation, int], Relinked]:
    """The article's table: each code separation of lld with each of NINE_SIZES, the rest as `mode` has it."""
    base = mode or LinkMode()
    return {
        (code, size): relink(image, replace(base, linker="lld", code=code, max_page_size=size), data)
        for code in CODES
        for size in NINE_SIZES
    }


def _same(image: ElfImage, result: Relinked) -> bool:
    return result.segments == image.segments and result.size == image.size


def _own_modes(image: ElfImage, made_by: Origin, data: bytes | memoryview) -> Iterator[Relinked]:
    """All that the file could have been, the most usual one first."""
    for rosegment in (True, False):
        for code in CODES:
            for common in (None, 64 << 10, 16 << 10):
                own = LinkMode(made_by.linker or "lld", None, code, rosegment, None, common)
                yield _linked(image, own, made_by, data)


def _linked(image: ElfImage, mode: LinkMode, made_by: Origin, data: bytes | memoryview) -> Relinked:
    return _by_lld(image, mode, made_by, data)


def _by_lld(image: ElfImage, mode: LinkMode, made_by: Origin, data: bytes | memoryview) -> Relinked:
    version = _lld_version(mode, made_by)
    pieces = pieces_of(image)
    largest = mode.max_page_size or own_max_page_size(image)
    relr = Relr.of(image, pieces, data)
    how = relink_lld.LldLink(
        version=version,
        code=mode.code or "noseparate-code",
        rosegment=mode.rosegment,
        max_page_size=largest,
        common_page_size=common_page_size(image.header.machine, largest, mode.common_page_size),
        relro=_has_relro(image) if mode.relro is None else mode.relro,
        now=_is_now(image),
        base=image_base(image, "lld", made_by.linker),
        machine=image.header.machine,
        sizes=Sizes.of(image),
        stack=image.segment(c.PT_GNU_STACK),
        relr=relr,
    )
    pieces = relink_lld.with_padding(pieces, how)
    _name_sections(image, pieces, share_suffixes=False)
    placed = relink_lld.link(pieces, how)
    return Relinked(placed.segments, section_table(image, placed.pieces), placed.size, ())


def _lld_version(mode: LinkMode, made_by: Origin) -> LldVersion:
    if mode.version:
        return LldVersion(mode.version[0])
    return made_by.lld if made_by.linker == "lld" else NEWEST_LLD


def _name_sections(image: ElfImage, pieces: list[Piece], *, share_suffixes: bool) -> None:
    """The table of section names has one name more or less where the linker adds or drops a section."""
    index = image.header.shstrndx
    source = image.sections[index] if 0 < index < len(image.sections) else None
    for piece in pieces:
        if piece.source is source and source is not None:
            piece.size = string_table_size((p.name for p in pieces), share_suffixes=share_suffixes)


def _has_relro(image: ElfImage) -> bool:
    """-z relro, or nothing in the file that it would protect: then both options give the same."""
    return image.segment(c.PT_GNU_RELRO) is not None


def _is_now(image: ElfImage) -> bool:
    """-z now: the dynamic section says so; without one .got.plt lies in RELRO, or it does not."""
    values = dict(image.dynamic)
    if c.DT_BIND_NOW in values or values.get(c.DT_FLAGS, 0) & c.DF_BIND_NOW or values.get(c.DT_FLAGS_1, 0) & c.DF_1_NOW:
        return True
    relro, plt = image.segment(c.PT_GNU_RELRO), image.section(".got.plt")
    return relro is not None and plt is not None and relro.memory.encloses(plt.memory)
