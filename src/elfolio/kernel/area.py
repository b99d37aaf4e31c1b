"""kernel.area: one VMA while it changes. In: a range, flags, a file. Out: Area.

What kernel.space.Vma is as a value, with flags as plain integers, because every operation compares them.
"""

from elfolio.kernel.anon import AnonVma
from elfolio.kernel.mappable import Mappable

__all__ = ["Area"]


class Area:
    """One struct vm_area_struct while it changes. Addresses and offsets in bytes.

    `offset` is vm_pgoff in bytes: in the file, or for anonymous memory where its pages stand in their own order.
    `anon_offset` is the second, anonymous one that private file mappings have from 7.3. `chain` is anon_vma_chain.
    `special` is the name of one of the kernel's own mappings.
    """

    __slots__ = (
        "anon_name",
        "anon_offset",
        "anon_vma",
        "chain",
        "closes",
        "end",
        "file",
        "flags",
        "next",
        "offset",
        "prev",
        "special",
        "start",
        "uffd",
    )

    def __init__(
        self, start: int, end: int, flags: int, offset: int, file: Mappable | None = None, anon_offset: int = 0
    ) -> None:
        self.start = start
        self.end = end
        self.flags = flags
        self.offset = offset
        self.file = file
        self.anon_offset = anon_offset
        self.anon_vma: AnonVma | None = None
        self.chain: tuple[AnonVma, ...] = ()
        self.closes = False
        self.uffd: int | None = None
        self.anon_name: str | None = None
        self.special: str | None = None
        self.prev: Area | None = None
        self.next: Area | None = None

    @property
    def anonymous(self) -> bool:
        """vma_is_anonymous: private memory without a file, and none of the kernel's own mappings."""
        return self.file is None and self.special is None

    def copy(self) -> "Area":
        """As vm_area_dup: all but the anon_vma_chain and the neighbours."""
        made = Area(self.start, self.end, self.flags, self.offset, self.file, self.anon_offset)
        made.anon_vma = self.anon_vma
        made.closes = self.closes
        made.uffd = self.uffd
        made.anon_name = self.anon_name
        made.special = self.special
        return made
