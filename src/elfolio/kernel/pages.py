"""kernel.pages: page tables as counts. In: Policy, addresses; what happens to pages. Out: Moves, Tables.

When mremap moves a mapping, it moves the entries of its page tables: one by one (PTE), or a whole table as one entry of
the directory above it (PMD), or a whole directory as one entry (PUD), as far as both sides' boundaries allow
(move_page_tables, mm/mremap.c). Sizes in bytes; on x86-64 a PTE stands for 4 KiB, a PMD entry for 2 MiB, a PUD entry
for 1 GiB.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from elfolio.kernel.policy import Policy

if TYPE_CHECKING:
    from elfolio.kernel.areas import Area
    from elfolio.kernel.mm import Mm

__all__ = ["Moves", "Side", "Tables", "moves", "realigns", "table_sizes"]


class Moves(NamedTuple):
    """What one move of a fully populated range touches."""

    puds: int
    """Directories moved whole."""
    pmds: int
    """Tables moved whole."""
    ptes: int
    """Entries moved one by one."""
    made: int
    """Tables and directories made at the destination, where nothing was before but the top level."""
    realigned: bool
    """Whether it began at the boundary below."""

    @property
    def entries(self) -> int:
        """Entries touched: the cost."""
        return self.puds + self.pmds + self.ptes


class Side(NamedTuple):
    """Where a move begins or ends: in which mapping, and what lies below it."""

    address: int
    start: int
    """Of the VMA that contains it."""
    floor: int = 0
    """The end of the next mapping below that VMA; 0 for none."""


def table_sizes(policy: Policy) -> tuple[int, int, int]:
    """What one PTE table, one PMD page and one PUD page span."""
    pmd = policy.pmd_size
    entries = policy.page_size // 8
    return pmd, pmd * entries, pmd * entries * entries


def realigns(policy: Policy, old: Side, new: Side, length: int, *, for_stack: bool = False) -> bool:
    """can_realign_addr: whether a move begins at the boundary of the PTE table below instead.

    Only if nothing can be there that does not belong to it: both addresses begin their VMAs (exec's stack is moved
    within one and may lie inside), and down to the boundary nothing else is mapped; and only if it helps: both have the
    same offset in their tables, and the range reaches the next boundary."""
    size = policy.pmd_size
    inside = old.address % size
    if not policy["realign_pmd"] or not inside or inside != new.address % size or length < size - inside:
        return False
    return all(_may_begin_below(side, size, for_stack) for side in (old, new))


def _may_begin_below(side: Side, size: int, for_stack: bool) -> bool:
    boundary = side.address - side.address % size
    if not for_stack and side.start != side.address:
        return False
    if for_stack and boundary >= side.start:
        return True
    return side.floor <= boundary


def moves(policy: Policy, old: Side, new: Side, length: int, *, for_stack: bool = False) -> Moves:
    """What moving `length` bytes touches, where every page of the range has been faulted in as a small page, and
    nothing has been at the destination."""
    realigned = realigns(policy, old, new, length, for_stack=for_stack)
    lower = old.address % policy.pmd_size if realigned else 0
    puds = pmds = ptes = 0
    tables, directories = set(), set()
    pmd_size, pud_size, pgd_size = table_sizes(policy)
    for at, to, step in _steps(policy, old.address - lower, new.address - lower, old.address + length):
        if step == pud_size and policy["move_pud"]:
            puds += 1
            continue
        directories.add(to // pud_size)
        if step == pmd_size and policy["move_pmd"]:
            pmds += 1
            continue
        tables.add(to // pmd_size)
        ptes += (min(at + step, old.address + length) - max(at, old.address)) // policy.page_size
    tops = {new.address // pgd_size, (new.address + length - 1) // pgd_size} if length else set()
    return Moves(puds, pmds, ptes, len(tables) + len(directories) + len(tops), realigned)


def _extent(at: int, end: int, to: int, size: int) -> int:
    """get_extent: up to the next boundary of either side, or the end."""
    return min(size - at % size, end - at, size - to % size)


def _steps(policy: Policy, at: int, to: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Source, destination and length of each step."""
    pmd_size, pud_size, _ = table_sizes(policy)
    whole = policy["move_pud"]
    while at < end:
        step = _extent(at, end, to, pud_size)
        if step != pud_size or not whole:
            step = _extent(at, end, to, pmd_size)
        yield at, to, step
        at, to = at + step, to + step


class Tables:
    """A Watcher: which page tables a process has. Its size is what VmPTE in /proc/PID/status shows."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._sizes = table_sizes(policy)
        self._tables: tuple[set[int], set[int], set[int]] = (set(), set(), set())
        self.moved_entries = Moves(0, 0, 0, 0, False)
        """Of the last move."""

    @property
    def count(self) -> int:
        """Tables of all levels but the top one."""
        return sum(map(len, self._tables))

    @property
    def bytes(self) -> int:
        """VmPTE."""
        return self.count * self._policy.page_size

    def touched(self, mm: "Mm", area: "Area", start: int, end: int, write: bool) -> None:
        """Every level that leads to the pages."""
        for held, size in zip(self._tables, self._sizes, strict=True):
            held.update(range(start // size, (end - 1) // size + 1))

    def unmapped(self, mm: "Mm", start: int, end: int) -> None:
        """free_pgtables: those that lead to no mapping any more."""
        for held, size in zip(self._tables, self._sizes, strict=True):
            for number in range(start // size, (end - 1) // size + 1):
                if number in held and mm.areas.crossing(number * size, (number + 1) * size) is None:
                    held.discard(number)

    def moved(self, mm: "Mm", source: "Area", target: "Area", old: int, new: int, length: int, keep: bool) -> None:
        """move_page_tables, over the tables that there are."""
        if not length:
            return
        sides = [
            Side(address, area.start, area.prev.end if area.prev is not None else 0)
            for address, area in ((old, source), (new, target))
        ]
        realigned = realigns(self._policy, sides[0], sides[1], length)
        lower = old % self._policy.pmd_size if realigned else 0
        before = self.count
        counts = [0, 0, 0]
        at, to, end = old - lower, new - lower, old + length
        while at < end:
            step = self._step(at, to, end, counts)
            at, to = at + step, to + step
        self.moved_entries = Moves(counts[0], counts[1], counts[2], self.count - before, realigned)

    def _step(self, at: int, to: int, end: int, counts: list[int]) -> int:
        ptes, pmds, puds = self._tables
        pmd_size, pud_size, pgd_size = self._sizes
        step = _extent(at, end, to, pud_size)
        if at // pud_size not in pmds:
            return step
        puds.add(to // pgd_size)
        if step == pud_size and self._policy["move_pud"] and to // pud_size not in pmds:
            self._move_directory(at // pud_size, to // pud_size)
            counts[0] += 1
            return step
        step = _extent(at, end, to, pmd_size)
        if at // pmd_size not in ptes:
            return step
        pmds.add(to // pud_size)
        if step == pmd_size and self._policy["move_pmd"] and to // pmd_size not in ptes:
            ptes.discard(at // pmd_size)
            counts[1] += 1
        else:
            counts[2] += step // self._policy.page_size
        ptes.add(to // pmd_size)
        return step

    def _move_directory(self, at: int, to: int) -> None:
        ptes, pmds, _ = self._tables
        entries = self._sizes[1] // self._sizes[0]
        for number in range(entries):
            if at * entries + number in ptes:
                ptes.discard(at * entries + number)
                ptes.add(to * entries + number)
        pmds.discard(at)
        pmds.add(to)

    def dropped(self, mm: "Mm", area: "Area", start: int, end: int) -> None:
        """Nothing: tables stay when pages go (kernels with CONFIG_PT_RECLAIM, from 6.14, free what gets empty)."""

    def removed(self, mm: "Mm", area: "Area", start: int, end: int) -> None:
        """Nothing, as above."""

    def forked(self, parent: "Mm", child: "Mm") -> "Tables":
        """copy_page_range: those of memory with an anon_vma; all else is faulted in anew."""
        copy = Tables(self._policy)
        for area in child.areas:
            if area.anon_vma is None:
                continue
            for held, mine, size in zip(copy._tables, self._tables, self._sizes, strict=True):
                held.update(n for n in range(area.start // size, (area.end - 1) // size + 1) if n in mine)
        return copy
