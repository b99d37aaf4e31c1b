"""spawn.implant: the stub, put into a process at its entry. In: a tracee, its Entry. Out: nothing; it runs on its own.

The dynamic linker and the C library keep pointers to the arguments that the process was started with: here they are led
to where every child's own will stand. That is all that is changed of a program, and nothing of it shows.
"""

import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from elfolio import _native
from elfolio.elf.dynamic import PT_LOAD, read_dynamic
from elfolio.errors import ElfError
from elfolio.spawn.entry import Entry, Mapping, NotWarm
from elfolio.spawn.inspection import status_of
from elfolio.spawn.machine import MACHINE
from elfolio.spawn.stub import MemoryMap, Setup, stub
from elfolio.spawn.tracee import Tracee

__all__ = ["ARGC", "install", "wipe"]

ARGC = 61
"""Arguments of the template's own start: a number that is easy to find in the C library's memory."""
_PR_GET_PDEATHSIG, _PR_GET_TID_ADDRESS = 2, 40
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE_ANONYMOUS, _MAP_SHARED_FIXED = 0x22, 0x11
_MADV_DONTNEED = 4
_AT_RANDOM, _AT_SYSINFO_EHDR = 25, 33


def wipe(tracee: Tracee, entry: Entry, environment: list[bytes]) -> None:
    """Overwrites the variables of the template's own start that nothing has asked for: a child of another environment
    has no business with them. They stand one behind the other (fs/exec.c, copy_strings)."""
    if entry.reads_all:
        return  # every child has the same
    at = _fields_of_stat(tracee.pid)[50]
    for variable in environment:
        name = variable.partition(b"=")[0]
        if name not in entry.reads and not variable.startswith((b"LD_", b"GLIBC_", b"MALLOC_")):
            tracee.write(at, bytes(len(variable)))
        at += len(variable) + 1


def install(tracee: Tracee, entry: Entry, idle_ns: int) -> None:
    at = entry.registers
    sp = at[MACHINE.sp]
    size = len(stub().image)
    both = _PROT_READ | _PROT_WRITE
    fd = _native.WARM_FD_SLOTS
    region = tracee.system_call(
        at, MACHINE.mmap, 0, size + _native.WARM_SLOT_BYTES, both, _MAP_PRIVATE_ANONYMOUS, -1, 0
    )
    if region < 0:
        raise NotWarm("memory", os.strerror(-region))
    tracee.system_call(at, MACHINE.mmap, region + size, _native.WARM_SLOT_BYTES, both, _MAP_SHARED_FIXED, fd, 0)
    tracee.system_call(at, MACHINE.close, fd)
    # What it closes must be closed: the last numbers there are, of which none is open.
    if error := tracee.system_call(at, MACHINE.close_range, 0x7FFFFFFE, 0x7FFFFFFF, 0):
        raise NotWarm("kernel", f"close_range: {os.strerror(-error)}")
    brk = tracee.system_call(at, MACHINE.brk, 0)
    setup = _setup(tracee, entry, region)
    # Every child's initial stack begins at one place: what the C library keeps of it is told once.
    argv_at, argc_at = _libc_arguments(tracee, entry, sp + 8)
    tracee.write(argv_at, struct.pack("Q", setup.stack + 8))
    _lead(tracee, entry, "_dl_argv", sp + 8, setup.stack + 8)
    _lead(tracee, entry, "__libc_stack_end", sp, setup.stack)
    setup = replace(setup, libc_argc=argc_at, idle_ns=idle_ns)
    pages = {address // entry.page * entry.page for address in entry.touched}
    for page in sorted(pages - {at[MACHINE.pc] // entry.page * entry.page}):
        tracee.system_call(at, MACHINE.madvise, page, entry.page, _MADV_DONTNEED)
    tracee.write(region, struct.pack("Q", (1 << 64) - 1))
    tracee.system_call(at, MACHINE.rt_sigprocmask, signal.SIG_SETMASK, region, 0, 8)
    # The entry's page, where these calls are made, is put back by the stub.
    tracee.write(region, stub().filled(setup, _memory_map(tracee.pid, brk)))
    tracee.system_call(at, MACHINE.mprotect, region, stub().code_bytes, _PROT_READ | _PROT_EXEC)
    # As after a call.
    tracee.detach(at, region + stub().start_at, region + stub().stack_end - MACHINE.pushed)


def _setup(tracee: Tracee, entry: Entry, region: int) -> Setup:
    at = entry.registers
    sp = at[MACHINE.sp]
    if tracee.system_call(at, MACHINE.prctl, _PR_GET_TID_ADDRESS, region):
        raise NotWarm("kernel", "without PR_GET_TID_ADDRESS")
    tid = tracee.word(region)
    if not tid or int.from_bytes(tracee.read(tid, 4), "little") != tracee.pid:
        raise NotWarm("unknown C library", "thread id")
    munmap = entry.defining("munmap")
    if not munmap:
        raise NotWarm("unknown C library", "munmap")
    robust, robust_bytes = tracee.robust_list()
    if robust and tracee.word(robust) != robust:
        raise NotWarm("a lock", "a robust mutex")
    for which in range(3):  # ITIMER_REAL, alarm(2)'s too; ITIMER_VIRTUAL; ITIMER_PROF
        if not tracee.system_call(at, MACHINE.getitimer, which, region) and any(tracee.read(region + 16, 16)):
            raise NotWarm("a timer", "setitimer")
    tracee.write(region, bytes(4))
    if not tracee.system_call(at, MACHINE.prctl, _PR_GET_PDEATHSIG, region) and any(tracee.read(region, 4)):
        raise NotWarm("a constructor that changed the process", "PR_SET_PDEATHSIG")
    name = tracee.word(sp + 8)
    return Setup(
        stub=region,
        stub_bytes=len(stub().image) + _native.WARM_SLOT_BYTES,
        slots=region + len(stub().image),
        entry=at[MACHINE.pc],
        entry_argument=at[MACHINE.entry_argument],
        stack=(sp - _native.WARM_ROOM) // 16 * 16,
        auxv=entry.auxv_at,
        auxv_bytes=entry.auxv_bytes,
        random=entry.auxv[_AT_RANDOM],
        tid=tid,
        robust=robust,
        robust_bytes=robust_bytes,
        environ=_variable(tracee, entry, ("environ", "__environ", "_environ"), sp + 8 * (ARGC + 2)),
        program_name=_variable(tracee, entry, ("program_invocation_name", "__progname_full"), name),
        program_short_name=_variable(tracee, entry, ("program_invocation_short_name", "__progname"), None),
        libc_argc=0,
        munmap=munmap,
        page=entry.page,
        sigreturn=_sigreturn(tracee, entry),
        state=at[MACHINE.state[0]] & MACHINE.state[1] if MACHINE.state is not None else 0,
        idle_ns=0,
        ignored=int(status_of(tracee.pid)["SigIgn"], 16),
    )


def _sigreturn(tracee: Tracee, entry: Entry) -> int:
    """The kernel's own function for the end of a signal handler, where the stub needs it."""
    if not MACHINE.sigreturn:
        return 0
    vdso = next((m for m in entry.mappings if m.start == entry.auxv.get(_AT_SYSINFO_EHDR)), None)
    if vdso is None:
        raise NotWarm("kernel", "without a vdso")
    try:
        dynamic = read_dynamic(tracee.read(vdso.start, vdso.end - vdso.start), vdso.path)
    except ElfError as error:
        raise NotWarm("kernel", str(error)) from error
    symbol = dynamic.symbols.get(MACHINE.sigreturn)
    if symbol is None or not symbol.defined:
        raise NotWarm("kernel", f"without {MACHINE.sigreturn}")
    return vdso.start + symbol.value - next(s.vaddr for s in dynamic.segments if s.type == PT_LOAD)


def _writable(entry: Entry, path: str) -> Iterator[Mapping]:
    """An object's data: what is mapped writable of its file, and the zeroes that follow."""
    last = None
    for m in entry.mappings:
        if "w" in m.permissions and (m.path == path or (last is not None and not m.path and m.start == last.end)):
            yield m
        last = m if m.path == path else None


def _libc_arguments(tracee: Tracee, entry: Entry, argv: int) -> tuple[int, int]:
    """The C library's own argv and argc, which have no symbols: what it gives to the constructors of libraries that
    are opened later."""
    libc = entry.object_named("libc.so")
    if libc is None:
        raise NotWarm("unknown C library")
    pattern, number = struct.pack("Q", argv), struct.pack("I", ARGC)
    for m in _writable(entry, libc.path):
        data = tracee.read(m.start, m.end - m.start)
        at = data.find(pattern)
        while at >= 0:
            near = [i for i in range(max(0, at - 64), min(len(data), at + 72), 4) if data[i : i + 4] == number]
            if at % 8 == 0 and len(near) == 1:
                return m.start + at, m.start + near[0]
            at = data.find(pattern, at + 1)
    raise NotWarm("unknown C library", "argc and argv")


def _variable(tracee: Tracee, entry: Entry, names: tuple[str, ...], expected: int | None) -> int:
    address = next((a for name in names if (a := entry.program.address(name))), 0) or entry.defining(names[0])
    if not address:
        raise NotWarm("unknown C library", names[0])
    if expected is not None and tracee.word(address) != expected:
        raise NotWarm("a constructor that changed the process", names[0])
    return address


def _lead(tracee: Tracee, entry: Entry, name: str, expected: int, to: int) -> None:
    """Changes a pointer of the dynamic linker's, which it cannot write any more itself."""
    address = next((a for obj in entry.objects if (a := obj.address(name))), 0)
    if not address or tracee.word(address) != expected:
        raise NotWarm("unknown dynamic linker", name)
    tracee.write(address, struct.pack("Q", to))


def _fields_of_stat(pid: int) -> dict[int, int]:
    """The numbers of proc_pid_stat(5), by its own numbering."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return {4 + i: int(word) for i, word in enumerate(text[text.rindex(")") + 4 :].split())}


def _memory_map(pid: int, brk: int) -> MemoryMap:
    f = _fields_of_stat(pid)
    return MemoryMap(f[26], f[27], f[45], f[46], f[47], brk, f[28], f[48], f[49], f[50], f[51])
