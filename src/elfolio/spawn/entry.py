"""spawn.entry: a program brought to its entry point. In: a tracee at its exec. Out: Entry, or NotWarm with the reason.

There the dynamic linker has done its work and the libraries' constructors have run, and nothing of the program itself
has: `_start` is still to come. What constructors did that a fork does not carry over (threads, timers, descriptors)
makes the program one that cannot be held warm.
"""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from elfolio.elf.dynamic import Dynamic, read_dynamic
from elfolio.errors import ElfError
from elfolio.spawn.machine import MACHINE
from elfolio.spawn.tracee import Registers, Tracee, TraceeLost

__all__ = ["Entry", "Mapping", "NotWarm", "Object", "reach_entry"]

_AT_PHDR, _AT_PAGESZ, _AT_BASE, _AT_ENTRY, _AT_SECURE, _AT_RANDOM = 3, 6, 7, 9, 23, 25
_READS_MOST = 4096
"""Reads of the environment before `main` after which all of it counts."""
_SANITIZERS = ("libasan", "libtsan", "liblsan", "libubsan", "libhwasan", "libclang_rt")
_SANITIZER_STARTS = ("__asan_init", "__tsan_init", "__msan_init", "__hwasan_init", "__lsan_init")
"""A runtime in the program itself, as clang links it, has these among the dynamic symbols."""


class NotWarm(Exception):
    """Why a program cannot be held warm: a word of `elfolio.spawn.reasons`, and what it is about."""

    def __init__(self, reason: str, detail: str = "", *, lasts: bool = True) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.lasts = lasts
        """Whether it will be so the next time."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    device: int
    inode: int
    path: str


@dataclass(frozen=True, slots=True)
class Object:
    """A mapped ELF file."""

    path: str
    device: int
    inode: int
    bias: int
    dynamic: Dynamic

    def address(self, name: str) -> int:
        """Where a symbol that it defines is mapped; 0 if it defines none."""
        symbol = self.dynamic.symbols.get(name)
        return symbol.value + self.bias if symbol is not None and symbol.defined else 0


@dataclass(slots=True)
class Entry:
    """A process at its entry point."""

    registers: Registers
    auxv: dict[int, int]
    auxv_at: int
    auxv_bytes: int
    mappings: list[Mapping]
    objects: list[Object]
    """The program first."""
    reads: set[bytes] = field(default_factory=set)
    """Variables that constructors asked getenv for."""
    reads_all: bool = False
    """Whether something looks at the environment itself."""
    touched: set[int] = field(default_factory=set)
    """Addresses of code that breakpoints stood in."""

    @property
    def page(self) -> int:
        """Bytes."""
        return self.auxv[_AT_PAGESZ]

    @property
    def program(self) -> Object:
        """The executable."""
        return self.objects[0]

    def defining(self, name: str) -> int:
        """Where the dynamic linker finds a symbol: in the program (a copy relocation) or the first library."""
        return next((address for obj in self.objects if (address := obj.address(name))), 0)

    def object_named(self, prefix: str) -> Object | None:
        """The library whose file's name begins so."""
        return next((obj for obj in self.objects if os.path.basename(obj.path).startswith(prefix)), None)


def mappings_of(pid: int, proc: str = "/proc") -> list[Mapping]:
    """The address space of a process, in order."""
    found = []
    for line in Path(proc, str(pid), "maps").read_bytes().decode("utf-8", "surrogateescape").splitlines():
        span, permissions, offset, device, inode, *path = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        major, minor = (int(part, 16) for part in device.split(":"))
        number = os.makedev(major, minor)
        found.append(Mapping(start, end, permissions, int(offset, 16), number, int(inode), path[0] if path else ""))
    return found


def _initial_stack(tracee: Tracee, sp: int) -> tuple[dict[int, int], int, int]:
    """The auxiliary vector, where it is, and its size with the end."""
    at = sp + 8 * (tracee.word(sp) + 2)
    while tracee.word(at):
        at += 8
    at += 8
    block = tracee.read(at, 1024)
    auxv = {}
    size = 0
    for kind, value in struct.iter_unpack("QQ", block[: len(block) // 16 * 16]):
        size += 16
        if kind == 0:
            break
        auxv[kind] = value
    return auxv, at, size


def _objects(mappings: list[Mapping], program: str, page: int) -> list[Object]:
    found: dict[str, Object] = {}
    for m in mappings:
        if m.inode == 0 or m.path in found or m.offset:
            continue
        try:
            data = Path(m.path).read_bytes()
            if data[:4] != b"\x7fELF":
                continue
            dynamic = read_dynamic(data, m.path)
            found[m.path] = Object(m.path, m.device, m.inode, dynamic.load_bias(m.start, page), dynamic)
        except (OSError, ElfError) as error:
            raise NotWarm("unreadable object", str(error)) from error
    return sorted(found.values(), key=lambda obj: obj.path != program)


def reach_entry(tracee: Tracee, program: Dynamic, program_path: str) -> Entry:
    """Runs the dynamic linker and the constructors, watching what they read. Raises NotWarm, TraceeLost."""
    registers = tracee.registers
    auxv, auxv_at, auxv_bytes = _initial_stack(tracee, registers[MACHINE.sp])
    if auxv.get(_AT_SECURE):
        raise NotWarm("AT_SECURE")
    base = auxv.get(_AT_BASE)
    if not base or program.interpreter is None:
        raise NotWarm("static")
    page = auxv[_AT_PAGESZ]
    loader = next((o for o in _objects(mappings_of(tracee.pid), "", page) if o.bias == base), None)
    linked = loader.address("_dl_debug_state") if loader is not None else 0
    if not linked:
        raise NotWarm("unknown dynamic linker", program.interpreter)
    # Called when objects begin to be added, and again when all are relocated (the protocol of <link.h> for debuggers).
    tracee.plant(linked)
    for _ in range(2):
        registers = tracee.run()
        if registers[MACHINE.pc] != linked:
            raise TraceeLost("it did not come to the end of relocation")
        tracee.pass_by(registers)
    tracee.uproot(linked)
    mappings = mappings_of(tracee.pid)
    entry = Entry(registers, auxv, auxv_at, auxv_bytes, mappings, _objects(mappings, program_path, page))
    entry.touched.add(linked)
    _watch(tracee, entry)
    entry.mappings = mappings_of(tracee.pid)
    return entry


def _watch(tracee: Tracee, entry: Entry) -> None:
    """From relocation to the entry: which variables are asked for, and whether a fork handler is registered."""
    if sanitizer := next((o.path for o in entry.objects if os.path.basename(o.path).startswith(_SANITIZERS)), None):
        raise NotWarm("sanitizer", os.path.basename(sanitizer))
    if inside := next((name for name in _SANITIZER_STARTS if entry.defining(name)), None):
        raise NotWarm("sanitizer", inside)
    start, atfork = entry.auxv[_AT_ENTRY], entry.defining("__register_atfork")
    # Of every object: bash has a getenv of its own, and the C library goes on using its.
    names = ("getenv", "secure_getenv", "__secure_getenv")
    getters = {a for obj in entry.objects for name in names if (a := obj.address(name))}
    if not getters or not atfork:
        raise NotWarm("unknown C library")
    points = {start, atfork, *getters}
    for point in points:
        tracee.plant(point)
    entry.touched |= points
    while True:
        registers = tracee.run()
        here = registers[MACHINE.pc]
        if here == start:
            break
        if here == atfork:
            raise NotWarm("an atfork handler")
        entry.reads.add(tracee.string(registers[MACHINE.first_argument]))
        if len(entry.reads) > _READS_MOST:
            raise NotWarm("reads of the environment without end")
        tracee.pass_by(registers)
    for point in points:
        tracee.uproot(point)
    entry.registers = registers
    # Functions of DT_PREINIT_ARRAY are the program's, and handed the environment.
    entry.reads_all = entry.program.dynamic.has_preinit or any(_looks_at_environ(obj) for obj in entry.objects[1:])


def _looks_at_environ(obj: Object) -> bool:
    """An object that refers to the variable itself may read it without asking. The C library and the dynamic linker
    do by their own rules, which are known (native/warm_fit.c)."""
    name = os.path.basename(obj.path)
    if name.startswith(("libc.so", "ld-linux", "ld-2", "libc-2")):
        return False
    return any(s in obj.dynamic.symbols and not obj.dynamic.symbols[s].defined for s in _ENVIRON)


_ENVIRON = ("environ", "__environ", "_environ")
