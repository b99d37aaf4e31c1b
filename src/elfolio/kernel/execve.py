"""kernel.execve: what execve would map. In: ElfImage, its interpreter's, Policy, Host. Out: Execution, or ExecError.

The address space is the one at the first instruction, with address randomisation off. The order of calls is that of
load_elf_binary (fs/binfmt_elf.c): the stack, the program's segments, the interpreter's, the vdso; what they ask of mmap
decides the rest. Errors up to begin_new_exec come back to the caller of execve, later ones kill the process.
"""

import errno
from dataclasses import dataclass, replace

from elfolio.elf.constants import (
    DF_1_PIE,
    DT_FLAGS_1,
    EM_386,
    EM_AARCH64,
    EM_X86_64,
    ET_DYN,
    ET_EXEC,
    PF_X,
    PT_GNU_STACK,
    PT_INTERP,
)
from elfolio.elf.image import ElfImage
from elfolio.kernel.areas import Area
from elfolio.kernel.bias import base_alignment, entropy_bits
from elfolio.kernel.exec_calls import MapError
from elfolio.kernel.faults import prepare
from elfolio.kernel.host import STACK_EXPAND, Host, default_host
from elfolio.kernel.mappable import of_policy
from elfolio.kernel.mm import Mm
from elfolio.kernel.placement import place
from elfolio.kernel.policy import Policy
from elfolio.kernel.segments import Loader
from elfolio.kernel.space import AddressSpace, OpenFile, Vma, VmFlags
from elfolio.span import MappedAddress, round_down, round_up

__all__ = ["ExecError", "Execution", "check_program", "execve", "is_program", "machine_for"]

_SIGSEGV = 11
_PATH_MAX = 4096
_VSYSCALL = 0xFFFFFFFFFF600000
_R, _X = VmFlags.READ, VmFlags.EXEC
_STACK = VmFlags.READ | VmFlags.WRITE | VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC | VmFlags.ACCOUNT
_SPECIAL = VmFlags.MAYREAD | VmFlags.DONTEXPAND
_MACHINES = {
    ("x86_64", 64): (EM_X86_64,),
    ("x86_64", 32): (EM_386, 6),
    ("aarch64", 64): (EM_AARCH64,),
}
"""elf_check_arch, by machine and class; 6 is EM_486."""


class ExecError(OSError):
    """execve fails. `signal` is None where the caller gets the errno; later than that, the process is killed by it."""

    def __init__(self, number: int, why: str, name: str, *, signal: int | None = None) -> None:
        super().__init__(number, why, name)
        self.signal = signal


@dataclass(frozen=True)
class Execution:
    """A process at its first instruction. Addresses are mapped ones."""

    space: AddressSpace
    load_bias: int
    """Added to the program's linked addresses; 0 for ET_EXEC."""
    alignment: int
    """What the bias was aligned to, in bytes."""
    entropy_bits: int
    """Of the program's base, with randomisation on."""
    interpreter_bias: int | None
    """AT_BASE; None without an interpreter."""
    entry: int
    """The program's (AT_ENTRY)."""
    start: int
    """The first instruction: the interpreter's entry, or the program's."""
    phdr: int
    """AT_PHDR."""


def is_program(image: ElfImage) -> bool:
    """Whether execve is what maps it: ET_EXEC, and ET_DYN with an interpreter or marked as a program (DF_1_PIE)."""
    pie = (image.tag(DT_FLAGS_1) or 0) & DF_1_PIE
    return image.header.type == ET_EXEC or image.interpreter is not None or bool(pie)


def machine_for(image: ElfImage) -> str | None:
    """The machine, as uname(2) says it, whose kernel executes such files; None for those that are not modelled."""
    return next((machine for (machine, _), kinds in _MACHINES.items() if image.header.machine in kinds), None)


def execve(
    image: ElfImage,
    interpreter: ElfImage | None,
    policy: Policy,
    host: Host | None = None,
    *,
    file: OpenFile | None = None,
    interpreter_file: OpenFile | None = None,
) -> Execution:
    """Has the program mapped. `interpreter` is the file that PT_INTERP names; None where it names none, and where the
    file is not to be had: then what is said of the program still holds, and its interpreter is missing. The files'
    names in maps are those of `file` and `interpreter_file`, else the images' names. Raises ExecError."""
    check_program(image, policy)
    if interpreter is not None:
        _check_interpreter(image, interpreter, policy)
    host = host or default_host(policy, image.header.bits)
    try:
        return _Exec(image, interpreter, policy, host, file, interpreter_file).run()
    except MapError as error:
        raise ExecError(error.errno, str(error), image.name, signal=_SIGSEGV) from error


def check_program(image: ElfImage, policy: Policy) -> None:
    """What is refused before the interpreter is opened. Raises ExecError."""
    header = image.header

    def refuse(why: str) -> ExecError:
        return ExecError(errno.ENOEXEC, why, image.name)

    if header.type not in (ET_EXEC, ET_DYN):
        raise refuse("neither ET_EXEC nor ET_DYN")
    _check_machine(image, policy, errno.ENOEXEC)
    _check_table(image, policy, errno.ENOEXEC)
    interp = image.segment(PT_INTERP)
    if interp is not None and not 2 <= interp.filesz <= _PATH_MAX:
        raise refuse("PT_INTERP is shorter than two bytes or longer than a path")


def _check_interpreter(image: ElfImage, interpreter: ElfImage, policy: Policy) -> None:
    _check_machine(interpreter, policy, errno.ELIBBAD)
    if interpreter.header.bits != image.header.bits:
        raise ExecError(errno.ELIBBAD, "the interpreter is of another class", interpreter.name)
    _check_table(interpreter, policy, errno.ELIBBAD)


def _check_machine(image: ElfImage, policy: Policy, number: int) -> None:
    header = image.header
    if header.byteorder != "little" or header.machine not in _MACHINES.get((policy.machine, header.bits), ()):
        raise ExecError(number, f"not for {policy.machine}", image.name)


def _check_table(image: ElfImage, policy: Policy, number: int) -> None:
    """load_elf_phdrs."""
    header = image.header
    size = header.phentsize * header.phnum
    limit = min(65536, policy.page_size) if policy["phdrs_at_most_a_page"] else 65536
    if header.phentsize != (56 if header.bits == 64 else 32) or not 0 < size <= limit:
        raise ExecError(number, "a program-header table that Linux does not read", image.name)
    if header.phoff + size > image.size:
        raise ExecError(number, "the program-header table is not in the file", image.name)


class _Exec:
    """load_elf_binary after begin_new_exec."""

    def __init__(
        self,
        image: ElfImage,
        interpreter: ElfImage | None,
        policy: Policy,
        host: Host,
        file: OpenFile | None,
        interpreter_file: OpenFile | None,
    ) -> None:
        self.image, self.interpreter, self.policy, self.host = image, interpreter, policy, host
        self.mm = Mm(policy, host)
        opened = of_policy(policy, file or OpenFile(image.name), image.size)
        self.program = Loader(self.mm, image, opened, program=True)
        self.loader = None
        if interpreter is not None:
            opened = of_policy(policy, interpreter_file or OpenFile(interpreter.name, opening=1), interpreter.size)
            self.loader = Loader(self.mm, interpreter, opened, program=False)
        self.alignment = policy.page_size

    def run(self) -> Execution:
        image, loader = self.image, self.loader
        self.mm.start_stack = self._stack()
        bias = self._load_dyn() if image.header.type == ET_DYN else self.program.load(0, fixed=True)
        entry = (image.header.entry + bias) % (1 << 64)
        start, base = entry, None
        if loader is not None and self.interpreter is not None:
            base = self._load_interpreter(bias)
            start = base + self.interpreter.header.entry
        if start >= self.host.task_size:
            raise MapError(errno.EINVAL, "an entry beyond the address space")
        self._vdso()
        self.mm.start_brk = self.mm.brk = self._brk(bias)
        space = self.mm.snapshot()
        return Execution(
            space=replace(space, vmas=space.vmas + self._vsyscall()),
            load_bias=bias,
            alignment=self.alignment,
            entropy_bits=entropy_bits(image, self.policy),
            interpreter_bias=base,
            entry=entry,
            start=start,
            phdr=self.program.phdr(bias),
        )

    # --- the stack, the vdso, the heap ------------------------------------------------------------

    def _stack(self) -> int:
        """setup_arg_pages. Returns where the strings begin."""
        header = self.image.segment(PT_GNU_STACK)
        page, host = self.policy.page_size, self.host
        executable = bool(header.flags & PF_X) if header is not None else False
        if header is None and host.bits == 32:
            # elf_read_implies_exec (arch/x86/include/asm/elf.h): i386 programs without PT_GNU_STACK are all executable.
            self.mm.read_implies_exec = executable = True
        flags = _STACK | VmFlags.GROWSDOWN | (_X if executable else VmFlags(0))
        top = round_up(host.stack_top, page)
        lowest = top - host.bits // 8 - host.strings
        used = round_up(top - lowest, page)
        size = min(round_down(host.stack_limit, page), used + STACK_EXPAND)
        start = top - max(size, used)
        stack = Area(start, top, int(flags), start)
        self.mm.areas.insert(stack)
        self.mm.total += top - start
        prepare(self.mm, stack)
        return lowest

    def _vdso(self) -> None:
        host = self.host
        total = host.vvar + host.vvar_vclock + host.vdso
        if not total:
            return
        at = place(self.mm, 0, total, 0, None, 0)
        if at < 0:
            raise MapError(-at, "no room")
        parts = (
            ("[vvar]", host.vvar, _R | VmFlags.IO | VmFlags.DONTDUMP | VmFlags.PFNMAP),
            ("[vvar_vclock]", host.vvar_vclock, _R | VmFlags.IO | VmFlags.DONTDUMP | VmFlags.PFNMAP),
            ("[vdso]", host.vdso, _R | _X | VmFlags.MAYWRITE | VmFlags.MAYEXEC),
        )
        for name, size, flags in parts:
            if size:
                area = Area(at, at + size, int(flags | _SPECIAL), 0)
                area.special = name
                self.mm.areas.insert(area)
                self.mm.total += size
                at += size

    def _vsyscall(self) -> tuple[Vma, ...]:
        """The gate page, which maps shows and no call can change (arch/x86/entry/vsyscall)."""
        if not self.host.vsyscall:
            return ()
        flags = _X | (_R if "r" in self.host.vsyscall else VmFlags(0))
        return (Vma(MappedAddress(_VSYSCALL), MappedAddress(_VSYSCALL + 4096), flags, name="[vsyscall]"),)

    def _brk(self, bias: int) -> int:
        """Where the heap begins; it has no mapping before the first brk(2)."""
        static_pie = self.image.header.type == ET_DYN and self.image.interpreter is None
        if static_pie and self.policy["static_pie_brk_moved"]:
            return round_up(self.host.et_dyn_base, self.policy.page_size)
        return round_up(self.program.brk_end(bias), self.policy.page_size)

    # --- the files --------------------------------------------------------------------------------

    def _load_dyn(self) -> int:
        """ET_DYN, at ELF_ET_DYN_BASE with an interpreter, else wherever a mapping without address is placed."""
        policy, program = self.policy, self.program
        static = self.image.interpreter is None
        self.alignment = base_alignment(self.image, policy, static=static)
        if not program.total:
            raise MapError(errno.EINVAL, "no PT_LOAD, or none with a size")
        if not static:
            base = round_down(self.host.et_dyn_base, self.alignment)
            return program.load(base, fixed=True)
        if self.alignment <= policy.page_size:
            return program.load(0, fixed=False)
        # It is mapped to learn where it would lie, unmapped, and mapped again where that is aligned.
        probe = program.probe()
        return program.load(round_down(probe, self.alignment), fixed=True)

    def _load_interpreter(self, bias: int) -> int:
        assert self.loader is not None
        if not self.loader.total:
            raise MapError(errno.EINVAL, "the interpreter has no PT_LOAD")
        if self.loader.image.header.type == ET_EXEC:
            self.loader.load(0, fixed=True)
            return 0
        return self.loader.load(0, fixed=False, relative=bool(bias))
