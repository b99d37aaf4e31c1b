"""kernel.blocks: which blocks can be huge mappings; held against the machine too."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.kernel.blocks import Block, Obstacle, Way, block_sizes, blocks
from elfolio.kernel.policy import Policy, policy
from elfolio.kernel.space import OpenFile, Vma, VmFlags
from elfolio.live.host import policy_here
from elfolio.span import FileOffset, MappedAddress

M, K = 1 << 20, 1 << 10
PMD = 2 * M
RX = VmFlags.READ | VmFlags.EXEC
NOW = policy("linux-6.18")


def mapping(start: int, size: int, offset: int = 0, flags: VmFlags = RX) -> Vma:
    """A mapping of a file."""
    return Vma(MappedAddress(start), MappedAddress(start + size), flags, OpenFile("/f"), FileOffset(offset), "/f")


def found(
    vma: Vma, under: Policy = NOW, *, size: int = PMD, file: int = 64 * M, skew: int = 0, **more: bool
) -> list[Block]:
    """Its blocks."""
    return list(blocks(vma, under, size, file_size=file, linked_skew=skew, **more))


def said(vma: Vma, under: Policy = NOW, *, file: int = 64 * M, skew: int = 0, **more: bool) -> list[str]:
    """The obstacle of each block, or how it becomes huge."""
    return [b.obstacle.value or b.way.value for b in found(vma, under, file=file, skew=skew, **more)]


def test_an_aligned_mapping_has_all_but_its_ends() -> None:
    """Blocks that lie in the mapping whole can be mapped by a fault, and those at its ends cannot."""
    assert said(mapping(16 * M + 4 * K, 8 * M, 4 * K)) == ["edge", "fault", "fault", "fault", "edge"]


@pytest.mark.parametrize(("skew", "why"), [(0, "base"), (4 * K, "skewed"), (PMD, "base"), (64 * K, "skewed")])
def test_the_base_and_the_file_are_told_apart(skew: int, why: str) -> None:
    """A load address that is no multiple can be mended without the file's bytes moving; a skewed file cannot."""
    assert said(mapping(16 * M + 64 * K, 4 * M), skew=skew) == [why, why]


def test_a_block_ends_where_the_file_does_at_the_latest() -> None:
    """Of a file that ends within a block, that block is on small pages; the file's last page counts whole."""
    vma = mapping(16 * M, 4 * M)
    assert said(vma, file=4 * M) == ["fault", "fault"]
    assert said(vma, file=4 * M - 1) == ["fault", "fault"]
    assert said(vma, file=4 * M - 4 * K) == ["fault", "end"]


def test_without_large_folios_there_is_khugepaged_or_nothing() -> None:
    """ext4 before 6.16: READ_ONLY_THP where it is configured, and only for executable mappings before 6.8."""
    old = policy("linux-6.1")
    vma = mapping(16 * M, 4 * M)
    assert said(vma, old) == ["filesystem"] * 2
    built = Policy("built", (6, 1, 192), read_only_thp=True)
    assert said(vma, built) == ["collapse"] * 2
    assert said(mapping(16 * M, 4 * M, flags=VmFlags.READ), built) == ["not-exec"] * 2
    assert (
        said(mapping(16 * M, 4 * M, flags=VmFlags.READ), Policy("b", (6, 12), read_only_thp=True)) == ["collapse"] * 2
    )
    assert said(vma, built, open_for_writing=True) == ["writer"] * 2
    assert said(vma, Policy("b", (5, 10), read_only_thp=True, thp="never")) == ["never"] * 2
    assert said(vma, Policy("b", (7, 2), read_only_thp=True, fs=NOW.with_options(fs="btrfs").fs)) == ["filesystem"] * 2


def test_arm64_has_runs_of_ptes_too() -> None:
    """The contiguous bit's blocks, by page size; x86-64 has the PMD's alone."""
    arm = {page: block_sizes(Policy("a", (6, 18), "aarch64", page)) for page in (4096, 16384, 65536)}
    assert arm == {4096: (64 * K, 2 * M), 16384: (2 * M, 32 * M), 65536: (2 * M, 512 * M)}
    assert block_sizes(NOW) == (2 * M,)


def test_anonymous_memory_has_no_blocks_of_a_file() -> None:
    """What no file is behind is not counted."""
    assert found(Vma(MappedAddress(0), MappedAddress(PMD), RX)) == []


@given(
    start=st.integers(16, 1 << 20).map(lambda n: n * 4096),
    pages=st.integers(1, 5000),
    offset=st.integers(0, 5000).map(lambda n: n * 4096),
    file=st.integers(1, 1 << 26),
)
def test_parts_make_up_the_mapping(start: int, pages: int, offset: int, file: int) -> None:
    """The parts of all blocks are the mapping, in order; each huge one is aligned, whole, and in the file."""
    vma = mapping(start, pages * 4096, offset)
    rows = found(vma, file=file)
    assert rows[0].part.start == vma.start
    assert rows[-1].part.end == vma.end
    assert all(a.part.end == b.part.start for a, b in pairwise(rows))
    for row in rows:
        assert row.offset - vma.offset == row.part.start - vma.start
        assert (row.way is Way.NONE) == (row.obstacle is not Obstacle.NOTHING)
        if row.way is Way.FAULT:
            assert row.memory == row.part
            assert row.memory.start % PMD == row.offset % PMD == 0
            assert row.offset + PMD < file + 4096
            assert row.lost == 0


# --- the machine -------------------------------------------------------------------------------------------

MAPPER = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
path, at, size, offset = sys.argv[1], *(int(word) for word in sys.argv[2:])
fd = os.open(path, os.O_RDONLY)
got = libc.mmap(at, size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE | 0x100000, fd, offset)
assert got == at, got
for page in range(at, at + size, 4096):
    ctypes.string_at(page, 1)
here = False
for line in open("/proc/self/smaps"):
    if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
        here = line.startswith(f"{at:x}-")
    elif here and line.startswith("FilePmdMapped:"):
        print(int(line.split()[1]) * 1024)
"""
BASE = 0x7E0000000000
SIZE = 6 * M


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file written in pieces of 2 MiB, on a file system that then gives folios of 2 MiB; one page longer than 3."""
    path = tmp_path_factory.mktemp("folios") / "file"
    here = policy_here(str(path.parent))
    if here.largest_folio < PMD or here.page_size != 4096:
        pytest.skip(f"{here.fs.name} under {here.name} has no folios of 2 MiB: use ext4 from Linux 6.16, or xfs")
    for _ in range(8):  # whether a folio of that order is free is chance
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o755)
        for _ in range(3):
            os.write(fd, b"\x90" * PMD)
        os.write(fd, b"\x90" * 4096)
        os.close(fd)
        if pmd_mapped(path, BASE, SIZE) == SIZE:
            return path
    pytest.skip(
        "no folios of 2 MiB were to be had in 8 attempts: memory is fragmented; echo 1 > /proc/sys/vm/compact_memory"
    )


def pmd_mapped(path: Path, at: int, size: int, offset: int = 0) -> int:
    """Bytes that a process which touches every page of such a mapping has on PMDs."""
    words = [sys.executable, "-c", MAPPER, str(path), *map(str, (at, size, offset))]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(re.findall(r"\d+", done.stdout)[-1])


@pytest.mark.parametrize(
    ("at", "size", "offset"),
    [
        (BASE, SIZE, 0),
        (BASE + 4096, SIZE - 4096, 4096),
        (BASE, SIZE - 4096, 0),
        (BASE + 4096, SIZE - 4096, 0),
        (BASE + 64 * K, SIZE, 0),
        (BASE, 4 * M, 2 * M),
        (BASE, 4 * M + 4096, 2 * M),
        (BASE, 4 * M, 4096),
        (BASE + M, 5 * M, M),
    ],
)
def test_the_kernel_maps_what_is_predicted(chunked: Path, at: int, size: int, offset: int) -> None:
    """FilePmdMapped of a mapping that was touched page by page is what its blocks come to, for every alignment."""
    rows = found(mapping(at, size, offset), policy_here(str(chunked)), file=chunked.stat().st_size)
    predicted = sum(row.size for row in rows if row.way is Way.FAULT)
    assert pmd_mapped(chunked, at, size, offset) == predicted


@pytest.mark.parametrize(("size", "huge"), [(6 * M, 6 * M), (6 * M - 4096, 4 * M)])
def test_a_block_at_the_files_end(chunked: Path, size: int, huge: int) -> None:
    """A block that ends with the file is mapped, though no page follows it; one that the file does not fill is not."""
    os.truncate(chunked, size)
    rows = found(mapping(BASE, SIZE), policy_here(str(chunked)), file=size)
    assert sum(row.size for row in rows if row.way is Way.FAULT) == huge
    assert pmd_mapped(chunked, BASE, size) == huge
