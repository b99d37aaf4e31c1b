"""kernel.cases: test cases of memory management as data. In: a case, a Policy or a CaseHost. Out: Verdict.

A case is a mapping with `kind`, `setup` (operations in order), `expect` (checks), and `min_kernel` where older ones
differ; its file says what each means. A model answers for the kinds syscall, pagetable, vma_unit and exec, as far as no
check asks what depends on free memory or on a scanner.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from elfolio.kernel.calls import Operation, Touch
from elfolio.kernel.case_checks import check
from elfolio.kernel.case_host import CaseHost, ModelHost, Undecidable
from elfolio.kernel.case_operations import operate
from elfolio.kernel.case_units import run_unit
from elfolio.kernel.case_versions import Expected, expected
from elfolio.kernel.case_words import WORD, error_name, outcome, unknown
from elfolio.kernel.expressions import evaluate
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm_switches import MM_SWITCHES
from elfolio.kernel.policy import PRESETS, Policy

__all__ = ["CaseError", "Run", "Verdict", "decide", "decide_on", "run"]

Case = Mapping[str, Any]
_DECIDED = ("syscall", "pagetable", "vma_unit", "exec")
_UNDECIDED = {
    "ksm_scan": "it needs ksmd's scans: which pages are alike, and when they are looked at",
    "thp": "it needs khugepaged or debugfs: which pages become huge depends on free memory",
    "softdirty": "it needs CONFIG_MEM_SOFT_DIRTY and the state of single pages",
    "describe": "it states a fact in words; there is nothing to compare",
}


_ADDS = frozenset(("ksm_merge_any", "mseal", "mdwe", "guard_regions", "dontunmap_shared", "ksm_excludes_droppable"))
"""Switches that add a call, an option or a flag."""
_NEWEST = max(version for version, _ in PRESETS.values())


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
    if kind not in _DECIDED:
        return Verdict(None, _UNDECIDED.get(kind, f"no model of cases of the kind {kind}"))
    with _named(case):
        try:
            wanted = expected(case, policy)
            if wanted.checks is None:
                return Verdict(None, wanted.reason)
            found = _try(case, wanted, policy)
            late = found.passed is False and (wanted.older or not wanted.bounded)
            return _of_later(case, wanted, policy, found) if late else found
        except Undecidable as error:
            return Verdict(None, str(error))


def decide_on(case: Case, policy: Policy, host: CaseHost) -> Verdict:
    """A case on another host than the model, whose kernel is of that policy. Raises CaseError."""
    kind = str(case.get("kind"))
    if kind not in ("syscall", "pagetable"):
        return Verdict(None, _UNDECIDED.get(kind, "it is not made of system calls alone"))
    with _named(case):
        try:
            wanted = expected(case, policy)
            return Verdict(None, wanted.reason) if wanted.checks is None else run(case, host, wanted)
        except Undecidable as error:
            return Verdict(None, str(error))


@contextmanager
def _named(case: Case) -> Iterator[None]:
    """What a malformed case makes fail becomes an error that names it."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise CaseError(f"{case.get('suite')}/{case.get('name')}: {type(error).__name__}: {error}") from error


def _try(case: Case, wanted: Expected, policy: Policy) -> Verdict:
    if case["kind"] == "vma_unit":
        return _judge(run_unit(case["setup"], wanted.checks, policy))
    return run(case, ModelHost(policy), wanted)


def _of_later(case: Case, wanted: Expected, policy: Policy, found: Verdict) -> Verdict:
    """A case that does not say since when it holds is about later kernels where a rule of theirs is what it takes; what
    it says about older kernels is about those of them that have the calls."""
    later = [(switch, value) for switch in MM_SWITCHES for since, value in switch.history if since > policy.version[:2]]
    for switch, value in later:
        fits = switch.name in _ADDS or not wanted.older
        if fits and policy[switch.name] != value and _passes(case, wanted, policy.switched(**{switch.name: value})):
            return Verdict(None, f"it takes a rule of later kernels, {switch.name}: {switch.what}")
    everything = replace(policy, version=max(policy.version, _NEWEST), given={})
    if not wanted.older and _passes(
        case, wanted, everything.switched(**{switch.name: value for switch, value in later})
    ):
        return Verdict(None, "it takes several rules of later kernels")
    return found


def _passes(case: Case, wanted: Expected, policy: Policy) -> bool:
    return bool(_try(case, wanted, policy).passed)


def run(case: Case, host: CaseHost, wanted: Expected | None = None, page: int = 4096) -> Verdict:
    """A case of kind syscall, pagetable or exec on any host, whatever its version; P is that many bytes."""
    wanted = Expected(case["expect"]) if wanted is None else wanted
    checks, setup = _list(wanted.checks), case["setup"]
    if any(_names_memory(operation) for operation in setup):
        host.allow_names()
    at = Run(host, page)
    asked = any("errno" in one for one in checks)
    for left, operation in zip(range(len(setup))[::-1], setup, strict=True):
        # What the call itself expects is about newer kernels: here the check of the last errno judges it.
        judged = left > 0 or not (asked and wanted.older)
        failed = at.step(operation, judged=judged)
        if failed:
            return Verdict(False, failed)
    return _judge(at.checks(checks))


def _list(checks: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(checks, Mapping):
        if "rule" in checks:
            raise Undecidable("what it expects is said in words")
        return [checks] if checks else []
    if not isinstance(checks, Sequence) or isinstance(checks, str):
        raise Undecidable("what it expects is said in words")
    return checks


def _names_memory(operation: Mapping[str, Any]) -> bool:
    """Whether it names memory and is to succeed: then the kernel is one that was built for it."""
    named = str(operation.get("option", "")).startswith("PR_SET_VMA")
    return named and error_name(operation.get("expect_errno")) == "OK"


def _judge(failed: str) -> Verdict:
    return Verdict(not failed, failed)


class Run:
    """A case at work: the names that it has given so far."""

    def __init__(self, host: CaseHost, page: int = 4096) -> None:
        self.host = host
        self.page = page
        self.names: dict[str, int] = {"P": page}
        self.files: dict[str, Mappable] = {}
        self.uffds: dict[str, int] = {}
        self.last = 0
        """What the last call returned."""
        self.table_growth = 0

    def value(self, expression: object) -> int:
        """Of an expression over the names."""
        return evaluate(expression, self.names)

    def apply(self, operation: Operation) -> int:
        """One call on the host, its numbers as a register holds them."""
        words = [value & WORD if type(value) is int else value for value in operation]
        made: Operation = type(operation)(*words)  # type: ignore[arg-type]
        return self.host.apply(made)

    def checks(self, checks: Sequence[Mapping[str, Any]]) -> str:
        """The first that does not hold, in words; empty where all do."""
        for one in checks:
            failed = check(self, one)
            if failed:
                return failed
        return ""

    def step(self, op: Mapping[str, Any], *, judged: bool = True) -> str:
        """One operation: what is wrong with its outcome, empty for nothing, or where that is not judged."""
        word = op["op"]
        if word == "check":
            return self.checks(op["checks"])
        if word == "check_access":
            return self._check_access(op)
        before = self.host.table_bytes() if op.get("measure_pagetables") else 0
        result = operate(self, op)
        if op.get("measure_pagetables"):
            self.table_growth = (self.host.table_bytes() - before) // self.page
        self.last = result
        if "as" in op and (result >= 0 or op["as"] not in self.names):
            self.names[op["as"]] = result
        return self._outcome(op, result) if judged else ""

    def _outcome(self, op: Mapping[str, Any], result: int) -> str:
        said, allowed = outcome(result), [error_name(one) for one in _wanted(op)]
        if said not in allowed:
            return f"{op['op']}: {said} in place of {' or '.join(allowed)}: {dict(op)}"
        if "expect_ret" in op and result != self.value(op["expect_ret"]):
            return f"{op['op']} returned {result} in place of {op['expect_ret']}"
        return ""

    def _check_access(self, op: Mapping[str, Any]) -> str:
        unknown(op, ("op", "base", "ok", "fault", "write"))
        base, write = self.value(op.get("base", 0)), bool(op.get("write"))
        for key, fine in (("ok", True), ("fault", False)):
            for page in op.get(key, ()):
                if (self.apply(Touch(base + self.value(page) * self.page, 1, write)) == 0) != fine:
                    return f"page {page} {'faults' if fine else 'does not fault'}"
        return ""


def _wanted(op: Mapping[str, Any]) -> Sequence[object]:
    if op.get("expect_fault") or op.get("expect_signal"):
        return ["EFAULT"]
    wanted = op.get("expect_errno")
    return wanted if isinstance(wanted, list) else [wanted]
