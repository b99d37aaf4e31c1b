"""kernel.cases: test cases of memory management as data. In: a case, a Policy or a CaseHost. Out: Verdict.

A case is a mapping with `kind`, `setup` (operations in order), `expect` (checks), and `min_kernel` where older ones
differ; its file says what each means. A model answers for the kinds syscall, pagetable, vma_unit and exec, as far as no
check asks what depends on free memory or on a scanner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import errorcode
from typing import Any

from elfolio.kernel.calls import Touch
from elfolio.kernel.case_checks import check
from elfolio.kernel.case_host import CaseHost, ModelHost, Undecidable
from elfolio.kernel.case_operations import operate
from elfolio.kernel.case_units import run_unit
from elfolio.kernel.expressions import ExpressionError, evaluate
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm_switches import MM_SWITCHES
from elfolio.kernel.policy import Policy

__all__ = ["CaseError", "Run", "Verdict", "decide", "decide_on", "run"]

Case = Mapping[str, Any]
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


def decide_on(case: Case, policy: Policy, host: CaseHost) -> Verdict:
    """A case on another host than the model, whose kernel is of that policy. Raises CaseError."""
    kind = str(case.get("kind"))
    if kind not in ("syscall", "pagetable"):
        return Verdict(None, _UNDECIDED.get(kind, "it is not made of system calls alone"))
    expected, reason = _expected(case, policy)
    if expected is None:
        return Verdict(None, reason)
    try:
        return run(case, host, expected)
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

    host: CaseHost

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
        result = operate(self, op)
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
