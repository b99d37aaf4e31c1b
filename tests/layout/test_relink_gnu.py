"""What GNU ld would make of a file that it made, held against GNU ld; and what is made of other files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from elfolio.elf import constants as c
from elfolio.elf.image import ElfImage, Section
from elfolio.layout.relink import LinkMode, relink, relink_all
from tests.layout.linking import Linked, RealLinker, differences, installed, ld_modes, link
from tests.layout.objects import SETS, ObjectSet, compiled, why_not

EVERYDAY = [objects for objects in SETS if objects.everyday and objects.only != "lld" and objects.suffix == ".c"]


@pytest.fixture(scope="module")
def ld(tmp_path_factory: pytest.TempPathFactory) -> RealLinker:
    found = installed("ld", tmp_path_factory.mktemp("ld"))
    if not found:
        pytest.skip("needs GNU ld; to force: apt-get install binutils")
    return found[0]


def _linked(linker: RealLinker, objects: ObjectSet, modes: list[LinkMode], directory: Path) -> list[Linked]:
    reason = why_not(objects.compiler)
    if reason is not None:
        pytest.skip(reason)
    files = compiled(objects, directory)
    return [link(linker, objects, files, mode, directory / "out") for mode in modes]


@pytest.mark.parametrize("objects", EVERYDAY, ids=lambda o: o.name)
def test_each_mode_tells_each_other_mode(ld: RealLinker, objects: ObjectSet, tmp_path: Path) -> None:
    """From a file in any mode of GNU ld come its headers, sections and size in any other, or it is said why not."""
    real = _linked(ld, objects, ld_modes(), tmp_path)
    wrong = 0
    for made in real:
        results = relink_all(made.image, [other.mode for other in real], made.data)
        for other, found in zip(real, results, strict=True):
            unequal = differences(found, other)
            assert not unequal or found.uncertain, f"{made.mode} -> {other.mode}: {unequal}"
            wrong += bool(unequal)
    # Bytes of RELRO in a page of their own move when the version is not known: over-aligned zeros, at most.
    assert wrong <= len(real) ** 2 // 4


def test_a_page_saved_depends_on_common_page_size(ld: RealLinker, tmp_path: Path) -> None:
    """DATA_SEGMENT_ALIGN begins the data on a page of its own where that saves one, of common-page-size; not with
    RELRO, whose end decides there."""
    moved = set()
    for size in (2000, 63500):
        objects = replace(SETS[0], name=f"data-{size}", source=f"char a[{size}] = {{1}}; int main() {{ return a[3]; }}")
        base = LinkMode("ld", None, "noseparate-code", max_page_size=64 << 10)
        modes = [replace(base, common_page_size=page, relro=relro) for page in (4096, 65536) for relro in (True, False)]
        real = _linked(ld, objects, modes, tmp_path)
        for made in real:
            for other in real:
                assert differences(relink(made.image, other.mode, made.data), other) == [], (size, other.mode)
        starts = [max(s.vaddr for s in x.image.loads) for x in real]
        moved |= {relro for relro in (True, False) if starts[1 - relro] != starts[3 - relro]}
    assert moved == {False}


def test_another_linkers_file_is_never_certain(ld: RealLinker, tmp_path: Path) -> None:
    """GNU ld's sections placed as lld places them: every section in a segment of its permissions, and a warning."""
    (made,) = _linked(ld, SETS[0], [LinkMode("ld")], tmp_path)
    found = relink(made.image, LinkMode.parse("lld,separate-loadable-segments,max-page-size=64K"), made.data)
    assert "not made by lld" in found.uncertain[0]
    loads = [s for s in found.segments if s.type == c.PT_LOAD]
    assert [s.perms for s in loads] == ["r--", "r-x", "rw-", "rw-"]
    assert all(s.vaddr % 65536 == s.offset % 65536 == 0 for s in loads)
    names = {s.name for s in made.image.sections}
    assert {s.name for s in found.sections} == names | {".relro_padding"}
    for section in found.sections:
        if section.flags & c.SHF_ALLOC and section.size:
            (load,) = [s for s in loads if s.memory.encloses(section.memory)]
            assert bool(load.flags & c.PF_X) == bool(section.flags & c.SHF_EXECINSTR), section.name


@pytest.fixture(scope="module")
def program(ld: RealLinker, tmp_path_factory: pytest.TempPathFactory) -> Linked:
    return _linked(ld, SETS[0], [LinkMode("ld")], tmp_path_factory.mktemp("program"))[0]


SIZES = st.one_of(st.integers(0, 5), st.integers(0, 1 << 20), st.integers(0, (1 << 64) - 1))
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([*range(20), 0x6FFFFFF6, 0xFFFFFFFF]),
        "flags": st.integers(0, 0x407) | st.sampled_from([0x10000003, 0x803]),
        "size": SIZES,
        "addr": SIZES,
        "offset": SIZES,
        "addralign": SIZES,
        "link": st.integers(0, 40),
        "name": st.sampled_from([".got.plt", ".relro_padding", ".bss", ".lrodata", ".text", ""]),
    },
)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 28), CHANGES), min_size=1, max_size=6), st.sampled_from(["lld", "lld=13", "ld"])
)
def test_any_section_headers_give_a_result(
    program: Linked, changes: list[tuple[int, dict[str, Any]]], mode: str
) -> None:
    """Whatever section headers say, there is a result with a program header for every segment, and no crash."""
    sections = list(program.image.sections)
    for index, fields in changes:
        sections[index % len(sections)] = replace(sections[index % len(sections)], **fields)
    image: ElfImage = replace(program.image, sections=tuple[Section, ...](sections))
    found = relink(image, LinkMode.parse(mode), program.data)
    assert found.size > 0
    assert any(segment.type == c.PT_LOAD for segment in found.segments)
