"""spawn.stub: the code that a warm template runs. In: what was found at its entry. Out: bytes to write, and where.

The stub is a shared object without a relocation (native/warm/*.c), built beside the extension; here its two
segments become one block of memory, with the struct setup of native/warm/protocol.h filled in.
"""

import mmap
import os
import struct
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from elfolio import _native
from elfolio.elf.dynamic import PT_LOAD, Dynamic, read_dynamic

__all__ = ["MemoryMap", "Setup", "Stub", "stub"]

_SETUP = struct.Struct("=24Q")
_MAP = struct.Struct("=12Q2I")
_NO_FD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The fields of prctl(PR_SET_MM_MAP) that a child does not set itself."""

    start_code: int
    end_code: int
    start_data: int
    end_data: int
    start_brk: int
    brk: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int


@dataclass(frozen=True, slots=True)
class Setup:
    """struct setup, in its order, between `magic` and `owner`. Addresses are the template's."""

    stub: int
    stub_bytes: int
    slots: int
    entry: int
    entry_argument: int
    stack: int
    auxv: int
    auxv_bytes: int
    random: int
    tid: int
    robust: int
    robust_bytes: int
    environ: int
    program_name: int
    program_short_name: int
    libc_argc: int
    munmap: int
    page: int
    sigreturn: int
    state: int
    idle_ns: int
    ignored: int


@dataclass(frozen=True, slots=True)
class Stub:
    """The stub as it is linked, at address 0."""

    image: bytes
    code_bytes: int
    """From its start, what is executed and not written."""
    setup_at: int
    start_at: int
    stack_end: int

    def filled(self, setup: Setup, memory: MemoryMap) -> bytes:
        """The image with what its owner tells it."""
        data = _SETUP.pack(_native.WARM_MAGIC, *astuple(setup), os.getpid())
        data += _MAP.pack(*astuple(memory), 0, 0, _NO_FD)
        return self.image[: self.setup_at] + data + self.image[self.setup_at + len(data) :]


@cache
def stub() -> Stub:
    """The stub of this installation."""
    folder = Path(_native.__file__).parent
    (path,) = folder.glob("_stub.*so")
    data = path.read_bytes()
    return _loaded(data, read_dynamic(data, str(path)), mmap.PAGESIZE)


def _loaded(data: bytes, dynamic: Dynamic, page: int) -> Stub:
    loads = [s for s in dynamic.segments if s.type == PT_LOAD]
    size = -(-max(s.vaddr + s.memsz for s in loads) // page) * page
    image = bytearray(size)
    for s in loads:
        image[s.vaddr : s.vaddr + s.filesz] = data[s.offset : s.offset + s.filesz]
    code = next(s for s in loads if s.flags & 1)
    symbols = dynamic.symbols
    return Stub(
        image=bytes(image),
        code_bytes=-(-(code.vaddr + code.memsz) // page) * page,
        setup_at=symbols["stub_setup"].value,
        start_at=symbols["stub_start"].value,
        stack_end=symbols["stub_stack"].value + 16384,
    )
