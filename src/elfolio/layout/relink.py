"""layout.relink: what another link of the same sections would make. In: ElfImage, LinkMode. Out: Relinked.

The linked file alone is enough: it holds the sections with their sizes and alignments, and a linker's second half
needs little else. What it would need and the file does not say, is said in the result, never guessed in silence.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage, Section, Segment
from elfolio.errors import InvalidArgument
from elfolio.layout import relink_gnu, relink_gnu_map, relink_lld, relink_lld_plan
from elfolio.layout.relink_doubts import doubts, is_now
from elfolio.layout.relink_mode import CodeSeparation, GnuLdVersion, LinkMode, LldVersion
from elfolio.layout.relink_origin import NEWEST_LLD, Origin, common_page_size, image_base, origin, own_max_page_size
from elfolio.layout.relink_relr import Relr
from elfolio.layout.sections import RELRO_PADDING, Piece, Sizes, pieces_of, section_table, string_table_size

__all__ = ["CODES", "NINE_SIZES", "LinkMode", "Relinked", "nine_modes", "relink", "relink_all"]

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

    `data` is the file's contents; only .comment, .relr.dyn and a Go program's build information are looked at, and
    without it they are unknown. Raises InvalidArgument for a file without section headers or without PT_LOAD.
    """
    return relink_all(image, (mode,), data)[0]


def relink_all(image: ElfImage, modes: Iterable[LinkMode], data: bytes | memoryview = b"") -> tuple[Relinked, ...]:
    """`relink` for several modes, in their order; what they have in common is done once."""
    if len(image.sections) < 2 or not image.loads:
        raise InvalidArgument(
            f"{image.name or 'this file'} has no section headers or no PT_LOAD: nothing to link again"
        )
    made_by = origin(image, data)
    makers = [maker for maker in made_by.others() if any(_same(image, own) for own in _own_modes(image, maker, data))]
    return tuple(_relinked(image, mode, made_by, makers, data) for mode in modes)


def nine_modes(
    image: ElfImage, data: bytes | memoryview = b"", mode: LinkMode | None = None
) -> dict[tuple[CodeSeparation, int], Relinked]:
    """The article's table: each code separation of lld with each of NINE_SIZES, the rest as `mode` has it."""
    base = replace(mode or LinkMode(), linker="lld")
    keys = [(code, size) for code in CODES for size in NINE_SIZES]
    modes = [replace(base, code=code, max_page_size=size) for code, size in keys]
    return dict(zip(keys, relink_all(image, modes, data), strict=True))


def _relinked(
    image: ElfImage, mode: LinkMode, made_by: Origin, makers: Sequence[Origin], data: bytes | memoryview
) -> Relinked:
    results = [_linked(image, mode, maker, data) for maker in makers or [made_by]]
    reasons = list(doubts(image, mode, made_by, results[0].sections))
    if not makers and made_by.linker == mode.linker:
        reasons.append(
            "the file is not what its sections would give in any mode: a linker script, an option or a version "
            "that is not known here, or a change after linking"
        )
    if any(result != results[0] for result in results):
        reasons.append(f"which version of {mode.linker} made the file cannot be told, and another one differs here")
    return replace(results[0], uncertain=tuple(dict.fromkeys(reasons)))


def _same(image: ElfImage, result: Relinked) -> bool:
    places = [[(s.addr, s.offset) for s in sections] for sections in (result.sections, image.sections)]
    return result.segments == image.segments and result.size == image.size and places[0] == places[1]


def _own_modes(image: ElfImage, made_by: Origin, data: bytes | memoryview) -> Iterator[Relinked]:
    """All that the file could have been, the most usual one first."""
    is_lld = made_by.linker == "lld"
    for rosegment in (True, False) if is_lld else (True,):
        for code in CODES if is_lld else CODES[:2]:
            for common in (None, 64 << 10, 16 << 10):
                own = LinkMode(made_by.linker or "lld", None, code, rosegment, None, common)
                yield _linked(image, own, made_by, data)


def _linked(image: ElfImage, mode: LinkMode, made_by: Origin, data: bytes | memoryview) -> Relinked:
    return (_by_lld if mode.linker == "lld" else _by_gnu)(image, mode, made_by, data)


def _by_gnu(image: ElfImage, mode: LinkMode, made_by: Origin, data: bytes | memoryview) -> Relinked:
    pieces = [piece for piece in pieces_of(image) if piece.name != RELRO_PADDING]
    if made_by.linker != "ld":
        pieces.sort(key=relink_gnu.script_order)
    _name_sections(image, pieces, share_suffixes=True)
    largest = mode.max_page_size or own_max_page_size(image)
    machine = image.header.machine
    version = GnuLdVersion(mode.version) if mode.version else made_by.ld
    base = image_base(image, "ld", made_by.linker)
    if base and version.leaves_zero_unmapped:
        base = max(base, largest)
    how = relink_gnu.GnuLink(
        version=version,
        separate_code=mode.separates_code(machine),
        max_page_size=largest,
        common_page_size=common_page_size(machine, largest, mode.common_page_size),
        relro=made_by.relro if mode.relro is None else mode.relro,
        now=is_now(image),
        base=base,
        machine=machine,
        sizes=Sizes.of(image),
        stack=image.segment(c.PT_GNU_STACK),
        relr=Relr.of(image, pieces, data),
    )
    placed = relink_gnu_map.link(pieces, how)
    return Relinked(placed.segments, section_table(image, placed.pieces), placed.size, ())


def _by_lld(image: ElfImage, mode: LinkMode, made_by: Origin, data: bytes | memoryview) -> Relinked:
    version = _lld_version(mode, made_by)
    pieces = pieces_of(image)
    largest = mode.max_page_size or own_max_page_size(image)
    relr = Relr.of(image, pieces, data)
    how = relink_lld_plan.LldLink(
        version=version,
        code=mode.code or "noseparate-code",
        rosegment=mode.rosegment,
        max_page_size=largest,
        common_page_size=common_page_size(image.header.machine, largest, mode.common_page_size),
        relro=made_by.relro if mode.relro is None else mode.relro,
        now=is_now(image) or (made_by.linker == "lld" and _protects_plt(image)),
        base=image_base(image, "lld", made_by.linker),
        machine=image.header.machine,
        sizes=Sizes.of(image),
        stack=image.segment(c.PT_GNU_STACK),
        relr=relr,
    )
    pieces = relink_lld_plan.with_padding(pieces, how)
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


def _protects_plt(image: ElfImage) -> bool:
    """.got.plt lies in RELRO: with -z now, which a file without dynamic section does not say otherwise."""
    relro, plt = image.segment(c.PT_GNU_RELRO), image.section(".got.plt")
    return relro is not None and plt is not None and relro.memory.encloses(plt.memory)
