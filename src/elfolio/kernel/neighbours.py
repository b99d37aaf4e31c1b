"""kernel.neighbours: why two VMAs that touch are two. In: Vma values as a probe sees them, a Policy. Out: Apart.

A probe sees flags, files and offsets, and whether there are anonymous pages; it does not see which anon_vma they belong
to, which opening of a file it was, or what mremap did to page offsets. So some reasons are certain and some are not.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import pairwise

from elfolio.kernel.anon import AnonVma
from elfolio.kernel.areas import Area
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.merging import FLAGS, Rules, between
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import Vma
from elfolio.kernel.vmflags import MNEMONICS

__all__ = ["Apart", "apart"]

_UNCERTAIN = frozenset({"anon-vma", "fork-child", "not-singular", "sides"})
_IGNORED = ~0x8000000
"""VM_SOFTDIRTY."""


@dataclass(frozen=True, slots=True)
class Apart:
    """Two neighbours that touch."""

    lower: int
    """Index of the lower one; the other is the next."""
    rule: str
    """Of kernel.merging; `unseen` where nothing that can be seen keeps them apart."""
    because: str
    source: str
    certain: bool
    differ: tuple[str, ...] = ()
    """Flags that one has and the other has not, as smaps names them."""


def apart(vmas: Sequence[Vma], written: Container[int], policy: Policy) -> tuple[Apart, ...]:
    """For each two that touch, why; `written` has the indices of those with anonymous pages."""
    rules = Rules(policy)
    files: dict[object, Mappable] = {}
    areas = [_area(vma, files, AnonVma(index) if index in written else None) for index, vma in enumerate(vmas)]
    found = []
    for index, (a, b) in enumerate(pairwise(areas)):
        if a.end == b.start:
            found.append(_why(index, a, b, rules))
    return tuple(found)


def _area(vma: Vma, files: dict[object, Mappable], anon_vma: AnonVma | None) -> Area:
    file = None if vma.file is None else files.setdefault(vma.file, Mappable(vma.file))
    offset = vma.start if file is None else vma.offset
    area = Area(vma.start, vma.end, int(vma.flags), offset, file, vma.start)
    area.anon_name = vma.name if vma.name.startswith("[anon") else None
    area.anon_vma = anon_vma
    area.chain = () if anon_vma is None else (anon_vma,)
    return area


def _why(index: int, a: Area, b: Area, rules: Rules) -> Apart:
    rule = between(a, b, rules)
    if rule is None:
        return Apart(index, "unseen", _UNSEEN_FILE if a.file is not None else _UNSEEN, "", False)
    if rule is not FLAGS:
        return Apart(index, rule.name, rule.text, rule.source, rule.name not in _UNCERTAIN)
    bits = (a.flags ^ b.flags) & _IGNORED
    differ = tuple(name for name, bit in MNEMONICS.items() if bits & int(bit))
    return Apart(index, rule.name, rule.text, rule.source, True, differ)


_UNSEEN = (
    "nothing that can be seen: they became alike after they were made, or mremap has moved one, or a fork has copied it"
)
_UNSEEN_FILE = "nothing that can be seen: they became alike after they were made, or are of two openings of the file"
