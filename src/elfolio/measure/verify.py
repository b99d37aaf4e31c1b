"""measure.verify: the model held against a real exec. In: a path, or recorded maps. Out: Verification.

At the first instruction every VMA is compared as it is, address randomisation off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from elfolio.kernel.execve import ExecError, Execution, check_program, execve
from elfolio.kernel.host import Host, observed
from elfolio.kernel.libc import libc_of
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, OpenFile
from elfolio.live.host import host_here, policy_here
from elfolio.live.maps import parse_maps
from elfolio.measure.compare import Comparison, Difference, compare
from elfolio.measure.hold import ENVIRONMENT, HeldProcess, HoldError, held, strings_size
from elfolio.measure.objects import compare_objects
from elfolio.measure.program import Program, read_image, read_program

__all__ = ["Program", "Verification", "predict", "read_image", "read_program", "verify", "verify_from"]


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
    *,
    linking: bool = True,
) -> Verification:
    """Holds the program at its first instruction and compares; with `linking`, one that has an interpreter again at
    its entry, object by object. `policy` None: this machine's. Raises OSError, ElfError for a file that cannot be read
    and what spawn.held.hold raises for one that cannot be pinned.
    """
    program = read_program(path)
    policy = policy or policy_here(path)
    if program.image.interpreter:
        policy = replace(policy, libc=libc_of(program.image.interpreter, policy.libc))
    bits = program.image.header.bits
    argv = argv or (path,)
    host = replace(host_here(policy, bits), strings=strings_size(path, argv, environment))
    predicted = predict(program, policy, host)
    try:
        with held(path, argv, environment, bits=bits) as process:
            real = process.maps()
            first = _first(path, predicted, real)
            objects: tuple[Comparison, ...] = ()
            if linking and program.interpreter is not None and isinstance(predicted, Execution):
                objects = _linked(process, program, predicted, policy)
            return Verification(path, predicted, real, first, objects)
    except HoldError as error:
        return Verification(path, predicted, error, _failed(path, predicted, error))


def _linked(process: HeldProcess, program: Program, predicted: Execution, policy: Policy) -> tuple[Comparison, ...]:
    try:
        process.to_entry()
    except HoldError as error:  # such as a library that is missing: the dynamic loader says so, and exits
        return (Comparison(f"{program.path} after dynamic linking", 0, (Difference(str(error), None, None),)),)
    return compare_objects(program, predicted, process.maps(), policy)


def verify_from(record: str, program: Program, policy: Policy, host: Host) -> Verification:
    """The same against the text of a maps file that was recorded at the program's first instruction on another kernel
    or machine, randomisation off. The sizes of the vdso and of the strings on the stack are the record's. Raises
    MapsError."""
    real = parse_maps(record, "record", policy.page_size)
    predicted = predict(program, policy, observed(host, real, policy.page_size))
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
