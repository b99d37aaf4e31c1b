"""kernel.replay_figures: what is counted of an address space that is replayed. In: Mm, Vma. Out: Ending, MoveCosts.

Held against what a recorder saw at a process's end: addresses, and flags as smaps shows them.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from elfolio.kernel.areas import Area
from elfolio.kernel.merging import TOUCH, between
from elfolio.kernel.mm import Mm
from elfolio.kernel.pages import Side, moves
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import Vma
from elfolio.kernel.vmflags import MNEMONICS

__all__ = ["Ending", "MoveCosts", "apart", "as_seen", "as_shown"]


@dataclass(frozen=True, slots=True)
class Ending:
    """One address space at its end."""

    path: str
    vmas: int
    peak: int
    operations: int
    merged: int
    missed: dict[str, int]
    apart: dict[str, int]
    """Neighbours that touch and are two, by the rule that keeps them so; `chance` where they could be one. Empty where
    an earlier process of the same program had as many VMAs."""
    mergeable: int
    """Bytes with KSM's flag."""
    mapped: int
    """Bytes."""
    real: int | None
    """How many VMAs it really had, where the trace shows that."""
    equal: bool | None
    """Whether they were the same ones: addresses, and flags as smaps shows them."""


class MoveCosts:
    """A Watcher that counts what mremap moves, as if every page had been there: one for all processes of a lane."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.puds = self.pmds = self.ptes = self.calls = 0

    def moved(self, mm: Mm, source: Area, target: Area, old: int, new: int, length: int, keep: bool) -> None:
        sides = [
            Side(address, area.start, area.prev.end if area.prev is not None else 0)
            for address, area in ((old, source), (new, target))
        ]
        made = moves(self._policy, sides[0], sides[1], length)
        self.puds += made.puds
        self.pmds += made.pmds
        self.ptes += made.ptes
        self.calls += 1

    def touched(self, mm: Mm, area: Area, start: int, end: int, write: bool) -> None: ...

    def unmapped(self, mm: Mm, start: int, end: int) -> None: ...

    def dropped(self, mm: Mm, area: Area, start: int, end: int) -> None: ...

    def removed(self, mm: Mm, area: Area, start: int, end: int) -> None: ...

    def forked(self, parent: Mm, child: Mm) -> "MoveCosts":
        return self


def apart(mm: Mm) -> dict[str, int]:
    """Neighbours that touch and are two, by rule; `chance` where nothing keeps them so."""
    found: Counter[str] = Counter()
    for a, b in pairwise(mm.areas):
        rule = between(a, b, mm.rules)
        if rule is not TOUCH:
            found["chance" if rule is None else rule.name] += 1
    return dict(found)


_SHOWN = 0
for _bit in MNEMONICS.values():
    _SHOWN |= int(_bit)
_SHOWN &= ~0x8000000
"""What smaps shows of a VMA's flags, without VM_SOFTDIRTY, which follows single pages."""


def as_shown(areas: Iterable[Area]) -> list[tuple[int, int, int]]:
    """Start, end, flags: as smaps would show them."""
    return [(area.start, area.end, area.flags & _SHOWN) for area in areas]


def as_seen(vmas: Iterable[Vma]) -> list[tuple[int, int, int]]:
    """The same of what was there."""
    return [(vma.start, vma.end, int(vma.flags) & _SHOWN) for vma in vmas if vma.name != "[vsyscall]"]
