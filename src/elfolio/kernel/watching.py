"""kernel.watching: what follows the pages of an address space. In: what happens to ranges. Out: Watcher, a protocol.

Mappings decide about mappings; page tables and contents only follow them. Each is a watcher, and an address space
without any pays nothing for them.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from elfolio.kernel.areas import Area
    from elfolio.kernel.mm import Mm

__all__ = ["Watcher"]


class Watcher(Protocol):
    """Told after each step. Ranges in bytes, by page."""

    def touched(self, mm: "Mm", area: "Area", start: int, end: int, write: bool) -> None:
        """Pages were faulted in."""

    def unmapped(self, mm: "Mm", start: int, end: int) -> None:
        """Nothing is mapped there any more."""

    def moved(self, mm: "Mm", source: "Area", target: "Area", old: int, new: int, length: int, keep: bool) -> None:
        """mremap moved the pages of a range; with `keep`, the old range stays mapped (MREMAP_DONTUNMAP)."""

    def dropped(self, mm: "Mm", area: "Area", start: int, end: int) -> None:
        """Pages were given back, the mapping stays (MADV_DONTNEED and its like)."""

    def removed(self, mm: "Mm", area: "Area", start: int, end: int) -> None:
        """And so were those of the file that is mapped there: they are holes now (MADV_REMOVE)."""

    def forked(self, parent: "Mm", child: "Mm") -> "Watcher":
        """The one of a child."""
