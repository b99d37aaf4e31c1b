"""The kernel as the oracle: what it runs is read, however broken the fields are that it never looks at."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from elfolio.elf.reader import read
from elfolio.errors import ElfError
from tests.elf.programs import RUNS, build

Change = Callable[[bytearray], None]


def put(offset: int, *values: int) -> Change:
    def change(data: bytearray) -> None:
        data[offset : offset + len(values)] = bytes(values)

    return change


def without_sections(data: bytearray) -> None:
    """What sstrip does: cut where the section table begins, and leave the header's word for it."""
    del data[read(data).header.shoff :]


def garbled_sections(data: bytearray) -> None:
    start = read(data).header.shoff
    data[start:] = bytes((i * 37 + 11) & 0xFF for i in range(len(data) - start))


IGNORED: dict[str, Change] = {
    "nothing": put(4),
    "EI_CLASS unknown": put(4, 0),
    "EI_CLASS of 32 bits": put(4, 1),
    "EI_DATA unknown": put(5, 0),
    "EI_DATA big endian": put(5, 2),
    "EI_VERSION and the rest": put(
        6,
        *b"elfolio...",
    ),
    "e_version": put(20, 9, 9, 9, 9),
    "e_ehsize": put(52, 0, 0),
    "e_shoff": put(40, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F),
    "e_shentsize": put(58, 1, 0),
    "e_shnum": put(60, 0xF0, 0xFF),
    "e_shstrndx": put(62, 0xF0, 0xFE),
    "no section table": without_sections,
    "sections of noise": garbled_sections,
}
REFUSED: dict[str, Change] = {
    "magic": put(0, 0x7E),
    "e_phentsize": put(54, 57),
    "e_phoff": put(32, 0, 0, 0, 0, 0xFF),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A static program of 64 bits that returns RUNS."""
    path = build(tmp_path_factory.mktemp("kernel") / "program", "-static")
    data = path.read_bytes()
    if data[4] != 2:
        pytest.skip("the offsets here are those of ELF64")
    return data


def start(data: bytes, path: Path) -> int:
    """Its exit status, or the errno with which execve refused it, below zero."""
    path.write_bytes(data)
    path.chmod(0o755)
    try:
        return subprocess.run([path], check=False).returncode
    except OSError as error:
        return -(error.errno or 0)


@pytest.mark.parametrize("change", IGNORED.values(), ids=IGNORED)
def test_what_runs_is_read(program: bytes, tmp_path: Path, change: Change) -> None:
    """A program with this field broken runs, and its segments are read as if nothing had happened."""
    data = bytearray(program)
    change(data)
    assert start(bytes(data), tmp_path / "changed") == RUNS
    image = read(data)
    assert image.segments == read(program, strict=True).segments
    assert image.header.bits == 64


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_does_not_run(program: bytes, tmp_path: Path, change: Change) -> None:
    """What the reader refuses, the kernel refuses too."""
    data = bytearray(program)
    change(data)
    assert start(bytes(data), tmp_path / "changed") in (-errno.ENOEXEC, -errno.EIO, -errno.EINVAL)
    with pytest.raises(ElfError):
        read(data, os.fspath(tmp_path))
