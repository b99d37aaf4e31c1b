"""measure.verify: the model held against a real exec. In: a path, or recorded maps. Out: Verification.

At the first instruction every VMA is compared as it is, address randomisation off.
"""

import errno
import mmap
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from elfolio.elf.constants import PT_INTERP
from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.errors import ElfError
from elfolio.kernel.execve import ExecError, Execution, check_program, execve
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
    obstacle: OSError | None = None
    """Why the interpreter that it names cannot be one; execve fails with this errno."""


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
        # Not closed by a `with`: the frames of an ElfError may still look at it.
        return read(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), real)


def read_program(path: str) -> Program:
    """The file and its interpreter. Raises OSError, ElfError, for the file itself."""
    image = read_image(path)
    if not image.interpreter:
        return Program(path, image, None)
    try:
        _check_interpreter(image)
        return Program(path, image, read_image(image.interpreter))
    except ElfError as error:
        return Program(path, image, None, OSError(errno.ELIBBAD, str(error), image.interpreter))
    except OSError as error:
        return Program(path, image, None, error)


def _check_interpreter(image: ElfImage) -> None:
    """As open_exec: a regular file that may be executed. The path must end with its NUL."""
    header, path = image.segment(PT_INTERP), image.interpreter or ""
    if header is not None:
        with open(image.name, "rb") as file:
            if os.pread(file.fileno(), 1, header.file.end - 1) != b"\0":
                raise OSError(errno.ENOEXEC, "PT_INTERP does not end with a NUL", image.name)
    if not stat.S_ISREG(os.stat(path).st_mode) or not os.access(path, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def predict(program: Program, policy: Policy, host: Host) -> Execution | ExecError:
    """What execve does; a failure is a prediction too."""
    if program.obstacle is not None:
        try:
            check_program(program.image, policy)
        except ExecError as error:
            return error
        return ExecError(program.obstacle.errno or 0, "the interpreter", program.path)
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
