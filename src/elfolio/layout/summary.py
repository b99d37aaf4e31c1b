"""layout.summary: a file's layout in one flat row. In: program headers as plain tuples. Out: Summary, frozen.

For surveys of thousands of files: a pass over the PT_LOAD headers in whole numbers, and no value per segment. What it
says is what layout.segments, hugepages, relro and modes say of the same file; a test holds them together.
"""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from elfolio.elf import constants
from elfolio.elf.image import ElfHead
from elfolio.layout.hugepages import PMD
from elfolio.layout.modes import separation, usual_align
from elfolio.layout.segments import WHOLE
from elfolio.span import is_power_of_two

__all__ = ["Phdr", "Summary", "summarise", "summary_of"]

Phdr = tuple[int, int, int, int, int, int, int, int]
"""A program header's fields in Elf64_Phdr's order, as struct "IIQQQQQQ" has them: p_type, p_flags, p_offset, p_vaddr,
p_paddr, p_filesz, p_memsz, p_align. (Elf32_Phdr has p_flags behind p_memsz.)"""

PAGE = 4096
_WX = constants.PF_W | constants.PF_X
_FLAGS, _OFFSET, _VADDR, _FILESZ, _MEMSZ, _ALIGN = 1, 2, 3, 5, 6, 7


class Summary(NamedTuple):
    """One file. Sizes in bytes, pages of 4 KiB, huge pages of 2 MiB, unless the name says otherwise."""

    loads: int
    """PT_LOAD segments."""
    file_bytes: int
    """Their p_filesz together."""
    memory_bytes: int
    """Their p_memsz together."""
    text_bytes: int
    """p_filesz of the executable ones."""
    text_had: int
    """Huge pages that text could have with the file as it is (in hugepages' words: Tier.AS_IS)."""
    text_aligned: int
    """... with p_align edited to 2 MiB (Tier.ALIGN)."""
    text_relaid: int
    """... with its bytes moved in the file as well (Tier.RELAY)."""
    text_relinked: int
    """... linked again, at a multiple of 2 MiB (Tier.RELINK)."""
    tier: int | None
    """The cheapest of 0 (ALIGN), 1 (RELAY), 2 (RELINK) that wins a huge page for text; None where none does."""
    readonly_had: int
    """As text_had, of all segments that are not writable, text among them; and so on."""
    readonly_aligned: int
    readonly_relaid: int
    readonly_relinked: int
    both_aligned: bool
    """Whether text has a segment that the base-alignment proposals would align the load address for."""
    align: int
    """The largest valid p_align: what the load address of ET_DYN is a multiple of; 1 where there is none."""
    max_page_size: int
    """The p_align that most segments have: what the linker was given, most likely."""
    congruence: int
    """The largest power of two modulo which every address equals its offset; 2 to the 64 where they are the same."""
    code: str
    """The linker's mode, a word of layout.modes.Code: "separate-code"."""
    rosegment: bool
    """Read-only data has a segment of its own."""
    writable_segments: int
    """With bytes in the file: two where the linker keeps RELRO apart."""
    ready_16k: bool
    """Whether pages of 16 KiB can map it as it is: p_align, congruence, no page wanted by two segments."""
    ready_64k: bool
    relro_bytes: int
    """p_memsz of PT_GNU_RELRO; 0 where there is none."""
    relro_exposed_4k: int
    """Bytes of it that stay writable, because the loader rounds its end down to a page."""
    relro_exposed_16k: int
    relro_exposed_64k: int
    rwx: bool
    """A segment is writable and executable."""
    stack: str
    """PT_GNU_STACK's flags as /proc/PID/maps writes them, "rw-" or "rwx"; "" where there is none."""
    shared_bytes: int
    """Bytes of file pages that two segments map, each counted once a pair."""
    file_padding: int
    """Bytes between the segments' bytes in the file."""
    memory_padding: int
    """Bytes of the segments' pages in memory that belong to no segment."""
    gaps: int
    """Holes between segments: one VMA each where glibc loads it as a library."""
    truncated: bool
    """A segment ends behind the file's end."""


def summary_of(head: ElfHead) -> Summary:
    """Of a file whose headers have been read."""
    phdrs = [(s.type, s.flags, s.offset, s.vaddr, s.paddr, s.filesz, s.memsz, s.align) for s in head.segments]
    return summarise(head.header.type, phdrs, head.size)


def summarise(e_type: int, phdrs: Iterable[Phdr], size: int) -> Summary:
    """Of e_type (ET_DYN's load address is aligned, ET_EXEC's has none), all program headers in the file's order, and
    the file's size. Never raises on strange values; fields that a segment's bad p_align spoils count as not ready."""
    loads = []
    relro_vaddr = relro_memsz = 0
    stack = ""
    for phdr in phdrs:
        type_ = phdr[0]
        if type_ == constants.PT_LOAD:
            loads.append(phdr)
        elif type_ == constants.PT_GNU_STACK:  # of several, kernel and loaders take the last
            stack = _PERMS[phdr[_FLAGS] & 7]
        elif type_ == constants.PT_GNU_RELRO:
            relro_vaddr, relro_memsz = phdr[_VADDR], phdr[_MEMSZ]
    aligns = [p[_ALIGN] for p in loads]
    align = max((a for a in aligns if is_power_of_two(a)), default=1)
    moves = e_type == constants.ET_DYN
    origin = loads[0][_VADDR] & -PAGE if moves and loads else 0
    text, readonly, both = _huge(loads, origin, align < PMD and moves)
    by_address = sorted((p for p in loads if p[_MEMSZ]), key=itemgetter(_VADDR, _MEMSZ))
    by_offset = sorted((p for p in loads if p[_FILESZ]), key=itemgetter(_OFFSET, _FILESZ))
    shared, file_padding, file_end = _in_file(by_offset)
    memory_padding, gaps = _in_memory(by_address)
    skews = 0
    for p in by_offset:
        skews |= p[_VADDR] ^ p[_OFFSET]
    congruence = skews & -skews or WHOLE
    smallest = min(aligns, default=WHOLE)
    fit = congruence >= 16384 and all(is_power_of_two(a) for a in aligns)
    backed = [p for p in by_address if p[_FILESZ]]
    usual = usual_align([p[_ALIGN] for p in backed])
    relro_end = relro_vaddr + relro_memsz
    return Summary(
        len(loads),
        sum([p[_FILESZ] for p in loads]),
        sum([p[_MEMSZ] for p in loads]),
        sum([p[_FILESZ] for p in loads if p[_FLAGS] & 1]),
        *text,
        next((tier for tier in range(3) if text[tier + 1] > text[0]), None),
        *readonly,
        both,
        align,
        usual,
        congruence,
        separation([(p[_FLAGS], p[_OFFSET], p[_VADDR]) for p in backed], usual).code,
        constants.PF_R in [p[_FLAGS] & 7 for p in backed],
        len([p for p in backed if p[_FLAGS] & constants.PF_W]),
        fit and smallest >= 16384 and not _collide(by_address, 16384),
        fit and smallest >= 65536 and congruence >= 65536 and not _collide(by_address, 65536),
        relro_memsz,
        min(relro_memsz, relro_end & 4095),
        min(relro_memsz, relro_end & 16383),
        min(relro_memsz, relro_end & 65535),
        _WX in [p[_FLAGS] & _WX for p in loads],
        stack,
        shared,
        file_padding,
        memory_padding,
        gaps,
        file_end > size,
    )


Rungs = tuple[int, int, int, int]
_PERMS = tuple(("r" if n & 4 else "-") + ("w" if n & 2 else "-") + ("x" if n & 1 else "-") for n in range(8))


def _huge(loads: Sequence[Phdr], origin: int, unaligned: bool) -> tuple[Rungs, Rungs, bool]:
    """Text's and all read-only segments' huge pages at the four tiers; whether text is both aligned. The arithmetic is
    layout.hugepages.climb's."""
    text = readonly = (0, 0, 0, 0)
    both = False
    for _, flags, offset, vaddr, _, filesz, _, _ in loads:
        if filesz + 2 * PAGE <= PMD or flags & _WX == constants.PF_W:
            continue  # no huge page at any tier, or none asked for
        start, end = (vaddr & -PAGE) - origin, (vaddr + filesz + PAGE - 1 & -PAGE) - origin
        relaid = max(0, end // PMD - -(-start // PMD))
        congruent = 0
        if (vaddr - offset - origin) % PMD == 0:
            congruent = relaid
        had = 0 if unaligned else congruent
        rungs = (had, congruent, relaid, (end - start) // PMD)
        if flags & 1:
            text = _sum(text, rungs)
            both = both or (filesz >= PMD and not flags & 2 and (vaddr | offset) % PMD == 0)
        if not flags & 2:
            readonly = _sum(readonly, rungs)
    return text, readonly, both


def _sum(a: Rungs, b: Rungs) -> Rungs:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def _in_file(loads: Sequence[Phdr]) -> tuple[int, int, int]:
    """Bytes of shared pages, padding, and the end of the last byte; the segments by offset."""
    shared = padding = reached = 0
    low = high = 0  # the pages of the segment that reaches furthest
    for _, _, offset, vaddr, _, filesz, _, _ in loads:
        before = vaddr % PAGE
        first, last = offset - before, offset - before + (before + filesz + PAGE - 1 & -PAGE)
        if reached:
            shared += max(0, min(last, high) - max(first, low))
            padding += max(0, offset - reached)
        if not reached or last > high:
            low, high = first, last
        reached = max(reached, offset + filesz)
    return shared, padding, reached


def _in_memory(loads: Sequence[Phdr]) -> tuple[int, int]:
    """Padding and gaps; the segments by address."""
    padding = gaps = reached = 0
    for i, (_, _, _, vaddr, _, _, memsz, _) in enumerate(loads):
        start, end = vaddr & -PAGE, vaddr + memsz + PAGE - 1 & -PAGE
        padding += end - start - memsz
        gaps += i > 0 and start > reached
        reached = max(reached, end)
    return padding, gaps


def _collide(loads: Sequence[Phdr], page: int) -> bool:
    """Whether two segments want one page of this size; the segments by address."""
    reached = 0
    for i, p in enumerate(loads):
        if i > 0 and p[_VADDR] & -page < reached:
            return True
        reached = max(reached, p[_VADDR] + p[_MEMSZ] + page - 1 & -page)
    return False
