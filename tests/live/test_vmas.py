"""live.vmas: what /proc says of a process, from a recorded tree and from a real one."""

import mmap
import os
from pathlib import Path

import pytest

from elfolio.live.maps import MapsError
from elfolio.live.vmas import read_memory

SMAPS = """\
00010000-00012000 rw-p 00000000 00:00 0 
Size:                  8 kB
Rss:                   8 kB
Anonymous:             4 kB
KSM:                   4 kB
AnonHugePages:      2048 kB
Swap:                 12 kB
VmFlags: rd wr mr mw me ac mg
00020000-00021000 r-xp 00001000 08:01 77                                 /bin/Rss:  4 kB
Size:                  4 kB
Rss:                   4 kB
Anonymous:             0 kB
FilePmdMapped:      4096 kB
VmFlags: rd ex mr mw me
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Size:                  4 kB
Rss:                   0 kB
VmFlags: ex
"""  # noqa: W291
STATUS = "Name:\ta b\nVmPTE:\t      44 kB\n"
KSM = "ksm_rmap_items 5\nksm_merging_pages 2\nksm_process_profit -640\nksm_merge_any: yes\nksm_mergeable: no\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A /proc with one process."""
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "smaps").write_text(SMAPS)
    (folder / "status").write_text(STATUS)
    (folder / "ksm_stat").write_text(KSM)
    (tmp_path / "sys/vm").mkdir(parents=True)
    (tmp_path / "sys/vm/max_map_count").write_text("65530\n")
    return tmp_path


def test_a_recorded_tree(tree: Path) -> None:
    """Each VMA with its sizes in bytes, KSM's figures, page tables; a path that looks like an item is a path."""
    memory = read_memory(7, tree)
    assert (memory.name, memory.page_tables, memory.max_map_count) == ("a b", 44 << 10, 65530)
    assert memory.ksm == {
        "ksm_rmap_items": 5, "ksm_merging_pages": 2, "ksm_process_profit": -640, "ksm_merge_any": True,
        "ksm_mergeable": False}  # fmt: skip
    first, second = memory.uses
    assert (first.rss, first.anonymous, first.swap, first.ksm, first.huge) == (8192, 4096, 12288, 4096, 2 << 20)
    assert (second.vma.name, second.rss, second.huge, second.written) == ("/bin/Rss:  4 kB", 4096, 4 << 20, False)
    assert first.written


def test_what_is_missing(tree: Path) -> None:
    """A process that is gone; a kernel without KSM; a malformed line, named."""
    with pytest.raises(ProcessLookupError):
        read_memory(8, tree)
    (tree / "7/ksm_stat").unlink()
    (tree / "sys/vm/max_map_count").unlink()
    memory = read_memory(7, tree)
    assert (memory.ksm, memory.max_map_count) == ({}, 0)
    (tree / "7/smaps").write_text("00010000-0001000 rw-q\n")
    with pytest.raises(MapsError, match="smaps:1"):
        read_memory(7, tree)


def test_this_process() -> None:
    """A page that is written is anonymous, one that is only mapped is not."""
    with mmap.mmap(-1, 64 << 10, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        before = sum(use.anonymous for use in read_memory(os.getpid()).uses)
        area[: 64 << 10] = b"x" * (64 << 10)
        memory = read_memory(os.getpid())
    assert sum(use.anonymous for use in memory.uses) >= before + (64 << 10)
    assert memory.page_tables > 0
