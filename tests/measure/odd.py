"""Programs that no linker makes: any order, overlap, alignment and size of segments. Held, they never run."""

import os
import random
from pathlib import Path

from tests.elfwriter import EM_386, EM_X86_64, ET_DYN, ET_EXEC, PT_GNU_STACK, PT_INTERP, PT_LOAD, Elf, Ph

P = 4096
_ALIGNMENTS = (P, P, P, 0, 1, 3, 16, 3 * P, 64 << 10, 2 << 20, 2 << 20, 32 << 20, 1 << 30, 1 << 32)
_FLAGS = (4, 5, 6, 6, 7, 4, 2, 1, 0)
_GAPS = (0, P, P, P, 2 * P, 16 * P, 2 << 20)
_LOADERS = {64: "/lib64/ld-linux-x86-64.so.2", 32: "/lib/ld-linux.so.2"}
_NO_LOADERS = (b"/nonexistent\0", b"/etc/passwd\0", b"/usr\0", b"x", b"/tmp", b"\0")


def odd_program(seed: int) -> bytes:
    """A file; equal seeds, equal files. About two in three are programs that the kernel starts."""
    r = random.Random(seed)
    bits = r.choice((64, 64, 64, 32))
    type = r.choice((ET_EXEC, ET_DYN, ET_DYN))
    segments = _loads(r, type, bits)
    headers = [Ph(PT_INTERP, 4, data=_loader(r, bits))] if r.random() < 0.5 else []
    if r.random() < 0.8:
        headers.append(Ph(PT_GNU_STACK, r.choice((6, 6, 6, 7, 4)), 0, 0, align=16))
    headers += segments
    if r.random() < 0.2:
        r.shuffle(headers)
    size = max(((s.offset or 0) + (s.filesz or 0) for s in segments), default=0)
    if r.random() < 0.1:
        size = r.randint(600, max(601, size))  # it ends before its segments do
    return Elf(
        bits=64 if bits == 64 else 32,
        type=type,
        machine=EM_X86_64 if bits == 64 else EM_386,
        entry=segments[0].vaddr or 0,
        segments=headers,
        size=size,
    ).build()


def _loads(r: random.Random, type: int, bits: int) -> list[Ph]:
    bases = (0x400000, 0x10000, 0x8048000, 0x200000) if type == ET_EXEC else (0, 0, 0, P, 0x10040, 0x200000)
    at, offset = r.choice(bases), 0
    congruent = r.random() < 0.95
    segments = []
    for _ in range(r.randint(1, 5)):
        filesz, memsz = _sizes(r)
        within = r.choice((0, 0, 0, 0x10, 0x234, 0xFF0))
        vaddr = at - at % P + within
        if congruent:
            offset += within - offset % P
        align = r.choice(_ALIGNMENTS) & (0xFFFFFFFF if bits == 32 else -1)
        segments.append(Ph(PT_LOAD, r.choice(_FLAGS), offset, vaddr, None, filesz, memsz, align))
        at = vaddr + memsz + r.choice(_GAPS)
        offset += filesz + r.choice((0, 0, P, 2 * P))
    if r.random() < 0.15:
        r.shuffle(segments)
    if r.random() < 0.1:
        segments[-1].vaddr = segments[0].vaddr
    return segments


def _sizes(r: random.Random) -> tuple[int, int]:
    if r.random() < 0.08:
        return 0, 0
    large = r.random() < 0.1
    filesz = (
        r.choice((2 << 20, (2 << 20) + 5)) if large else r.choice((0, 1, 100, P - 1, P, P + 1, r.randint(1, 5 * P)))
    )
    more = r.choice((0, 0, 0, 1, 100, P, r.randint(0, 6 * P), 8 * P, 3 << 20 if r.random() < 0.2 else 7))
    return filesz, max(0, filesz - 1) if r.random() < 0.03 else filesz + more


def _loader(r: random.Random, bits: int) -> bytes:
    there = _LOADERS[bits] if os.path.exists(_LOADERS[bits]) else _LOADERS[64]
    return r.choice(_NO_LOADERS) if r.random() < 0.05 else there.encode() + b"\0"


def write_program(path: Path, data: bytes) -> str:
    """An executable file."""
    path.write_bytes(data)
    path.chmod(0o755)
    return str(path)
