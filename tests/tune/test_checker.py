"""tests.tune.checker: what it lets pass and what it does not. A checker that cannot fail would prove nothing."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.elf.programs import build
from tests.tune.checker import check
from tests.tune.raw import PT_LOAD, PT_NOTE, SHF_ALLOC, Raw, read
from tests.tune.tools import complaints

_PHDR = dict(zip(("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align"), range(8), strict=True))
_SHDR = dict(
    zip(
        ("name", "type", "flags", "addr", "offset", "size", "link", "info", "addralign", "entsize"),
        range(10),
        strict=True,
    )
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Raw:
    """A program of GNU ld's, 64-bit and little-endian."""
    return read(build(tmp_path_factory.mktemp("built") / "program", "-no-pie", "-Wl,-z,separate-code").read_bytes())


class Edited:
    """A copy of a file whose fields can be set."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.data = bytearray(raw.data)

    def segment(self, index: int, **fields: int) -> None:
        for name, value in fields.items():
            row = list(struct.unpack_from("<IIQQQQQQ", self.data, self.raw.header["phoff"] + 56 * index))
            row[_PHDR[name]] = value
            struct.pack_into("<IIQQQQQQ", self.data, self.raw.header["phoff"] + 56 * index, *row)

    def section(self, index: int, **fields: int) -> None:
        for name, value in fields.items():
            row = list(struct.unpack_from("<IIQQQQIIQQ", self.data, self.raw.header["shoff"] + 64 * index))
            row[_SHDR[name]] = value
            struct.pack_into("<IIQQQQIIQQ", self.data, self.raw.header["shoff"] + 64 * index, *row)

    def check(self) -> list[str]:
        return check(self.raw, read(bytes(self.data)))


def _loads(raw: Raw) -> list[int]:
    return [index for index, s in enumerate(raw.segments) if s.type == PT_LOAD]


def shifted(raw: Raw, size: int) -> bytes:
    """A right rewrite: all but the first mapped segment lies `size` bytes further on."""
    border = raw.loads[1].offset
    edited = Edited(raw)
    for index, segment in enumerate(raw.segments):
        if segment.offset >= border:
            edited.segment(index, offset=segment.offset + size)
    for index, section in enumerate(raw.sections):
        if section.offset >= border:
            edited.section(index, offset=section.offset + size)
    struct.pack_into("<Q", edited.data, 40, raw.header["shoff"] + size)
    return bytes(edited.data[:border] + bytes(size) + edited.data[border:])


def _move_load(edited: Edited) -> None:
    edited.segment(_loads(edited.raw)[1], offset=edited.raw.loads[1].offset + 0x1000)


def _change_text(edited: Edited) -> None:
    edited.data[edited.raw.loads[1].offset + 5] ^= 1


def _change_address(edited: Edited) -> None:
    edited.segment(_loads(edited.raw)[2], vaddr=edited.raw.loads[2].vaddr + 0x1000)


def _open_text(edited: Edited) -> None:
    edited.segment(_loads(edited.raw)[1], flags=7)


def _bad_align(edited: Edited) -> None:
    edited.segment(_loads(edited.raw)[1], align=0x3000)


def _incongruent(edited: Edited) -> None:
    segment = edited.raw.loads[1]
    align = next(1 << n for n in range(12, 40) if (segment.offset - segment.vaddr) % (1 << n))
    edited.segment(_loads(edited.raw)[1], align=align)


def _leave_note(edited: Edited) -> None:
    index = next(i for i, s in enumerate(edited.raw.segments) if s.type == PT_NOTE)
    edited.segment(index, offset=edited.raw.segments[index].offset + 4)


def _move_section(edited: Edited) -> None:
    index = next(i for i, s in enumerate(edited.raw.sections) if s.flags & SHF_ALLOC and s.addralign >= 4)
    edited.section(index, offset=edited.raw.sections[index].offset + 1)


def _resize_section(edited: Edited) -> None:
    edited.section(2, size=edited.raw.sections[2].size + 1)


def _overlap(edited: Edited) -> None:
    edited.section(len(edited.raw.sections) - 1, offset=edited.raw.sections[-2].offset)


def _cut(edited: Edited) -> None:
    del edited.data[edited.raw.loads[-1].file_end - 1 :]
    struct.pack_into("<Q", edited.data, 40, 0)
    struct.pack_into("<HHH", edited.data, 58, 0, 0, 0)


def _new_entry(edited: Edited) -> None:
    struct.pack_into("<Q", edited.data, 24, edited.raw.header["entry"] + 1)


def _stale_headers(edited: Edited) -> None:
    """The tables that the kernel reads, and the copy of them that is mapped, say different things."""
    raw = edited.raw
    size = raw.header["phentsize"] * len(raw.segments)
    table = edited.data[64 : 64 + size]
    struct.pack_into("<Q", edited.data, 32, len(edited.data))
    edited.data += table


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_move_load, "instead of"),
        (_change_text, "instead of"),
        (_change_address, "p_vaddr"),
        (_open_text, "p_flags"),
        (_bad_align, "no power of two"),
        (_incongruent, "modulo p_align"),
        (_leave_note, "did not move"),
        (_move_section, "no multiple of"),
        (_resize_section, "size"),
        (_overlap, "overlap"),
        (_cut, "behind the file's end"),
        (_new_entry, "e_entry"),
        (_stale_headers, "AT_PHDR"),
    ],
)
def test_harm_is_seen(program: Raw, harm: Callable[[Edited], None], said: str) -> None:
    """Each thing that a rewriter may get wrong is named."""
    edited = Edited(program)
    harm(edited)
    assert any(said in line for line in edited.check()), edited.check()


@pytest.mark.parametrize("size", [0, 0x10000, 0x200000])
def test_a_right_rewrite_passes(program: Raw, size: int, tmp_path: Path) -> None:
    """A file that is the same program elsewhere in the file draws no complaint, from the checker or from any tool."""
    data = shifted(program, size)
    assert check(program, read(data)) == []
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(program.data)
    after.write_bytes(data)
    assert complaints(before, after) == []


def test_a_lost_payload_is_seen(program: Raw) -> None:
    """Bytes behind all that the headers describe must stay in the file."""
    whole = read(program.data + b"payload" * 20)
    assert any("no header describes" in line for line in check(whole, program))
