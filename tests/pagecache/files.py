"""Files for the tests of the page cache: copied as cp does it, held mapped, linked. In: paths. Out: files."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from elfolio.live.counters import free_by_order
from elfolio.pagecache.load_compare import drop_file
from elfolio.pagecache.probe import probe

K, M = 1 << 10, 1 << 20
HUGE = 2 * M
_ORDER, _ENOUGH = 9, 64
"""Of a block of 2 MiB; free ones with which a few more are had at once, whatever others take meanwhile."""


def need_huge_folios(folder: Path) -> None:
    """Skips where the file system gives none, or memory has hardly any now."""
    free = free_by_order() or {}
    blocks = sum(count << order for order, count in free.items() if order >= _ORDER) >> _ORDER
    if blocks < _ENOUGH:
        pytest.skip(
            f"{blocks} free blocks of 2 MiB: too few to ask for them; to force: echo 1 > /proc/sys/vm/compact_memory"
        )
    if _largest(os.stat(folder).st_dev, folder) < HUGE:
        pytest.skip(
            f"{folder}: no folio of 2 MiB was to be had: try ext4 from Linux 6.16, or xfs; --basetemp chooses it"
        )


def need_cold(path: Path) -> None:
    """Drops the file from the page cache; skips where it stays."""
    if stayed := drop_file(str(path)):
        pytest.skip(f"{path}: {stayed} bytes of it stay in memory, as on tmpfs; --basetemp chooses another file system")


@cache
def _largest(device: int, folder: Path) -> int:
    return probe(folder).largest or 0


def small_folios(path: Path, size: int, seed: int = 1) -> bytes:
    """A file written in pieces of 64 KiB, as cp and package managers do, and so in folios of that size; and on the
    disk. Its contents."""
    data = random.Random(seed).randbytes(64 * K) * (size // (64 * K) + 1)
    with path.open("wb", 0) as file:
        for at in range(0, size, 64 * K):
            file.write(data[at : min(size, at + 64 * K)])
        os.fsync(file.fileno())
    return data[:size]


HOLD = """
import mmap, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
file.close()
mapped.madvise(mmap.MADV_RANDOM)
total = sum(mapped[int(at)] for at in sys.argv[2:])
print("mapped", flush=True)
sys.stdin.read()
print(mapped[0], flush=True)
"""


@contextmanager
def mapped_at(path: Path, *offsets: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has pages of the file mapped, until the context ends."""
    words = [sys.executable, "-c", HOLD, str(path), *map(str, offsets)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "mapped\n"
            yield process
        finally:
            process.kill()


PROGRAM = """
#include <stdio.h>
#include <string.h>
asm(".section .text.big,\\"ax\\",@progbits\\n.balign 4096\\n.globl big, big_end\\n"
    "big: .fill %d, 1, 0x90\\nbig_end: ret\\n.text");
extern const volatile char big[], big_end[];
int main(int argc, char **argv) {
  static char line[4096];
  unsigned long sum = 0, kb, total = 0;
  for (const volatile char *at = big; at < big_end; at += 4096) sum += *at;
  FILE *smaps = fopen("/proc/self/smaps", "r");
  while (fgets(line, sizeof line, smaps))
    if (sscanf(line, "FilePmdMapped: %%lu", &kb) == 1 || sscanf(line, "ShmemPmdMapped: %%lu", &kb) == 1) total += kb;
  printf("%%lu\\n", total >> 11);
  fflush(stdout);
  if (argc > 1) getchar();
  return sum == 0;
}
"""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc; to force: apt-get install gcc")


def program(path: Path, text: int, *options: str) -> None:
    """A program with `text` bytes of code, which reads all of it and prints how many huge pages its files' mappings
    are on. Written by the linker, and then as cp does it."""
    linked = path.with_name(f"{path.name}.linked")
    words = ["gcc", "-x", "c", "-", "-x", "none", "-o", str(linked), "-Wl,-z,noseparate-code", *options]
    subprocess.run(words, input=PROGRAM % text, text=True, check=True, capture_output=True, timeout=60)
    with linked.open("rb") as source, path.open("wb", 0) as copy:
        while piece := source.read(64 * K):
            copy.write(piece)
        os.fsync(copy.fileno())
    linked.unlink()
    path.chmod(0o755)


def huge_pages_when_run(path: Path) -> int:
    """What such a program prints."""
    return int(subprocess.run([path], check=True, capture_output=True, text=True).stdout)


@contextmanager
def running(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Such a program, which has read all of its code, and waits until the context ends."""
    with subprocess.Popen([path, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()
