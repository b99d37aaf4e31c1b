"""Differences between the model and the running kernel that random operations found, each as a short sequence.

What each was about stands beside it. The model and the kernel do the same operations, and are compared after each.
"""

import os
from pathlib import Path

import pytest

from elfolio.kernel.abi import ADVICE
from elfolio.kernel.calls import (
    Brk,
    Madvise,
    Mlock,
    Mlockall,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    Operation,
    Prctl,
    Touch,
    UffdRegister,
    UffdUnregister,
)
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.model import apply
from elfolio.kernel.space import OpenFile
from tests.kernel.oracle import Live, open_file, shown_model, twin

pytestmark = pytest.mark.skipif(os.sysconf("SC_PAGESIZE") != 4096, reason="the sequences count in pages of 4 KiB")

_P, _A = 4096, 1 << 40
_HUGE = 2 << 20
_TOP = (1 << 64) - 1
_FORK = "fork"
_FIXED, _ANON, _PRIVATE = 0x32, 0x22, 0x12
MEMFD = Mappable(OpenFile("/memfd:found (deleted)", opening=1), 10 * _P, "shmem", "tmpfs")
_BELOW_VDSO = 0x7FFFF7FF7000
"""Where the driver's [vvar] begins with the sizes of 6.18 on x86-64; elsewhere the sequence only does less."""

FOUND: dict[str, list[Operation | str]] = {
    "an address among the highest 4095 is taken for an errno": [Mmap(_TOP, 1, 2, 0x30), Mmap(_TOP - 4094, 1, 2, 0x30)],
    "MAP_HUGETLB that fails for want of pages has emptied its range": [
        Mmap(_A, 5 * _P, 3, _FIXED),
        Mmap(_A + 8 * _P, _P, 1, _FIXED),
        Mmap(_A, 1, 1, _FIXED | 0x40000),
    ],
    "MDWE comes before huge pages": [Prctl(65, 1), Mmap(0, 3 * _P, 7, _ANON | 0x40000)],
    "a part of a special mapping cannot be unmapped": [Munmap(_BELOW_VDSO, 1)],
    "nor moved": [Mmap(0, 3 * _P, 1, _ANON), Mremap(_BELOW_VDSO - 3 * _P, 5 * _P, 5 * _P, 3, _A)],
    "a length that wraps round overlaps nothing": [Mremap(_A + 40 * _P, (1 << 64) - _P, 8 * _P, 3, _A + 47 * _P)],
    "a range to unmap that leaves the address space is wrong as a whole": [
        Mmap(_A, 8 * _P, 5, _FIXED),
        Mremap(_A, 1 << 63, 2 * _P, 3, _A + 20 * _P),
    ],
    "a break that wraps round": [Brk(_TOP), Brk(1 << 63)],
    "a copy that touches its unfaulted source merges into it": [
        Mmap(_A, 5 * _P, 1, _FIXED),
        Mremap(_A + 2 * _P, 2 * _P, 2 * _P, 7, _A + 5 * _P),
    ],
    "copying on write prepares before the file refuses the page": [
        Mmap(_A, 48 * _P, 3, _PRIVATE, MEMFD, 5 * _P),
        Touch(_A + 20 * _P, 8 * _P, True),
        Mprotect(_A + 16 * _P, _P, 5),
        _FORK,
        Mprotect(_A + 16 * _P, 5 * _P, 4),
    ],
    "a guard marker faults before anything is prepared": [
        Mmap(_A, 5 * _P, 3, _PRIVATE, MEMFD, 0),
        Mprotect(_A, 3 * _P, 2),
        Madvise(_A + 3 * _P, _P, ADVICE["GUARD_INSTALL"]),
        Touch(_A + 3 * _P, 8 * _P, True),
        _FORK,
        Mmap(_A + 5 * _P, _P, 3, _PRIVATE, MEMFD, 5 * _P),
    ],
    "a stack that may not grow is prepared all the same": [
        Mmap(_A + 1000 * _P, 512 * _P, 3, _FIXED | 0x100),
        Touch(_A, _P, False),
        Mprotect(_A + 1200 * _P, 5 * _P, 4),
    ],
    "a stack's guard gives up gaps behind other mappings too": [
        Mmap(0, 4 * _HUGE - _P, 2, _ANON),
        Mmap(0, 2 * _P, 3, _ANON | 0x20000),
        Munmap(_BELOW_VDSO - 0x8FF000, 8 * _P),
        Mmap(0, 2 * _P, 3, _ANON | 0x100),
        Mmap(0, 2 * _P, 5, 2, MEMFD, 4 * _P),
    ],
    "a hint below the lowest address is moved up": [Mmap(_P, _P - 1, 3, _ANON), Mmap(1, 1, 3, _ANON)],
    "fork drops what a userfaultfd watches": [
        Mmap(_A, 8 * _P, 3, _PRIVATE, MEMFD, 0),
        UffdRegister(0, _A, 2 * _P, 4),
        _FORK,
    ],
    "before 6.17 a userfaultfd gives up what another one watches": [
        Mmap(_A, 4 * _P, 3, _FIXED),
        UffdRegister(0, _A, 4 * _P, 1),
        UffdUnregister(1, _A + _P, _P),
        UffdUnregister(1, _A, 4 * _P),
        UffdUnregister(0, _A, 4 * _P),
    ],
    "two kinds of locks, and a page that was never touched": [
        Mmap(_A, 8 * _P, 3, _FIXED),
        Mprotect(_A, 5 * _P, 1),
        Mlock(_A, 1, 1),
        Mlockall(1),
        Mprotect(_A, 8 * _P, 3),
    ],
    "what guards mark stays marked in what merges": [
        Mmap(_A, 8 * _P, 3, _FIXED),
        Mprotect(_A + 2 * _P, _P, 1),
        Madvise(_A, _P, 102),
        Mprotect(_A + 2 * _P, _P, 3),
        Madvise(_A, _P, 103),
    ],
    "no mapping of a file reaches beyond what a file can have": [
        Mmap(_A, _P, 1, _PRIVATE, MEMFD, (1 << 63) - 2 * _P),
        Mmap(_A, _P, 1, _PRIVATE, MEMFD, (1 << 63) - _P),
        Mmap(_A + _P, 3 * _P, 1, _PRIVATE, MEMFD, (1 << 64) - _P),
        Mmap(_A, _P, 1, 0x100012, MEMFD, 1 << 63),
    ],
    "touching past the end of memory": [Touch(_TOP - 4095, 4095, True), Touch(_TOP, 8192, True)],
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(mm_driver: Path, name: str) -> None:
    """A sequence in which model and kernel once differed: they agree after every operation."""
    opened = open_file("found", 10 * _P, 1)
    try:
        with Live(mm_driver, {MEMFD: opened.fd}) as live:
            mm = twin(live)
            for operation in FOUND[name]:
                if isinstance(operation, str):
                    live.fork()
                    mm = mm.fork()
                else:
                    assert live.apply(operation) == apply(mm, operation), operation
                assert set(live.shown()) == set(shown_model(mm)), operation
    finally:
        os.close(opened.fd)
