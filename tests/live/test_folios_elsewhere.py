"""Folios where things are otherwise: kernels that tell less, overlayfs, hugetlb pages, swap."""

import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elfolio.kernel.folio import Kind
from elfolio.live.cached import CachedFile, look, open_quietly
from elfolio.live.folios import Mapped, read_folios
from tests.live.sorts import M, process_of_all_sorts

pytestmark = pytest.mark.root

PAGE = mmap.PAGESIZE

OLDER = """
import ctypes, errno, json, os, sys
from elfolio.live.cached import look, open_quietly
from elfolio.live.folios import Mapped, read_folios
from tests.spawn.seccomp import deny
uid, pid, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
deny(("ioctl", errno.ENOTTY, 1, 0xFFFF, 0x6610), ("cachestat", errno.ENOSYS))  # PAGEMAP_SCAN; before 6.5 and 6.7
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
with open_quietly(path) as fd:
    found = look(fd)
out = {"cached": found.cached, "dirty": found.dirty, "orders": found.orders(), "how": found.how, "hidden": found.hidden}
if not uid:
    process = read_folios(pid)
    out["rss"] = [one.rss for one in process.vmas]
    out["pmd"] = sum(one.mapped()[Mapped.PMD] for one in process.vmas)
    out["told"] = sum(one.mapped()[Mapped.PMD] for one in read_folios(pid, pmd={process.vmas[0].vma.start: 4096}).vmas)
    out["how of process"] = process.how
print(json.dumps(out))
"""


def older(path: Path, pid: int = 0, uid: int = 0) -> dict[str, object]:
    """What a kernel without PAGEMAP_SCAN and cachestat tells."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", OLDER, str(uid), str(pid), str(path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def seen(path: Path) -> CachedFile:
    with open_quietly(path) as fd:
        return look(fd)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory on a disk, that all may enter."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def written(path: Path, size: int = 4 * M) -> Path:
    """In one piece, and on the disk."""
    with open(path, "wb", 0) as file:
        file.write(b"x" * size)
        os.fsync(file.fileno())
    return path


def test_an_older_kernel_tells_root_the_same_orders(folder: Path) -> None:
    """Without PAGEMAP_SCAN and cachestat a file's folios are the same; what PMDs map is smaps' to say."""
    path = written(folder / "file")
    with process_of_all_sorts() as process:
        truth = read_folios(process.pid)
        found = older(path, process.pid)
    assert found["orders"] == {str(order): count for order, count in seen(path).orders().items()}
    assert (found["cached"], found["dirty"], found["hidden"]) == (4 * M, 0, "")
    assert found["rss"] == [one.rss for one in truth.vmas]
    assert (found["pmd"], found["told"], found["how of process"]) == (0, 4096, ["pagemap", "kpageflags"])


def test_an_older_kernel_tells_the_owner_what_is_cached(folder: Path) -> None:
    """Without privilege it says what is cached, that orders are hidden, and from which kernel huge ones are not."""
    path = written(folder / "file")
    os.chown(path, 65534, 65534)
    found = older(path, uid=65534)
    assert (found["cached"], found["dirty"], found["orders"]) == (4 * M, None, {"-1": 4 * M})
    assert "from Linux 6.7" in str(found["hidden"])


@contextmanager
def mounted(*words: str) -> Iterator[None]:
    """mount(8), and back."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount {' '.join(words)}: {done.stderr.strip()}; to force: as root, outside of a container")
    try:
        yield
    finally:
        subprocess.run(["umount", words[-1]], check=True)


def test_an_overlay_s_file_is_the_lower_one_s(folder: Path) -> None:
    """cachestat says 0 of it or is right; the runs are those of the file below either way."""
    for name in ("lower", "upper", "work", "merged"):
        (folder / name).mkdir()
    path = written(folder / "lower/file")
    options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    with mounted("-t", "overlay", "overlay", "-o", options, str(folder / "merged")):
        merged, lower = seen(folder / "merged/file"), seen(path)
        assert (merged.cached, merged.dirty) == (4 * M, 0)
        assert merged.runs == lower.runs


@contextmanager
def setting(path: str, value: int) -> Iterator[None]:
    """A system setting, and back."""
    before = Path(path).read_text()
    Path(path).write_text(f"{value}\n")
    try:
        yield
    finally:
        Path(path).write_text(before)


def test_hugetlb_pages_are_no_part_of_rss() -> None:
    """Mapped ones are told as such, apart from what smaps counts as resident; a file that is whole has one run."""
    with setting("/proc/sys/vm/nr_hugepages", 2):
        if int(Path("/proc/sys/vm/nr_hugepages").read_text()) < 2:
            pytest.skip("memory is in pieces: no huge pages to reserve; to force: run it soon after the start")
        size = 4 * M
        fd = os.memfd_create("huge", os.MFD_HUGETLB)
        try:
            os.ftruncate(fd, size)
            with mmap.mmap(fd, size) as memory:
                memory[0] = memory[2 * M] = 1
                one = next(one for one in read_folios(os.getpid()).vmas if "huge" in one.vma.name)
                assert (one.rss, one.bytes(Kind.HUGETLB), one.shared) == (0, size, 0)
                assert one.orders() == {9: size}
            found = look(fd)
            assert found.runs is not None
            assert [(run.pages, run.order, run.folios) for run in found.runs] == [(size // PAGE, 9, 2)]
            assert (found.cached, found.hidden) == (size, "")
        finally:
            os.close(fd)


PAGED_OUT = """
import ctypes, mmap, os, signal
with mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(0, 4 << 20, 4096):
        memory[page:page + 4096] = os.urandom(4096)
    memory.madvise(21, 0, 4 << 20)  # MADV_PAGEOUT
    print("ready", flush=True)
    signal.pause()
"""


@pytest.mark.slow
def test_what_is_swapped_out_is_counted(folder: Path) -> None:
    """Swap is smaps' in every mapping, and has no order."""
    swap = folder / "swap"
    swap.write_bytes(bytes(32 * M))
    swap.chmod(0o600)
    subprocess.run(["mkswap", swap], check=True, capture_output=True)
    if subprocess.run(["swapon", swap], check=False, capture_output=True).returncode:
        pytest.skip("swapon refuses a file here; to force: on ext4 or xfs, as root")
    try:
        with subprocess.Popen([sys.executable, "-c", PAGED_OUT], stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
                found = read_folios(child.pid)
                lines = Path(f"/proc/{child.pid}/smaps").read_text().splitlines()
            finally:
                child.kill()
    finally:
        subprocess.run(["swapoff", swap], check=True)
    swapped = sum(one.swapped for one in found.vmas)
    assert swapped == sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Swap:")) > M
    assert sum(one.mapped()[Mapped.PMD] for one in found.vmas) == 0
