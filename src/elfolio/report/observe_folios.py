"""report.observe_folios: the folios behind mappings, in sums. In: VmaFolios. Out: rows of the JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypedDict

from elfolio.kernel.folio import UNSEEN, Kind
from elfolio.report.folios import OrderRow

if TYPE_CHECKING:
    from elfolio.live.folios import VmaFolios

__all__ = ["Folios", "folios_of"]


class Folios(TypedDict):
    """What the page tables lead to. In bytes."""

    file: int
    shmem: int
    """Of these, of tmpfs and shared memory."""
    anonymous: int
    zero: int
    """The page of zeros, which smaps counts nowhere."""
    swapped: int
    shared: int | None
    """Mapped more than once; None: hidden."""
    pte: int
    """By what they are mapped."""
    contpte: int
    """By PTEs that arm64 could hold as one."""
    pmd: int
    orders: list[OrderRow]


def folios_of(vmas: "Iterable[VmaFolios]", page: int) -> Folios:
    """Of these mappings together; `page` in bytes."""
    found = list(vmas)
    by = Counter[str]()
    for one in found:
        by.update({str(how): size for how, size in one.mapped().items()})
    return Folios(
        file=sum(one.file for one in found),
        shmem=sum(one.bytes(Kind.SHMEM, Kind.HUGETLB) for one in found),
        anonymous=sum(one.anonymous for one in found),
        zero=sum(one.zero for one in found),
        swapped=sum(one.swapped for one in found),
        shared=sum(one.shared for one in found),
        pte=by["pte"],
        contpte=by["contpte"],
        pmd=by["pmd"],
        orders=_orders(found, page),
    )


def _orders(found: "Sequence[VmaFolios]", page: int) -> list[OrderRow]:
    sizes, counts = Counter[int](), Counter[int]()
    for one in found:
        sizes.update(one.orders())
        counts.update(dict.fromkeys(one.orders(), 0))
        for each in one.sums:
            if not each.kind & (Kind.ZERO | Kind.SWAPPED):
                counts[each.order] += each.folios
    return [
        OrderRow(
            order=order, folio=None if order == UNSEEN else page << order, folios=counts[order], bytes=sizes[order]
        )
        for order in sorted(sizes)
    ]
