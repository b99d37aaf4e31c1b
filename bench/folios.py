"""How long a look at a file's folios takes, beside what it cannot do without: a touch of each page through a mapping.

Run as root: python bench/folios.py [GIB] [DIRECTORY]
"""

import mmap
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable

from elfolio.live.cached import CachedFile, look

G = 1 << 30


def main(words: list[str]) -> int:
    """Files written in small and in huge pieces, looked at five times each."""
    size = int(words[0]) * G if words else 4 * G
    directory = words[1] if len(words) > 1 else "/var/tmp"
    for piece in (4 << 10, 2 << 20):
        with tempfile.TemporaryFile(dir=directory) as file:
            block = b"\x01" * piece
            for _ in range(size // piece):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            times = [timed(lambda: look(file.fileno())) for _ in range(5)]
            found = times[0][2]
            touched = min(timed(lambda: touch(file.fileno(), size))[0] for _ in range(3))
        wall, cpu = min(one[0] for one in times), min(one[1] for one in times)
        gib = (found.cached or 0) / G
        print(
            f"{gib:.2f} GiB written in pieces of {piece >> 10} KiB: {wall:.3f} s, {cpu:.3f} s of CPU; "
            f"a touch of each page {touched:.3f} s; {len(found.runs or ())} runs, folios by order {found.folios}"
        )
    print(f"largest resident size {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB, mapped files in it")
    return 0


def timed(work: "Callable[[], CachedFile]") -> tuple[float, float, CachedFile]:
    """Wall and processor time in seconds, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def touch(fd: int, size: int) -> CachedFile:
    """What any reader of mapped files pays."""
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as memory:
        sum(memory[page] for page in range(0, size, mmap.PAGESIZE))
    return look(fd, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
