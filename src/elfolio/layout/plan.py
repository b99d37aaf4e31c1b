"""layout.plan: what is to be done to a file, as a value. In: what realign finds. Out: Plan, frozen.

Showing it, checking a file against it and writing it are three uses of one value.
"""

from dataclasses import dataclass
from enum import StrEnum

from elfolio.elf.constants import ET_DYN
from elfolio.elf.image import ElfImage
from elfolio.elf.rewriting import Rewrite
from elfolio.layout.hugepages import Ladder, Tier
from elfolio.layout.segments import Layout
from elfolio.span import Span

__all__ = ["Joint", "Plan", "Reason", "Refusal"]


class Reason(StrEnum):
    """Why a file is left as it is; for programs, which stay as they are."""

    NOT_PROGRAM = "not-a-program"
    NO_LOAD = "no-segment"
    MALFORMED = "malformed"
    PAYLOAD = "payload"
    PACKED = "packed"
    SIGNED = "signed"
    PRELINKED = "prelinked"
    ALIGN_BOMB = "align-bomb"
    ODD_ALIGN = "odd-align"
    INCONGRUENT = "incongruent"
    FIRST_ADDRESS = "first-address"
    STRADDLES = "straddles"
    HEADERS = "headers"
    TOO_LARGE = "too-large"
    WRITE_EXEC = "write-and-execute"
    """Tier 2: a page would be both."""
    OVERLAP = "overlap"
    RELRO = "relro"
    PAGES = "pages"
    """Tier 2 would do it, and was not asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A tier that this file cannot have."""

    reason: Reason
    text: str
    """One clause that names the header and what is wrong with it."""
    mend: str
    """What to do about it."""
    tier: Tier
    """The lowest one that is refused."""


@dataclass(frozen=True, slots=True)
class Joint:
    """Tier 2: segments that one segment replaces, or that share pages."""

    headers: tuple[int, ...]
    """Program headers, by index in the file as it was."""
    perms: tuple[str, ...]
    """Theirs, in the same order."""
    joined: str
    """What all of it has from now on."""
    pages: Span | None = None
    """Linked addresses of the pages that are concerned, where it is no more than the pages that two of them share."""


@dataclass(frozen=True)
class Plan:
    """What becomes of a file."""

    image: ElfImage
    """As it is."""
    block: int
    """Bytes of the huge page that it is for."""
    page: int
    """Bytes of a page of the machine that it is for."""
    tier: Tier
    """How far it goes; AS_IS where nothing is to be done, or nothing can be."""
    rewrite: Rewrite
    becomes: ElfImage
    """The new file's headers."""
    before: Ladder
    after: Ladder
    refusals: tuple[Refusal, ...] = ()
    """What might have been won and was not, and why."""
    notes: tuple[str, ...] = ()
    """What to know of it, a sentence each."""
    joints: tuple[Joint, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the file must not be touched at all."""
        return any(r.tier is Tier.ALIGN for r in self.refusals)

    @property
    def won(self) -> int:
        """Blocks that can be huge mappings afterwards and could not before; of segments without PF_W."""
        return self.after.blocks(Tier.AS_IS) - self.before.blocks(Tier.AS_IS)

    @property
    def random_bits_lost(self) -> int:
        """Of the load address: it is a multiple of the largest p_align from now on."""
        before, after = (max(Layout(i, self.page).align, self.page) for i in (self.image, self.becomes))
        moves = self.image.header.type == ET_DYN
        return max(0, after.bit_length() - before.bit_length()) if moves else 0
