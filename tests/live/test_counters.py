"""Counters of memory and devices, from recorded trees: sums over zones, a partition's disk, what is hidden."""

import os
from pathlib import Path

from elfolio.live.counters import block_device, device_limits, device_reads, free_by_order, vmstat

BUDDY = """\
Node 0, zone      DMA      0      0      1
Node 0, zone   Normal    145     43      7
"""


def test_free_blocks_are_summed_over_zones(tmp_path: Path) -> None:
    """Each order's blocks of all zones together; None where the file is hidden."""
    assert free_by_order(tmp_path) is None
    (tmp_path / "buddyinfo").write_text(BUDDY)
    assert free_by_order(tmp_path) == {0: 145, 1: 43, 2: 8}


def test_counters_by_name(tmp_path: Path) -> None:
    """vmstat by name; nothing where it is hidden."""
    assert vmstat(tmp_path) == {}
    (tmp_path / "vmstat").write_text("compact_stall 3\npswpout 0\n")
    assert vmstat(tmp_path) == {"compact_stall": 3, "pswpout": 0}


def test_a_partition_has_its_disks_queue(tmp_path: Path) -> None:
    """Limits come from the disk, counts from the partition; a file system without a device has neither."""
    disk = tmp_path / "devices" / "sda"
    (disk / "queue").mkdir(parents=True)
    (disk / "sda1").mkdir()
    for name, value in (("max_segments", 254), ("max_sectors_kb", 1280), ("read_ahead_kb", 128)):
        (disk / "queue" / name).write_text(f"{value}\n")
    (disk / "sda1" / "stat").write_text(" 10 2 64 5 0 0 0\n")
    (tmp_path / "dev" / "block").mkdir(parents=True)
    (tmp_path / "dev" / "block" / "8:1").symlink_to(disk / "sda1")
    limits = device_limits(os.makedev(8, 1), tmp_path)
    assert limits is not None
    assert (limits.name, limits.max_segments, limits.max_transfer, limits.read_ahead) == (
        "sda1",
        254,
        1280 << 10,
        128 << 10,
    )
    assert device_reads(os.makedev(8, 1), tmp_path) == (10, 64 * 512)
    assert device_limits(os.makedev(0, 40), tmp_path) is None
    assert device_reads(os.makedev(0, 40), tmp_path) is None


def test_the_device_under_a_file(tmp_path: Path) -> None:
    """Where st_dev names none, the mount does, if its source is a block device; a source that is none gives 0."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    with file.open() as opened:
        fd = opened.fileno()
        device = os.fstat(fd).st_dev
        if os.major(device):
            assert block_device(fd, tmp_path) == device
    proc = os.open("/proc/self/status", os.O_RDONLY)
    try:
        (tmp_path / "self" / "fdinfo").mkdir(parents=True)
        (tmp_path / "self" / "fdinfo" / str(proc)).write_text("pos:\t0\nmnt_id:\t31\n")
        mounts = tmp_path / "self" / "mountinfo"
        for source, expected in (("/missing", 0), ("tmpfs", 0), ("/dev/null", 0)):
            mounts.write_text(f"31 1 0:40 / /x rw shared:1 - btrfs {source} rw\n")
            assert block_device(proc, tmp_path) == expected
        assert block_device(proc, tmp_path / "none") == 0
    finally:
        os.close(proc)
