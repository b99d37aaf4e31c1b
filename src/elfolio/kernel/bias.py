"""kernel.bias: where a program's linked address 0 comes to lie. In: ElfImage, Policy. Out: alignments, entropy.

The rule is maximum_alignment of fs/binfmt_elf.c, and what the proposals would add to it.
"""

from elfolio.elf.constants import ET_DYN, PF_W
from elfolio.elf.image import ElfImage, Segment
from elfolio.kernel.policy import Policy
from elfolio.span import is_power_of_two

__all__ = ["base_alignment", "entropy_bits", "proposed_alignment"]

_PMD_LIMIT = 32 << 20
_TIER = 2 << 20


def base_alignment(image: ElfImage, policy: Policy, *, static: bool) -> int:
    """Bytes: what ELF_ET_DYN_BASE, or for a `static` one the place that was found, is aligned down to before the first
    segment's own address is subtracted. An alignment that is no power of two counts for nothing, and where no segment
    has another, 1: not even whole pages."""
    if not policy["static_pie_align" if static else "pie_align"]:
        return 1
    wanted = [s.align for s in image.loads if is_power_of_two(s.align)]
    wanted += [proposed_alignment(s, policy) for s in image.loads]
    largest = max(wanted, default=0)
    return max(largest, policy.page_size) if largest else 1


def proposed_alignment(segment: Segment, policy: Policy) -> int:
    """Bytes that the policy's proposal, if it is one, asks for this segment; else 0. Its rule is the text of the
    switch base_align_proposal."""
    rule = policy["base_align_proposal"]
    if rule == "max-folio":
        size = min(1 << segment.filesz.bit_length() - 1, policy.largest_folio) if segment.filesz else 0
        return size if size > policy.page_size and _on(segment, size) else 0
    if rule == "pmd-32m":
        fits = policy.pmd_size <= _PMD_LIMIT and segment.filesz >= policy.pmd_size and not segment.flags & PF_W
        return policy.pmd_size if fits and _on(segment, policy.pmd_size) else 0
    if rule == "tiers":
        tiers = (min(policy.pmd_size, _TIER), policy.exec_folio_bytes)
        fitting = (tier for tier in tiers if segment.filesz >= tier > policy.page_size and _on(segment, tier))
        return max(fitting, default=0)
    return 0


def _on(segment: Segment, size: int) -> bool:
    return segment.vaddr % size == 0 and segment.offset % size == 0


def entropy_bits(image: ElfImage, policy: Policy) -> int:
    """Random bits of the address of a program's first byte: those of vm.mmap_rnd_bits without what alignment takes.
    ET_EXEC has none."""
    if image.header.type != ET_DYN:
        return 0
    alignment = base_alignment(image, policy, static=image.interpreter is None)
    return max(0, policy.mmap_rnd_bits - max(0, (alignment // policy.page_size).bit_length() - 1))
