"""tests.tune.mutations: files whose headers are wrong in one to three fields. In: a seed. Out: bytes.

Most are refused, or wrong in what nobody reads: what is left must be rewritten without harm.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tests.elf.samples import KINDS, Bits
from tests.elfwriter import Order
from tests.tune import shapes
from tests.tune.raw import Raw, fields_of, read

_SIZES = (0, 1, 2, 0x10, 0x40, 0x100, 0x800, 0xFFF, 0x1000, 0x1001, 0x2000, 0x2D00, 0x3000, 0x3D00, 0x4000, 0x10000)
_LARGE = (0x1FF000, 0x200000, 0x200001, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1)
_VALUES = (*_SIZES, *_LARGE, (1 << 32) - 0x1000, (1 << 64) - 0x1000)
_STEPS = (1, -1, 0x10, 0x100, 0x1000, -0x1000, 0x200000)


@dataclass(frozen=True)
class Mutant:
    """A file."""

    data: bytes
    story: str
    """The shape that it was, and each field with its new value."""


def mutants(seed: int, count: int) -> Iterator[Mutant]:
    """So many; the same ones for the same seed."""
    rnd = random.Random(seed)
    bases = [(name, *kind) for name in shapes.HANDLED for kind in KINDS]
    for _ in range(count):
        name, bits, order = rnd.choice(bases)
        yield _mutant(rnd, name, bits, order)


def _mutant(rnd: random.Random, name: str, bits: Bits, order: Order) -> Mutant:
    data = bytearray(shapes.HANDLED[name](bits, order))
    raw = read(bytes(data))
    said = [_mutate(rnd, raw, data) for _ in range(rnd.choice((1, 1, 2, 3)))]
    return Mutant(bytes(data), f"{name}, {bits} bits, {order}: {', '.join(said)}")


def _mutate(rnd: random.Random, raw: Raw, data: bytearray) -> str:
    """Changes one field of a program header, or of a section header."""
    of_segment = rnd.random() < 0.6 or not raw.sections
    index = rnd.randrange(len(raw.segments if of_segment else raw.sections))
    fields, form = fields_of(raw, of_segment)
    table, size = ("phoff", "phentsize") if of_segment else ("shoff", "shentsize")
    at = raw.header[table] + index * raw.header[size]
    row = list(struct.unpack_from(form, data, at))
    which = rnd.randrange(len(fields))
    width = 8 if form[1:][which] == "Q" else 4
    row[which] = _value(rnd, row, row[which]) % (1 << 8 * width)
    struct.pack_into(form, data, at, *row)
    return f"{'program header' if of_segment else 'section'} {index} {fields[which]} {row[which]:#x}"


def _value(rnd: random.Random, row: list[int], old: int) -> int:
    ways = (rnd.choice(_VALUES), old + rnd.choice(_STEPS), old ^ (1 << rnd.randrange(24)), rnd.choice(row))
    return rnd.choice(ways)
