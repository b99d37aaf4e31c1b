"""What another link of the same sections would make: held against lld itself, in every mode, from every mode."""

from dataclasses import replace
from pathlib import Path

import pytest

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.errors import InvalidArgument
from elfolio.layout.relink import CODES, NINE_SIZES, LinkMode, nine_modes, relink, relink_all
from tests.layout.linking import Linked, RealLinker, differences, installed, link, lld_modes
from tests.layout.objects import SETS, ObjectSet, compiled, why_not

NO_LLD = "needs lld; to force: apt-get install lld"
EVERYDAY = [objects for objects in SETS if objects.everyday]


@pytest.fixture(scope="module")
def lld(tmp_path_factory: pytest.TempPathFactory) -> RealLinker:
    found = installed("lld", tmp_path_factory.mktemp("lld"))
    if not found:
        pytest.skip(NO_LLD)
    return found[0]


@pytest.fixture(scope="module")
def article(lld: RealLinker, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Linked]:
    """The article's program in the nine modes."""
    return {(str(x.mode.code), x.mode.max_page_size or 0): x for x in _nine(lld, SETS[0], tmp_path_factory.mktemp("a"))}


def _nine(linker: RealLinker, objects: ObjectSet, directory: Path) -> list[Linked]:
    reason = why_not(objects.compiler)
    if reason is not None:
        pytest.skip(reason)
    files = compiled(objects, directory)
    return [link(linker, objects, files, mode, directory / "out") for mode in lld_modes()]


@pytest.mark.parametrize("objects", EVERYDAY, ids=lambda o: o.name)
def test_each_mode_tells_each_other_mode(lld: RealLinker, objects: ObjectSet, tmp_path: Path) -> None:
    """From a file in any of lld's nine modes come its headers, sections and size in any other, and no doubt."""
    real = _nine(lld, objects, tmp_path)
    for made in real:
        results = relink_all(made.image, [other.mode for other in real], made.data)
        for other, found in zip(real, results, strict=True):
            assert differences(found, other) == [], f"{made.mode} -> {other.mode}"
            assert found.uncertain == ()


def test_the_articles_two_properties(article: dict[tuple[str, int], Linked]) -> None:
    """Under one max-page-size each separation costs more than the one before; noseparate-code costs nothing at all."""
    made = article["separate-code", 4096]
    table = nine_modes(made.image, made.data)
    assert set(table) == {(code, size) for code in CODES for size in NINE_SIZES}
    for size in NINE_SIZES:
        assert table[CODES[0], size].size < table[CODES[1], size].size < table[CODES[2], size].size
    assert len({table["noseparate-code", size].size for size in NINE_SIZES}) == 1
    assert {key: result.size for key, result in table.items()} == {key: x.image.size for key, x in article.items()}


def test_what_a_mode_leaves_open_stays_as_it_is(article: dict[tuple[str, int], Linked]) -> None:
    """Without a max-page-size the file's own is kept."""
    made = article["noseparate-code", 64 << 10]
    assert (
        differences(relink(made.image, LinkMode.parse("separate-code"), made.data), article["separate-code", 65536])
        == []
    )


def test_a_changed_file_is_not_taken_for_the_linkers(article: dict[tuple[str, int], Linked]) -> None:
    """What no mode would make of its sections, a linker script's work for one, is said to be uncertain."""
    made = article["separate-code", 4096]
    data = made.data + b"appended"
    (reason,) = relink(read(data), LinkMode.parse("noseparate-code"), data).uncertain
    assert "not what its sections would give" in reason


def test_without_its_contents_a_file_is_judged_by_its_headers(article: dict[tuple[str, int], Linked]) -> None:
    """.comment says who linked it; without it the order of the program headers does."""
    for key, made in article.items():
        assert differences(relink(made.image, made.mode), made) == [], key


def test_a_file_without_sections_is_refused(article: dict[tuple[str, int], Linked]) -> None:
    """One line says why, and names the file."""
    image: ElfImage = replace(article["separate-code", 4096].image, name="bare", sections=())
    with pytest.raises(InvalidArgument, match="bare has no section headers"):
        relink(image, LinkMode())
