"""spawn.machine: what a tracer must know of a processor. In: the one that the C core was built for. Out: Machine."""

import struct
from dataclasses import dataclass

from elfolio import _native

__all__ = ["MACHINE", "Machine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Registers by the names that the architecture gives them; numbers of system calls."""

    registers: tuple[str, ...]
    """In the order of NT_PRSTATUS."""
    pc: str
    sp: str
    first_argument: str
    """Of a function."""
    entry_argument: str
    """At a program's entry: the dynamic linker's finaliser."""
    state: tuple[str, int] | None
    """What else a program has at its entry and may not lose: a register, and the bits that count."""
    elsewhere: tuple[str, int, int]
    """To go on elsewhere than where it stands: a register, bits that it keeps, bits that are set."""
    trap: bytes
    """A breakpoint."""
    behind_trap: int
    """How far behind its address the program counter stands after one."""
    call_number: str
    call_arguments: tuple[str, ...]
    call_result: str
    call: bytes
    """The instruction for a system call."""
    pushed: int
    """Bytes that a call of a function puts on the stack."""
    sigreturn: str
    """The vdso's function to return from a signal with; empty where the stub does without."""

    openat: int
    close: int
    pwrite64: int
    wait4: int
    ptrace: int
    get_robust_list: int
    mmap: int
    mprotect: int
    brk: int
    madvise: int
    prctl: int
    rt_sigprocmask: int
    getitimer: int
    close_range: int


_X86_64 = Machine(
    # struct user_regs_struct (arch/x86/include/asm/user_64.h)
    registers=(
        *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
        *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
    ),
    pc="rip",
    sp="rsp",
    first_argument="rdi",
    entry_argument="rdx",
    state=None,
    elsewhere=("orig_rax", 0, (1 << 64) - 1),  # no system call to be restarted
    trap=b"\xcc",  # int3
    behind_trap=1,
    call_number="rax",
    call_arguments=("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    call_result="rax",
    call=b"\x0f\x05",  # syscall
    pushed=8,
    sigreturn="",
    openat=257,
    close=3,
    pwrite64=18,
    wait4=61,
    ptrace=101,
    get_robust_list=274,
    mmap=9,
    mprotect=10,
    brk=12,
    madvise=28,
    prctl=157,
    rt_sigprocmask=14,
    getitimer=36,
    close_range=436,
)

_SSBS, _DIT, _TCO, _BTYPE = 1 << 12, 1 << 24, 1 << 25, 3 << 10

_AARCH64 = Machine(
    registers=(*(f"x{i}" for i in range(31)), "sp", "pc", "pstate"),  # struct user_pt_regs
    pc="pc",
    sp="sp",
    first_argument="x0",
    entry_argument="x0",
    state=("pstate", _SSBS | _DIT | _TCO),
    # Where it has just branched to, a page with guarded branches would take nothing but a landing pad.
    elsewhere=("pstate", ~_BTYPE, 0),
    trap=struct.pack("<I", 0xD4200000),  # brk #0
    behind_trap=0,
    call_number="x8",
    call_arguments=("x0", "x1", "x2", "x3", "x4", "x5"),
    call_result="x0",
    call=struct.pack("<I", 0xD4000001),  # svc #0
    pushed=0,
    sigreturn="__kernel_rt_sigreturn",
    openat=56,
    close=57,
    pwrite64=68,
    wait4=260,
    ptrace=117,
    get_robust_list=100,
    mmap=222,
    mprotect=226,
    brk=214,
    madvise=233,
    prctl=167,
    rt_sigprocmask=135,
    getitimer=102,
    close_range=436,
)

MACHINE = {62: _X86_64, 183: _AARCH64}[_native.MACHINE]
"""By its number in ELF headers."""
