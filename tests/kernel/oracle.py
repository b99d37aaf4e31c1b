"""The live kernel as an oracle: a driver of our own (mm_driver.c) as the process behind elfolio.measure.oracle."""

import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from elfolio.kernel.calls import NameVma, Operation, Touch, UffdClose, UffdRegister, UffdUnregister
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.space import OpenFile
from elfolio.live.host import policy_here as host_policy
from elfolio.measure.oracle import NUMBERS, Oracle, Shown, shown_model, twin

__all__ = [
    "CALLS",
    "FILL",
    "NAMES",
    "SAME",
    "UFFD_OPEN",
    "Live",
    "Shown",
    "build_driver",
    "host_policy",
    "shown_model",
    "twin",
]

CALLS = NUMBERS[os.uname().machine]
_TOUCH, _FORK, UFFD_OPEN, _UFFD_REGISTER, _UFFD_UNREGISTER, FILL, SAME, _NAME = range(1000, 1008)
NAMES = (None, "one", "two", "[three]")
"""Names that the driver can give to memory; the last is none that may be given."""
_SIGNED = 1 << 64


def build_driver(folder: Path, *options: str) -> Path:
    """mm_driver, made static; skips where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to hold the model against the running kernel")
    made = folder / "mm_driver"
    source = Path(__file__).with_name("mm_driver.c")
    command = [compiler, "-O1", "-static", "-o", str(made), str(source), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        pytest.skip(f"no static C library: {done.stderr[-200:]}")
    return made


@dataclass
class Opened:
    """A file that the driver has open."""

    fd: int
    mappable: Mappable


class Live(Oracle):
    """A driver at work. `files` are open in it under the same numbers as here."""

    def __init__(self, driver: Path, files: dict[Mappable, int] | None = None) -> None:
        self.files = files or {}
        self.uffds: dict[int, int] = {}
        pipe, fds = subprocess.PIPE, tuple(self.files.values())
        self._process = subprocess.Popen([str(driver)], stdin=pipe, stdout=pipe, pass_fds=fds, bufsize=0, env={})
        self.pid = self._process.pid
        self.call(self.numbers["brk"], 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def call(self, number: int, *arguments: int) -> int:
        """One system call, or one of the driver's own: what it returns, or -errno."""
        words = [number, *(value % _SIGNED for value in arguments), *([0] * (6 - len(arguments)))]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("=7Q", *words))
        answer = self._process.stdout.read(8)
        if not answer or len(answer) < 8:
            raise RuntimeError(f"the driver ended at call {words}: {self._process.poll()}")
        return int(struct.unpack("=q", answer)[0])

    def fork(self) -> None:
        """From now on the child answers."""
        self.pid = self.call(_FORK)
        self.uffds.clear()  # they watch the parent

    def apply(self, operation: Operation) -> int:
        """The operation as a real call, or as one of the driver's own."""
        match operation:
            case Touch(address, length, write):
                return self.call(_TOUCH, address, length, write)
            case UffdRegister(uffd, address, length, mode):
                return self.call(_UFFD_REGISTER, self._uffd(uffd), address, length, mode)
            case UffdUnregister(uffd, address, length):
                return self.call(_UFFD_UNREGISTER, self._uffd(uffd), address, length)
            case UffdClose(uffd):
                return self.call(CALLS["close"], self.uffds.pop(uffd)) if uffd in self.uffds else 0
            case NameVma(address, length, name):
                return self.call(_NAME, address, length, NAMES.index(name))
            case _:
                return super().apply(operation)

    def _uffd(self, number: int) -> int:
        if number not in self.uffds:
            made = self.call(UFFD_OPEN)
            if made < 0:
                pytest.skip(f"no userfaultfd here: errno {-made}")
            self.uffds[number] = made
        return self.uffds[number]


def open_file(name: str, size: int, opening: int) -> Opened:
    """A memfd of this process."""
    fd = os.memfd_create(name)
    os.truncate(fd, size)
    opened = OpenFile(f"/memfd:{name} (deleted)", os.fstat(fd).st_ino, opening=opening)
    return Opened(fd, Mappable(opened, size, "shmem", "tmpfs"))
