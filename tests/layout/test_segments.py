"""Segments over pages: against sets of page numbers, and against what processes really have."""

from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.elf.image import Segment
from elfolio.layout.segments import PAGE_SIZES, WHOLE, Layout, congruence, is_valid_align
from elfolio.span import Span
from tests.layout.programs import ARTICLE, ET_EXEC, R, W, X, build, head, held, image_of, load, own

NEAR = st.integers(0, 40).map(lambda n: n * 0x1000) | st.integers(0, 40 * 0x1000)
SMALL = st.integers(0, 0x9000) | st.sampled_from([0, 1, 0xFFF, 0x1000, 0x1001, 0x10000])


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    """A PT_LOAD of any shape, congruent or not, in any order with others."""
    filesz = draw(SMALL)
    return load(
        draw(NEAR),
        filesz,
        offset=draw(NEAR),
        memsz=draw(st.just(filesz) | SMALL),
        flags=draw(st.sampled_from([R, R | X, R | W, R | W | X, 0])),
        align=draw(st.sampled_from([0, 1, 3, 16, 0x1000, 0x4000, 0x10000, 0x200000])),
    )


def numbers(span: Span, page: int) -> set[int]:
    """Of every page that a range of bytes touches."""
    return set(range(span.start // page, (span.end - 1) // page + 1)) if span.size else set()


@given(loads=st.lists(segments(), max_size=5), page=st.sampled_from(PAGE_SIZES))
def test_pages_are_those_that_the_bytes_touch(loads: list[Segment], page: int) -> None:
    """Memory, file-backed and anonymous pages of each segment are those that counting page numbers gives."""
    for one in Layout(head(*loads), page).loads:
        segment = one.segment
        memory = numbers(segment.memory, page)
        backed = numbers(Span(segment.vaddr, segment.vaddr + segment.filesz), page)
        assert numbers(one.memory, page) == memory
        assert numbers(one.mapped, page) == backed
        assert numbers(one.anonymous, page) == memory - backed
        assert one.file.size == one.mapped.size
        assert one.zero.size == max(0, segment.memsz - segment.filesz)
        assert one.is_congruent == (one.file.start % page == 0 if backed else one.is_congruent)


@given(loads=st.lists(segments(), max_size=5), page=st.sampled_from(PAGE_SIZES))
def test_gaps_and_padding_are_the_pages_of_nobody(loads: list[Segment], page: int) -> None:
    """Gaps are the pages between the first and the last that no segment has; padding is what of its own pages each
    segment does not use."""
    layout = Layout(head(*loads), page)
    had = [numbers(s.memory, page) for s in loads if s.memsz]
    taken = set().union(*had)
    between = set(range(min(taken), max(taken))) - taken if taken else set()
    assert set().union(*(numbers(gap.memory, page) for gap in layout.gaps)) == between
    assert layout.memory_padding == sum(len(pages) for pages in had) * page - sum(s.memsz for s in loads)


@given(loads=st.lists(segments(), max_size=5), page=st.sampled_from(PAGE_SIZES))
def test_collisions_are_found_where_two_want_one_page(loads: list[Segment], page: int) -> None:
    """There is a collision exactly if two segments touch one page of memory, and each one found is real."""
    layout = Layout(head(*loads), page)
    pairs = combinations([numbers(s.memory, page) for s in loads], 2)
    assert bool(layout.collisions) == any(a & b for a, b in pairs)
    for found in layout.collisions:
        both = numbers(found.first.segment.memory, page) & numbers(found.second.segment.memory, page)
        assert numbers(found.pages, page) == both


@given(loads=st.lists(segments(), max_size=7), page=st.sampled_from(PAGE_SIZES))
def test_whoever_follows_another_on_a_page_collides_with_it(loads: list[Segment], page: int) -> None:
    """Of those that want one page, in order, each pair of neighbours is found; never more than two for a segment."""
    layout = Layout(head(*loads), page)
    found = {(meeting.first.index, meeting.second.index) for meeting in layout.collisions}
    wanted: dict[int, list[int]] = {}
    for one in layout.in_memory:
        for number in numbers(one.segment.memory, page):
            wanted.setdefault(number, []).append(one.index)
    assert {pair for indices in wanted.values() for pair in pairwise(indices)} <= found
    assert len(layout.collisions) <= 2 * len(loads)


@given(loads=st.lists(segments(), max_size=5), page=st.sampled_from(PAGE_SIZES))
def test_file_padding_is_the_bytes_of_nobody(loads: list[Segment], page: int) -> None:
    """Bytes between the first segment's in the file and the last's that belong to none, counted one by one."""
    layout = Layout(head(*loads), page)
    taken = {byte for s in loads for byte in range(s.offset, s.offset + s.filesz)}
    assert layout.file_padding == (max(taken) - min(taken) + 1 - len(taken) if taken else 0)


@given(vaddr=st.integers(0, 1 << 40), offset=st.integers(0, 1 << 40))
def test_congruence_is_the_largest_power(vaddr: int, offset: int) -> None:
    """Address and offset are equal modulo the congruence and not modulo twice that, unless they are the same."""
    largest = congruence(vaddr, offset)
    assert vaddr % largest == offset % largest
    assert (largest == WHOLE) == (vaddr == offset)
    assert vaddr == offset or vaddr % (2 * largest) != offset % (2 * largest)


def test_what_p_align_may_be() -> None:
    """0, 1 and powers of two (gABI, chapter 5)."""
    assert [n for n in range(20) if is_valid_align(n)] == [0, 1, 2, 4, 8, 16]


def test_a_page_is_a_power_of_two() -> None:
    """Any other page size is refused."""
    for page in (0, 3, 6000, -4096):
        with pytest.raises(ValueError, match="no power of two"):
            Layout(head(), page)


def test_the_load_address_is_the_first_header_s() -> None:
    """What comes to lie at the load address is the first PT_LOAD's page, even if another one's is lower; a program
    with fixed addresses has none."""
    loads = (load(0x5123, 0x100), load(0x1000, 0x100))
    assert Layout(head(*loads), 4096).origin == 0x5000
    assert Layout(head(*loads, type=ET_EXEC), 4096).origin == 0
    assert [x.index for x in Layout(head(*loads), 4096).descending] == [1]


def test_zero_length_and_bss_only_segments() -> None:
    """A segment without a size takes no page; one without bytes in the file is anonymous memory alone."""
    layout = Layout(head(load(0x1000, 0), load(0x3010, 0, memsz=0x2000, flags=R | W)), 4096)
    nothing, bss = layout.loads
    assert nothing.is_empty
    assert nothing.memory.size == nothing.mapped.size == nothing.anonymous.size == 0
    assert bss.is_bss_only
    assert (bss.mapped.size, bss.anonymous) == (0, Span(0x3000, 0x6000))


def test_bytes_that_are_not_the_segment_s_own() -> None:
    """What a page shows before a segment and behind it; behind it, zero fill clears them."""
    first, second = Layout(head(load(0x1100, 0x200), load(0x2100, 0x200, memsz=0x300, flags=R | W)), 4096).loads
    assert first.foreign == 0x100 + 0xD00
    assert second.foreign == 0x100


@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
def test_a_process_has_the_pages_that_were_foretold(tmp_path: Path, linker: str) -> None:
    """A segment's memory begins at its address rounded down to a page and ends at its end rounded up, plus the load
    address: the article's rule, for what each linker makes. No other page is the program's."""
    program = build(tmp_path / "waiter", "-pie", "-fPIE", linker=linker)
    layout = Layout(image_of(program), 4096)
    with held(program) as pid:
        mapped = own(pid, program)
    base = mapped[0].memory.start - layout.origin
    starts = [m.memory.start for m in mapped]
    expected = set().union(*(numbers(one.memory.shifted(base), 4096) for one in layout.loads))
    assert set().union(*(numbers(m.memory, 4096) for m in mapped)) == expected
    assert {base + one.memory.start for one in layout.loads} <= set(starts)
    for one in layout.loads:
        first = next(m for m in mapped if m.memory.start == base + one.memory.start)
        assert first.offset == one.file.start


def test_the_article_s_first_program(tmp_path: Path) -> None:
    """With -z separate-loadable-segments: four mappings of a page each, whose starts are the load address plus each
    segment's address rounded down (0, 0x1000, 0x2000, 0x3000), and as many bytes into the file."""
    flags = ("-pie", "-fPIE", "-Wl,-z,separate-loadable-segments,-z,max-page-size=4096")
    program = build(tmp_path / "a", *flags, source=ARTICLE, linker="lld")
    layout = Layout(image_of(program), 4096)
    with held(program) as pid:
        mapped = own(pid, program)
    assert [one.memory.start for one in layout.loads] == [0, 0x1000, 0x2000, 0x3000]
    assert [m.memory.start - mapped[0].memory.start for m in mapped] == [0, 0x1000, 0x2000, 0x3000]
    assert [m.offset for m in mapped] == [0, 0x1000, 0x2000, 0x3000]
    assert [m.perms for m in mapped] == ["r--p", "r-xp", "r--p", "rw-p"]


def test_the_article_s_program_without_a_read_only_segment(tmp_path: Path) -> None:
    """With --no-rosegment, read-only data and code are one mapping: three in place of four."""
    flags = ("-pie", "-fPIE", "-Wl,-z,separate-loadable-segments,-z,max-page-size=4096,--no-rosegment")
    program = build(tmp_path / "a", *flags, source=ARTICLE, linker="lld")
    with held(program) as pid:
        mapped = own(pid, program)
    assert [m.perms for m in mapped] == ["r-xp", "r--p", "rw-p"]
    assert Layout(image_of(program), 4096).memory.size == sum(m.memory.size for m in mapped)
