"""ELF files of many shapes, for tests of what rewrites them. In: choices. Out: bytes, by the tests' own writer."""

import random
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from tests.elfwriter import (
    ET_DYN,
    ET_EXEC,
    PT_DYNAMIC,
    PT_GNU_RELRO,
    PT_LOAD,
    PT_PHDR,
    PT_TLS,
    SHT_NOBITS,
    SHT_PROGBITS,
    Elf,
    Ph,
    Sh,
)

PAGE = 4096
R, RX, RW = 4, 5, 6


@dataclass(frozen=True)
class Part:
    """A PT_LOAD to be: what it holds, and how it follows the one before it."""

    flags: int = R
    size: int = 0x1000
    zeros: int = 0
    """p_memsz beyond p_filesz."""
    apart: bool = True
    """It begins a page of the file; else the page where the last one ended is mapped twice, as lld does."""
    skip: int = 0
    """Pages of address space that are left out before it."""


def linked(
    parts: list[Part],
    *,
    bits: Literal[32, 64] = 64,
    order: Literal["little", "big"] = "little",
    type: int = ET_DYN,
    base: int = 0,
    align: int = PAGE,
    seed: int = 0,
    sections: bool = True,
    tail: bytes = b"",
) -> bytes:
    """A file with these segments, each with a section for itself and one for its zeros, two sections that are in no
    segment, and PT_PHDR, PT_DYNAMIC, PT_TLS, PT_GNU_RELRO in the last segment that can be written."""
    rng = random.Random(seed)
    headers = {64: (64, 56), 32: (52, 32)}[bits]
    count = len(parts) + 2 + 2 * any(p.flags & 2 for p in parts)
    first = headers[0] + headers[1] * count
    segments: list[Ph] = []
    named: list[Sh] = []
    offset, vaddr = 0, base
    contents: dict[int, bytes] = {}
    for i, part in enumerate(parts):
        if i:
            vaddr = -(-vaddr // PAGE) * PAGE + part.skip * PAGE
            if part.apart:
                offset = -(-offset // PAGE) * PAGE
            vaddr += offset % PAGE
        size = max(part.size, first + 8) if i == 0 else part.size
        segments.append(Ph(PT_LOAD, part.flags, offset, vaddr, filesz=size, memsz=size + part.zeros, align=align))
        begin = offset + (first if i == 0 else 0)
        contents[begin] = rng.randbytes(size - (begin - offset))
        flags = 2 | (1 if part.flags & 2 else 0) | (4 if part.flags & 1 else 0)
        at = vaddr + begin - offset
        named.append(Sh(f".part{i}", SHT_PROGBITS, flags, at, begin, size - (begin - offset)))
        if part.zeros:
            named.append(Sh(f".zeros{i}", SHT_NOBITS, flags, vaddr + size, offset + size, part.zeros))
        offset, vaddr = offset + size, vaddr + size + part.zeros
    extra = [Ph(PT_PHDR, R, headers[0], base + headers[0], filesz=headers[1] * count, align=8)]
    extra.append(Ph(0x6474E551, 6, 0, 0, filesz=0))
    data = next((s for s in reversed(segments) if s.flags & 2), None)
    if data is not None:
        assert data.filesz is not None
        extra.append(Ph(PT_GNU_RELRO, R, data.offset, data.vaddr, filesz=data.filesz // 2))
        extra.append(Ph(PT_TLS if seed % 2 else PT_DYNAMIC, 6, data.offset, data.vaddr, filesz=min(16, data.filesz)))
        if not seed % 2:  # a dynamic section that ends at once
            assert data.offset is not None
            contents[data.offset] = bytes(16) + contents.get(data.offset, b"")[16:]
    if sections:
        named += [
            Sh(".comment", offset=offset, data=rng.randbytes(40)),
            Sh(".debug", offset=offset + 40, data=b"x" * 99),
        ]
    else:
        named = []
    machine = 62 if bits == 64 and order == "little" else 3 if order == "little" else 22 if bits == 64 else 20
    elf = Elf(
        bits=bits, order=order, type=type, machine=machine, entry=base + 0x100, segments=[*segments, *extra],
        sections=named, contents=contents, size=offset,
    )  # fmt: skip
    return elf.build() + tail


@st.composite
def parts(draw: st.DrawFn, *, most: int = 5, largest: int = 5 << 20) -> list[Part]:
    """One to five segments, large and small ones."""
    flags = [R, *draw(st.lists(st.sampled_from((R, RX, RX, RW)), max_size=most - 1))]
    flags = sorted(flags, key=lambda f: f == RW)  # data last, as linkers do
    found = []
    for i, flag in enumerate(flags):
        size = draw(st.integers(1, 0x3000) | st.integers(1, largest).map(lambda n: n // 16 * 16 + 1))
        last = i == len(flags) - 1
        zeros = draw(st.sampled_from((0, 0, 0x10, 0x2345))) if flag == RW and last else 0
        found.append(Part(flag, size, zeros, draw(st.booleans()), draw(st.integers(0, 3))))
    return found


__all__ = ["ET_DYN", "ET_EXEC", "PAGE", "RW", "RX", "Part", "R", "linked", "parts"]
