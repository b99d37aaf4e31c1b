"""live.freelists: recorded /proc files, what is hidden or broken, and this machine."""

from pathlib import Path

import pytest

from elfolio.kernel.buddy import MigrateType
from elfolio.live.freelists import read_host_memory

BUDDY = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone   Normal 128904      9      8      7      6      5      4      3      2      1     20
"""
MEMINFO = "MemTotal:  4096000 kB\nMemFree:  100000 kB\nCached:  40000 kB\nSlab: 1 kB\nSUnreclaim:  8000 kB\n"
TYPES = """\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10
Node    0, zone      DMA, type Unmovable      0      0      0      0      0      0      0      0      1      0      0
Node    0, zone      DMA, type   Movable      0      0      0      0      0      0      0      0      0      1      3
Node    0, zone   Normal, type Unmovable      1      2      3      0      0      0      0      0      0      0      0
Node    0, zone   Normal, type   Movable >100000      7      5      7      6      5      4      3      2      1     20
Node    0, zone   Normal, type   HighAtomic      5      5      5      5      0      0      0      0      0      0      0

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic      Isolate
Node 0, zone      DMA            1            7            0            0            0
Node 0, zone   Normal           99          800          100            1            0
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A recorded tree."""
    for name, text in (("buddyinfo", BUDDY), ("meminfo", MEMINFO), ("pagetypeinfo", TYPES)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_zones_are_added_up(proc: Path) -> None:
    """Counts by order are those of all zones; shares are of pages, not of blocks."""
    found = read_host_memory(proc)
    assert found.free_blocks == (128904, 9, 8, 7, 6, 5, 4, 3, 3, 2, 23)
    assert (found.total, found.unmovable) == (1024000, 2000)
    assert found.free_in(10) == pytest.approx(23 * 1024 / sum(c << o for o, c in enumerate(found.free_blocks)))


def test_migrate_types_are_told_apart(proc: Path) -> None:
    """Free blocks and page blocks by type; a count that the kernel cut off is what the others leave."""
    found = read_host_memory(proc)
    assert found.by_type is not None
    assert found.by_type[MigrateType.UNMOVABLE][:3] == (1, 2, 3)
    assert found.by_type[MigrateType.MOVABLE][0] == 128903
    assert found.blocks == {MigrateType.UNMOVABLE: 100, MigrateType.MOVABLE: 807, MigrateType.RECLAIMABLE: 100}
    assert found.unmovable_blocks == pytest.approx(200 / 1007)


def test_without_root_the_types_are_hidden(proc: Path) -> None:
    """A pagetypeinfo that is not there is no error; what it would tell is None."""
    (proc / "pagetypeinfo").unlink()
    found = read_host_memory(proc)
    assert (found.by_type, found.blocks, found.unmovable_blocks) == (None, None, None)


@pytest.mark.parametrize(("name", "text"), [("buddyinfo", "Node 0, zone DMA 1 2 3\n"), ("meminfo", "MemFree: 3 kB\n")])
def test_a_file_that_reads_as_something_else_is_named(proc: Path, name: str, text: str) -> None:
    """The error says which file."""
    (proc / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        read_host_memory(proc)


def test_this_machine_reads() -> None:
    """The free blocks of /proc/buddyinfo are about what /proc/meminfo says is free: per-cpu lists lie between."""
    found = read_host_memory()
    pages = sum(count << order for order, count in enumerate(found.free_blocks))
    assert 0 < pages <= found.total
    assert 0 < found.unmovable_share < 1
