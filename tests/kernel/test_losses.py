"""kernel.losses: what keeps blocks of a real mapping small, as sums; held against block by block."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.kernel.advice import mend
from elfolio.kernel.backing import Backing, backing
from elfolio.kernel.blocks import Block, Obstacle, Way, blocks
from elfolio.kernel.folio import Kind, Run
from elfolio.kernel.losses import Loss, Piece, backed, candidates, fates, loss, piece_of, pieces
from elfolio.kernel.policy import policy
from elfolio.kernel.space import OpenFile, Vma, VmFlags
from elfolio.report.explain_text import OBSTACLES
from elfolio.report.folios import LACKING
from elfolio.span import FileOffset, MappedAddress, Span
from tests.kernel.files import RW, RX, R, image, load

M, P = 1 << 20, 4096
PMD = 2 * M
NOW, BEFORE = policy("linux-6.18"), policy("linux-6.1")
READ = VmFlags.READ


def mapping(start: int, size: int, offset: int = 0, flags: VmFlags = READ) -> Vma:
    """A mapping of a file."""
    return Vma(MappedAddress(start), MappedAddress(start + size), flags, OpenFile("/f"), FileOffset(offset), "/f")


def summed(vma: Vma, mapped: int = 0, file: int = 1 << 40, **there: int) -> Loss:
    """Its loss, with blocks' folios by name."""
    stretches = fates(vma, NOW, PMD, None, file_size=file)
    return loss(stretches, PMD, mapped, {Backing(name): n for name, n in there.items()}, copied=False)


pages = st.integers(0, 4 * 512)


@given(pages, st.integers(1, 4 * 512), pages, st.integers(0, 6 * 512 * P), st.sampled_from((0, P)))
def test_stretches_are_the_blocks_one_by_one(start: int, size: int, offset: int, file: int, skew: int) -> None:
    """Over random mappings, each block's fate, and how many there are, is that of asking what its own place allows."""
    vma = mapping(64 * M + start * P, size * P, offset * P)
    found = list(blocks(vma, NOW, PMD, file_size=file, linked_skew=skew))
    assert [b.obstacle for b in found] == [asked(b, vma, file, skew) for b in found]
    assert [b.part.start for b in found[1:]] == [b.part.end for b in found[:-1]]
    assert (found[0].part.start, found[-1].part.end) == (vma.start, vma.end)


def asked(block: Block, vma: Vma, file: int, skew: int) -> Obstacle:
    """The rule of a block, said for it alone."""
    at = block.memory.start - vma.start + vma.offset
    if block.part != block.memory:
        return Obstacle.EDGE
    if at + PMD > -(-file // P) * P:
        return Obstacle.END
    if block.memory.start % PMD:
        return Obstacle.SKEWED if skew else Obstacle.BASE
    return Obstacle.NOTHING


def test_terabytes_are_a_few_values() -> None:
    """A mapping of 16 TiB is counted without a value for each block."""
    found = summed(mapping(1 << 46, 1 << 44), file=1 << 44, absent=1 << 23)
    assert (found.blocks, found.whole, found.could, found.now) == (1 << 23, 1 << 23, 1 << 23, 0)
    assert found.lost == 1 << 44


def test_what_is_lost() -> None:
    """Whole blocks that no entry maps: mapped ones and those cut by the mapping's ends are no loss, folios that are
    there and not mapped as one are."""
    found = summed(mapping(64 * M + P, 8 * M, P), mapped=1, folio=2, smaller=1)
    assert (found.blocks, found.whole, found.could, found.now, found.mapped) == (5, 3, 3, 2, 1)
    assert dict(found.barred) == {Obstacle.EDGE: 2}
    assert found.lost == 2 * PMD


def test_what_is_mapped_counts_whatever_was_thought_of_the_file_system() -> None:
    """A huge mapping where no folio of that size was expected is no obstacle any more."""
    stretches = fates(mapping(64 * M, 4 * M), BEFORE, PMD, None, file_size=4 * M)
    assert [one.obstacle for one in stretches] == [Obstacle.FILESYSTEM]
    found = loss(stretches, PMD, 1, {}, copied=False)
    assert (found.could, found.now, dict(found.barred)) == (1, 1, {Obstacle.FILESYSTEM: 1})


def test_what_is_written_to_is_counted_in_no_sum() -> None:
    """Of a private copy nothing is lost."""
    stretches = fates(mapping(64 * M, 4 * M), NOW, PMD, None, file_size=4 * M)
    assert loss(stretches, PMD, 0, {}, copied=True).lost == 0


@pytest.mark.parametrize(
    ("flags", "off", "why"),
    [
        (READ | VmFlags.NOHUGEPAGE, False, Obstacle.ADVICE),
        (READ, True, Obstacle.PROCESS),
        (READ | VmFlags.HUGEPAGE, False, Obstacle.NOTHING),
    ],
)
def test_who_wants_no_huge_pages(flags: VmFlags, off: bool, why: Obstacle) -> None:
    """MADV_NOHUGEPAGE and PR_SET_THP_DISABLE keep faults from huge folios too, from 6.12; contiguous PTEs they do
    not concern."""
    vma = mapping(64 * M, 2 * M, flags=flags)
    assert [one.obstacle for one in fates(vma, NOW, PMD, None, file_size=PMD, switched_off=off)] == [why]
    older = policy("linux-6.11")
    xfs = older.with_options(fs="xfs")
    assert [one.way for one in fates(vma, xfs, PMD, None, file_size=PMD, switched_off=off)] == [Way.FAULT]
    small = fates(vma, NOW, 65536, None, file_size=PMD, switched_off=off)
    assert [one.way for one in small] == [Way.FAULT]


folios = st.lists(st.tuples(st.integers(0, 10), st.booleans()), max_size=60)


@given(folios, st.integers(0, 3), st.integers(1, 5))
def test_backed_is_backing_block_by_block(parts: list[tuple[int, bool]], first: int, count: int) -> None:
    """Over random files, the sums are those of asking each block."""
    runs, at = [], 0
    for order, cached in parts:
        at = -(-at // (1 << order)) << order
        if cached:
            runs.append(Run(at, 1 << order, order, Kind.FILE, 1))
        at += 1 << order
    truth = Counter(backing(runs, block * 512, 512) for block in range(first, first + count))
    assert backed(runs, Span(first * PMD, (first + count) * PMD), PMD, P) == truth


def test_the_segment_behind_a_mapping() -> None:
    """By the file's pages; where two share one, by permission. RELRO is a written segment's."""
    elf = image(load(0, 0x1800), load(0x2800, 0x1000, RX, offset=0x1800), load(0x5800, 0x900, RW, offset=0x2800))
    found = pieces(elf, P)
    assert [(p.file, p.written, p.executable) for p in found] == [
        (Span(0, 0x2000), False, False), (Span(0x1000, 0x3000), False, True), (Span(0x2000, 0x4000), True, False)
    ]  # fmt: skip
    assert [p.skew for p in found] == [0, 0x1000, 0x3000]
    execute = READ | VmFlags.EXEC
    chosen = [piece_of(mapping(64 * M, size, at, flags), found) for size, at, flags in (
        (0x2000, 0, READ), (0x2000, 0x1000, execute), (P, 0x1000, READ), (P, 0x1000, execute), (P, 0x3000, READ),
    )]  # fmt: skip
    assert [found.index(one) for one in chosen if one is not None] == [0, 1, 0, 1, 2]
    assert piece_of(mapping(64 * M, P, 0x9000), found) is None


def test_the_skew_decides_whose_fault_it_is() -> None:
    """The same mapping is blamed on the load address or on the file, by its segment."""
    vma = mapping(64 * M + P, 4 * M)
    for skew, why in ((0, Obstacle.BASE), (P, Obstacle.SKEWED)):
        piece = Piece(Span(0, 4 * M), skew, False, True)
        assert [one.obstacle for one in fates(vma, NOW, PMD, piece, file_size=4 * M)] == [why]
    assert list(candidates(fates(vma, NOW, PMD, None, file_size=4 * M))) == []


def test_every_reason_has_words() -> None:
    """No obstacle and no lack without its sentence, and no mend with a hole in it."""
    assert {one.value for one in Obstacle} == set(OBSTACLES)
    assert {one.value for one in Backing if one is not Backing.FOLIO} == set(LACKING)
    assert all("{" not in mend(one, PMD) for one in Obstacle)


def test_the_file_of_the_tests_is_read() -> None:
    """The writer's segments have the permissions that are asked for: the test above cannot pass on none."""
    assert [s.flags for s in image(load(0, 1), load(P, 1, RX)).loads] == [R, RX]
