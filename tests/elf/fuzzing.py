"""What the fuzzers share: seeds of every kind, mutations that know the format's numbers, and what must hold."""

import contextlib
import random
import struct
import time
from dataclasses import dataclass

from elfolio.elf.dynamic import read_dynamic
from elfolio.elf.linker import fingerprint
from elfolio.elf.reader import head_size, read, read_head
from elfolio.elf.symbols import dynsym, symtab
from elfolio.elf.versions import versions_defined, versions_needed
from elfolio.errors import ElfError
from tests.elf.samples import KINDS, sample, with_symbols, with_versions


def seeds() -> list[bytes]:
    """Well-formed files: each kind, with counts in the header and in section 0, with symbols and with versions."""
    found = [sample(bits, order, extended=extended).build() for bits, order in KINDS for extended in (False, True)]
    found += [with_symbols(bits, order).build() for bits, order in KINDS]
    return [*found, with_versions().build()]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few changes: numbers on the edge put where fields stand, bits, blocks moved, ends cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        _CHANGES[rng.randrange(len(_CHANGES))](out, rng)
    return bytes(out)


def _number(out: bytearray, rng: random.Random) -> None:
    form = rng.choice(("<H", "<I", "<Q", ">H", ">I", ">Q"))
    size = struct.calcsize(form)
    limit = 1 << 8 * size
    base = rng.choice((0, 1, 0xFFFF, 1 << 31, 1 << 63, limit - 1, len(out), rng.randrange(len(out) + 1)))
    _write(out, rng, struct.pack(form, (base + rng.choice((-1, 0, 0, 0, 1))) % limit))


def _write(out: bytearray, rng: random.Random, raw: bytes) -> None:
    # Headers stand at both ends; what lies between is mostly padding.
    edge = rng.choice((64, 512, len(out)))
    at = rng.randrange(max(1, min(edge, len(out)))) & -rng.choice((1, 2, 4))
    at = max(0, len(out) - at - len(raw)) if rng.random() < 0.3 else at
    out[at : at + len(raw)] = raw


def _bit(out: bytearray, rng: random.Random) -> None:
    if out:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)


def _noise(out: bytearray, rng: random.Random) -> None:
    _write(out, rng, rng.randbytes(rng.choice((1, 2, 4, 16, 64))))


def _move(out: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(out) + 1)
    _write(out, rng, bytes(out[start : start + rng.choice((8, 56, 64, 256))]))


def _cut(out: bytearray, rng: random.Random) -> None:
    del out[rng.randrange(len(out) + 1) :]


_CHANGES = (_number, _number, _number, _bit, _noise, _move, _cut)


@dataclass
class Tally:
    """What came of many inputs."""

    inputs: int = 0
    read: int = 0
    faulty: int = 0
    refused: int = 0
    slowest: float = 0.0
    """In seconds of processor time, of all readers on one input."""
    slowest_input: bytes = b""

    def add(self, data: bytes) -> None:
        """Reads one input; whatever is raised but ElfError ends the run."""
        before = time.process_time()
        faults = exercise(data)
        took = time.process_time() - before
        if took > self.slowest:  # was it the input, or the machine?
            took = min(took, *(_time(data) for _ in range(3)))
        self.inputs += 1
        self.read += faults is not None
        self.faulty += bool(faults)
        self.refused += faults is None
        if took > self.slowest:
            self.slowest, self.slowest_input = took, data


def _time(data: bytes) -> float:
    before = time.process_time()
    exercise(data)
    return time.process_time() - before


def exercise(data: bytes) -> int | None:
    """Has everything in the room read `data`: the number of faults, None where it was refused."""
    for reader in (read_head, head_size, read_dynamic):
        with contextlib.suppress(ElfError):
            reader(data)
    try:
        image = read(data, "input")
    except ElfError as error:
        if "\n" in str(error):
            raise AssertionError("an error of two lines") from error
        return None
    assert len(image.segments) == image.header.phnum
    for fault in image.faults:
        assert "\n" not in str(fault.error("input"))
    fingerprint(image, data)
    for table in (dynsym, symtab, versions_needed, versions_defined):
        with contextlib.suppress(ElfError):
            for _ in table(image, data):
                pass
    return len(image.faults)
