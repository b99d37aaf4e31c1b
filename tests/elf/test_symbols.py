"""Symbols and versions, held against readelf; and those of malformed tables."""

import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.elf.symbols import Symbol, dynsym, symtab
from elfolio.elf.versions import versions_defined, versions_needed
from elfolio.errors import ElfError
from tests import elfwriter as w
from tests.elf.programs import build, need
from tests.elf.samples import Bits, with_symbols
from tests.elf.test_reader import every_kind
from tests.elfwriter import Elf, Order, Ph, Sh

ROW = re.compile(
    r"^ *(\d+): ([0-9a-f]{8,16}) +(\w+) (\w+) +(\S+) +(\w+) +(?:\[.*\] +)?(\w+) ?(\S*)(?: \(\d+\))?$", re.M
)
VERSION = re.compile(r"Name: (\S+) +Flags: (\S+) +Version: (\d+)")
TYPES = ["NOTYPE", "OBJECT", "FUNC", "SECTION", "FILE", "COMMON", "TLS"]
BINDS = {"LOCAL": 0, "GLOBAL": 1, "WEAK": 2, "UNIQUE": 10}
LIBRARY = """
int exported(void) { return 1; } int data = 2; __thread int local; static int hidden(void) { return data; }
__attribute__((weak)) int weak(void) { return hidden(); } int printf(const char *, ...);
int other(void) { return printf("x") + local; }
"""


def readelf(*words: str | Path) -> str:
    need("readelf")
    env = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(["readelf", "-W", *words], capture_output=True, text=True, check=True, env=env).stdout


def said(output: str) -> list[tuple[str, int, int, str, str, str]]:
    """Name without version, value, size, type, bind, section of each symbol but the null one."""
    rows = ROW.findall(output)
    return [
        (name.partition("@")[0], int(value, 16), int(size, 0), kind, bind, section)
        for index, value, size, kind, bind, _, section, name in rows
        if index != "0"
    ]


def found(symbols: list[Symbol]) -> list[tuple[str, int, int, str, str, str]]:
    special = {0: "UND", 0xFFF1: "ABS", 0xFFF2: "COM"}
    names = {value: name for name, value in BINDS.items()}
    kinds = dict(enumerate(TYPES)) | {10: "IFUNC"}
    return [
        (
            s.name.partition("@")[0],
            s.value,
            s.size,
            kinds[s.type],
            names[s.bind],
            special.get(s.section, str(s.section)),
        )
        for s in symbols
    ]


@pytest.fixture(scope="module", params=["gnu", "sysv", "both"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared object with each kind of symbol hash table."""
    out = tmp_path_factory.mktemp("symbols") / "library.so"
    return build(out, "-shared", "-fPIC", f"-Wl,--hash-style={request.param}", source=LIBRARY)


def test_dynamic_symbols_are_readelfs(library: Path) -> None:
    """All dynamic symbols come out with value, size, type, bind and section, whichever hash table counts them."""
    data = library.read_bytes()
    rows = said(readelf("--dyn-syms", library))
    assert found(list(dynsym(read(data), data))) == rows
    assert {"exported", "weak", "printf"} <= {row[0] for row in rows}


def test_dynamic_symbols_need_no_section_table(library: Path) -> None:
    """With the section table cut off, the dynamic symbols are the same."""
    data = library.read_bytes()
    cut = data[: read(data).header.shoff]
    assert found(list(dynsym(read(cut), cut))) == found(list(dynsym(read(data), data)))


def test_the_symbol_table_is_readelfs(library: Path) -> None:
    """.symtab's symbols come out in full, those of section names too; stripped, there are none."""
    data = library.read_bytes()
    rows = [row for row in said(readelf("--syms", library).partition("'.symtab'")[2]) if row[3] != "SECTION"]
    assert found([s for s in symtab(read(data), data) if s.type != 3]) == rows
    assert "hidden" in {row[0] for row in rows}
    need("strip")
    stripped = library.with_name("stripped.so")
    subprocess.run(["strip", "-o", stripped, library], check=True)
    assert list(symtab(read(stripped.read_bytes()), stripped.read_bytes())) == []


def libc() -> Path:
    """The C library that this Python runs on."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.rpartition(" ")[2]
        if re.search(r"/(libc\.so|libc-2|ld-musl)", path):
            return Path(path)
    pytest.skip("this Python has no shared C library")


def test_versions_are_readelfs() -> None:
    """What the C library needs and defines, with index and flags, is what readelf says of it."""
    data = libc().read_bytes()
    image = read(data)
    text = readelf("-V", libc())
    needed = [(v.name, v.index) for v in versions_needed(image, data)]
    assert needed == [(name, int(index)) for name, _, index in VERSION.findall(text)]
    defined = [v.name for v in versions_defined(image, data)]
    assert defined == re.findall(r"Index: \d+  Cnt: \d+  Name: (\S+)", text)
    assert [v.name for v in versions_defined(image, data) if v.base] == image_soname(image, data)


def image_soname(image: ElfImage, data: bytes) -> list[str]:
    """DT_SONAME, which is the base version's name."""
    text, at = image.tag(5), image.tag(14)
    if text is None or at is None:
        return []
    start = (image.file_offset(text) or 0) + at  # type: ignore[arg-type]
    return [data[start : data.index(b"\0", start)].decode()]


def test_a_file_without_any_has_none() -> None:
    """No tables, no symbols and no versions, and no error."""
    data = Elf().build()
    image = read(data)
    assert list(dynsym(image, data)) == list(symtab(image, data)) == []
    assert (versions_needed(image, data), versions_defined(image, data)) == ((), ())


@every_kind
def test_every_kind_of_symbol_table(bits: Bits, order: Order) -> None:
    """Every field of a symbol is read in both classes, which order them differently, and both byte orders."""
    data = with_symbols(bits, order).build()
    image = read(data, strict=True)
    for symbols in (list(dynsym(image, data)), list(symtab(image, data))):
        assert symbols == [
            Symbol("first", 0x1234, 5, type=2, bind=1, visibility=0, section=1),  # type: ignore[arg-type]
            Symbol("second", 0xABCD, 6, type=1, bind=2, visibility=2, section=0),  # type: ignore[arg-type]
        ]
        assert [s.defined for s in symbols] == [True, False]


def test_symbols_are_read_one_by_one() -> None:
    """What is wrong behind the first symbol is told when the second is asked for, not before."""
    data = with_symbols(64, "little", names=b"\0first\0second").build()
    symbols = dynsym(read(data), data)
    assert next(symbols).name == "first"
    with pytest.raises(ElfError, match="NUL"):
        next(symbols)


def test_more_symbols_than_the_file_holds() -> None:
    """A hash table that promises 4 billion symbols is refused before the first."""
    data = with_symbols(64, "little", count=0xFFFFFFFF).build()
    with pytest.raises(ElfError, match="outside"):
        next(dynsym(read(data), data))


def test_names_that_overlap_are_refused() -> None:
    """20,000 symbols, each of whose names is nearly the whole table, do not make it read 20,000 times."""
    elf = Elf()
    count, names = 20_000, b"a" * 30_000 + b"\0"
    elf.sections = [
        Sh(".symtab", w.SHT_SYMTAB, data=b"".join(map(elf.symbol, range(count))), link=2, entsize=24),
        Sh(".strtab", w.SHT_STRTAB, data=names),
    ]
    data = elf.build()
    with pytest.raises(ElfError, match="overlap"):
        list(symtab(read(data), data))


def test_version_records_that_lead_in_circles_end() -> None:
    """Records that point at each other without end are refused."""
    elf = Elf()
    record = elf.pack("HHIII", 1, 0xFFFF, 1, 16, 0) + elf.pack("IHHII", 0, 0, 2, 1, 0)
    elf.contents = {0x400: record, 0x500: b"\0lib\0"}
    tags = elf.dynamic((0x6FFFFFFE, 0x400), (0x6FFFFFFF, 1 << 40), (5, 0x500), (10, 5))
    elf.segments = [Ph(w.PT_LOAD, 4, 0, 0, filesz=0x600), Ph(w.PT_DYNAMIC, 6, data=tags)]
    elf.size = 0x600
    data = elf.build()
    with pytest.raises(ElfError, match="version records"):
        versions_needed(read(data), data)


def test_values_come_before_a_table_breaks() -> None:
    """Only those symbols are read that are asked for: of a long table the first two cost as little as of a short."""
    elf = Elf()
    elf.sections = [
        Sh(".symtab", w.SHT_SYMTAB, data=elf.symbol(1) * 200_000, link=2, entsize=24),
        Sh(".strtab", w.SHT_STRTAB, data=b"\0x\0"),
    ]
    data = elf.build()
    assert [s.name for s in itertools.islice(symtab(read(data), data), 2)] == ["x", "x"]
