"""kernel.contents: what a process wrote, page by page. In: what happens to pages. Out: the content of a page.

Only for holding a model against what a program would read: contents never decide about mappings. A page's content is
one number. Private memory has its own; shared memory's belongs to the file, whoever maps it.
"""

from typing import TYPE_CHECKING

from elfolio.kernel.mappable import Mappable
from elfolio.kernel.vmflags import VmFlags

if TYPE_CHECKING:
    from elfolio.kernel.areas import Area
    from elfolio.kernel.mm import Mm

__all__ = ["Contents"]

_SHARED, _WIPEONFORK = int(VmFlags.SHARED), int(VmFlags.WIPEONFORK)


class Contents:
    """A Watcher."""

    def __init__(self, files: dict[tuple[Mappable, int], int] | None = None) -> None:
        self._private: dict[int, int] = {}
        self._files = files if files is not None else {}

    def read(self, mm: "Mm", address: int) -> int | None:
        """The content of the page at an address; 0 for one that nobody wrote, None where nothing is mapped."""
        area = mm.areas.crossing(address, address + 1)
        if area is None:
            return None
        if not area.flags & _SHARED and address in self._private:
            return self._private[address]
        if area.file is None:
            return 0
        return self._files.get((area.file, area.offset + address - area.start), 0)

    def write(self, mm: "Mm", address: int, content: int) -> None:
        """The page at an address, which is mapped, gets a content."""
        area = mm.areas.crossing(address, address + 1)
        if area is not None and area.file is not None and area.flags & _SHARED:
            self._files[area.file, area.offset + address - area.start] = content
        else:
            self._private[address] = content

    def touched(self, mm: "Mm", area: "Area", start: int, end: int, write: bool) -> None:
        """Nothing: who touches a page leaves its content."""

    def unmapped(self, mm: "Mm", start: int, end: int) -> None:
        """Private pages go."""
        for page in self._within(start, end):
            del self._private[page]

    def moved(self, mm: "Mm", source: "Area", target: "Area", old: int, new: int, length: int, keep: bool) -> None:
        """Private pages move, also where the old range stays mapped."""
        taken = [(page - old + new, self._private.pop(page)) for page in self._within(old, old + length)]
        self._private.update(taken)

    def dropped(self, mm: "Mm", area: "Area", start: int, end: int) -> None:
        """Pages are empty, or the file's, again."""
        self.unmapped(mm, start, end)

    def removed(self, mm: "Mm", area: "Area", start: int, end: int) -> None:
        """The file's pages are empty, for all who map them."""
        low = area.offset + start - area.start
        for file, at in list(self._files):
            if file is area.file and low <= at < low + end - start:
                del self._files[file, at]

    def forked(self, parent: "Mm", child: "Mm") -> "Contents":
        """A copy; shared memory stays one."""
        copy = Contents(self._files)
        for page, content in self._private.items():
            area = child.areas.crossing(page, page + 1)
            if area is not None and not area.flags & _WIPEONFORK:
                copy._private[page] = content
        return copy

    def _within(self, start: int, end: int) -> list[int]:
        return [page for page in self._private if start <= page < end]
