"""One file after another: what the lean path says is what the full readers say, and nothing keeps it from the next."""

import os
import random
from pathlib import Path

import pytest

from elfolio.elf.linker import fingerprint
from elfolio.elf.reader import read
from elfolio.layout.summary import summary_of
from elfolio.survey.examine import Examined, examine
from elfolio.survey.rows import Row, values
from tests import elfwriter as w
from tests.elf.fuzzing import mutate, seeds
from tests.elf.programs import build, installed, some_installed
from tests.elf.samples import KINDS, sample
from tests.elfwriter import Elf, Ph, Sh


def look(*paths: str | Path) -> Examined:
    return examine([(os.path.dirname(path), [os.path.basename(path)]) for path in paths])


def row_of(path: str | Path) -> Row:
    found = look(path)
    assert found.problems == []
    return found.rows[0]


def assert_full(row: Row) -> None:
    """The row says what the full readers say."""
    data = Path(row.path).read_bytes()
    image = read(data, row.path)
    made = fingerprint(image, data)
    assert row.summary == summary_of(image)
    assert (row.linker, row.linker_version, row.confidence) == (made.linker, made.version, made.confidence)
    assert (row.size, row.bits, row.byteorder) == (image.size, image.header.bits, image.header.byteorder)
    facts = os.stat(row.path)
    assert (row.links, row.device, row.inode) == (facts.st_nlink, facts.st_dev, facts.st_ino)


@pytest.mark.parametrize("path", some_installed(), ids=os.path.basename)
def test_real_files(path: str) -> None:
    """Of programs and libraries of this machine, the row equals what reading the whole file gives."""
    assert_full(row_of(path))


@pytest.mark.slow
def test_all_real_files() -> None:
    """The same of every ELF file below /usr."""
    count = 0
    for path in installed():
        assert_full(row_of(path))
        count += 1
    assert count > 100


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(("bits", "order"), KINDS)
def test_every_kind(tmp_path: Path, bits: int, order: str, extended: bool) -> None:
    """Both classes, both byte orders, counts in the header or in section 0."""
    elf = sample(extended=extended)
    elf.bits, elf.order = bits, order  # type: ignore[assignment]
    elf.segments[3].data = elf.dynamic((1, 5), (0x6FFFFFFB, 0x08000000))
    (tmp_path / "it").write_bytes(elf.build())
    assert_full(row_of(tmp_path / "it"))


def test_a_table_far_behind(tmp_path: Path) -> None:
    """Program headers that stand behind the first 4 KiB are found."""
    elf = Elf(phoff=0x100000, segments=[Ph(w.PT_LOAD, 5, 0, 0, filesz=0x1000, align=0x1000)])
    (tmp_path / "it").write_bytes(elf.build())
    row = row_of(tmp_path / "it")
    assert row.summary.loads == 1
    assert_full(row)


def test_the_kind_is_told(tmp_path: Path) -> None:
    """PIE, static PIE, fixed program, shared object and object file are told apart."""
    options = {
        "pie": ("-pie", "-fPIE"),
        "static-pie": ("-static-pie", "-fPIE"),
        "exec": ("-no-pie",),
        "shared": ("-shared", "-fPIC"),
        "object": ("-c",),
    }
    for name, words in options.items():
        build(tmp_path / name, *words)
        assert row_of(tmp_path / name).kind == name.removeprefix("static-")


def test_a_malformed_file_is_a_problem(tmp_path: Path) -> None:
    """What begins as an ELF file and is none is listed with the reason, and the next file is looked at."""
    (tmp_path / "bad").write_bytes(b"\x7fELF\2\1\1 and no more")
    (tmp_path / "good").write_bytes(sample().build())
    found = examine([(str(tmp_path), ["bad", "good"])])
    ((path, kind, reason),) = found.problems
    assert (path, kind) == (str(tmp_path / "bad"), "malformed")
    assert "truncated" in reason
    assert [row.path for row in found.rows] == [str(tmp_path / "good")]


def test_what_cannot_be_opened_is_a_problem(tmp_path: Path) -> None:
    """A file that is gone, one that has become a link, a directory that is gone: each a line, none an end."""
    (tmp_path / "link").symlink_to("/bin/sh")
    found = examine([(str(tmp_path), ["gone", "link"]), (str(tmp_path / "nowhere"), ["file"])])
    assert found.files == 3
    assert [(p.kind, os.path.basename(p.path)) for p in found.problems] == [
        ("gone", "gone"),
        ("unreadable", "link"),
        ("gone", "nowhere"),
    ]


def test_a_fifo_does_not_hold_it_up(tmp_path: Path) -> None:
    """A file that has become a fifo since it was listed is not waited for."""
    os.mkfifo(tmp_path / "fifo")
    found = look(tmp_path / "fifo")
    assert (found.files, found.rows) == (1, [])


def test_what_is_no_elf_file_leaves_nothing(tmp_path: Path) -> None:
    """Scripts, empty files and short ones are counted and forgotten."""
    for name, data in (("script", b"#!/bin/sh"), ("empty", b""), ("short", b"\x7fEL")):
        (tmp_path / name).write_bytes(data)
    assert examine([(str(tmp_path), ["script", "empty", "short"])]) == Examined(3, [], [])


def test_broken_sections_do_not_hide_segments(tmp_path: Path) -> None:
    """With section headers, names and signatures that lead nowhere there is a row all the same."""
    broken = [
        sample(header={"e_shoff": 1 << 62}),
        sample(header={"e_shstrndx": 99}),
        sample(header={"e_shnum": 0xFFF0}),
        sample(sections=[Sh(".comment", offset=(1 << 64) - 1, size=(1 << 64) - 1)]),
        sample(sections=[Sh(".comment", offset=1 << 62, size=(1 << 64) - 1)]),
        sample(sections=[Sh(type=w.SHT_STRTAB, name_index=1 << 31, size=1 << 63)]),
    ]
    for elf in broken:
        (tmp_path / "it").write_bytes(elf.build())
        assert row_of(tmp_path / "it").summary.loads == 2


def test_mutations(tmp_path: Path) -> None:
    """Of 1,500 files that were changed in a few places each has a row or is malformed, and none ends the survey."""
    rng, inputs = random.Random(4), seeds()
    path = tmp_path / "it"
    malformed = 0
    for _ in range(1_500):
        path.write_bytes(mutate(rng.choice(inputs), rng))
        found = look(path)
        malformed += len(found.problems)
        assert [problem.kind for problem in found.problems] in ([], ["malformed"])
        for row in found.rows:
            values(row)
    assert 100 < malformed < 1_000
