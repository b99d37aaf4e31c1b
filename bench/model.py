"""bench.model: how fast the address-space model is. In: nothing. Out: operations a second, by number of mappings.

    python -m bench.model

A quarter each: munmap, mmap without an address, mprotect, mmap over what is there, at random addresses.
"""

import random
import time

from bench.table import show
from elfolio.kernel.calls import Mmap, Mprotect, Munmap, Operation
from elfolio.kernel.mm import Limits, Mm
from elfolio.kernel.model import apply
from elfolio.kernel.policy import policy

__all__ = ["main"]

_COUNTS = (10, 100, 1_000, 10_000, 65_000)
_OPERATIONS = 40_000
_PAGE = 4096
_ANON, _FIXED = 0x22, 0x32


def main() -> None:
    """Seconds are the processor's, so that other work beside does not count."""
    rows = [(f"{count:,}", *(f"{rate:,.0f}" for rate in _rates(count))) for count in _COUNTS]
    print(show("Operations a second", ("mappings", "made anew", "mixed"), rows))


def _rates(count: int) -> tuple[float, float]:
    began = time.process_time()
    mm = _with(count)
    made = time.process_time()
    operations = _mixed(mm)
    mixed = time.process_time()
    for operation in operations:
        apply(mm, operation)
    return count / (made - began), len(operations) / (time.process_time() - mixed)


def _with(count: int) -> Mm:
    """Neighbours that may not merge."""
    mm = Mm(policy("linux-6.18"), limits=Limits(max_map_count=1 << 30))
    for number in range(count):
        apply(mm, Mmap(0, _PAGE * (1 + number % 3), 3 if number % 2 else 1, _ANON))
    return mm


def _mixed(mm: Mm) -> list[Operation]:
    source = random.Random(1)
    low = next(iter(mm.areas)).start
    pages = (mm.mmap_base - low) // _PAGE
    operations: list[Operation] = []
    for _ in range(_OPERATIONS // 4):
        address, length = low + source.randrange(pages) * _PAGE, _PAGE * source.randrange(1, 4)
        operations += [
            Munmap(address, length),
            Mmap(0, length, source.choice((1, 3)), _ANON),
            Mprotect(address, _PAGE, source.choice((1, 3, 5))),
            Mmap(address, length, 3, _FIXED),
        ]
    return operations


if __name__ == "__main__":
    main()
