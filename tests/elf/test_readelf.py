"""readelf as a second oracle: what it prints of real files, and of every kind that the tests' writer makes, is read."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from tests.elf.programs import build, installed, need, some_installed
from tests.elf.samples import KINDS, Bits, sample
from tests.elf.test_reader import every_kind
from tests.elfwriter import Order

HEADER = re.compile(
    r"^ *(Class|Data|Entry point address|Start of (?:program|section) headers|Number of (?:program|section) headers|"
    r"Section header string table index): +(.*)$",
    re.M,
)
PHDR = re.compile(r"^  \S+ +(0x\w+) (0x\w+) (0x\w+) (0x\w+) (0x\w+) (.{3}) (0x\w+|0) *$", re.M)
SHDR = re.compile(r"^  \[ *\d+\] (.*?) +\S+ +([0-9a-f]{8,16}) ([0-9a-f]{6,}) ([0-9a-f]{6,}) ([0-9a-f]{2,}) "
                  r"[ A-Za-z]{3,9} +(\d+) +(\d+) +(\d+) *$", re.M)  # fmt: skip
TAG = re.compile(r"^ 0x([0-9a-f]+) \(", re.M)
NEEDED = re.compile(r"\(NEEDED\) +Shared library: \[(.*)\]")
BUILD_ID = re.compile(r"Build ID: ([0-9a-f]+)")
INTERPRETER = re.compile(r"\[Requesting program interpreter: (.*)\]")


def readelf(path: str | Path) -> str:
    """What it says of headers, segments, sections, dynamic section and notes."""
    done = subprocess.run(
        ["readelf", "-hlSdnW", "--", path], capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    return done.stdout.decode(errors="surrogateescape")


def flags_of(text: str) -> int:
    """`R E` as p_flags."""
    return sum(bit for letter, bit in (("R", 4), ("W", 2), ("E", 1)) if letter in text)


def number(text: str) -> int:
    return int(text.split(maxsplit=1)[0], 0)


def assert_agree(said: str, image: ElfImage) -> None:
    header = dict(HEADER.findall(said))
    assert header["Class"] == f"ELF{image.header.bits}"
    assert image.header.byteorder in header["Data"]
    assert number(header["Entry point address"]) == image.header.entry
    assert number(header["Start of program headers"]) == image.header.phoff
    assert number(header["Start of section headers"]) == image.header.shoff
    if "(" not in header["Number of program headers"] + header["Number of section headers"]:
        assert number(header["Number of program headers"]) == image.header.phnum
        assert number(header["Number of section headers"]) == image.header.shnum
        assert number(header["Section header string table index"]) == image.header.shstrndx
    rows = [(*(int(n, 16) for n in row[:5]), flags_of(row[5]), int(row[6], 16)) for row in PHDR.findall(said)]
    assert rows == [(s.offset, s.vaddr, s.paddr, s.filesz, s.memsz, s.flags & 7, s.align) for s in image.segments]
    sections = [(r[0], *(int(n, 16) for n in r[1:5]), *map(int, r[5:])) for r in SHDR.findall(said)]
    assert sections == [
        (s.name, s.addr, s.offset, s.size, s.entsize, s.link, s.info, s.addralign) for s in image.sections
    ]
    assert [int(tag, 16) for tag in TAG.findall(said)][: len(image.dynamic)] == [
        tag & ((1 << image.header.bits) - 1) for tag, _ in image.dynamic
    ]
    interpreter = INTERPRETER.search(said)
    assert (interpreter[1] if interpreter else None) == image.interpreter
    build_ids = BUILD_ID.findall(said)
    assert (bytes.fromhex(build_ids[0]) if build_ids else None) == image.build_id


@pytest.mark.parametrize("path", some_installed(), ids=os.path.basename)
def test_real_files(path: str) -> None:
    """Of programs and libraries of this machine, both read the same, and nothing is malformed."""
    need("readelf")
    assert_agree(readelf(path), read(Path(path).read_bytes(), path, strict=True))


@pytest.mark.slow
def test_all_real_files() -> None:
    """Of every ELF file below /usr, both read the same."""
    need("readelf")
    count = 0
    for path in installed():
        assert_agree(readelf(path), read(Path(path).read_bytes(), path, strict=True))
        count += 1
    assert count > 100


@every_kind
def test_files_of_the_writer(bits: Bits, order: Order, tmp_path: Path) -> None:
    """The writer, the reader and readelf agree in all four kinds of file: three hands, one format."""
    need("readelf")
    data = sample(bits, order).build()
    (tmp_path / "it").write_bytes(data)
    assert_agree(readelf(tmp_path / "it"), read(data, strict=True))


def test_debugging_data_only(tmp_path: Path) -> None:
    """A file of debugging data keeps headers whose bytes are elsewhere, and is read all the same."""
    need("objcopy")
    need("readelf")
    build(tmp_path / "whole", "-g")
    subprocess.run(["objcopy", "--only-keep-debug", tmp_path / "whole", tmp_path / "debug"], check=True)
    image = read((tmp_path / "debug").read_bytes())
    whole = read((tmp_path / "whole").read_bytes(), strict=True)
    assert [s.name for s in image.sections] == [s.name for s in whole.sections]
    assert [(s.type, s.vaddr, s.memsz) for s in image.loads] == [(s.type, s.vaddr, s.memsz) for s in whole.loads]


def test_all_kinds_are_tried() -> None:
    """Both classes and both byte orders are among the kinds."""
    assert {bits for bits, _ in KINDS} == {32, 64}
    assert {order for _, order in KINDS} == {"little", "big"}
