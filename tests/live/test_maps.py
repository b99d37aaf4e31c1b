"""live.maps: /proc/PID/maps and smaps as values."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfolio.kernel.space import VmFlags
from elfolio.live.maps import MapsError, parse_maps, parse_smaps, read_maps, read_smaps

RECORDED = """\
00400000-0041f000 r--p 00000000 fe:00 260811                             /usr/bin/a program
00985000-009ca000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000001000 rw-s 00000000 00:01 1024                       /memfd:name (deleted)
7f0000002000-7f0000003000 ---p 00000000 00:00 0~
7f0000004000-7f0000005000 r--p 00010000 08:11 7                          /tmp/new\\012line
7f0000006000-7f0000007000 rw-p 00000000 00:00 0                          [anon:my heap]
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
""".replace("~", " ")  # a line without a name ends with a space
SMAPS = """\
00985000-009ca000 rw-p 00000000 00:00 0                                  [heap]
Size:                276 kB
Rss:                   4 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac sd zz
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
VmFlags: rd wr mr mw me gd ac
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A recorded tree with one process."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/maps").write_text(RECORDED)
    (tmp_path / "7/smaps").write_text(SMAPS)
    fields = " ".join(str(number) for number in range(3, 53))
    (tmp_path / "7/stat").write_text(f"7 (odd) name) {fields}\n")
    return tmp_path


def test_a_recorded_file(proc: Path) -> None:
    """Every field of every line: addresses, permissions, offset, device, inode, and names with spaces and escapes."""
    space = read_maps(7, proc)
    names = [vma.name for vma in space]
    assert names == [
        *("/usr/bin/a program", "[heap]", "/memfd:name (deleted)", "", "/tmp/new\nline"),
        *("[anon:my heap]", "[stack]", "[vsyscall]"),
    ]
    first, _, shared, nothing, escaped = space.vmas[:5]
    assert first.file is not None
    assert (first.start, first.end, first.perms, first.file.major, first.file.inode) == (
        *(0x400000, 0x41F000, "r--p", 0xFE, 260811),
    )
    assert shared.perms == "rw-s"
    assert (nothing.perms, nothing.file) == ("---p", None)
    assert escaped.offset == 0x10000
    assert (space.start_brk, space.start_stack) == (47, 28)


def test_written_again_it_is_the_same_text(proc: Path) -> None:
    """What was read renders to the bytes that the kernel wrote, but for a newline in a path."""
    assert read_maps(7, proc).maps() == RECORDED.replace("\\012", "\n")


def test_this_process() -> None:
    """The running kernel's text comes back byte for byte."""
    before = Path("/proc/self/maps").read_text()
    assert parse_maps(before).maps() == before
    space = read_maps("self")
    assert any(vma.name == "[stack]" and vma.start <= space.start_stack <= vma.end for vma in space)


def test_smaps_has_the_flags(proc: Path) -> None:
    """VmFlags become flags; those of newer kernels, which the table does not know, are left out."""
    heap, stack = read_smaps(7, proc)
    may = VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC
    assert heap.flags == VmFlags.READ | VmFlags.WRITE | may | VmFlags.ACCOUNT | VmFlags.SOFTDIRTY
    assert stack.flags & VmFlags.GROWSDOWN
    assert not heap.flags & VmFlags.GROWSDOWN


def test_smaps_of_this_process_agrees_with_maps() -> None:
    """The same ranges and permissions, and every VmFlags mnemonic of readability agrees with them."""
    for vma in read_smaps(os.getpid()):
        assert bool(vma.flags & VmFlags.READ) == ("r" in vma.perms)
        assert vma.name == "[vsyscall]" or vma.flags & VmFlags.MAYREAD


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nonsense\n", 1),
        (RECORDED + "7f-80 rw-p 0 00:00 x \n", 9),
        ("2000-1000 rw-p 00000000 00:00 0 \n", 1),
        ("1000-2000 rwzp 00000000 00:00 0 \n", 1),
        ("1000-2000\n", 1),
    ],
)
def test_a_line_that_is_none(text: str, line: int) -> None:
    """A malformed line is named with its file and number."""
    with pytest.raises(MapsError, match=f"^here:{line}: ") as caught:
        parse_maps(text, "here")
    assert caught.value.line == line


def test_items_before_any_mapping() -> None:
    """smaps that begins in the middle is malformed."""
    with pytest.raises(MapsError):
        parse_smaps("Size: 4 kB\n")


def test_a_process_that_is_gone(proc: Path) -> None:
    """It is ProcessLookupError, as for a signal."""
    with pytest.raises(ProcessLookupError):
        read_maps(8, proc)


def test_without_stat_the_heap_is_unknown(proc: Path) -> None:
    """A record of maps alone will do: where the heap begins is then 0."""
    (proc / "7/stat").unlink()
    assert read_maps(7, proc).start_brk == 0


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Path]:
    """A file whose name has a newline and a backslash, mapped in this process."""
    import mmap

    path = tmp_path / "a\nb\\c"
    path.write_bytes(b"x" * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        yield path


def test_a_real_path_with_a_newline(mapped: Path) -> None:
    """The kernel escapes a newline alone: a backslash in a path stands for itself."""
    assert any(vma.name == str(mapped) for vma in read_maps("self"))
