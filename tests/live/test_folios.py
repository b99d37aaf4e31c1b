"""live.folios: what stands behind a process's mappings, number by number against smaps, and against kpagecount."""

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from elfolio import _native
from elfolio.kernel.folio import UNSEEN, Kind
from elfolio.live.folios import Mapped, VmaFolios, frames_for, read_folios, runs_of
from tests.live import slow_folios
from tests.live.sorts import PAGE, M, Process, process_of_all_sorts, smaps


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """One for all tests: it does not change."""
    with process_of_all_sorts() as found:
        yield found


def figures(one: VmaFolios) -> dict[str, int | None]:
    """Under the names of smaps."""
    return {
        "Rss": one.rss,
        "Pss": one.pss,
        "Anonymous": one.anonymous,
        "Swap": one.swapped,
        "KSM": one.bytes(Kind.KSM),
        "AnonHugePages": huge(one, Kind.ANON, Kind.ZERO),
        "ShmemPmdMapped": huge(one, Kind.SHMEM, Kind.ANON),
        "FilePmdMapped": huge(one, Kind.FILE, Kind.SHMEM),
    }


def huge(one: VmaFolios, kind: Kind, without: Kind) -> int:
    return sum(s.pages for s in one.sums if s.kind & Kind.PMD and s.kind & kind and not s.kind & without) * one.page


@pytest.mark.root
def test_every_number_is_that_of_smaps(process: Process) -> None:
    """Rss, Anonymous, Swap, KSM and the three sorts of huge mappings are equal to smaps' in every mapping; Pss where
    nobody else maps it."""
    found, truth = read_folios(process.pid, pss=True), smaps(process.pid)
    if "PAGEMAP_SCAN" not in found.how:
        pytest.skip("this kernel's pagemap does not tell huge mappings: Linux 6.7 does")
    own = set(process.made.values())
    for one in found.vmas:
        if one.vma.name == "[vsyscall]":
            continue
        mine, theirs = figures(one), truth[one.vma.start]
        names = [name for name in mine if name in theirs and (name != "Pss" or one.vma.start in own)]
        assert {name: mine[name] for name in names} == {name: theirs[name] for name in names}, one.vma.name
    assert sum(one.rss for one in found.vmas) > 10 * M


@pytest.mark.root
def test_each_sort_of_memory_is_told_apart(process: Process) -> None:
    """Anonymous, file, tmpfs, copied, zero page, shared with a child, never touched."""
    found = read_folios(process.pid)
    small, zero, copied = (process.of(found, name) for name in ("small", "zero", "copied"))
    assert (small.anonymous, small.shared, small.file, small.orders()) == (M, M // 2, 0, {0: M})
    assert (zero.zero, zero.rss, zero.orders()) == (M, 0, {})
    assert (copied.anonymous, copied.file) == (2 * M, 0)
    shmem, file = process.of(found, "shmem"), process.of(found, "file")
    assert (shmem.bytes(Kind.SHMEM), shmem.anonymous, shmem.file) == (2 * M, 0, 2 * M)
    assert (file.file, file.bytes(Kind.SHMEM), file.bytes(Kind.DIRTY)) == (4 * M, 0, 0)
    assert small.pss is None
    untouched = process.of(found, "untouched")
    assert (untouched.sums, untouched.rss, untouched.pss) == ((), 0, 0)
    assert process.of(found, "sparse").rss == 32 * PAGE


@pytest.mark.root
def test_orders_are_those_that_a_slow_reader_counts(process: Process) -> None:
    """Page for page, in every mapping that was made, the order is that of a reader that counts heads and tails."""
    found = read_folios(process.pid)
    for name in ("small", "huge", "copied", "shmem", "sparse", "partial", "askew"):
        vma = process.of(found, name).vma
        seen: dict[int, int] = {}
        for run in runs_of(process.pid, vma):
            seen |= dict.fromkeys(range(run.start, run.end), run.order)
        for page in range(vma.start // PAGE, min(vma.end, vma.start + 2 * M) // PAGE, 7):
            entry = slow_folios.word(f"/proc/{process.pid}/pagemap", page)
            truth = slow_folios.order_of(entry & ((1 << 55) - 1)) if entry >> 63 else None
            assert seen.get(page) == truth, (name, page)


@pytest.mark.root
def test_sums_are_the_runs_added_up(process: Process) -> None:
    """The two results of the C core agree, in pages and in folios."""
    for one in read_folios(process.pid).vmas:
        if one.vma.name == "[vsyscall]":
            continue
        runs: dict[tuple[int, Kind], list[int]] = {}
        for run in runs_of(process.pid, one.vma):
            counts = runs.setdefault((run.order, run.kind), [0, 0])
            counts[0] += run.pages
            counts[1] += run.folios
        assert runs == {(s.order, s.kind): [s.pages, s.folios] for s in one.sums}


@pytest.mark.root
def test_words_that_are_kept_tell_the_same(process: Process) -> None:
    """A process with much memory is looked at through words that are read once and kept: no sum differs by it. One with
    little is not."""
    frames = _native.frame_cache()
    if frames is None:
        pytest.skip("this machine has more memory than the words of its frames are kept for (56 GiB)")
    assert frames_for(process.pid) is None
    own = set(process.made.values())
    plain, kept = (read_folios(process.pid, frames=given).vmas for given in (None, frames))
    equal = [(a.sums, b.sums) for a, b in zip(plain, kept, strict=True) if a.vma.start in own]
    assert len(equal) == len(own)
    assert [set(a) for a, _ in equal] == [set(b) for _, b in equal]


@pytest.mark.root
def test_shared_is_kpagecount_above_one(process: Process) -> None:
    """Page for page, SHARED is what kpagecount says."""
    vma = process.of(read_folios(process.pid), "small").vma
    for run in runs_of(process.pid, vma):
        for page in range(run.start, run.end, 5):
            frame = slow_folios.word(f"/proc/{process.pid}/pagemap", page) & ((1 << 55) - 1)
            assert bool(run.kind & Kind.SHARED) == (slow_folios.word("/proc/kpagecount", frame) > 1)


@pytest.mark.root
def test_what_could_be_contiguous_ptes(process: Process) -> None:
    """On a machine with runs of 16 PTEs, blocks of 64 KiB that lie in one folio, aligned, count; smaller folios never.
    Asked for on this machine too: the rule is arithmetic."""
    found = read_folios(process.pid, cont=16)
    for name in ("small", "sparse"):
        assert process.of(found, name).mapped()[Mapped.CONTPTE] == 0
    file = process.of(found, "file")
    large = sum(size for order, size in file.orders().items() if order >= 4)
    assert file.mapped()[Mapped.CONTPTE] + file.mapped()[Mapped.PMD] == large
    assert sum(file.mapped().values()) == file.rss
    askew = process.of(found, "askew")
    assert (askew.mapped()[Mapped.CONTPTE], askew.orders()) == (0, file.orders())


@pytest.mark.root
def test_a_huge_folio_that_a_mapping_sees_a_part_of(process: Process) -> None:
    """A folio's order is its own where a mapping has only its middle, and it counts as one."""
    found = read_folios(process.pid)
    vma = process.of(found, "huge").vma
    if 9 not in process.of(found, "huge").orders():
        pytest.skip("no huge page was given: transparent huge pages are switched off, or memory is in pieces")
    run = next(run for run in runs_of(process.pid, vma) if run.order == 9)
    start = (run.start + 3) * PAGE
    part = type(vma)(type(vma.start)(start), type(vma.end)(start + 5 * PAGE), vma.flags)
    assert [(run.pages, run.order, run.folios) for run in runs_of(process.pid, part)] == [(5, 9, 1)]


AS_NOBODY = """
import ctypes, mmap, os, sys
from elfolio.live.folios import read_folios
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
with mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(0, 1 << 20, 4096):
        memory[page] = 1
    for page in range(1 << 20, 2 << 20, 4096):
        memory[page]
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    found = read_folios(os.getpid())
    one = next(one for one in found.vmas if one.vma.start <= address < one.vma.end)
    print(one.rss >> 20, one.anonymous >> 20, one.zero >> 20, one.orders(), one.pss == one.rss, found.hidden[:27])
    os._exit(0) if sys.stdout.flush() is None else None
"""


@pytest.mark.root
def test_without_privilege(process: Process) -> None:
    """One's own process: what is there and of what sort is told, orders are not; another's is refused."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", AS_NOBODY]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"1 1 1 {{{UNSEEN}: {M}}} True the orders of folios below")


def test_one_s_own_process_is_seen() -> None:
    """Without any privilege the sums come to smaps' Rss and Anonymous in a mapping that nobody touches."""
    fd = os.memfd_create("own")
    os.ftruncate(fd, 4 * M)
    with mmap.mmap(fd, 4 * M, mmap.MAP_PRIVATE) as memory:
        os.close(fd)
        for page in range(0, 2 * M, PAGE):
            memory[page] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        found = read_folios(os.getpid())
        truth = smaps(os.getpid())[address]
    one = next(one for one in found.vmas if one.vma.start == address)
    assert (one.rss, one.anonymous) == (truth["Rss"], truth["Anonymous"]) == (2 * M, 2 * M)


def test_a_process_that_is_gone() -> None:
    """ProcessLookupError, whether before or while its mappings are read."""
    with pytest.raises(ProcessLookupError):
        read_folios(2**22 + 1)
    with pytest.raises(ProcessLookupError):
        read_folios(2**22 + 1, [])


def test_an_empty_list_of_mappings() -> None:
    """Nothing asked, nothing read."""
    assert read_folios(os.getpid(), []).vmas == ()
