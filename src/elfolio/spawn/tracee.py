"""spawn.tracee: a stopped process, looked at and changed. In: a proxy that traces it. Out: memory, registers, stops.

All of ptrace(2) that a template's start needs: breakpoints, one step, a system call made in its place. The tracer is
the proxy (native/proxy.h); memory goes through /proc/PID/mem, where a tracer may write what is mapped read-only.
"""

import os
import signal
import struct

from elfolio import _native
from elfolio.spawn.machine import MACHINE

__all__ = ["Registers", "Tracee", "TraceeLost"]

_CONT, _SINGLESTEP, _DETACH, _GETREGSET, _SETREGSET = 7, 9, 17, 0x4204, 0x4205
_NT_PRSTATUS = 1
_O_TRACEEXEC, _O_EXITKILL = 0x10, 0x100000
_EVENT_EXEC = 4
_WALL = 0x40000000

_REGS = struct.Struct(f"{len(MACHINE.registers)}Q")

Registers = dict[str, int]


class TraceeLost(Exception):
    """It did not come to where it was expected; says how far it came."""


class Tracee:
    """One process, from its exec on. Every method is called while it is stopped."""

    def __init__(self, proxy: _native.Proxy) -> None:
        self._proxy = proxy
        self.pid = 0
        self.mem = -1
        self._planted: dict[int, bytes] = {}

    @property
    def proxy(self) -> _native.Proxy:
        """Its tracer."""
        return self._proxy

    def expect(self) -> None:
        """To be called before the launch that this proxy is given to."""
        self._proxy.meet(_O_TRACEEXEC | _O_EXITKILL)

    def await_exec(self) -> None:
        """Until it stands at the first instruction after its exec."""
        pid = self._proxy.result()
        if pid < 0:
            raise TraceeLost(f"ptrace: {os.strerror(-pid)}")
        self.pid = pid
        self._await_stop(signal.SIGTRAP | _EVENT_EXEC << 8)
        # An own descriptor of the proxy's opening: where Yama is on, only the tracer may write.
        self.mem = self._call(MACHINE.openat, -100, f"/proc/{pid}/mem\0".encode(), os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Lets go of its memory."""
        if self.mem >= 0:
            os.close(self.mem)
            self.mem = -1

    def _call(self, number: int, *arguments: object) -> int:
        result = self._proxy.call(number, *arguments)
        if result < 0:
            raise TraceeLost(f"system call {number}: {os.strerror(-result)}")
        return result

    def _ptrace(self, request: int, data: object = 0) -> None:
        self._call(MACHINE.ptrace, request, self.pid, 0, data)

    def _await_stop(self, wanted: int = signal.SIGTRAP) -> None:
        """Signals meanwhile are its own business, and go through."""
        status = bytearray(4)
        while True:
            self._call(MACHINE.wait4, self.pid, status, _WALL, 0)
            (word,) = struct.unpack("i", status)
            if not os.WIFSTOPPED(word):
                raise TraceeLost("it ended before its entry was reached")
            stopped_by = word >> 8
            if stopped_by == wanted:
                return
            if stopped_by >> 8:
                raise TraceeLost("it was stopped")
            self._ptrace(_CONT, stopped_by)

    # --- memory and registers ---------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """Bytes of its memory."""
        return os.pread(self.mem, size, address)

    def word(self, address: int) -> int:
        """One pointer."""
        return int.from_bytes(self.read(address, 8), "little")

    def string(self, address: int) -> bytes:
        """A C string of at most 4 KiB."""
        return self.read(address, 4096 - address % 4096 or 4096).partition(b"\0")[0]

    def write(self, address: int, data: bytes) -> None:
        """Writes whatever the protection."""
        written = self._call(MACHINE.pwrite64, self.mem, data, len(data), address)
        if written != len(data):
            raise TraceeLost("its memory cannot be written")

    @property
    def registers(self) -> Registers:
        """All general registers."""
        buffer = bytearray(_REGS.size)
        self._register_set(_GETREGSET, buffer)
        return dict(zip(MACHINE.registers, _REGS.unpack(buffer), strict=True))

    @registers.setter
    def registers(self, values: Registers) -> None:
        self._register_set(_SETREGSET, bytearray(_REGS.pack(*(values[name] for name in MACHINE.registers))))

    def _register_set(self, request: int, buffer: bytearray) -> None:
        result = self._proxy.regset(request, self.pid, _NT_PRSTATUS, buffer)
        if result < 0:
            raise TraceeLost(f"ptrace: {os.strerror(-result)}")

    # --- running ----------------------------------------------------------------------------------

    def plant(self, address: int) -> None:
        """Sets a breakpoint."""
        if address not in self._planted:
            self._planted[address] = self.read(address, len(MACHINE.trap))
            self.write(address, MACHINE.trap)

    def uproot(self, address: int) -> None:
        """Removes a breakpoint."""
        self.write(address, self._planted.pop(address))

    def run(self) -> Registers:
        """On to the next breakpoint; the registers there, the program counter set back onto it."""
        self._ptrace(_CONT)
        self._await_stop()
        registers = self.registers
        registers[MACHINE.pc] -= MACHINE.behind_trap
        if registers[MACHINE.pc] not in self._planted:
            raise TraceeLost("it stopped where no breakpoint is")
        return registers

    def pass_by(self, registers: Registers) -> None:
        """One instruction, as if the breakpoint here were not there."""
        here = registers[MACHINE.pc]
        self.registers = registers
        self.write(here, self._planted[here])
        self._ptrace(_SINGLESTEP)
        self._await_stop()
        self.write(here, MACHINE.trap)

    def system_call(self, registers: Registers, number: int, *arguments: int) -> int:
        """Has it make a system call, at the place where `registers` stand; what was there is put back."""
        here = registers[MACHINE.pc]
        instructions = MACHINE.call + MACHINE.trap
        before = self.read(here, len(instructions))
        self.write(here, instructions)
        words = (argument & ((1 << 64) - 1) for argument in arguments)
        given = dict(zip(MACHINE.call_arguments, words, strict=False))
        self.registers = _elsewhere({**registers, **given, MACHINE.call_number: number})
        self._ptrace(_CONT)
        self._await_stop()
        result = self.registers[MACHINE.call_result]
        self.write(here, before)
        return result - (1 << 64) if result >> 63 else result

    def robust_list(self) -> tuple[int, int]:
        """Address and size of the robust futex list's head."""
        head, size = bytearray(8), bytearray(8)
        self._call(MACHINE.get_robust_list, self.pid, head, size)
        return int.from_bytes(head, "little"), int.from_bytes(size, "little")

    def detach(self, registers: Registers, pc: int, sp: int) -> None:
        """Lets it run from there with `registers`, traced no more."""
        self.registers = _elsewhere({**registers, MACHINE.pc: pc, MACHINE.sp: sp})
        self._ptrace(_DETACH)


def _elsewhere(registers: Registers) -> Registers:
    name, kept, added = MACHINE.elsewhere
    return {**registers, name: registers[name] & kept | added}
