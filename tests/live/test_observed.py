"""live.observed, live.backed: a process whole, its numbers held against smaps and its blocks against explain."""

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfolio.kernel.folio import Kind
from elfolio.kernel.losses import Loss
from elfolio.live.backed import Files
from elfolio.live.host import policy_here
from elfolio.live.observed import Memoryless, Observed, Seen, observe, picture
from tests.cli.running import ELFOLIO
from tests.live.sorts import smaps

M, P = 1 << 20, mmap.PAGESIZE
PMD = policy_here().pmd_size

CHILD = r"""
import ctypes, mmap, os, signal, sys
M = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

def here(name, size, shift=0, offset=0, advice=None, write=False):
    room = libc.mmap(None, size + 6 * M, 0, 0x22, -1, 0)
    at = (room + 2 * M - 1) // (2 * M) * 2 * M + shift
    fd = os.open(name, os.O_RDONLY)
    assert libc.mmap(at, size, 3 if write else 1, 0x12, fd, offset) == at
    if advice is not None:
        libc.madvise(at, size, advice)
    for page in range(at, at + size, 4096):
        ctypes.string_at(page, 1)
    if write:
        ctypes.memset(at, 1, M)
    return at

huge, small = sys.argv[1:3]
if sys.argv[3] == "off":
    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
made = {
    "huge": here(huge, 8 * M),
    "part": here(huge, 6 * M, offset=M, shift=M),
    "base": here(huge, 4 * M, shift=64 << 10),
    "nohuge": here(huge, 4 * M, advice=15),
    "small": here(small, 4 * M),
    "copied": here(huge, 4 * M, write=True),
}
anon = mmap.mmap(-1, 3 * M, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
anon.write(b"x" * M)
print(repr(made).replace("'", '"'), flush=True)
sys.stdin.read()
"""


def written(directory: str, piece: int, size: int) -> str:
    """A file of `size` bytes, written in pieces, which decides its folios."""
    with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
        for _ in range(size // piece):
            os.write(file.fileno(), b"\x11" * piece)
        os.fsync(file.fileno())
        return file.name


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, str]]:
    """One in huge folios, where the file system gives them, and one in small ones."""
    names = written("/var/tmp", PMD, 8 * M), written("/var/tmp", P, 4 * M)
    yield names
    for name in names:
        os.unlink(name)


class Child:
    """A process with mappings of these files."""

    def __init__(self, files: tuple[str, str], *words: str) -> None:
        command = [sys.executable, "-c", CHILD, *files, *(words or ("on",))]
        self.running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.running.stdout is not None
        self.made: dict[str, int] = json.loads(self.running.stdout.readline())
        self.found = observe(self.running.pid, Files(policy_here()))

    def seen(self, name: str) -> Seen:
        """The mapping of that name."""
        return next(one for one in self.found.seen if one.use.vma.start == self.made[name])

    def loss(self, name: str) -> Loss:
        """Its blocks of the largest size."""
        return max(self.seen(name).losses, key=lambda one: one.size)

    def end(self) -> None:
        """Kills and reaps it."""
        self.running.kill()
        self.running.communicate()


@pytest.fixture(scope="module")
def child(files: tuple[str, str]) -> Iterator[Child]:
    """One for all tests: it does not change."""
    made = Child(files)
    yield made
    made.end()


def numbers(one: Seen) -> dict[str, int]:
    """Under smaps' names, from pagemap alone."""
    sums = one.folios.sums
    huge = [s for s in sums if s.kind & Kind.PMD]
    return {
        "Rss": one.folios.rss,
        "Anonymous": one.folios.anonymous,
        "Swap": one.folios.swapped,
        "FilePmdMapped": sum(s.pages for s in huge if s.kind & Kind.FILE and not s.kind & Kind.SHMEM) * P,
        "AnonHugePages": sum(s.pages for s in huge if s.kind & Kind.ANON) * P,
    }


def test_every_number_is_that_of_smaps(child: Child) -> None:
    """Mapping by mapping, what is told from smaps is smaps', and what pagemap gives comes to the same."""
    truth = smaps(child.running.pid)
    has_scan = "PAGEMAP_SCAN" in child.found.folios.how
    assert len(child.found.seen) > 20
    for one in child.found.seen:
        theirs = truth[one.use.vma.start]
        use = one.use
        mine = (use.rss, use.pss, use.anonymous, use.swap, use.anon_huge, use.shmem_huge, use.file_huge)
        names = ("Rss", "Pss", "Anonymous", "Swap", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
        # Pss moves with what other processes do to the libraries.
        assert [value for name, value in zip(names, mine, strict=True) if name != "Pss"] == [
            theirs[name] for name in names if name != "Pss"
        ]
        both = numbers(one)
        if not has_scan:
            del both["FilePmdMapped"], both["AnonHugePages"]
        assert both == {name: theirs[name] for name in both}, use.vma.name
    own = child.seen("small").use
    assert 0 < own.pss <= own.rss == 4 * M


def test_blocks_mapped_as_one_are_filepmdmapped(child: Child) -> None:
    """In each mapping they come to smaps' figure; they are never more than could be, or than have a folio."""
    for one in child.found.seen:
        for loss in one.losses:
            if loss.size == PMD and not loss.copied:
                assert loss.mapped * PMD == one.use.file_huge + one.use.shmem_huge
                assert loss.mapped <= loss.now <= loss.could <= loss.blocks
                assert loss.could + sum(loss.barred.values()) == loss.blocks
                assert loss.now + sum(loss.lacking.values()) == loss.could


@pytest.mark.skipif(PMD != 2 * M, reason="the files' sizes are for huge pages of 2 MiB")
def test_what_keeps_each_mapping_small(child: Child) -> None:
    """An aligned one could be huge; the others are kept by the mapping's edge, the load address, advice; of what is
    copied nothing is counted."""
    if policy_here("/var/tmp").largest_folio < PMD:
        pytest.skip("/var/tmp's file system has no huge folios in this kernel: put it on ext4 (6.16) or xfs")
    whole = child.loss("huge")
    assert (whole.blocks, whole.could, dict(whole.barred)) == (4, 4, {})
    part = child.loss("part")
    assert (part.blocks, part.could, dict(part.barred)) == (4, 2, {"edge": 2})
    assert dict(child.loss("base").barred) == {"base": 2}
    if policy_here()["set_pmd_asks_advice"]:
        assert dict(child.loss("nohuge").barred) == {"advice": 2}
        assert child.seen("nohuge").use.file_huge == 0
    copied = child.loss("copied")
    assert (copied.copied, copied.lost) == (True, 0)
    assert child.seen("copied").folios.anonymous == M


@pytest.mark.root
@pytest.mark.skipif(PMD != 2 * M, reason="the files' sizes are for huge pages of 2 MiB")
def test_what_the_page_cache_lacks(child: Child) -> None:
    """A file written in pages has no huge folio: all of it is lost, and in smaller folios."""
    if policy_here("/var/tmp").largest_folio < PMD:
        pytest.skip("/var/tmp's file system has no huge folios in this kernel: put it on ext4 (6.16) or xfs")
    small = child.loss("small")
    assert (small.could, small.now, dict(small.lacking), small.lost) == (2, 0, {"smaller": 2}, 4 * M)


def test_a_process_that_wants_none(files: tuple[str, str]) -> None:
    """PR_SET_THP_DISABLE is the reason where nothing else is, and the kernel then maps nothing huge."""
    policy = policy_here("/var/tmp")
    if not policy["set_pmd_asks_advice"] or policy.largest_folio < PMD:
        pytest.skip("before 6.12 that did not concern files; or /var/tmp has no huge folios")
    child = Child(files, "off")
    try:
        assert child.found.memory.huge_pages is False
        assert dict(child.loss("huge").barred) == {"process": 4}
        assert child.seen("huge").use.file_huge == 0
    finally:
        child.end()


def predicted(program: str) -> dict[tuple[int, int], Counter[str]]:
    """explain's blocks of the huge page's size, by the mapping's start: how many of each fate."""
    done = subprocess.run([*ELFOLIO, "explain", "--json", program], capture_output=True, check=True)
    value = json.loads(done.stdout)
    found: dict[tuple[int, int], Counter[str]] = {}
    for row in value["blocks"]:
        if row["size"] == PMD and not row["copied"]:
            vma = next(v for v in value["linked"] if v["start"] <= row["part"][0] < v["end"])
            found.setdefault((vma["start"], vma["end"]), Counter())[row["obstacle"]] += 1
    return found


def test_a_program_is_as_explain_said() -> None:
    """Of a program at fixed addresses, each mapping's blocks have the fates that explain predicts."""
    program = next((name for name in FIXED if os.path.exists(name) and is_fixed(name)), None)
    if program is None:
        pytest.skip("no large program is here as an ET_EXEC: gcc 12 of Debian has one, cc1")
    truth = predicted(program)
    assert any(fates[""] for fates in truth.values())
    with subprocess.Popen([program, "-"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        try:
            found = settled(running.pid)
        finally:
            running.kill()
    mine = {}
    for one in found.seen:
        if one.use.vma.name == os.path.realpath(program):
            for loss in one.losses:
                if loss.size == PMD and not loss.copied:
                    fates = Counter({name.value: count for name, count in loss.barred.items()})
                    fates[""] = loss.could
                    mine[one.use.vma.start, one.use.vma.end] = +fates
    assert mine == truth


FIXED = tuple(map(str, sorted(Path("/usr/lib/gcc").glob("*/*/cc1"))))


def is_fixed(name: str) -> bool:
    """ET_EXEC."""
    with open(name, "rb") as file:
        return file.read(18)[16] == 2


def settled(pid: int) -> Observed:
    """Once it reads its input: RELRO is protected then."""
    for _ in range(3000):
        if Path(f"/proc/{pid}/syscall").read_text().startswith("0 0x0 "):
            return observe(pid, Files(policy_here()))
        time.sleep(0.01)
    raise AssertionError("it does not come to read its input")


def test_a_picture_has_what_is_there(child: Child) -> None:
    """Cells cover the mapping, at most so many; those of a mapping that is there have a run, others have none."""
    for name in ("small", "huge"):
        vma = child.seen(name).use.vma
        made = picture(child.running.pid, vma, 16)
        assert len(made.runs) <= 16
        assert made.cell * len(made.runs) >= vma.size > made.cell * (len(made.runs) - 1)
        assert all(run is not None and run.kind & Kind.FILE for run in made.runs)


def test_who_has_no_memory() -> None:
    """A kernel thread and a zombie are told apart from a process without mappings, in words."""
    with subprocess.Popen(["true"]) as done:
        os.waitid(os.P_PID, done.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Memoryless, match=f"a zombie: it has ended, and process {os.getpid()} has not asked"):
            observe(done.pid, Files(policy_here()))
    threads = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if is_kernel(pid)]
    if threads:
        with pytest.raises(Memoryless, match="a kernel thread"):
            observe(int(threads[0]), Files(policy_here()))


def is_kernel(pid: str) -> bool:
    """PF_KTHREAD, of /proc/PID/stat's flags."""
    try:
        return bool(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6]) & 0x00200000)
    except OSError:
        return False


def test_a_process_that_is_gone() -> None:
    """ProcessLookupError."""
    with pytest.raises(ProcessLookupError):
        observe(2**22 + 1, Files(policy_here()))
