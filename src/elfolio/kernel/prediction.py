"""kernel.prediction: one file under one policy, whole. In: ElfImage, its interpreter's, Policy, Host. Out: Prediction.

What `elfolio explain` shows: the first instruction's address space, the file's own mappings after dynamic linking, and
for each block of them whether it can be a huge mapping.
"""

from dataclasses import dataclass

from elfolio.elf.image import ElfImage
from elfolio.kernel.blocks import Block
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, Vma
from elfolio.layout.finding import Finding
from elfolio.layout.segments import Layout

__all__ = ["BlockRun", "Prediction"]


@dataclass(frozen=True, slots=True)
class BlockRun:
    """The blocks of one size that one mapping touches."""

    vma: Vma
    size: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Prediction:
    """What one kernel makes of one file. Addresses are mapped ones, with randomisation off."""

    image: ElfImage
    layout: Layout
    policy: Policy
    bias: int
    """The load bias: mapped minus linked address."""
    is_placed: bool
    """Whether the bias is what this kernel would choose; a shared object has no place of its own, and 0 stands here."""
    entropy: int | None
    """Bits of the load bias that randomisation chooses; None for what is always at the same place."""
    space: AddressSpace | None
    """At the first instruction; None for a file that is not executed."""
    refusal: str
    """Why the kernel would not execute it; empty where it would."""
    mapped: tuple[Vma, ...]
    """The file's own mappings once the dynamic linker is done: RELRO protected."""
    runs: tuple[BlockRun, ...]
    findings: tuple[Finding, ...]
