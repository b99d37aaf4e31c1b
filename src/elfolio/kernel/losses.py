"""kernel.losses: what keeps a running process's file mappings off huge pages. In: Vma, Policy, Backing. Out: Loss.

The rules are those by which `explain` predicts (kernel.blocks). A process adds what a prediction cannot have: where the
mapping really lies, which of its blocks one entry maps, and what the page cache has for the others.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from elfolio.elf.constants import PF_W, PF_X
from elfolio.elf.image import ElfHead
from elfolio.kernel.backing import Backing, backing
from elfolio.kernel.blocks import Obstacle, Stretch, Way, stretches
from elfolio.kernel.folio import Run
from elfolio.kernel.policy import Policy
from elfolio.kernel.prediction import linked_skew
from elfolio.kernel.space import Vma, VmFlags
from elfolio.span import Span

__all__ = ["Loss", "Piece", "backed", "candidates", "fates", "loss", "piece_of", "pieces"]

_OUTSIDE = frozenset({Obstacle.EDGE, Obstacle.END})
"""Of these blocks the mapping or the file has a part only: nothing is lost that could be had."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A PT_LOAD segment, as far as it decides about huge pages."""

    file: Span
    """The file's pages that its mapping shows."""
    skew: int
    """kernel.prediction.linked_skew."""
    written: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Loss:
    """The blocks of one size that one mapping of a file touches. Blocks are counted; sizes in bytes."""

    size: int
    blocks: int
    copied: bool
    """Its pages are written to, and then private copies: counted in no sum."""
    mapped: int
    """Mapped by one entry now."""
    could: int
    """That could be, where a folio is."""
    now: int
    """Of these the ones with such a folio."""
    lacking: Mapping[Backing, int] = field(default_factory=dict)
    """Of these the others, by what the page cache has."""
    barred: Mapping[Obstacle, int] = field(default_factory=dict)
    """Those that could not be one mapping, whatever the page cache has."""

    @property
    def whole(self) -> int:
        """Blocks that lie in the mapping and in the file whole."""
        return self.blocks - sum(count for why, count in self.barred.items() if why in _OUTSIDE)

    @property
    def lost(self) -> int:
        """Bytes in whole blocks that are not mapped as one."""
        return 0 if self.copied else (self.whole - self.mapped) * self.size


def pieces(head: ElfHead, page: int) -> tuple[Piece, ...]:
    """Those with bytes in the file; `page` in bytes."""
    return tuple(
        Piece(
            Span(s.offset, s.offset + s.filesz).pages(page),
            linked_skew(head, s, page),
            bool(s.flags & PF_W),
            bool(s.flags & PF_X),
        )
        for s in head.loads
        if s.filesz
    )


def piece_of(vma: Vma, found: Iterable[Piece]) -> Piece | None:
    """The one that a mapping shows. Two can share a page of the file: then the one whose permissions are the
    mapping's."""
    file, executable = Span(vma.offset, vma.offset + vma.size), bool(vma.flags & VmFlags.EXEC)
    fits = [(file.common(p.file).size, p.executable == executable, p.written, p) for p in found]
    best = max((fit for fit in fits if fit[0]), default=None, key=lambda fit: fit[:3])
    return best[3] if best is not None else None


def fates(
    vma: Vma, policy: Policy, size: int, piece: Piece | None, *, file_size: int, switched_off: bool = False
) -> tuple[Stretch, ...]:
    """What each block of `size` bytes could be, where the mapping lies. `piece`: None for what is no ELF file."""
    skew = 0 if piece is None else piece.skew
    return tuple(stretches(vma, policy, size, file_size=file_size, linked_skew=skew, switched_off=switched_off))


def candidates(found: Iterable[Stretch]) -> Iterator[Span]:
    """File offsets of the blocks whose folios decide."""
    return (one.file for one in found if one.way is not Way.NONE)


def backed(runs: Sequence[Run], file: Span, size: int, page: int) -> Counter[Backing]:
    """What a file's runs, in its order, have of each block in `file`, a range of whole blocks."""
    pages = size // page
    first, last = file.start // size, file.end // size
    touched: set[int] = set()
    for run in runs:
        touched.update(range(max(first, run.start // pages), min(last, -(-run.end // pages))))
    counts = Counter(backing(runs, block * pages, pages) for block in touched)
    counts[Backing.ABSENT] += last - first - len(touched)
    return +counts


def loss(found: Iterable[Stretch], size: int, mapped: int, there: Mapping[Backing, int], *, copied: bool) -> Loss:
    """The sum. `there` counts the candidates; `mapped` are blocks that one entry maps, which are taken for what they
    are where the file system was thought to have no such folios."""
    barred: Counter[Obstacle] = Counter()
    could = 0
    for stretch in found:
        count = stretch.file.size // size
        if stretch.way is Way.NONE:
            barred[stretch.obstacle] += count
        else:
            could += count
    blocks = could + barred.total()
    for why in (Obstacle.FILESYSTEM, *Obstacle):
        if why not in _OUTSIDE and (more := min(barred[why], mapped - could)) > 0:
            barred[why] -= more
            could += more
    lacking: dict[Backing, int] = {what: n for what, n in there.items() if n and what is not Backing.FOLIO}
    now = max(mapped, could - sum(lacking.values()))
    return Loss(size, blocks, copied, mapped, could, now, lacking, dict(+barred))
