"""The address-space model against the running kernel, for programs of 32 bits on a 64-bit kernel."""

import os
import platform
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfolio.kernel.calls import Brk, Mmap, Mprotect, Mremap, Munmap, Operation, Touch
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm
from elfolio.kernel.model import apply
from elfolio.kernel.space import OpenFile
from tests.kernel.oracle import Live, build_driver, host_policy, shown_model, twin

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="i386 programs; to force: run on x86-64")

_P, _HUGE = 4096, 2 << 20
_A = 0x40000000
_PRIVATE, _ANON, _FIXED, _32BIT, _NORESERVE = 0x2, 0x20, 0x10, 0x40, 0x4000
_I386 = {"mmap": 192, "mprotect": 125, "munmap": 91, "brk": 45, "mremap": 163, "prctl": 172}  # mmap2, in pages
_PT_GNU_STACK = 0x6474E551


class Live32(Live):
    """A driver of 32 bits."""

    bits = 32
    numbers = _I386

    def apply(self, operation: Operation) -> int:
        """As Oracle."""
        if isinstance(operation, Mmap):
            operation = operation._replace(offset=operation.offset // _P)
        return super().apply(operation)


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A driver with PT_GNU_STACK, and one without, which i386 takes for a program that executes all that it reads."""
    folder = tmp_path_factory.mktemp("compat")
    headers = f"/usr/include/{platform.machine()}-linux-gnu"  # asm/, which -m32 does not look for there
    plain = build_driver(folder, "-m32", "-Wno-int-to-pointer-cast", "-idirafter", headers)
    data = bytearray(plain.read_bytes())
    start, size, count = struct.unpack_from("<I", data, 28)[0], *struct.unpack_from("<HH", data, 42)
    for at in range(start, start + size * count, size):
        if struct.unpack_from("<I", data, at)[0] == _PT_GNU_STACK:
            struct.pack_into("<I", data, at, 0)
    executing = folder / "executing"
    executing.write_bytes(data)
    executing.chmod(0o755)
    return plain, executing


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Mappable, int]]:
    """A file of 8 MiB, whose file system may align what is mapped of it, and its descriptor."""
    path = tmp_path / "file"
    path.write_bytes(bytes(8 << 20))
    fd = os.open(path, os.O_RDONLY)
    yield (
        Mappable(OpenFile(str(path), os.fstat(fd).st_ino), 8 << 20, fs=host_policy(str(path)).fs.name, writable=False),
        fd,
    )
    os.close(fd)


def _operation(r: random.Random, mm: Mm, file: Mappable) -> Operation:
    inside = _A + r.randrange(32) * _P
    edges = [area.start for area in mm.areas if area.special is None and not area.flags & 0x100][3:]
    address = r.choice(edges) if edges and r.random() < 0.5 else inside
    size = r.choice((1, _P, 2 * _P, 5 * _P, 8 * _P))
    large = r.choice((_HUGE, 2 * _HUGE, 3 * _HUGE + _P, _HUGE - _P))
    prot = r.choice((0, 1, 3, 3, 3, 5, 7))
    more = r.choice((0, 0, _32BIT, _NORESERVE))
    match r.randrange(12):
        case 0:
            return Mmap(r.choice((0, address, address + 1)), size, prot, _PRIVATE | _ANON | more)
        case 1:
            return Mmap(r.choice((0, 0, address)), large, prot, _PRIVATE | _ANON | more)
        case 2:
            return Mmap(0, large, prot & 5, _PRIVATE | more, file, r.choice((0, _P, _HUGE)))
        case 3 | 4:
            return Mmap(inside, size, prot, _PRIVATE | _ANON | _FIXED)
        case 5:
            return Mmap(inside, size, prot, _PRIVATE | _FIXED, file, inside - _A)
        case 6:
            return Munmap(inside, size)
        case 7:
            return Mprotect(inside, size, prot)
        case 8:
            return Mremap(inside, size, r.choice((size, large)), 1)
        case 9:
            return Brk(mm.brk + (r.randrange(9) - 4) * _P)
        case 10:
            return Touch(inside, size, r.random() < 0.7)
        case _:
            # Beyond TASK_SIZE, or in the way of everything: the last resort is the search upwards.
            return Mmap(r.choice((0, 0xFFFFE000)), r.choice((0x60000000, 0xE0000000)), 0, _PRIVATE | _ANON | _NORESERVE)


@pytest.mark.parametrize("executing", [False, True], ids=["PT_GNU_STACK", "READ_IMPLIES_EXEC"])
def test_32_bits(drivers: tuple[Path, Path], file: tuple[Mappable, int], *, executing: bool) -> None:
    """Six hundred operations, some of them of 2 MiB and more, with MAP_32BIT, and beyond what 32 bits have: each gives
    what the running kernel gives, and leaves the same mappings; so it is where all that is readable is executable."""
    mappable, fd = file
    done = 0
    for seed in range(6):
        r = random.Random(seed)
        log: list[Operation] = []
        with Live32(drivers[executing], {mappable: fd}) as live:
            mm = twin(live)
            mm.read_implies_exec = executing
            for _ in range(100):
                operation = _operation(r, mm, mappable)
                log.append(operation)
                assert live.apply(operation) == apply(mm, operation), log
                real, shown = set(live.shown()), set(shown_model(mm))
                assert real == shown, (log, "only live", real - shown, "only model", shown - real)
                done += 1
    assert done == 600
