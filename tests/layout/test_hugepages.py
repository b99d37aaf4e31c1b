"""Huge pages: block by block against arithmetic on single pages, and against where programs really are loaded."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.elf.image import Segment
from elfolio.layout.hugepages import BLOCKS, PMD, Rung, Tier, climb, huge_span, is_both_aligned
from elfolio.layout.modes import linked_as
from elfolio.layout.segments import Layout
from elfolio.span import Span
from tests.layout.programs import (
    ARTICLE,
    ET_DYN,
    ET_EXEC,
    R,
    W,
    X,
    build,
    head,
    held,
    image_of,
    load,
    needs_linux,
    own,
    patch,
)

PAGE = 0x1000
BLOCK = 0x10000

# Half of all segments are congruent, and half of the others' starts are near a block's.
PLACES = st.integers(0, 30).map(lambda n: n * BLOCK) | st.integers(0, 30 * BLOCK)
SIZES = st.integers(0, 6).map(lambda n: n * BLOCK) | st.integers(0, 6 * BLOCK)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    """A PT_LOAD of some blocks at most, that mmap would take: congruent modulo a page."""
    vaddr = draw(PLACES)
    shift = draw(st.just(0) | st.integers(0, 40).map(lambda n: n * PAGE) | st.just(BLOCK))
    align = draw(st.sampled_from([PAGE, BLOCK, 2 * BLOCK, 3]))
    return load(vaddr + 40 * PAGE, draw(SIZES), offset=vaddr + shift, flags=draw(st.sampled_from([R, R | X, R | W])),
                align=align)  # fmt: skip


def is_huge(segment: Segment, start: int, bias: int) -> bool:
    """The verdict on one block, page by page."""
    backed = Span(segment.vaddr, segment.vaddr + segment.filesz).pages(PAGE).shifted(bias)
    pages = range(start, start + BLOCK, PAGE)
    shift = bias + segment.vaddr - segment.offset
    return all(backed.covers(page) and shift % BLOCK == 0 for page in pages)


@given(segment=segments(), pages=st.integers(0, 40))
def test_what_could_be_huge(segment: Segment, pages: int) -> None:
    """At any load bias, the blocks of the span are those whose single pages all fit."""
    bias = pages * PAGE
    mapped = Span(segment.vaddr, segment.vaddr + segment.filesz).pages(PAGE).shifted(bias)
    huge = huge_span(segment, BLOCK, PAGE, bias=bias)
    expected = {block.start for block in mapped.blocks(BLOCK) if segment.filesz and is_huge(segment, block.start, bias)}
    assert set(range(*huge, BLOCK)) == expected


@given(loads=st.lists(segments(), min_size=1, max_size=4), type=st.sampled_from([ET_EXEC, ET_DYN]))
def test_each_rung_is_one_step_more(loads: list[Segment], type: int) -> None:
    """A step never takes blocks away, what is lost and what is had make up the mapped bytes, and each tier's blocks
    are those of the file with that step taken: p_align edited, bytes moved, segment moved to a block's start."""
    layout = Layout(head(*loads, type=type, size=1 << 40), PAGE)
    for rung in climb(layout, BLOCK).rungs:
        had, aligned, relaid, relinked = rung.blocks
        assert 0 <= had <= aligned <= relaid <= relinked
        assert had * BLOCK + sum(rung.lost.values()) == rung.bytes
        assert [rung.at(tier) for tier in Tier] == list(rung.blocks)
        segment = rung.load.segment
        base = 7 * BLOCK - layout.origin if type == ET_DYN else 0
        assert aligned == _count(segment, base)
        assert relaid == _count(load(segment.vaddr, segment.filesz, offset=base + segment.vaddr), base)
        inside = segment.vaddr % PAGE
        assert relinked == _count(load(7 * BLOCK + inside, segment.filesz), 0)
        if type == ET_DYN:
            places = [_count(segment, base + n * max(PAGE, layout.align)) for n in range(BLOCK // PAGE)]
            assert had == min(places)
        else:
            assert had == aligned


def _count(segment: Segment, bias: int) -> int:
    return huge_span(segment, BLOCK, PAGE, bias=bias).size // BLOCK


def test_a_load_address_is_the_first_segment_s() -> None:
    """p_align aligns the address of the first PT_LOAD: with one that is no multiple of the block, it aligns nothing
    else, and no edit of p_align helps."""
    text = load(0x400000, 2 * PMD, flags=R | X, align=PMD)
    for first, blocks_ in ((0x200000, 2), (0x201000, 0)):
        layout = Layout(head(load(first, 0x1000, align=PMD), text, size=1 << 30), 4096)
        assert climb(layout).rungs[1].at(Tier.ALIGN) == blocks_


def test_neighbours_made_one() -> None:
    """Read-only segments side by side have a block between them that none has alone; a writable one is no part."""
    data = load(0, PMD // 2, align=PMD)
    text = load(PMD // 2, PMD // 2, flags=R | X, align=PMD)
    written = load(PMD, PMD, flags=R | W, align=PMD)
    ladder = climb(Layout(head(data, text, written, size=1 << 30), 4096))
    assert ladder.merged == ((Span(0, PMD), 1),)
    assert (ladder.blocks(Tier.RELINK), ladder.blocks(Tier.RELINK, writable=True)) == (0, 1)


@pytest.mark.parametrize("page", BLOCKS)
def test_each_page_size_s_blocks(page: int) -> None:
    """Of text of a gigabyte, aligned to all, every block is possible at every page size's two block sizes."""
    text = load(0, 1 << 30, flags=R | X, align=1 << 30)
    for block in BLOCKS[page]:
        rung = climb(Layout(head(text, size=2 << 30), page), block).rungs[0]
        assert rung.blocks == ((1 << 30) // block,) * 4
        assert block % page == 0


def test_both_aligned() -> None:
    """The proposals' rule: address and offset multiples of the block, a block's bytes, not writable."""
    assert is_both_aligned(load(PMD, PMD, flags=R | X), PMD)
    assert is_both_aligned(load(PMD, PMD, offset=3 * PMD), PMD)
    assert not is_both_aligned(load(PMD, PMD - 1), PMD)
    assert not is_both_aligned(load(PMD + 4096, PMD), PMD)
    assert not is_both_aligned(load(PMD, PMD, offset=4096), PMD)
    assert not is_both_aligned(load(PMD, PMD, flags=R | W), PMD)


BIG = ARTICLE + '__asm__(".section .text.big,\\"ax\\"; .zero 7 << 20; .text");\n'
"""Seven MiB of code."""


def text_rung(path: Path) -> Rung:
    """Of the executable segment."""
    layout = Layout(image_of(path), 4096)
    return next(rung for rung in climb(layout).rungs if rung.load.is_executable)


@pytest.mark.parametrize("linker", ["bfd", "lld", "gold", "mold"])
def test_the_remedies_that_are_named_do_it(tmp_path: Path, linker: str) -> None:
    """Linked for 4 KiB pages text has no huge page; with max-page-size of 2 MiB its segment is congruent and the load
    address aligned; with separate-code as well, it begins a huge page and has all that its size allows."""
    small = text_rung(
        build(tmp_path / "small", "-pie", "-fPIE", "-Wl,-z,max-page-size=4096", source=BIG, linker=linker)
    )
    assert small.at(Tier.AS_IS) == 0
    # gold's text begins with the file, and so with a block.
    assert (small.at(Tier.RELAY), small.at(Tier.RELINK)) == (3 if linker == "gold" else 2, 3)
    flag = "-Wl,-z,max-page-size=2097152"
    large = text_rung(build(tmp_path / "large", "-pie", "-fPIE", flag, source=BIG, linker=linker))
    assert large.lost["p_align"] == large.lost["skewed"] == 0
    if linker in ("bfd", "lld"):
        best = text_rung(
            build(tmp_path / "best", "-pie", "-fPIE", f"{flag},-z,separate-code", source=BIG, linker=linker)
        )
        assert best.blocks == (3, 3, 3, 3)


def test_lld_skews_and_gnu_ld_does_not(tmp_path: Path) -> None:
    """For 4 KiB pages, lld's text must be moved in the file, GNU ld's needs p_align alone."""
    flags = ("-pie", "-fPIE", "-Wl,-z,max-page-size=4096")
    gnu = text_rung(build(tmp_path / "gnu", *flags, "-Wl,-z,separate-code", source=BIG))
    assert (gnu.at(Tier.ALIGN), gnu.lost["skewed"]) == (2, 0)
    lld = text_rung(build(tmp_path / "lld", *flags, "-Wl,-z,noseparate-code", source=BIG, linker="lld"))
    assert lld.at(Tier.ALIGN) == 0
    assert lld.lost["skewed"] == 2 * PMD


def test_p_align_alone_aligns_the_load_address(tmp_path: Path) -> None:
    """With p_align of text edited to 2 MiB, a program of 4 KiB pages is loaded at multiples of 2 MiB, every time."""
    needs_linux(5, 10, "before, p_align did not move a program")
    program = build(tmp_path / "a", "-pie", "-fPIE", "-Wl,-z,separate-code,-z,max-page-size=4096", source=BIG)
    assert text_rung(program).at(Tier.AS_IS) == 0
    patch(program, image_of(program).segments.index(text_rung(program).load.segment), align=PMD)
    assert text_rung(program).at(Tier.AS_IS) == 2
    for _ in range(4):
        with held(program) as pid:
            mapped = own(pid, program)
        assert mapped[0].memory.start % PMD == 0
        code = next(m for m in mapped if m.perms == "r-xp")
        segment = text_rung(program).load.segment
        huge = huge_span(segment, PMD, 4096, bias=mapped[0].memory.start)
        assert huge.size // PMD == code.memory.whole_blocks(PMD).size // PMD == 2


@pytest.mark.parametrize("align", [4096, 2097152])
def test_the_article_s_over_aligned_variable(tmp_path: Path, align: int) -> None:
    """A variable aligned to 4 KiB or 2 MiB lies at a multiple of that, because the whole program does; only the larger
    one shows as an over-aligned segment."""
    needs_linux(5, 10, "before, p_align did not move a program")
    source = f"""
#include <stdio.h>
#include <unistd.h>
__attribute__((aligned({align}))) int aligned;
int main(void) {{ printf("%p\\n", &aligned); fflush(stdout); pause(); }}"""
    program = build(tmp_path / "align", "-pie", "-fPIE", "-Wl,-z,max-page-size=4096", source=source)
    layout = Layout(image_of(program), 4096)
    assert layout.align == align
    assert bool(linked_as(layout).over_aligned) == (align > 4096)
    for _ in range(3):
        with held(program) as pid:
            assert own(pid, program)[0].memory.start % align == 0


HUGE_EXAMPLE = """
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
extern char __ehdr_start[];
__attribute__((used)) const char pad[1 << 21] = {1};
int main(void) {
  int refused = madvise(__ehdr_start, 1 << 21, MADV_HUGEPAGE);
  printf("%d %p\\n", refused, __ehdr_start);
  fflush(stdout);
  pause();
}"""


def test_the_article_s_2_mib_example(tmp_path: Path) -> None:
    """Linked with lld for 2 MiB pages: the load address is a multiple of 2 MiB, madvise cuts off the first block, and
    the five mappings lie at 0, 0x200000, 0x400000, 0x6... and 0x8..., each congruent to its offset."""
    needs_linux(5, 10, "before, p_align did not move a program")
    if not Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        pytest.skip("needs a kernel with transparent huge pages, which madvise refuses otherwise")
    flags = ("-pie", "-fPIE", "-Wl,-z,max-page-size=2097152")
    program = build(tmp_path / "test", *flags, source=HUGE_EXAMPLE, linker="lld")
    layout = Layout(image_of(program), 4096)
    with held(program) as pid:
        mapped = own(pid, program)
    base = mapped[0].memory.start
    assert base % PMD == 0
    assert [m.perms for m in mapped][:5] == ["r--p", "r--p", "r-xp", "r--p", "rw-p"]
    assert mapped[0].memory == Span(base, base + PMD)
    assert [(m.memory.start - base) // PMD for m in mapped][:5] == [0, 1, 2, 3, 4]
    assert all((m.memory.start - m.offset) % PMD == 0 for m in mapped if m.path)
    starts = [one.memory.start for one in layout.loads]
    assert [m.memory.start - base for m in mapped if m.path] == [starts[0], PMD, *starts[1:]]
    assert len(layout.gaps) == 3
    assert huge_span(layout.image.loads[0], PMD, 4096, bias=base) == Span(base, base + PMD)


def test_a_program_that_is_loaded_where_it_is_linked() -> None:
    """Of an ET_EXEC, p_align has no say: what is congruent is had."""
    text = load(0x400000, 2 * PMD, offset=0x200000, flags=R | X, align=4096)
    rung = climb(Layout(head(text, type=ET_EXEC, size=1 << 30), 4096)).rungs[0]
    assert rung.blocks == (2, 2, 2, 2)
    moved = load(0x400000, 2 * PMD, offset=0x201000, flags=R | X, align=PMD)
    assert climb(Layout(head(moved, type=ET_EXEC, size=1 << 30), 4096)).rungs[0].blocks == (0, 0, 2, 2)


@pytest.mark.skipif(shutil.which("cat") is None, reason="needs cat; to force: apt-get install coreutils")
def test_small_programs_have_nothing_to_win() -> None:
    """A program smaller than a huge page has none at any tier."""
    ladder = climb(Layout(image_of(shutil.which("cat") or ""), 4096))
    assert [ladder.blocks(tier) for tier in Tier] == [0, 0, 0, 0]
