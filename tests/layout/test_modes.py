"""The linker's mode: what is asked of each linker is what is read off its output; and the article's sizes."""

from pathlib import Path

import pytest

from elfolio.layout.modes import LinkedAs, linked_as, separation, usual_align
from elfolio.layout.segments import WHOLE, Layout
from tests.layout.programs import ARTICLE, R, W, X, build, head, image_of, load, needs

CODES = ("noseparate-code", "separate-code", "separate-loadable-segments")
SIZES = (4096, 65536, 2097152)


def look(path: Path) -> LinkedAs:
    """The mode of a linked file."""
    return linked_as(Layout(image_of(path), 4096))


@pytest.mark.parametrize("rosegment", [True, False], ids=["rosegment", "no-rosegment"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("code", CODES)
def test_lld_s_modes(tmp_path: Path, code: str, size: int, rosegment: bool) -> None:
    """lld's nine modes, each with and without a read-only segment: mode, page size, both RW segments are seen."""
    extra = [] if rosegment else ["-Wl,--no-rosegment"]
    found = look(build(tmp_path / "a", "-pie", "-fPIE", f"-Wl,-z,{code},-z,max-page-size={size}", *extra, linker="lld"))
    assert (found.code, found.rosegment) == (code, rosegment)
    assert (found.max_page_size, found.writable, found.over_aligned) == (size, 2, ())
    assert found.congruence >= size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("code", CODES[:2])
def test_gnu_ld_s_modes(tmp_path: Path, code: str, size: int) -> None:
    """GNU ld's two modes; it makes one RW segment, and has read-only data apart only with separate-code."""
    found = look(build(tmp_path / "a", "-pie", "-fPIE", f"-Wl,-z,{code},-z,max-page-size={size}"))
    assert (found.code, found.rosegment) == (code, code == "separate-code")
    assert (found.max_page_size, found.writable) == (size, 1)


@pytest.mark.parametrize("linker", ["bfd", "lld"])
def test_without_relro_there_is_one_rw_segment(tmp_path: Path, linker: str) -> None:
    """-z norelro leaves nothing to keep apart."""
    found = look(build(tmp_path / "a", "-pie", "-fPIE", "-Wl,-z,norelro,-z,noseparate-code", linker=linker))
    assert (found.writable, found.code) == (1, "noseparate-code")


def test_pages_given_up(tmp_path: Path) -> None:
    """-N makes one segment that is writable and executable; -n one that is aligned to no page, here without data."""
    bare = ("-no-pie", "-static", "-nostdlib", "-Wl,-e,main")
    with_data = "int w = 1;\nint main(void) { return w; }"
    assert look(build(tmp_path / "omagic", *bare, "-Wl,-N", source=with_data)).code == "omagic"
    without = "int main(void) { return 0; }"
    assert look(build(tmp_path / "nmagic", *bare, "-Wl,-n", source=without)).code == "nmagic"


@pytest.mark.parametrize("linker", ["gold", "mold"])
def test_other_linkers(tmp_path: Path, linker: str) -> None:
    """gold puts read-only data and code into one segment; mold has both apart, as well as RELRO's segment."""
    found = look(build(tmp_path / "a", "-pie", "-fPIE", linker=linker))
    assert (found.rosegment, found.writable) == {"gold": (False, 1), "mold": (True, 2)}[linker]
    assert found.code == "noseparate-code"


@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "mold"])
def test_an_over_aligned_variable_is_no_page_size(tmp_path: Path, linker: str) -> None:
    """A variable's alignment of 2 MiB raises one segment's p_align; max-page-size is still read from the others."""
    source = "__attribute__((aligned(2097152))) int aligned = 1;\nint main(void) { return aligned; }"
    flags = ("-pie", "-fPIE", "-Wl,-z,max-page-size=65536")
    path = build(tmp_path / "a", *flags, source=source, linker=linker)
    found = look(path)
    assert found.max_page_size == 65536
    assert [image_of(path).segments[i].align for i in found.over_aligned] == [2097152]


def test_the_article_s_sizes(tmp_path: Path) -> None:
    """Under one max-page-size, noseparate-code makes the smallest file and separate-loadable-segments the largest;
    with noseparate-code, max-page-size does not change the size."""
    needs("ld.lld")
    sizes = {}
    for code in CODES:
        for size in SIZES:
            flags = ("-pie", "-fPIE", f"-Wl,-z,{code},-z,max-page-size={size}")
            sizes[code, size] = build(tmp_path / "a", *flags, source=ARTICLE, linker="lld").stat().st_size
    for size in SIZES:
        assert sizes[CODES[0], size] < sizes[CODES[1], size] < sizes[CODES[2], size]
    assert len({sizes["noseparate-code", size] for size in SIZES}) == 1
    # Of each boundary between segments that is separated, up to a page of padding.
    assert sizes["separate-code", 2097152] // 2097152 == 2
    assert sizes["separate-loadable-segments", 2097152] // 2097152 == 3


def test_the_article_s_headers_with_the_largest_pages(tmp_path: Path) -> None:
    """With -z separate-loadable-segments and 2 MiB pages, offsets and addresses are 0, 2, 4 and 6 MiB."""
    flags = ("-pie", "-fPIE", "-Wl,-z,separate-loadable-segments,-z,max-page-size=2097152")
    loads = image_of(build(tmp_path / "a", *flags, source=ARTICLE, linker="lld")).loads
    assert [(s.offset, s.vaddr, s.align) for s in loads] == [(n << 21, n << 21, 1 << 21) for n in range(4)]


def test_chance_is_not_taken_for_separate_loadable_segments() -> None:
    """GNU ld's order, read-only data behind code, with an RW segment that happens to start a page: separate-code."""
    starts = [(R, 0, 0), (R | X, 0x1000, 0x1000), (R, 0x2000, 0x2000), (R | W, 0x3000, 0x4000)]
    assert separation(starts, 4096).code == "separate-code"
    lld = [starts[0], starts[1], starts[3], (R | W, 0x4000, 0x5000)]
    assert separation(lld, 4096).code == "separate-loadable-segments"


def test_little_to_go_by() -> None:
    """Files with one segment or none say so; the evidence never is empty."""
    for loads, code in (((), "no segment"), ((load(),), "one segment"), ((load(flags=R | W | X),), "omagic")):
        found = linked_as(Layout(head(*loads), 4096))
        assert found.code == code
        assert found.evidence
        assert found.congruence == WHOLE


def test_the_usual_p_align() -> None:
    """What most segments have, of two as frequent the smaller; what is no power of two does not count."""
    assert usual_align([4096, 4096, 2097152]) == 4096
    assert usual_align([2097152, 4096]) == 4096
    assert usual_align([3, 3, 65536]) == 65536
    assert usual_align([0, 3]) == 1
