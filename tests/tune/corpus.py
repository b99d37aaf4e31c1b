"""tests.tune.corpus: this machine's own files for the rewriter. In: how many. Out: paths, spread evenly over them.

Executables are those of the search path's folders and of the programs that those start; shared objects are those of
the loader's folders and of Python. Each inode is named once, in a fixed order; the largest are left out for the time
that a dozen tools take over them.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("/usr/bin", "/usr/sbin", "/usr/lib/git-core", "/usr/libexec", "/usr/lib/gcc", "/usr/lib/postgresql")
LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib/python3", "/usr/lib/python3.11")
LARGEST = 24 << 20
ALWAYS = ("/usr/bin/git", "/usr/bin/bash", "/usr/bin/python3.11", "/usr/bin/gdb", "/usr/bin/perf")
"""Large text, or much used: tried whatever the sample is."""


def executables(count: int, largest: int = LARGEST) -> list[Path]:
    """At most `count` programs, none larger than `largest` bytes."""
    return _spread([path for path, kind, size in _every(PROGRAMS) if kind == "program" and size <= largest], count)


def shared_objects(count: int, largest: int = LARGEST) -> list[Path]:
    """At most `count` libraries and modules, none larger than `largest` bytes."""
    return _spread([path for path, kind, size in _every(LIBRARIES) if kind == "library" and size <= largest], count)


def kernel_modules(count: int) -> list[Path]:
    """At most `count`, uncompressed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elfolio-lab"
    found = (p for root in (Path("/lib/modules"), cache) if root.is_dir() for p in sorted(root.rglob("*.ko")))
    return _spread(list(found), count)


def _spread(found: list[Path], count: int) -> list[Path]:
    first = [path for path in found if str(path) in ALWAYS][:count]
    others = [path for path in found if path not in first]
    wanted = count - len(first)
    step = max(1.0, len(others) / wanted) if wanted else 0
    return sorted(first + [others[int(i * step)] for i in range(min(wanted, len(others)))])


@functools.cache
def _every(folders: tuple[str, ...]) -> tuple[tuple[Path, str, int], ...]:
    return tuple(_walk(folders))


def _walk(folders: tuple[str, ...]) -> Iterator[tuple[Path, str, int]]:
    seen = set()
    for folder in folders:
        for where, inner, names in os.walk(folder):
            inner.sort()
            for path in (Path(where, name) for name in sorted(names)):
                facts = path.lstat()
                if path.is_symlink() or not path.is_file() or facts.st_size > LARGEST or facts.st_ino in seen:
                    continue
                seen.add(facts.st_ino)
                kind = _kind(path)
                if kind:
                    yield path, kind, facts.st_size


def _kind(path: Path) -> str:
    """By what the file says: a name may say anything, and libraries may have an interpreter too."""
    with path.open("rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF":
        return ""
    kind = int.from_bytes(head[16:18], "little" if head[5] == 1 else "big")
    named = ".so" in path.name
    if kind == 3 and named:
        return "library"
    return "program" if kind in (2, 3) and not named and os.access(path, os.X_OK) else ""
