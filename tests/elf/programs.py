"""Real files for the reader's tests: the machine's own, and those that its compiler and linkers make."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/lib")
SOURCE = (
    "int printf(const char *, ...); __thread int t = 4; int w = 1; int *const p = &w; int main(void) { return t + 3; }"
)
RUNS = 7
"""What `main` of SOURCE returns."""


def need(tool: str) -> None:
    """Skips the test where a tool is missing."""
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}; to force: apt-get install gcc binutils, or lld, mold")


def build(out: Path, *options: str, source: str = SOURCE) -> Path:
    """A program made of `source` by gcc with these options."""
    need("gcc")
    subprocess.run(
        ["gcc", "-w", "-x", "c", "-", "-o", out, *options], input=source.encode(), check=True, capture_output=True
    )
    return out


def installed() -> Iterator[str]:
    """Every ELF file of the machine's own, each once, in a fixed order."""
    seen = set()
    for folder in FOLDERS:
        for parent, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(parent, name)
                try:
                    facts = os.lstat(path)
                    if (facts.st_dev, facts.st_ino) in seen or not _is_elf(path):
                        continue
                except OSError:
                    continue
                seen.add((facts.st_dev, facts.st_ino))
                yield path


def _is_elf(path: str) -> bool:
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


@functools.cache
def some_installed(count: int = 40) -> tuple[str, ...]:
    """`count` of the installed files, spread evenly over the first folder's programs and the libraries beside libc."""
    libc = Path(os.__file__).resolve().parent
    folders = ["/usr/bin", *(str(p) for p in Path("/usr/lib").glob("*-linux-gnu*")), str(libc)]
    paths = [f"{f}/{name}" for f in folders if os.path.isdir(f) for name in sorted(os.listdir(f))]
    found = [p for p in paths if os.access(p, os.R_OK) and _is_elf(p) and os.path.getsize(p) < 20_000_000]
    return tuple(found[:: max(1, len(found) // count)])
