"""layout.findings: what is worth saying of a file's layout, ranked by what it costs. In: ElfHead. Out: Findings."""

from elfolio.elf import constants
from elfolio.elf.image import ElfHead
from elfolio.layout.costs import VMA_BYTES, costs
from elfolio.layout.finding import Finding, ranked
from elfolio.layout.hazards import hazards
from elfolio.layout.hugepages import PMD
from elfolio.layout.segments import Layout

__all__ = ["Finding", "findings", "ranked"]


def findings(image: ElfHead, page: int = 4096, *, block: int = PMD, vma_bytes: int = VMA_BYTES) -> tuple[Finding, ...]:
    """All findings at a page size, for huge pages of `block` bytes, all in bytes; the gravest first.

    With an ElfHead in place of an ElfImage, those about the dynamic section and the notes are missing. `vma_bytes` is
    what a mapping costs the kernel, sizeof(struct vm_area_struct). Of what nobody maps by its program headers (ET_REL,
    ET_CORE), there is nothing to say.
    """
    if image.header.type not in (constants.ET_EXEC, constants.ET_DYN):
        return ()
    layout = Layout(image, page)
    return ranked([*hazards(layout), *costs(layout, block, vma_bytes)])
