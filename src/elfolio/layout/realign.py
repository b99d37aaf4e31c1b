"""layout.realign: puts text where huge pages fit, without relinking. In: ElfImage, its Tail, a block. Out: Plan.

Tier 0 edits p_align: execve, and glibc from 2.35, put the first segment's page at a multiple of the largest p_align.
Tier 1 moves segments to offsets that equal their addresses modulo the block, with holes between them; only then is
p_align edited, because glibc before 2.35 refuses a library whose address and offset differ modulo p_align.
"""

from collections.abc import Mapping
from dataclasses import replace

from elfolio.elf import constants as c
from elfolio.elf.head import form_of
from elfolio.elf.image import ElfImage, Segment
from elfolio.elf.rewriting import Move, Rewrite
from elfolio.elf.tail import NO_TAIL, Tail
from elfolio.layout.finding import size_text
from elfolio.layout.hugepages import PMD, Ladder, Tier, climb
from elfolio.layout.plan import Plan, Reason, Refusal
from elfolio.layout.segments import Layout
from elfolio.layout.shifting import Torn, granule, shifted
from elfolio.layout.untouchable import refusals_of
from elfolio.span import is_power_of_two, round_up

__all__ = ["realign"]


def realign(
    image: ElfImage,
    tail: Tail = NO_TAIL,
    *,
    block: int = PMD,
    page: int = 4096,
    most: Tier = Tier.RELAY,
    force: bool = False,
) -> Plan:
    """What to do to a file, for huge pages of `block` bytes on a machine with pages of `page` bytes, as far as tier
    `most` (ALIGN or RELAY) at most. `force` gives every segment blocks of the file for itself, whether or not a huge
    page is won. Never raises: what cannot be done is among the plan's refusals."""
    ladder = climb(Layout(image, page), block)
    refusals = list(refusals_of(image, tail))
    if any(refusal.tier is Tier.ALIGN for refusal in refusals):
        return _unchanged(image, block, page, ladder, refusals)
    if refusals:
        most = Tier.ALIGN
    if (refusal := _first_address(image, page, block, ladder, force)) is not None:
        return _unchanged(image, block, page, ladder, [refusal])
    found = _wanted(image, ladder, most, force)
    refusals += _stuck(image, block, _wanted(image, ladder, most, False))
    if most >= Tier.RELAY and any(_shifts(image, block, found, force).values()):
        plan = _relaid(image, block, page, ladder, found, force)
        if not plan.refusals:
            return replace(plan, refusals=tuple(refusals))
        refusals += plan.refusals
    aligned = _aligned(image, block, page, ladder, _wanted(image, ladder, Tier.ALIGN, force))
    return replace(aligned, refusals=tuple(refusals))


def _wanted(image: ElfImage, ladder: Ladder, most: Tier, force: bool) -> frozenset[int]:
    """The PT_LOADs, by index, that gain a block at a tier, or that are to be worked on all the same. A writable one's
    huge pages are split at the first write: it gains nothing."""
    if force:
        return frozenset(i for i, s in enumerate(image.segments) if s.type == c.PT_LOAD and s.filesz)
    return frozenset(
        rung.load.index for rung in ladder.rungs if not rung.load.is_writable and rung.at(most) > rung.at(Tier.AS_IS)
    )


def _aligned(image: ElfImage, block: int, page: int, ladder: Ladder, wanted: frozenset[int]) -> Plan:
    """Tier 0: p_align alone, of segments that are congruent modulo the block."""
    aligns = _aligns(image, block, wanted, dict.fromkeys(range(len(image.segments)), 0))
    if not aligns:
        return _unchanged(image, block, page, ladder, [])
    none = {i: 0 for i, s in enumerate(image.segments) if s.type == c.PT_LOAD}
    done = shifted(image, form_of(image), none, aligns, image.size)
    return Plan(image, block, page, Tier.ALIGN, done.rewrite, done.becomes, ladder, _after(done.becomes, page, block))


def _relaid(image: ElfImage, block: int, page: int, ladder: Ladder, wanted: frozenset[int], force: bool) -> Plan:
    """Tier 1."""
    shifts = _shifts(image, block, wanted, force)
    aligns = _aligns(image, block, wanted, shifts)
    try:
        done = shifted(image, form_of(image), shifts, aligns, image.size)
    except Torn as torn:
        return _unchanged(image, block, page, ladder, [torn.refusal])
    if (refusal := _too_large(image, done.rewrite)) is not None:
        return _unchanged(image, block, page, ladder, [refusal])
    after = _after(done.becomes, page, block)
    notes = tuple(_notes(image, done.becomes))
    return Plan(image, block, page, Tier.RELAY, done.rewrite, done.becomes, ladder, after, notes=notes)


def _shifts(image: ElfImage, block: int, wanted: frozenset[int], force: bool) -> dict[int, int]:
    """How far each PT_LOAD moves, by its index. In the file's order no shift is smaller than the one before it, so that
    whatever stood behind something still does; each is a multiple of the page that the segment is mapped with."""
    loads = [(s.offset, bool(s.filesz), i, s) for i, s in enumerate(image.segments) if s.type == c.PT_LOAD]
    shifts: dict[int, int] = {}
    reached, before = 0, 0
    for offset, _, i, s in sorted(loads, key=lambda x: x[:3]):
        page = granule(image, s)
        start = offset - s.vaddr % page
        shift = 0 if _is_first(image, s) else _next_shift(s, before, page)
        if i in wanted and not _is_first(image, s):
            apart = round_up(reached, block) - start if force else 0
            shift = _congruent(s, max(shift, apart), block)
        # Pages that both have are in the new file twice, and need room.
        missing = max(reached, offset + before) - start - shift
        if shift != before and s.filesz and missing > 0:
            shift += round_up(missing, block if i in wanted else max(page, s.align))
        shifts[i] = before = shift
        if s.filesz:
            reached = max(reached, round_up(offset + s.filesz + shift, page))
    return shifts


def _is_first(image: ElfImage, segment: Segment) -> bool:
    """Whether it has the file's header, which must stay where it is."""
    return segment.offset < image.header.ehsize


def _next_shift(segment: Segment, least: int, page: int) -> int:
    """The smallest one, not below `least`, that leaves the segment as congruent as it was."""
    return round_up(least, max(page, segment.align if is_power_of_two(segment.align) else 1))


def _congruent(segment: Segment, least: int, block: int) -> int:
    """The smallest shift, not below `least`, that makes address and offset equal modulo the block."""
    return least + (segment.vaddr - segment.offset - least) % block


def _aligns(image: ElfImage, block: int, wanted: frozenset[int], shifts: Mapping[int, int]) -> dict[int, int]:
    """New values of p_align, by index: of the segments that gain by it, where address and offset allow it."""
    return {
        i: block
        for i, s in enumerate(image.segments)
        if i in wanted and s.align < block and (s.vaddr - s.offset - shifts.get(i, 0)) % block == 0
    }


def _after(becomes: ElfImage, page: int, block: int) -> Ladder:
    return climb(Layout(becomes, page), block)


def _unchanged(image: ElfImage, block: int, page: int, ladder: Ladder, refusals: list[Refusal]) -> Plan:
    moves = (Move(0, 0, image.size),) if image.size else ()
    same = Rewrite(image.size, image.size, form_of(image).byteorder, moves, ())
    return Plan(image, block, page, Tier.AS_IS, same, image, ladder, ladder, tuple(refusals))


def _first_address(image: ElfImage, page: int, block: int, ladder: Ladder, force: bool) -> Refusal | None:
    """The kernel puts the first segment's page at a multiple of p_align, not address 0: with another remainder, text
    cannot both be congruent, as old loaders ask, and lie on huge pages."""
    origin = Layout(image, page).origin
    wanted = _wanted(image, ladder, Tier.RELAY, force)
    if origin % block == 0 or not wanted:
        return None
    text = f"its first segment lies at {origin:#x}, no multiple of {size_text(block)}, and loaders align that address"
    return Refusal(Reason.FIRST_ADDRESS, text, f"relink with -Wl,-z,max-page-size={block}", Tier.ALIGN)


def _stuck(image: ElfImage, block: int, wanted: frozenset[int]) -> list[Refusal]:
    """The file's header is at its beginning, and the segment that shows it in memory with it."""
    for i, s in enumerate(image.segments):
        if i in wanted and s.type == c.PT_LOAD and _is_first(image, s) and (s.vaddr - s.offset) % block:
            text = f"program header {i} has the file's header, which cannot move, and p_vaddr {s.vaddr:#x}"
            mend = f"relink with its first address at a multiple of {size_text(block)}"
            return [Refusal(Reason.HEADERS, text, mend, Tier.RELAY)]
    return []


def _too_large(image: ElfImage, rewrite: Rewrite) -> Refusal | None:
    if image.header.bits == 64 or rewrite.new_size < 1 << 32:
        return None
    text = f"it would have {rewrite.new_size:#x} bytes, and 32-bit offsets end at 0xffffffff"
    return Refusal(Reason.TOO_LARGE, text, "relink it", Tier.RELAY)


def _notes(old: ElfImage, new: ElfImage) -> list[str]:
    if old.header.phoff == new.header.phoff:
        return []
    return ["The program headers move with their segment: before Linux 5.18 AT_PHDR would be wrong"]
