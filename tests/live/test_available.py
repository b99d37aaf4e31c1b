"""What a process may still take of memory, from recorded trees: the machine's, and its cgroups' of both versions."""

from pathlib import Path

import pytest

from elfolio.live.available import available, in_cgroup, on_machine

KIB = 1 << 10


def tree(base: Path, mounts: str, cgroup: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A proc root, and where its mounts are."""
    proc, root = base / "proc", base / "root"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:      500 kB\n")
    (proc / "self" / "mountinfo").write_text(mounts)
    (proc / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, root


SECOND = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
FIRST = "31 1 0:27 / /cg/cpu rw - cgroup cgroup rw,cpu\n32 1 0:28 / /cg/memory rw - cgroup cgroup rw,memory\n"
TREES = {
    "version 2": (
        SECOND,
        "0::/a/b\n",
        {
            "sys/fs/cgroup/a/memory.max": "max\n",
            "sys/fs/cgroup/a/memory.current": "1\n",
            "sys/fs/cgroup/a/b/memory.max": "100\n",
            "sys/fs/cgroup/a/b/memory.current": "90\n",
            "sys/fs/cgroup/a/b/memory.stat": "anon 70\ninactive_file 15\nactive_file 5\n",
        },
        30,
    ),
    "one above": (
        SECOND,
        "0::/a/b\n",
        {
            "sys/fs/cgroup/a/memory.max": "100\n",
            "sys/fs/cgroup/a/memory.high": "80\n",
            "sys/fs/cgroup/a/memory.current": "70\n",
            "sys/fs/cgroup/a/b/memory.max": "100\n",
            "sys/fs/cgroup/a/b/memory.current": "20\n",
        },
        10,
    ),
    "full": (
        SECOND,
        "0::/a\n",
        {"sys/fs/cgroup/a/memory.max": "100\n", "sys/fs/cgroup/a/memory.current": "110\n"},
        0,
    ),
    "version 1": (
        FIRST,
        "5:cpu:/\n4:memory:/a\n0::/x\n",
        {
            "cg/memory/a/memory.limit_in_bytes": "1000\n",
            "cg/memory/a/memory.usage_in_bytes": "900\n",
            "cg/memory/a/memory.stat": "cache 7\nactive_file 7\ntotal_cache 60\n"
            "total_active_file 20\ntotal_inactive_file 30\n",
            "cg/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cg/memory/memory.usage_in_bytes": "5000\n",
        },
        150,
    ),
    "a container's mount": (
        "30 1 0:26 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "0::/outer/a\n",
        {"sys/fs/cgroup/a/memory.max": "100\n", "sys/fs/cgroup/a/memory.current": "40\n"},
        60,
    ),
    "outside the mount": ("30 1 0:26 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/elsewhere\n", {}, None),
    "another namespace": (SECOND, "0::/../b\n", {}, None),
    "no limit": (SECOND, "0::/a\n", {"sys/fs/cgroup/a/memory.max": "max\n"}, None),
}


@pytest.mark.parametrize(("mounts", "cgroup", "files", "room"), TREES.values(), ids=TREES)
def test_the_cgroups_part(tmp_path: Path, mounts: str, cgroup: str, files: dict[str, str], room: int | None) -> None:
    """The least that any limit leaves, with the cache that is charged to it; None without a limit."""
    proc, root = tree(tmp_path, mounts, cgroup, files)
    assert in_cgroup(proc, root) == room
    assert available(proc, root) == (500 * KIB if room is None else room)


def test_the_machines_part(tmp_path: Path) -> None:
    """MemAvailable in bytes, where it is less than a cgroup leaves; None where nothing is to be seen."""
    assert (on_machine(tmp_path), available(tmp_path, tmp_path)) == (None, None)
    files = {"sys/fs/cgroup/a/memory.max": f"{1 << 40}\n", "sys/fs/cgroup/a/memory.current": "40\n"}
    proc, root = tree(tmp_path, SECOND, "0::/a\n", files)
    assert available(proc, root) == 500 * KIB
