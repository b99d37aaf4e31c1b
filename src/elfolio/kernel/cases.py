"""kernel.cases: test cases of memory management as data. In: a case, a Policy or a CaseHost. Out: Verdict.

A case is a mapping with `kind`, `setup` (operations in order), `expect` (checks), and `min_kernel` where older ones
differ; its file says what each means. A model answers for the kinds syscall, pagetable, vma_unit and exec, as far as no
check asks what depends on free memory or on a scanner.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from errno import errorcode
from typing import Any

from elfolio.kernel import abi
from elfolio.kernel.calls import (
    Brk,
    Madvise,
    Mlock,
    Mlockall,
    Mmap,
    Mprotect,
    Mremap,
    Mseal,
    Munlock,
    Munlockall,
    Munmap,
    NameVma,
    Operation,
    Prctl,
    Touch,
    UffdRegister,
    UffdUnregister,
)
from elfolio.kernel.case_checks import check
from elfolio.kernel.case_host import CaseHost, ModelHost, Undecidable
from elfolio.kernel.case_units import run_unit
from elfolio.kernel.expressions import ExpressionError, evaluate
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm_switches import MM_SWITCHES
from elfolio.kernel.policy import Policy

__all__ = ["CaseError", "Run", "Verdict", "decide", "run"]

Case = Mapping[str, Any]
_FLAG_WORDS = {"ANON": "ANONYMOUS"}
_UFFD_MODES = {"MISSING": 1, "WP": 2, "MINOR": 4}
_UNDECIDED = {
    "ksm_scan": "it needs ksmd's scans: which pages are alike, and when they are looked at",
    "thp": "it needs khugepaged or debugfs: which pages become huge depends on free memory",
    "softdirty": "it needs CONFIG_MEM_SOFT_DIRTY and the state of single pages",
    "describe": "it states a fact in words; there is nothing to compare",
}


class CaseError(ValueError):
    """A case that is not of the form that its kind has."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a case holds; None where nobody can say, and then why."""

    passed: bool | None
    reason: str = ""


def decide(case: Case, policy: Policy) -> Verdict:
    """A case on the model of a kernel. Raises CaseError for one that is malformed."""
    kind = str(case.get("kind"))
    if kind in _UNDECIDED:
        return Verdict(None, _UNDECIDED[kind])
    expected, reason = _expected(case, policy)
    if expected is None:
        return Verdict(None, reason)
    try:
        found = _try(case, expected, policy)
        return found if found.passed is not False or "min_kernel" in case else _of_later(case, expected, policy, found)
    except Undecidable as error:
        return Verdict(None, str(error))
    except (ExpressionError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(f"{case.get('suite')}/{case.get('name')}: {type(error).__name__}: {error}") from error


def _try(case: Case, expected: Any, policy: Policy) -> Verdict:
    if case["kind"] == "vma_unit":
        return _judge(run_unit(case["setup"], expected, policy))
    return run(case, ModelHost(policy), expected)


def _of_later(case: Case, expected: Any, policy: Policy, found: Verdict) -> Verdict:
    """A case that does not say since when it holds is about later kernels where a rule of theirs is what it takes."""
    later = [(switch, value) for switch in MM_SWITCHES for since, value in switch.history if since > policy.version[:2]]
    for switch, value in later:
        if policy[switch.name] != value and _try(case, expected, policy.switched(**{switch.name: value})).passed:
            return Verdict(None, f"it takes a rule of later kernels, {switch.name}: {switch.what}")
    everything = {switch.name: value for switch, value in later}
    if everything and _try(case, expected, policy.switched(**everything)).passed:
        return Verdict(None, "it takes several rules of later kernels")
    return found


def run(case: Case, host: CaseHost, expected: Any = None) -> Verdict:
    """A case of kind syscall, pagetable or exec on any host, whatever its version."""
    at = Run(host)
    for operation in case["setup"]:
        failed = at.step(operation)
        if failed:
            return Verdict(False, failed)
    return _judge(at.checks(case["expect"] if expected is None else expected))


def _judge(failed: str) -> Verdict:
    return Verdict(not failed, failed)


def _expected(case: Case, policy: Policy) -> tuple[Any, str]:
    """What the case expects of that version, or None and why nothing."""
    least = _version(case["min_kernel"]) if case.get("min_kernel") else ()
    if policy.version[: len(least)] >= least:
        return case["expect"], ""
    older = case.get("expect_older")
    if isinstance(older, Mapping):
        for version, expected in sorted(older.items(), key=lambda item: _version(str(item[0]))):
            limit = _version(str(version))
            if policy.version[: len(limit)] <= limit:
                return expected, ""
    return None, f"it is about Linux {case['min_kernel']} and later"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


class Run:
    """A case at work: the names that it has given so far."""

    def __init__(self, host: CaseHost) -> None:
        self.host = host
        self.names: dict[str, int] = {}
        self.files: dict[str, Mappable] = {}
        self.last = 0
        """What the last call returned."""
        self.table_growth = 0
        self.setup: Sequence[Mapping[str, Any]] = ()

    def value(self, expression: object) -> int:
        """Of an expression over the names."""
        return evaluate(expression, self.names)

    def checks(self, checks: Sequence[Mapping[str, Any]]) -> str:
        """The first that does not hold, in words; empty where all do."""
        for one in checks:
            failed = check(self, one)
            if failed:
                return failed
        return ""

    def step(self, op: Mapping[str, Any]) -> str:
        """One operation: what is wrong with its outcome, empty for nothing."""
        word = op["op"]
        if word == "check":
            return self.checks(op["checks"])
        if word == "check_access":
            return self._check_access(op)
        before = self.host.table_bytes() if op.get("measure_pagetables") else 0
        result = _OPS[word](self, op) if word in _OPS else _unknown(word)
        if op.get("measure_pagetables"):
            self.table_growth = (self.host.table_bytes() - before) // 4096
        self.last = result
        if "as" in op and (result >= 0 or op["as"] not in self.names):
            self.names[op["as"]] = result
        return self._outcome(op, result)

    def _outcome(self, op: Mapping[str, Any], result: int) -> str:
        said = "OK" if result >= 0 else errorcode.get(-result, str(result))
        wanted = op.get("expect_errno", "OK")
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if said not in allowed:
            return f"{op['op']}: {said} in place of {' or '.join(allowed)}: {dict(op)}"
        if "expect_ret" in op and result != self.value(op["expect_ret"]):
            return f"{op['op']} returned {result} in place of {op['expect_ret']}"
        return ""

    def _check_access(self, op: Mapping[str, Any]) -> str:
        base = self.value(op["base"])
        for key, fine in (("ok", True), ("fault", False)):
            for page in op.get(key, ()):
                if (self.host.apply(Touch(base + self.value(page) * 4096, 1, False)) == 0) != fine:
                    return f"page {page} {'faults' if fine else 'does not fault'}"
        return ""


def _unknown(word: str) -> int:
    raise Undecidable(f"no model of the operation {word}")


# --- the operations -------------------------------------------------------------------------------


def _prot(text: str) -> int:
    return sum(bit for letter, bit in (("r", 1), ("w", 2), ("x", 4)) if letter in text)


def _flags(words: Sequence[str], prefix: str) -> int:
    flags = 0
    for word in words:
        name = f"{prefix}{_FLAG_WORDS.get(word, word)}"
        if not hasattr(abi, name):
            raise Undecidable(f"no model of {name}")
        flags |= int(getattr(abi, name))
    return flags


def _mmap(at: Run, op: Mapping[str, Any], address: int | None = None) -> int:
    if address is None:
        address = 0 if op.get("addr") is None else at.value(op["addr"])
    file = at.files[op["fd"]] if op.get("fd") is not None else None
    offset = at.value(op.get("off", 0))
    return at.host.apply(
        Mmap(address, at.value(op["len"]), _prot(op["prot"]), _flags(op["flags"], "MAP_"), file, offset)
    )


def _mmap_aligned(at: Run, op: Mapping[str, Any]) -> int:
    """The lowest free address from 40 MiB on that is a multiple of the alignment, and not of twice as much."""
    align = at.value(op["align"])
    address = -(-(65536 + (40 << 20)) // align) * align
    for _ in range(1 << 16):
        if address % (2 * align):
            result = _mmap(at, op, address)
            if errorcode.get(-result) != "EEXIST":
                return result
        address += align
    raise Undecidable("nothing is free for the case's first mapping")


def _pick_dest(at: Run, op: Mapping[str, Any]) -> int:
    align, overlap = at.value(op["align"]), bool(op.get("overlap"))
    address = (at.value(op["after"]) + (-align if overlap else align)) // align * align + at.value(
        op.get("preamble", 0)
    )
    if not address % (2 * align):
        address += align
    while not overlap and at.host.space().at(address) is not None:
        address += align
    return address


def _find_free(at: Run, op: Mapping[str, Any]) -> int:
    length = at.value(op["len"])
    address = at.host.apply(Mmap(0, length, 0, abi.MAP_PRIVATE | abi.MAP_ANONYMOUS))
    if address > 0:
        at.host.apply(Munmap(address, length))
    return address


def _write(at: Run, op: Mapping[str, Any]) -> int:
    start, length = at.value(op["addr"]), at.value(op["len"])
    if "pattern" in op:
        return at.host.fill(start, length, at.value(op["pattern"]) + at.value(op.get("pattern_off", 0)) // 4096, 1)
    if "byte" in op:
        return at.host.fill(start, length, at.value(op["byte"]), 0)
    return at.host.apply(Touch(start, length, True))


def _file(at: Run, op: Mapping[str, Any]) -> int:
    at.files[op["as"]] = at.host.file(op["as"], at.value(op["len"]), memory=op["op"] == "memfd")
    return 0


def _dup(at: Run, op: Mapping[str, Any]) -> int:
    at.files[op["as"]] = at.files[op["of"]]
    return 0


def _brk(at: Run, op: Mapping[str, Any]) -> int:
    if "addr" in op:
        return at.host.apply(Brk(at.value(op["addr"])))
    if "first brk" not in at.names:
        at.names["first brk"] = at.host.apply(Brk(0))
    return at.host.apply(Brk(at.names["first brk"] + at.value(op["delta"])))


def _fork(at: Run, _op: Mapping[str, Any]) -> int:
    at.host.fork()
    return 0


def _exec(at: Run, _op: Mapping[str, Any]) -> int:
    at.host.exec()
    return 0


def _prctl(at: Run, op: Mapping[str, Any]) -> int:
    if op["option"] in ("PR_SET_VMA", "PR_SET_VMA_ANON_NAME"):
        address, length = (at.value(value) for value in op["args"][-3:-1] or op["args"][:2])
        return at.host.apply(NameVma(address, length, op["args"][-1]))
    if not hasattr(abi, op["option"]):
        raise Undecidable(f"no model of {op['option']}")
    numbers = [at.value(value) for value in op.get("args", ())]
    return at.host.apply(Prctl(getattr(abi, op["option"]), *numbers))


def _madvise(at: Run, op: Mapping[str, Any]) -> int:
    advice = abi.ADVICE.get(str(op["advice"]).removeprefix("MADV_"))
    if advice is None:
        raise Undecidable(f"no model of the advice {op['advice']}")
    if op["advice"] == "COLLAPSE":
        raise Undecidable("whether MADV_COLLAPSE works depends on free memory")
    return at.host.apply(Madvise(at.value(op["addr"]), at.value(op["len"]), advice))


def _mremap(at: Run, op: Mapping[str, Any]) -> int:
    address, old, new = (at.value(op[key]) for key in ("addr", "old_len", "new_len"))
    return at.host.apply(Mremap(address, old, new, _flags(op["flags"], "MREMAP_"), at.value(op.get("new_addr", 0))))


def _uffd_register(at: Run, op: Mapping[str, Any]) -> int:
    modes = str(op.get("mode", "MISSING")).split("|")
    mode = sum(_UFFD_MODES[word] for word in modes)
    return at.host.apply(UffdRegister(at.names[op["fd"]], at.value(op["addr"]), at.value(op["len"]), mode))


def _ranged(make: Callable[[int, int], Operation]) -> Callable[[Run, Mapping[str, Any]], int]:
    return lambda at, op: at.host.apply(make(at.value(op["addr"]), at.value(op["len"])))


_OPS: dict[str, Callable[[Run, Mapping[str, Any]], int]] = {
    "let": lambda at, op: at.value(op["value"]),
    "mmap": _mmap,
    "mmap_aligned": _mmap_aligned,
    "pick_dest": _pick_dest,
    "find_free": _find_free,
    "munmap": _ranged(Munmap),
    "mprotect": lambda at, op: at.host.apply(
        Mprotect(at.value(op["addr"]), at.value(op["len"]), _prot(op["prot"]) | at.value(op.get("extra", 0)))
    ),
    "mremap": _mremap,
    "brk": _brk,
    "madvise": _madvise,
    "mlock": _ranged(Mlock),
    "mlock2": lambda at, op: at.host.apply(
        Mlock(at.value(op["addr"]), at.value(op["len"]), int("ONFAULT" in op.get("flags", ())))
    ),
    "munlock": _ranged(Munlock),
    "mlockall": lambda at, op: at.host.apply(Mlockall(_flags(op["flags"], "MCL_"))),
    "munlockall": lambda at, op: at.host.apply(Munlockall()),
    "mseal": lambda at, op: at.host.apply(
        Mseal(at.value(op["addr"]), at.value(op["len"]), at.value(op.get("flags", 0) or 0))
    ),
    "prctl": _prctl,
    "write": _write,
    "read": lambda at, op: at.host.apply(Touch(at.value(op["addr"]), at.value(op["len"]), False)),
    "memfd": _file,
    "file": _file,
    "dup": _dup,
    "fork_child": _fork,
    "exec_probe": _exec,
    "userfaultfd": lambda at, op: at.host.userfaultfd(),
    "uffd_register": _uffd_register,
    "uffd_unregister": lambda at, op: at.host.apply(
        UffdUnregister(at.names[op["fd"]], at.value(op["addr"]), at.value(op["len"]))
    ),
}
