"""live.folios against thpmaps, the kernel's own script for the same files, as Debian's kernel source has it."""

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfolio.kernel.folio import Kind
from elfolio.live.folios import Mapped, VmaFolios, read_folios
from tests.live.sorts import Process, process_of_all_sorts

MEND = "to force: apt-get install python3-numpy linux-source-6.12 (bookworm-backports), then pytest -m slow"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the newest source that has it (6.9): it is GPL, and no part of this project."""
    numpy = subprocess.run(["/usr/bin/python3", "-c", "import numpy"], capture_output=True, check=False)
    if numpy.returncode:
        pytest.skip(f"needs numpy for /usr/bin/python3; {MEND}")
    out = tmp_path_factory.mktemp("thpmaps") / "thpmaps"
    for source in sorted(Path("/usr/src").glob("linux-source-*.tar.xz"), reverse=True):
        with tarfile.open(source, "r|xz") as archive:
            for member in archive:
                if member.name.endswith("/tools/mm/thpmaps"):
                    taken = archive.extractfile(member)
                    assert taken is not None
                    with open(out, "wb") as file:
                        shutil.copyfileobj(taken, file)
                    return out
    pytest.skip(f"needs the kernel's source with tools/mm/thpmaps; {MEND}")


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """Stopped."""
    with process_of_all_sorts() as found:
        yield found


def as_said(script: Path, pid: int) -> dict[int, dict[str, int]]:
    """thpmaps' numbers in bytes, by a mapping's start."""
    words = ["/usr/bin/python3", str(script), "--pid", str(pid), "--cont", "64K", "--inc-empty"]
    found: dict[int, dict[str, int]] = {}
    for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines():
        if head := re.match(r"\d+: ([0-9a-f]+)-", line):
            items = found.setdefault(int(head[1], 16), {})
        elif item := re.match(r"([\w-]+): +(\d+) kB", line):
            items[item[1]] = int(item[2]) * 1024
    return found


def by_order(said: dict[str, int]) -> dict[int, int]:
    """Bytes in folios that are mapped whole, by order from 2 on: smaller ones it does not list."""
    found: dict[int, int] = {}
    for name, count in said.items():
        size = re.fullmatch(r"\w+-thp-(?:pmd|pte)-(?:un)?aligned-(\d+)kB", name)
        if size and count:
            order = (int(size[1]) // 4).bit_length() - 1
            found[order] = found.get(order, 0) + count
    return found


def large(one: VmaFolios) -> dict[int, int]:
    return {order: count for order, count in one.orders().items() if order >= 2}


@pytest.mark.root
@pytest.mark.slow
def test_the_numbers_are_thpmaps_s(script: Path, process: Process) -> None:
    """In every mapping: bytes mapped by PMDs, bytes in blocks of 64 KiB that could be contiguous PTEs, anonymous and of
    files; and by order all that is in large folios, where those are mapped whole."""
    truth = as_said(script, process.pid)
    whole = 0
    for one in read_folios(process.pid, cont=16).vmas:
        if one.vma.name == "[vsyscall]" or not one.rss:
            continue  # it lists no numbers of what is not there
        said = truth[one.vma.start]
        for name, kind in (("anon", Kind.ANON), ("file", Kind.FILE)):
            for by, flag in (("pmd", Kind.PMD), ("pte", Kind.CONTPTE)):
                mine = sum(s.pages for s in one.sums if s.kind & kind and s.kind & flag) * one.page
                assert mine == said[f"{name}-cont-{by}-aligned-64kB"], (one.vma.name, name, by)
        partial = said["anon-thp-pte-partial"] + said["file-thp-pte-partial"]
        mine_large, theirs = large(one), by_order(said)
        assert all(mine_large.get(order, 0) >= count for order, count in theirs.items())
        assert 0 <= sum(mine_large.values()) - sum(theirs.values()) <= partial
        if not partial:
            assert mine_large == theirs
            whole += sum(theirs.values())
    assert whole >= 2 << 20
    assert sum(one.mapped()[Mapped.PMD] for one in read_folios(process.pid).vmas) > 0
