"""Programs for the layout room's tests: linked on the spot, read, patched, and held while their maps are read."""

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from elfolio.elf.image import ElfHead, ElfImage, Header, Segment
from elfolio.elf.reader import read
from elfolio.span import FileOffset, LinkedAddress, Span

PT_LOAD, PT_GNU_STACK, PT_GNU_RELRO = 1, 0x6474E551, 0x6474E552
ET_EXEC, ET_DYN = 2, 3
R, W, X = 4, 2, 1

PHDR_FIELDS = ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")

# The article's first program. It waits for a signal in the end: its maps can then be read.
ARTICLE = """
#include <stdio.h>
#include <unistd.h>
const int ro = 1;
int w0, w1 = 1;
int *const pw0 = &w0;
int main(void) { printf("%d %d %d %p\\n", ro, w0, w1, (void *)pw0); fflush(stdout); pause(); return 0; }
"""

# The same with RELRO of several pages.
WAITER = ARTICLE.replace("int main", "int *const table[2048] = {&w0, &w1};\nint main").replace(
    "pw0);", "table[w1 & 1]);"
)


def needs(tool: str) -> str:
    """The tool's path; skips the test where it is missing."""
    path = shutil.which(tool)
    if path is None:
        package = {"ld.lld": "lld", "ld.bfd": "binutils", "ld.gold": "binutils", "readelf": "binutils"}.get(tool, tool)
        pytest.skip(f"needs {tool}; to force: apt-get install {package}")
    return path


def needs_linux(major: int, minor: int, why: str) -> None:
    """Skips the test on an older kernel."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release < (major, minor):
        pytest.skip(f"needs Linux {major}.{minor}: {why}; to force: run on a later kernel")


def build(out: Path, *flags: str, source: str = WAITER, linker: str = "bfd") -> Path:
    """Compiles and links C, with `bfd`, `gold`, `lld` or `mold`; skips the test where one is missing."""
    needs("gcc")
    needs("mold" if linker == "mold" else f"ld.{linker}")
    command = ["gcc", "-O1", f"-fuse-ld={linker}", "-o", str(out), *flags, "-x", "c", "-"]
    done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def image_of(path: Path | str) -> ElfImage:
    """The file, read whole."""
    return read(Path(path).read_bytes(), str(path))


def load(
    vaddr: int = 0, filesz: int = 0x1000, *, offset: int | None = None, memsz: int | None = None, flags: int = R,
    align: int = 0x1000, type: int = PT_LOAD,
) -> Segment:  # fmt: skip
    """A program header; its offset is its address, and its memory its file's, unless given."""
    at = FileOffset(vaddr if offset is None else offset)
    return Segment(type, flags, at, LinkedAddress(vaddr), vaddr, filesz, filesz if memsz is None else memsz, align)


def head(*segments: Segment, type: int = ET_DYN, size: int | None = None) -> ElfHead:
    """A file of these program headers; it ends where the last segment's bytes do, unless its size is given."""
    header = Header(64, "little", 0, 0, type, 62, LinkedAddress(0), FileOffset(64), FileOffset(0), 0, 64, 56,
                    len(segments), 64, 0, 0)  # fmt: skip
    end = max((s.offset + s.filesz for s in segments), default=64)
    return ElfHead("made", end if size is None else size, header, segments)


def patch(path: Path, index: int, **fields: int) -> Path:
    """Writes fields of one program header of a little-endian ELF64 file into it."""
    data = bytearray(path.read_bytes())
    at = struct.unpack_from("<Q", data, 32)[0] + index * 56
    values = dict(zip(PHDR_FIELDS, struct.unpack_from("<IIQQQQQQ", data, at), strict=True))
    struct.pack_into("<IIQQQQQQ", data, at, *{**values, **fields}.values())
    path.write_bytes(data)
    return path


class Mapping(NamedTuple):
    """A line of /proc/PID/maps."""

    memory: Span
    perms: str
    offset: int
    path: str


def parse_maps(text: str) -> list[Mapping]:
    """What /proc/PID/maps said."""
    found = []
    for line in text.splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(x, 16) for x in fields[0].split("-"))
        path = fields[5].rstrip() if len(fields) > 5 else ""
        found.append(Mapping(Span(start, end), fields[1], int(fields[2], 16), path))
    return found


def maps(pid: int) -> list[Mapping]:
    """All of a process's."""
    return parse_maps(Path(f"/proc/{pid}/maps").read_text())


@contextmanager
def held(*command: str | Path, reads: bool = False) -> Iterator[int]:
    """The pid of a command that is done with dynamic linking: it has said a line, or `reads` its standard input."""
    started = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"LC_ALL": "C"}
    )
    try:
        if reads:
            _wait_for_read(started)
        else:
            assert started.stdout is not None
            assert started.stdout.readline(), f"{command} said nothing"
        yield started.pid
    finally:
        started.kill()
        started.communicate()


def _wait_for_read(started: subprocess.Popen[bytes]) -> None:
    """Until it sleeps in read(0, ...). The number counts too: it may wait in mmap(0, ...) while it is being linked."""
    read_ = {"x86_64": "0", "aarch64": "63"}[os.uname().machine]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert started.poll() is None, f"{started.args!r} ended"
        try:
            call = Path(f"/proc/{started.pid}/syscall").read_text().split()
        except PermissionError:
            pytest.skip("may not look at its own children; to force: sysctl kernel.yama.ptrace_scope=0")
        if call[:2] == [read_, "0x0"]:
            return
        time.sleep(0.001)
    raise AssertionError(f"{started.args!r} does not read its input")


def own(pid: int, path: Path | str) -> list[Mapping]:
    """The mappings of one file, and the anonymous one that continues its last: its bss."""
    name = str(Path(path).resolve())
    found: list[Mapping] = []
    for mapping in maps(pid):
        follows = found and found[-1].memory.end == mapping.memory.start
        if mapping.path == name or (follows and mapping.path == "" and found[-1].perms == mapping.perms):
            found.append(mapping)
    return found
