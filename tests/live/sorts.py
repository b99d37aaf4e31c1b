"""A process with mappings of every sort: anonymous, huge, zero, file, copied, tmpfs, shared with a child, scattered."""

import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elfolio.live.folios import ProcessFolios, VmaFolios

PAGE = mmap.PAGESIZE
M = 1 << 20

CHILD = r"""
import ctypes, mmap, os, sys
M = 1 << 20
name = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PRIVATE, SHARED, ANONYMOUS, READ, WRITE = 2, 1, 0x20, 1, 3

def here(size, prot, flags, fd=-1, touched=True, advice=None):
    room = libc.mmap(None, size + 4 * M, 0, PRIVATE | ANONYMOUS, -1, 0)
    at = (room + 2 * M - 1) // (2 * M) * 2 * M
    assert libc.mmap(at, size, prot, flags | 0x10, fd, 0) == at
    if advice is not None:
        libc.madvise(at, size, advice)
    for page in range(at, at + size, 4096) if touched else ():
        if prot == WRITE:
            ctypes.memset(page, 7, 1)
        else:
            ctypes.string_at(page, 1)
    return at

made = {}
made["small"] = here(M, WRITE, PRIVATE | ANONYMOUS, advice=15)
made["huge"] = here(4 * M, WRITE, PRIVATE | ANONYMOUS, advice=14)
made["zero"] = here(M, READ, PRIVATE | ANONYMOUS, advice=15)
made["untouched"] = here(64 * M, WRITE, PRIVATE | ANONYMOUS, touched=False)
fd = os.open(name, os.O_RDWR)
made["file"] = here(4 * M, READ, PRIVATE, fd)
made["copied"] = here(2 * M, WRITE, PRIVATE, fd)
memory = os.memfd_create("folios")
os.ftruncate(memory, 2 * M)
made["shmem"] = here(2 * M, WRITE, SHARED, memory)
made["partial"] = here(4 * M, WRITE, PRIVATE | ANONYMOUS, advice=14)
libc.munmap(ctypes.c_void_p(made["partial"] + 300 * 1024), ctypes.c_size_t(40 * 1024))
room = libc.mmap(None, 8 * M, 0, PRIVATE | ANONYMOUS, -1, 0)
made["askew"] = room + 3 * 4096  # no folio of the file lies at a multiple of its size
assert libc.mmap(made["askew"], 4 * M, READ, PRIVATE | 0x10, fd, 0) == made["askew"]
for page in range(made["askew"], made["askew"] + 4 * M, 4096):
    ctypes.string_at(page, 1)
made["sparse"] = here(8 * M, WRITE, PRIVATE | ANONYMOUS, touched=False, advice=15)
for page in range(0, 8 * M, 64 * 4096):
    ctypes.memset(made["sparse"] + page, 1, 1)
if os.fork() == 0:  # what both have is shared
    import signal
    ctypes.CDLL(None).prctl(1, 9)
    signal.pause()
ctypes.memset(made["small"], 1, M // 2)
print(*(f"{key}={value:x}" for key, value in made.items()), flush=True)
import signal
signal.pause()
"""


def smaps(pid: int) -> dict[int, dict[str, int]]:
    """smaps' numbers in bytes, by a mapping's start."""
    found: dict[int, dict[str, int]] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-[0-9a-f]+ ", line):
            items = found.setdefault(int(head[1], 16), {})
        elif item := re.match(r"(\w+): +(\d+) kB", line):
            items[item[1]] = int(item[2]) * 1024
    return found


class Process:
    """A child with mappings of every sort, which touches none of them any more."""

    def __init__(self, pid: int, made: dict[str, int]) -> None:
        self.pid = pid
        self.made = made

    def of(self, found: ProcessFolios, name: str) -> VmaFolios:
        """The mapping of that name."""
        return next(one for one in found.vmas if one.vma.start <= self.made[name] < one.vma.end)


@contextmanager
def process_of_all_sorts() -> Iterator[Process]:
    """Stopped, so that nothing changes; killed behind."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        for _ in range(2):
            file.write(b"\x11" * 2 * M)
        os.fsync(file.fileno())
        words = [sys.executable, "-c", CHILD, file.name]
        # A sanitizer's terabytes of shadow would take older kernels minutes.
        environment = os.environ | {"LD_PRELOAD": ""}
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
        ) as child:
            assert child.stdout is not None
            try:
                line = child.stdout.readline()
                os.killpg(child.pid, signal.SIGSTOP)
                while set(states(child.pid)) != {"T"}:
                    time.sleep(0.01)
                yield Process(child.pid, {k: int(v, 16) for k, _, v in (word.partition("=") for word in line.split())})
            finally:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def states(pid: int) -> Iterator[str]:
    """Of a process and its children, as /proc/PID/stat has them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (str(pid), *children):
        yield Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0]
