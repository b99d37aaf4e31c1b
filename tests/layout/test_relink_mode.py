"""A line of link options, read and written."""

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elfolio.errors import InvalidArgument
from elfolio.layout.relink import CODES
from elfolio.layout.relink_mode import LARGEST_PAGE, LinkMode, LldVersion

PAGES = st.one_of(st.none(), st.integers(0, 26).map(lambda n: 1 << n))
LLD = st.builds(
    LinkMode,
    linker=st.just("lld"),
    version=st.one_of(st.none(), st.tuples(st.integers(1, 99)), st.tuples(st.integers(1, 99), st.integers(0, 99))),
    code=st.one_of(st.none(), st.sampled_from(CODES)),
    rosegment=st.booleans(),
    max_page_size=PAGES,
    common_page_size=PAGES,
    relro=st.one_of(st.none(), st.booleans()),
)


@given(LLD)
def test_a_mode_reads_back(mode: LinkMode) -> None:
    """What a mode is written as gives the same mode."""
    assert LinkMode.parse(str(mode)) == mode


def test_words_of_the_linkers() -> None:
    """Every way to write a size means the same; the last word wins; nothing is everything at its default."""
    for text in ("65536", "0x10000", "64K", "64k"):
        assert LinkMode.parse(f"separate-code,max-page-size={text}") == LinkMode(
            "lld", None, "separate-code", True, 65536
        )
    assert LinkMode.parse("separate-code, noseparate-code").code == "noseparate-code"
    assert LinkMode.parse("") == LinkMode()
    assert LinkMode.parse("ld=2.40,norelro") == LinkMode("ld", (2, 40), relro=False)
    assert LinkMode.parse(f"max-page-size={LARGEST_PAGE >> 20}M").max_page_size == LARGEST_PAGE


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("seperate-code", "'seperate-code' is no option; there are noseparate-code, separate-code"),
        ("max-page-size", "'max-page-size': a page size is"),
        ("max-page-size=", "a page size is"),
        ("max-page-size=5000", "'max-page-size=5000': a page size is a power of two up to 64M"),
        ("common-page-size=-4096", "a page size is"),
        ("max-page-size=128M", "up to 64M"),
        ("max-page-size=K", "a page size is"),
        ("lld=new", "'lld=new': a version is numbers"),
        ("lld=", "a version is numbers"),
        ("ld,separate-loadable-segments", "an option of lld, not of ld"),
        ("ld,no-rosegment", "say noseparate-code"),
    ],
)
def test_the_wrong_word_is_named(text: str, named: str) -> None:
    """The error is one line with the word and what it could have been."""
    with pytest.raises(InvalidArgument) as caught:
        LinkMode.parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_lld_changed() -> None:
    """The switches turn in the releases in which LLVM's sources changed."""

    def first(switch: Callable[[LldVersion], bool]) -> int:
        turned = [version for version in range(13, 24) if switch(LldVersion(version))]
        assert turned == list(range(turned[0], 24))
        return turned[0]

    assert first(lambda lld: lld.begins_at_zero) == 14
    assert first(lambda lld: lld.aligns_tbss) == first(lambda lld: lld.pads_code_to_max_page) == 14
    assert first(lambda lld: lld.splits_behind_nobits) == 17
    assert first(lambda lld: lld.pads_relro) == 18
    assert first(lambda lld: lld.joins_flags) == 19
