"""layout.realign: puts text where huge pages fit, without relinking. In: ElfImage, its Tail, a block. Out: Plan.

Tier 0 edits p_align: execve, and glibc from 2.35, put the first segment's page at a multiple of the largest p_align.
Tier 1 moves segments to offsets that equal their addresses modulo the block, with holes between them; only then is
p_align edited, because glibc before 2.35 refuses a library whose address and offset differ modulo p_align.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from elfolio.elf import constants as c
from elfolio.elf.head import form_of
from elfolio.elf.image import ElfImage
from elfolio.elf.rewriting import Move, Rewrite
from elfolio.elf.tail import NO_TAIL, Tail
from elfolio.layout.finding import size_text
from elfolio.layout.hugepages import PMD, Ladder, Tier, climb
from elfolio.layout.merging import Merger, Unmergeable, check_bytes, check_fills, gather, join, overlap, relro_notes
from elfolio.layout.placing import holds_header, place
from elfolio.layout.plan import Plan, Reason, Refusal
from elfolio.layout.segments import Layout
from elfolio.layout.shifting import Torn, edits_between, shifted
from elfolio.layout.untouchable import refusals_of
from elfolio.span import Span

__all__ = ["realign"]


def realign(
    image: ElfImage,
    tail: Tail = NO_TAIL,
    *,
    block: int = PMD,
    page: int = 4096,
    most: Tier = Tier.RELAY,
    force: bool = False,
    merge: bool = False,
    is_zero: Callable[[Span], bool] = lambda span: False,
    barred: Iterable[Refusal] = (),
) -> Plan:
    """What to do to a file, for huge pages of `block` bytes on a machine with pages of `page` bytes, as far as tier
    `most` (ALIGN or RELAY) at most. `force` gives every segment blocks of the file for itself, whether or not a huge
    page is won. Never raises: what cannot be done is among the plan's refusals."""
    ladder = climb(Layout(image, page), block)
    refusals = [*refusals_of(image, tail), *barred]
    if any(refusal.tier is Tier.ALIGN for refusal in refusals):
        return _unchanged(image, block, page, ladder, refusals)
    if refusals:
        most = Tier.ALIGN
    if not force and (refusal := _first_address(image, page, block, ladder)) is not None:
        return _unchanged(image, block, page, ladder, [refusal])
    if most >= Tier.RELAY and (merge or not _is_ready(image, page)):
        plan = _merged(image, block, page, ladder, merge=merge, force=force, is_zero=is_zero)
        if plan is not None:
            return plan
    force = force and not merge  # joined by force, a file would be laid out anew by force the next time
    found = _wanted(image, ladder, most, force)
    if not force:
        refusals += _stuck(image, block, found)
    shifts = place(image, dict.fromkeys(found, block), apart=force) if most >= Tier.RELAY else {}
    if any(shifts.values()):
        plan = _relaid(image, block, page, ladder, found, shifts)
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
    aligns = _aligns(image, block, wanted, {})
    if not aligns:
        return _unchanged(image, block, page, ladder, [])
    none = {i: 0 for i, s in enumerate(image.segments) if s.type == c.PT_LOAD}
    done = shifted(image, none, aligns)
    return Plan(image, block, page, Tier.ALIGN, done.rewrite, done.becomes, ladder, _after(done.becomes, page, block))


def _relaid(
    image: ElfImage, block: int, page: int, ladder: Ladder, wanted: frozenset[int], shifts: dict[int, int]
) -> Plan:
    """Tier 1."""
    if (refusal := overlap(Layout(image, page), Tier.RELAY)) is not None:
        return _unchanged(image, block, page, ladder, [refusal])
    aligns = _aligns(image, block, wanted, shifts)
    try:
        done = shifted(image, shifts, aligns)
    except Torn as torn:
        return _unchanged(image, block, page, ladder, [torn.refusal])
    if (refusal := _too_large(image, done.rewrite)) is not None:
        return _unchanged(image, block, page, ladder, [refusal])
    after = _after(done.becomes, page, block)
    notes = tuple(_notes(image, done.becomes))
    return Plan(image, block, page, Tier.RELAY, done.rewrite, done.becomes, ladder, after, notes=notes)


def _aligns(image: ElfImage, block: int, wanted: frozenset[int], shifts: Mapping[int, int]) -> dict[int, int]:
    """New values of p_align, by index: of the segments that gain by it, where address and offset allow it."""
    return {
        i: block
        for i, s in enumerate(image.segments)
        if i in wanted and s.align < block and (s.vaddr - s.offset - shifts.get(i, 0)) % block == 0
    }


def _is_ready(image: ElfImage, page: int) -> bool:
    """Whether pages of this size can map it; every file that runs at all can be mapped with those of 4 KiB."""
    return page == 4096 or Layout(image, page).is_ready


def _merged(
    image: ElfImage,
    block: int,
    page: int,
    ladder: Ladder,
    *,
    merge: bool,
    force: bool,
    is_zero: Callable[[Span], bool],
) -> Plan | None:
    """Tier 2, and for larger pages tier 1; None where neither changes anything."""
    layout = Layout(image, page)
    try:
        merger = gather(layout, ladder if merge else None, force=force)
        if not merger.joints and _is_ready(image, page):
            return None
        if merger.joints and not merge:
            raise _unasked(layout, merger)
        moduli = _moduli(image, block, page, ladder, merger)
        shifts = place(image, moduli, bound=merger.bound)
        if merger.joints:
            check_bytes(layout, shifts)
        moved = shifted(image, shifts, {}, copies=not merger.joints)
        becomes = join(moved.becomes, merger, moduli, page)
        check_fills(image, merger, is_zero)
        rewrite = replace(moved.rewrite, edits=edits_between(image, becomes))
        notes = [*_notes(image, becomes), *(relro_notes(layout) if page > 4096 else ())]
    except (Torn, Unmergeable) as error:
        return _unchanged(image, block, page, ladder, [error.refusal])
    if rewrite.is_identity:
        return None
    if (refusal := _too_large(image, rewrite)) is not None:
        return _unchanged(image, block, page, ladder, [refusal])
    tier = Tier.MERGE if merger.joints else Tier.RELAY if any(shifts.values()) else Tier.ALIGN
    after = _after(becomes, page, block)
    return Plan(image, block, page, tier, rewrite, becomes, ladder, after, (), tuple(notes), merger.joints)


def _unasked(layout: Layout, merger: Merger) -> Unmergeable:
    joint = merger.joints[0]
    which = " and ".join(f"{i} ({perms})" for i, perms in zip(joint.headers, joint.perms, strict=True))
    text = f"with pages of {size_text(layout.page)} program headers {which} share one"
    return Unmergeable(Reason.PAGES, text, "--merge joins them, with the permissions of both")


def _moduli(image: ElfImage, block: int, page: int, ladder: Ladder, merger: Merger) -> dict[int, int]:
    """Modulo what each PT_LOAD's offset is to equal its address: the block where its group gains by it, else the page.
    Raises Unmergeable where that of the file's header, which cannot move, does not equal it modulo the page."""
    had = {rung.load.index: rung.at(Tier.AS_IS) for rung in ladder.rungs}
    moduli = {}
    for group in merger.groups:
        first, last = group[0], group[-1]
        span = Span(first.mapped.start, last.mapped.end).shifted(-Layout(image, page).origin)
        gains = span.whole_blocks(block).size // block > sum(had.get(x.index, 0) for x in group)
        writable = any(x.is_writable for x in group)
        modulus = block if gains and not writable else page
        if len(group) > 1:
            modulus = max(modulus, *(x.segment.align for x in group))
        if holds_header(image, first.segment) and (first.segment.vaddr - first.segment.offset) % modulus:
            modulus = page
            if (first.segment.vaddr - first.segment.offset) % page:
                where = f"program header {first.index}, at {first.segment.vaddr:#x}"
                text = f"{where}, has the file's header, which cannot move"
                raise Unmergeable(Reason.HEADERS, text, f"relink with -Wl,-z,max-page-size={page}")
        if modulus > 4096:
            moduli.update({x.index: modulus for x in group})
    return moduli


def _after(becomes: ElfImage, page: int, block: int) -> Ladder:
    return climb(Layout(becomes, page), block)


def _unchanged(image: ElfImage, block: int, page: int, ladder: Ladder, refusals: list[Refusal]) -> Plan:
    moves = (Move(0, 0, image.size),) if image.size else ()
    same = Rewrite(image.size, image.size, form_of(image).byteorder, moves, ())
    return Plan(image, block, page, Tier.AS_IS, same, image, ladder, ladder, tuple(refusals))


def _first_address(image: ElfImage, page: int, block: int, ladder: Ladder) -> Refusal | None:
    """The kernel puts the first segment's page at a multiple of p_align, not address 0: with another remainder, text
    cannot both be congruent, as old loaders ask, and lie on huge pages."""
    origin = Layout(image, page).origin
    wanted = _wanted(image, ladder, Tier.RELAY, False)
    if origin % block == 0 or not wanted:
        return None
    text = f"its first segment lies at {origin:#x}, no multiple of {size_text(block)}, and loaders align that address"
    return Refusal(Reason.FIRST_ADDRESS, text, f"relink with -Wl,-z,max-page-size={block}", Tier.ALIGN)


def _stuck(image: ElfImage, block: int, wanted: frozenset[int]) -> list[Refusal]:
    """The file's header is at its beginning, and the segment that shows it in memory with it."""
    for i, s in enumerate(image.segments):
        if i in wanted and s.type == c.PT_LOAD and holds_header(image, s) and (s.vaddr - s.offset) % block:
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
    """Linux before 5.18 takes the first PT_LOAD's distance between address and offset for the program headers' too."""
    before, after = (next(s.vaddr - s.offset for s in x.segments if s.type == c.PT_LOAD) for x in (old, new))
    if before + old.header.phoff == after + new.header.phoff:
        return []
    what = "The program headers move with their segment" if old.header.phoff != new.header.phoff else "A segment moves"
    return [f"{what}: before Linux 5.18 AT_PHDR would be wrong"]
