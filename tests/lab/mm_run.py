"""tests.lab.mm_run: the address-space model held against another kernel. In: a kernel's name. Out: Found.

One boot runs everything: cases, random sequences of operations, programs at their first instruction. By hand:

    python -m tests.lab.mm_run 6.1 [OPERATIONS ODD [SEED]]
"""

import importlib.util
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from elfolio.kernel.calls import Operation, UffdRegister, UffdUnregister
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm
from elfolio.kernel.model import apply
from elfolio.live.host import file_system_of
from tests.kernel import sequences
from tests.kernel.oracle import Shown, shown_model
from tests.kernel.test_mm_found import FOUND, MEMFD
from tests.lab.kernels import Kernel
from tests.lab.mm_cases import Share, run_cases
from tests.lab.mm_execs import Guests, compare_program, gather
from tests.lab.mm_kernels import LAB, SMALL, lab_kernel
from tests.lab.mm_live import RemoteLive, Rules, open_files, rules_of, twin
from tests.lab.mm_machine import MEMORY, TRUNCATE, Machine, build, machine, seconds_to_answer

__all__ = ["Found", "run_found", "run_sequences", "under"]

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_DEEPEST = 4
_ABOVE = (1 << 47) + (1 << 40)
_LENGTH = 250
"""Of a sequence."""


@dataclass
class Found:
    """What came of one kernel."""

    release: str
    version: str
    machine: str
    page: int
    bits: int
    """Of an address."""
    boot_seconds: float
    seconds: float = 0.0
    cases: Share = field(default_factory=Share)
    known: Share = field(default_factory=Share)
    """Sequences of tests.kernel.test_mm_found."""
    operations: Share = field(default_factory=Share)
    execs: Share = field(default_factory=Share)


# --- sequences ------------------------------------------------------------------------------------


def _sequences(page: int, large: bool) -> ModuleType:
    """tests.kernel.sequences, counting in pages of that size; where there are addresses above the window, one address
    in sixteen is there."""
    spec = importlib.util.spec_from_file_location("sequences_of_pages", sequences.__file__)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    scaled = [size * page // 4096 if size % 4096 in (0, 1, 4095) else size for size in made._SIZES]
    hostile = [value if value % 4096 or value >= 1 << 47 else value * page // 4096 for value in made._HOSTILE]
    if page != 4096:  # arm64 ignores an address's highest byte in some calls (untagged_addr); the model does not
        hostile = [value for value in hostile if value != 1 << 63]
    vars(made).update(_P=page, _SIZES=tuple(scaled), _HOSTILE=tuple(hostile))
    low, inside = made._address, made._inside

    def address(a: int, b: int, mm: Mm) -> int:
        return _ABOVE + b % 64 * page if a % 16 == 13 else int(low(a, b, mm))

    def free(address: int) -> int:
        return address if _ABOVE <= address < _ABOVE + 64 * page else int(inside(address))

    if large:
        vars(made).update(_address=address, _inside=free)
    return made


def run_sequences(made: Machine, rules: Rules, operations: int, seed: int = 0) -> Share:
    """So many random operations, compared after each; a sequence ends at its first difference."""
    share = Share()
    page, large = rules.policy.page_size, rules.large
    module = sequences if page == 4096 and not large else _sequences(page, large)
    files = open_files(made, page, file_system_of(made.place) if rules.here else "ramfs")
    while share.run < operations:
        steps = list(_steps(random.Random(seed), _LENGTH))
        miss = _sequence(made, rules, files, steps, module, share)
        if miss:
            share.misses.append(f"seed {seed}: {miss}")
        seed += 1
    return share


def run_found(made: Machine, rules: Rules) -> Share:
    """The sequences in which model and kernel once differed, each as one."""
    share = Share()
    file = made.wish(MEMORY, payload=b"found")
    made.wish(TRUNCATE, file, 10 * rules.policy.page_size)
    for name, operations in FOUND.items():
        with RemoteLive(made, rules.policy.machine, rules.policy.page_size, {MEMFD: file}) as live:
            miss = _as_found(live, twin(live, rules), operations)
        share.add(miss and f"{name}: {miss}")
    return share


def _as_found(live: RemoteLive, mm: Mm, operations: Sequence[Operation | str]) -> str:
    for operation in operations:
        if isinstance(operation, str):
            live.fork()
            mm = mm.fork()
        else:
            real, modelled = live.apply(operation), apply(mm, operation)
            if real != modelled:
                return f"{operation}: {real:#x} real, {modelled:#x} modelled"
        if set(live.shown()) != set(shown_model(mm)):
            return f"after {operation}: {_apart(live, mm)}"
    return ""


def _steps(source: random.Random, count: int) -> Iterator[sequences.Step]:
    for _ in range(count):
        numbers = [source.randrange(65536) for _ in range(6)]
        yield (source.choice(sequences.KINDS), *numbers)  # type: ignore[misc]


def _sequence(
    made: Machine, rules: Rules, files: dict[Mappable, int], steps: Sequence[sequences.Step], module: ModuleType,
    share: Share,
) -> str:  # fmt: skip
    forks, before, order = 0, "the start", tuple(files)
    with RemoteLive(made, rules.policy.machine, rules.policy.page_size, files) as live:
        mm = twin(live, rules)
        if set(live.shown()) != set(shown_model(mm)):
            share.run += 1
            return f"{before}: {_apart(live, mm)}"
        for step in steps:
            if step[0] == "fork" and forks < _DEEPEST:
                forks += 1
                share.kinds["fork"] += 1
                share.run += 1
                live.fork()
                mm = mm.fork()
            else:
                operation = module.resolve(step, mm, order)
                if operation is None:
                    share.kinds["left out"] += 1
                    continue
                real, modelled = live.apply(operation), apply(mm, operation)
                share.kinds[type(operation).__name__] += 1
                share.run += 1
                if real != modelled:
                    near = [_line(one) for one in live.shown() if _near(one, operation)]
                    return f"{operation}: {real:#x} real, {modelled:#x} modelled; there {near}; before it {before}"
                before = str(operation)
            if set(live.shown()) != set(shown_model(mm)):
                return f"after {before}: {_apart(live, mm)}"
            share.agreed += 1
    return ""


def _near(shown: Shown, operation: Operation) -> bool:
    address, length = (operation[0], operation[1]) if len(operation) > 1 else (0, 0)
    if isinstance(operation, UffdRegister | UffdUnregister):
        address, length = operation.address, operation.length
    return shown[0] <= address + length and address <= shown[1]


def _apart(live: RemoteLive, mm: Any) -> str:
    real, modelled = set(live.shown()), set(shown_model(mm))
    parts = [f"{side} {_line(one)}" for side, which in (("real", real - modelled), ("model", modelled - real))
             for one in sorted(which, key=lambda shown: shown[:2])]  # fmt: skip
    return "; ".join(parts)


def _line(shown: Any) -> str:
    start, end, perms, offset, flags = shown
    return f"{start:x}-{end:x} {perms} {offset:x} {' '.join(sorted(flags))}"


# --- all of it ------------------------------------------------------------------------------------


def under(name: str, operations: int, odd: int, seed: int = 0, *, seconds: float = 280) -> Found:
    """Boots one of LAB and runs everything. Raises Unavailable."""
    kernel = lab_kernel(name)
    with tempfile.TemporaryDirectory(prefix="lab-") as text:
        folder = Path(text)
        build(folder, kernel.architecture)
        guests = gather(kernel.architecture, folder, odd)
        started = time.monotonic()
        try:
            large = name not in SMALL
            with machine(kernel, folder, guests.files, folder, seconds=seconds, large=large) as made:
                found = _everything(made, kernel, guests, operations, seed, folder)
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(f"{error}: {(folder / 'console').read_text(errors='replace')[-2000:]}") from error
        found.seconds = time.monotonic() - started
        return found


def _everything(made: Machine, kernel: Kernel, guests: Guests, operations: int, seed: int, folder: Path) -> Found:
    booted = seconds_to_answer(made)
    kind, page = _MACHINES[kernel.architecture], made.page_size()
    rules = rules_of(made, kind, page, folder)
    release = made.read("/proc/sys/kernel/osrelease").decode().strip()
    bits = (rules.host.task_size - 1).bit_length()
    found = Found(release, ".".join(map(str, rules.policy.version)), kind, page, bits, booted)
    for program in guests.programs:
        miss = compare_program(made, program, rules)
        found.execs.add(miss and f"{program.path}: {miss}")
    if not seed:
        found.cases = run_cases(made, rules)
    if page == 4096:  # they name addresses by such pages
        found.known = run_found(made, rules)
    found.operations = run_sequences(made, rules, operations, seed)
    return found


if __name__ == "__main__":
    for word in sys.argv[1:2] or LAB:
        result = under(word, *(int(number) for number in sys.argv[2:] or ["1000", "100"]))
        print(result.release, result.version, f"booted in {result.boot_seconds:.1f} s, {result.seconds:.1f} s in all")
        for part in ("cases", "known", "operations", "execs"):
            kept: Share = getattr(result, part)
            print(part, kept, *(f"\n  {miss}" for miss in kept.misses))
        print(dict(result.cases.kinds))
