"""live.frames: recorded zones and flags."""

from pathlib import Path

import pytest

from elfolio.kernel.memory_map import MemoryZone
from elfolio.live.frames import read_page_flags, read_zones, waiting_pages

ZONES = """\
Node 0, zone   Normal
  pages free     5
        boost    512
        min      100
        low      200
        high     300
        spanned  4096
        present  4096
        managed  4000
        protection: (0, 0, 0, 0)
  pagesets
    cpu: 0
              count:    12
              high:     14
    cpu: 1
              count:    30
  start_pfn:           1024
Node 0, zone      DMA
  pages free     5
        boost    0
        min      1
        low      2
        high     3
        spanned  1023
        managed  1000
        protection: (0, 77, 99, 99)
  pagesets
    cpu: 0
              count:    0
  start_pfn:           1
Node 0, zone  Movable
  pages free     0
        managed  0
        protection: (0, 0, 0, 0)
"""


def test_zones_with_memory_from_the_lowest(tmp_path: Path) -> None:
    """Watermarks, the boost, and the most that any higher zone's requests must leave; empty zones are none."""
    (tmp_path / "zoneinfo").write_text(ZONES)
    assert read_zones(tmp_path) == [
        MemoryZone("DMA", 1, 1023, 1, 2, 3, 0, 99),
        MemoryZone("Normal", 1024, 4096, 100, 200, 300, 512, 0),
    ]
    assert waiting_pages(tmp_path) == 42


def test_no_zone_is_an_error(tmp_path: Path) -> None:
    """A file that names none is not taken for a machine without memory."""
    (tmp_path / "zoneinfo").write_text("nothing\n")
    with pytest.raises(ValueError, match="no zone"):
        read_zones(tmp_path)


def test_flags_are_whole_words(tmp_path: Path) -> None:
    """Read piece by piece, all of them; half a word at the end is none."""
    (tmp_path / "kpageflags").write_bytes(bytes(range(256)) * 8192 + b"abc")
    assert read_page_flags(tmp_path) == bytes(range(256)) * 8192


@pytest.mark.root
def test_this_machine_has_flags_for_the_frames_of_its_zones() -> None:
    """As many as the highest zone ends at, or more."""
    last = read_zones()[-1]
    assert len(read_page_flags()) // 8 >= last.start + last.spanned
