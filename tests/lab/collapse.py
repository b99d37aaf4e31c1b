"""tests.lab.collapse: what a kernel with READ_ONLY_THP_FOR_FS collapses, to be run on it. Out: one JSON object.

A program of its own, without pytest: what should be is for the tests to judge.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from elfolio.kernel.blocks import blocks
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import OpenFile, Vma, VmFlags
from elfolio.live.cached import look
from elfolio.live.host import policy_here
from elfolio.pagecache.warm import warm
from elfolio.pagecache.window import Window, drop
from elfolio.span import FileOffset, MappedAddress, Span

M = 1 << 20
HUGE = 2 * M
SIZE = 4 * M
KHUGEPAGED = Path("/sys/kernel/mm/transparent_hugepage/khugepaged")


def cold(path: Path) -> int:
    """The file, written as cp does it, and dropped. Its descriptor."""
    path.unlink(missing_ok=True)
    with path.open("wb", 0) as file:
        for at in range(SIZE >> 16):
            file.write(bytes([at]) * 65536)
        os.fsync(file.fileno())
    fd = os.open(path, os.O_RDONLY)
    drop(fd, [Span(0, SIZE)])
    return fd


def predicted(path: Path, *, executable: bool, writer: bool) -> list[str]:
    """What the model says of each block of a mapping: how it becomes huge, or what bars it."""
    policy: Policy = replace(policy_here(str(path)), read_only_thp=True)
    flags = VmFlags.READ | (VmFlags.EXEC if executable else VmFlags(0))
    vma = Vma(MappedAddress(16 * M), MappedAddress(16 * M + SIZE), flags, OpenFile(str(path)), FileOffset(0), str(path))
    found = blocks(vma, policy, HUGE, file_size=SIZE, linked_skew=0, open_for_writing=writer)
    return [block.obstacle.value or block.way.value for block in found]


def collapsed(path: Path, *, executable: bool, writer: bool) -> dict[str, object]:
    """One mapping, MADV_COLLAPSE, and what came of it."""
    fd = cold(path)
    writing = os.open(path, os.O_WRONLY) if writer else -1
    try:
        with Window(fd, SIZE, HUGE, executable=executable) as window:
            window.read(Span(0, SIZE).blocks(4096))
            number = window.collapse(Span(0, SIZE).blocks(HUGE))
        return {"errno": number, "huge": huge(fd), "predicted": predicted(path, executable=executable, writer=writer)}
    finally:
        os.close(fd)
        if writer:
            os.close(writing)


def huge(fd: int) -> int:
    """Huge folios in the page cache."""
    return look(fd).orders().get(9, 0) // HUGE


def by_khugepaged(path: Path, *, writer: bool) -> dict[str, object]:
    """A mapping with MADV_HUGEPAGE, and khugepaged that scans without pause; its settings are put back."""
    hurried = {"scan_sleep_millisecs": "10", "pages_to_scan": "65536", "alloc_sleep_millisecs": "10"}
    before = {name: (KHUGEPAGED / name).read_text() for name in hurried}
    fd = cold(path)
    writing = os.open(path, os.O_WRONLY) if writer else -1
    try:
        with Window(fd, SIZE, HUGE, executable=True) as window:
            for _ in range(2):
                window.read(Span(0, SIZE).blocks(4096))
            at_once = huge(fd)
            for name, value in hurried.items():
                (KHUGEPAGED / name).write_text(value)
            waited = wait(lambda: huge(fd) == SIZE // HUGE, 20 if writer else 120)
        return {"at once": at_once, "later": huge(fd), "waited": waited}
    finally:
        for name, value in before.items():
            (KHUGEPAGED / name).write_text(value)
        os.close(fd)
        if writer:
            os.close(writing)


def wait(done: Callable[[], bool], seconds: float) -> float:
    """Until it is done, at most so long."""
    began = time.monotonic()
    while not done() and time.monotonic() - began < seconds:
        time.sleep(0.2)
    return time.monotonic() - began


def warmed(path: Path) -> dict[str, object]:
    """By the command's own way, while a process has the file mapped; and what a writer makes of it afterwards."""
    fd = cold(path)
    with Window(fd, SIZE, HUGE) as window:
        window.read(Span(0, SIZE).blocks(4096))
        found = warm(str(path))
    had = huge(fd)
    os.close(os.open(path, os.O_WRONLY))
    after = huge(fd)
    os.close(fd)
    intact = path.read_bytes() == b"".join(bytes([at]) * 65536 for at in range(SIZE >> 16))
    return {
        "outcome": found.outcome.value, "had": found.had, "has": found.has, "wanted": found.wanted, "huge": had,
        "after a writer": after, "intact": intact,
    }  # fmt: skip


def seen(folder: Path) -> dict[str, object]:
    """On an ext4 in an image: without large folios, before Linux 6.16."""
    path = folder / "file"
    cases = {
        f"{'r-x' if executable else 'r--'}{' writer' if writer else ''}": collapsed(
            path, executable=executable, writer=writer
        )
        for executable in (True, False)
        for writer in (False, True)
    }
    return {
        "collapse": cases,
        "khugepaged": {"alone": by_khugepaged(path, writer=False), "writer": by_khugepaged(path, writer=True)},
        "warm": warmed(path),
    }


def main() -> None:
    """Everything, on a mount that goes with it."""
    with tempfile.TemporaryDirectory() as name:
        image, point = Path(name, "image"), Path(name, "mounted")
        point.mkdir()
        with image.open("wb") as file:
            file.truncate(64 * M)
        subprocess.run(["/sbin/mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-t", "ext4", "-o", "loop", image, point], check=True)
        try:
            print(json.dumps(seen(point)))
        finally:
            subprocess.run(["umount", point], check=True)


if __name__ == "__main__":
    main()
