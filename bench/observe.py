"""How long a look at a process with much mapped takes, and how much memory: `elfolio observe --json`, and its parts.

A file of 1 GiB is mapped so often that it comes to the size asked for: page tables are as large as those of so much
memory, and the machine need not have it.

Run as root: python bench/observe.py [GIB] [DIRECTORY]
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from elfolio.kernel.space import Vma
from elfolio.live.backed import Files
from elfolio.live.folios import read_folios
from elfolio.live.host import policy_here
from elfolio.live.observed import observe
from elfolio.live.vmas import read_memory

G = 1 << 30
CHILD = """
import mmap, sys, time
fd, count = int(sys.argv[1]), int(sys.argv[2])
made = [mmap.mmap(fd, 1 << 30, prot=mmap.PROT_READ) for _ in range(count)]
for one in made:
    sum(one[at] for at in range(0, 1 << 30, mmap.PAGESIZE))
print("ready", flush=True)
sys.stdin.read()
"""


def main(words: list[str]) -> int:
    """The same file in small folios and in huge ones."""
    count = int(words[0]) if words else 20
    directory = words[1] if len(words) > 1 else "/var/tmp"
    for piece in (4 << 10, 2 << 20):
        with tempfile.TemporaryFile(dir=directory) as file:
            block = b"\x01" * piece
            for _ in range(G // piece):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            measure(file.fileno(), count, piece)
    print(f"largest resident size {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB of this process")
    return 0


def measure(fd: int, count: int, piece: int) -> None:
    """One process, looked at five times."""
    words = [sys.executable, "-c", CHILD, str(fd), str(count)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[fd]) as child:
        assert child.stdout is not None
        child.stdout.readline()
        whole = [timed(lambda: observe(child.pid, Files(policy_here()))) for _ in range(5)]
        smaps = min(timed(lambda: read_memory(child.pid))[1] for _ in range(3))
        vmas: list[Vma] = [use.vma for use in read_memory(child.pid).uses]
        folios = min(timed(lambda: read_folios(child.pid, vmas))[1] for _ in range(3))
        command = [sys.executable, "-m", "elfolio", "observe", "--json", str(child.pid)]
        runs = [timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(3)]
        child.kill()
    wall, cpu = (min(one[at] for one in whole) for at in (0, 1))
    print(
        f"{count} GiB mapped, written in pieces of {piece >> 10} KiB: {wall:.2f} s, {cpu:.2f} s of CPU (smaps "
        f"{smaps:.2f}, folios {folios:.2f}); the whole command {min(one[0] for one in runs):.2f} s"
    )


def timed(work: "Callable[[], object]") -> tuple[float, float]:
    """Wall and processor time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
