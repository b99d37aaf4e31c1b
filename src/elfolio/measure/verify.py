"""measure.verify: the model held against a real exec. In: a path, or recorded maps. Out: Verification.

At the first instruction every VMA is compared as it is, address randomisation off.
"""

import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.kernel.execve import ExecError, Execution, execve
from elfolio.kernel.host import Host
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, OpenFile
from elfolio.live.host import host_here, policy_here
from elfolio.live.maps import parse_maps
from elfolio.measure.compare import Comparison, Difference, compare
from elfolio.measure.hold import ENVIRONMENT, HoldError, held, strings_size

__all__ = ["Program", "Verification", "predict", "read_image", "read_program", "verify", "verify_from"]


@dataclass(frozen=True)
class Program:
    """A file and the interpreter that it names, read."""

    path: str
    """As it is executed."""
    image: ElfImage
    """Its name is the path that maps shows."""
    interpreter: ElfImage | None


@dataclass(frozen=True)
class Verification:
    """What was predicted, what was found."""

    path: str
    predicted: Execution | ExecError
    real: AddressSpace | HoldError
    first: Comparison
    """At the first instruction; where execve fails, whether it was to fail so."""
    objects: tuple[Comparison, ...] = ()
    """After dynamic linking, one for each mapped file."""

    @property
    def equal(self) -> bool:
        """All of it."""
        return self.first.equal and all(comparison.equal for comparison in self.objects)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Of all comparisons."""
        return sum((comparison.differences for comparison in self.objects), self.first.differences)


def read_image(path: str) -> ElfImage:
    """An ELF file by its path, links followed: maps shows where they lead. Raises OSError, ElfError."""
    real = os.path.realpath(path)
    with open(real, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return read(b"", real)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read(data, real)


def read_program(path: str) -> Program:
    """The file and its interpreter. Raises OSError, ElfError, for the interpreter too."""
    image = read_image(path)
    return Program(path, image, read_image(image.interpreter) if image.interpreter else None)


def predict(program: Program, policy: Policy, host: Host) -> Execution | ExecError:
    """What execve does; a failure is a prediction too."""
    files = (OpenFile(program.image.name), OpenFile(program.interpreter.name if program.interpreter else "", opening=1))
    try:
        return execve(program.image, program.interpreter, policy, host, file=files[0], interpreter_file=files[1])
    except ExecError as error:
        return error


def verify(
    path: str,
    policy: Policy | None = None,
    argv: Sequence[str] | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> Verification:
    """Holds the program at its first instruction and compares. `policy` None: this machine's. Raises OSError, ElfError
    for a file that cannot be read, and what spawn.held.hold raises for one that cannot be pinned."""
    program = read_program(path)
    policy = policy or policy_here(path)
    bits = program.image.header.bits
    argv = argv or (path,)
    host = replace(host_here(policy, bits), strings=strings_size(path, argv, environment))
    predicted = predict(program, policy, host)
    try:
        with held(path, argv, environment, bits=bits) as process:
            real = process.maps()
            return Verification(path, predicted, real, _first(path, predicted, real))
    except HoldError as error:
        if error.lost:
            raise
        return Verification(path, predicted, error, _failed(path, predicted, error))


def verify_from(record: str, program: Program, policy: Policy, host: Host) -> Verification:
    """The same against the text of a maps file that was recorded at the program's first instruction on another kernel
    or machine. Names are compared as the record has them. Raises MapsError."""
    predicted = predict(program, policy, host)
    real = parse_maps(record, "record", policy.page_size)
    return Verification(program.path, predicted, real, _first(program.path, predicted, real))


def _first(path: str, predicted: Execution | ExecError, real: AddressSpace) -> Comparison:
    subject = f"{path} at its first instruction"
    if isinstance(predicted, ExecError):
        return Comparison(subject, 0, tuple(Difference("unexpected", None, vma) for vma in real))
    return compare(predicted.space, real, subject)


def _failed(path: str, predicted: Execution | ExecError, real: HoldError) -> Comparison:
    """execve fails: the same errno to its caller, or the same signal."""
    subject = f"{path}: execve"
    if isinstance(predicted, Execution):
        return Comparison(subject, len(predicted.space), tuple(Difference("missing", v, None) for v in predicted.space))
    same = predicted.signal == real.signal and (predicted.signal is not None or predicted.errno == real.errno)
    return Comparison(subject, 0, () if same else (Difference(f"{predicted} | {real}", None, None),))
