"""Cases of memory management (mm_cases.json) on the model of every preset, and on the running kernel."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.cases import CaseError, decide, run
from elfolio.kernel.expressions import ExpressionError, evaluate
from elfolio.kernel.policy import PRESETS, policy
from tests.kernel.live_host import LiveHost
from tests.kernel.oracle import host_policy

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("mm_cases.json").read_text())["cases"]
_DECIDABLE = ("syscall", "vma_unit", "pagetable", "exec")
_UNANSWERED = {
    "vma-unit/prealloc_fail/expand": "memory that the kernel does not get is no rule of a model",
    "vma-unit/prealloc_fail/existing": "memory that the kernel does not get is no rule of a model",
    "selftests/mm/khugepaged/collapse_single_pte_entry/madvise": "whether MADV_COLLAPSE works depends on free memory",
}
"""Cases of a kind that a model decides, but not these, and why."""


def _name(case: dict[str, Any]) -> str:
    return f"{case['suite']}/{case['name']}"


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_a_case_holds_on_the_model(case: dict[str, Any]) -> None:
    """No case that a model can decide fails under any preset; what it does not decide has a reason."""
    for preset in PRESETS:
        verdict = decide(case, policy(preset))
        assert verdict.passed is not False, (preset, verdict.reason)
        assert verdict.passed or verdict.reason


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] in _DECIDABLE], ids=_name)
def test_newer_kernels_are_decided(case: dict[str, Any]) -> None:
    """Under the presets for 6.18 and 7.2 every case of the kinds that a model decides passes, but for those listed."""
    for preset in ("linux-6.18", "linux-7.2"):
        verdict = decide(case, policy(preset))
        if _name(case) in _UNANSWERED:
            assert (verdict.passed, verdict.reason) == (None, _UNANSWERED[_name(case)])
        else:
            assert verdict.passed is True


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] not in _DECIDABLE], ids=_name)
def test_other_kinds_say_why(case: dict[str, Any]) -> None:
    """A case that needs scanners, free memory or single pages' state is not decided, with the reason."""
    verdict = decide(case, policy("linux-6.18"))
    assert verdict.passed is None
    assert verdict.reason


def _wrong(case: dict[str, Any]) -> dict[str, Any] | None:
    """The case with one expectation changed so that it cannot hold."""
    wrong = copy.deepcopy(case)
    if isinstance(wrong["expect"], dict):
        if "vmas" not in wrong["expect"]:
            return None
        wrong["expect"]["vmas"][0]["end"] = hex(int(wrong["expect"]["vmas"][0]["end"], 0) + 4096)
        return wrong
    for check in wrong["expect"]:
        if "vma_at" in check:
            check["end"] += "+1*P"
            return wrong
        if "pagetable_pages_delta" in check:
            check["pagetable_pages_delta"] += 1
            return wrong
        if "content" in check and "pattern" in check:
            check["pattern"] += 1
            return wrong
    return None


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] in _DECIDABLE], ids=_name)
def test_a_wrong_expectation_fails(case: dict[str, Any]) -> None:
    """A case with an expectation that is a page, a page table or a content off fails, and says what differs."""
    wrong = _wrong(case)
    if wrong is None or _name(case) in _UNANSWERED:
        return
    verdict = decide(wrong, policy("linux-6.18"))
    assert verdict.passed is False
    assert verdict.reason


def test_a_case_about_newer_kernels_is_not_passed() -> None:
    """A case whose min_kernel is above the policy's version is undecided, however it would turn out."""
    case = next(case for case in CASES if case.get("min_kernel") == "6.17")
    assert decide(case, policy("linux-6.18")).passed is True
    verdict = decide(case, policy("linux-6.12"))
    assert verdict.passed is None
    assert "6.17" in verdict.reason


def test_an_older_expectation_is_taken() -> None:
    """Where a case says what older kernels do (expect_older), that is what they are held to."""
    case = {
        "suite": "t",
        "name": "t",
        "kind": "syscall",
        "min_kernel": "6.17",
        "setup": [{"op": "mmap", "as": "a", "addr": None, "len": "2*P", "prot": "rw-", "flags": ["PRIVATE", "ANON"]}],
        "expect": [{"mapped": ["a", "a+2*P"]}],
        "expect_older": {"6.16": [{"unmapped": ["a", "a+2*P"]}]},
    }
    assert decide(case, policy("linux-6.18")).passed is True
    assert decide(case, policy("linux-6.12")).passed is False


def test_flags_may_be_numbers() -> None:
    """A flag that has no word is given as a number, alone or among words."""
    setup: list[dict[str, Any]] = [
        {"op": "mmap", "as": "a", "addr": None, "len": "2*P", "prot": 3, "flags": ["PRIVATE", "ANON"]},
    ]
    for flags in (["MAYMOVE", "0x8"], 64):
        move = {"op": "mremap", "addr": "a", "old_len": "P", "new_len": "P", "flags": flags, "expect_errno": "EINVAL"}
        setup.append(move)
    case = {"suite": "t", "name": "t", "kind": "syscall", "setup": setup, "expect": [{"errno": "EINVAL"}]}
    assert decide(case, policy("linux-6.18")).passed is True


@pytest.mark.parametrize(
    "change", [{"setup": [{"op": "mmap"}]}, {"setup": [{"op": "munmap", "addr": "nowhere", "len": 1}]}, {"setup": [7]}]
)
def test_a_malformed_case_is_an_error(change: dict[str, Any]) -> None:
    """A case without what its operations need is an error that names it."""
    with pytest.raises(CaseError, match="t/t"):
        decide({"suite": "t", "name": "t", "kind": "syscall", "expect": [], **change}, policy("linux-6.18"))


@pytest.mark.parametrize(
    ("text", "value"), [("2*P+1", 8193), ("(1<<44)+1*M", (1 << 44) + (1 << 20)), ("min(2*M,4*M)", 2 << 20), (-3, -3)]
)
def test_an_expression_has_its_value(text: object, value: int) -> None:
    """Integer expressions have the value that Python gives them."""
    assert evaluate(text, {}) == value


@pytest.mark.parametrize(
    "text", ["", "__import__('os')", "1.5", "a", "1/2", "[1]", "1<<99999", "().x", True, None, "1 if 1 else 2", "9**9"]
)
def test_nothing_else_is_evaluated(text: object) -> None:
    """What is no arithmetic of integers and known names is refused."""
    with pytest.raises(ExpressionError):
        evaluate(text, {})


_LIVE = [case for case in CASES if case["kind"] in ("syscall", "pagetable") and case.get("observed")]


@pytest.mark.skipif(os.sysconf("SC_PAGESIZE") != 4096, reason="the cases count in pages of 4 KiB")
@pytest.mark.parametrize("case", _LIVE, ids=_name)
def test_a_case_holds_on_the_running_kernel(case: dict[str, Any], mm_driver: Path, tmp_path: Path) -> None:
    """The same case, done by real system calls here: it holds, where it is about this kernel."""
    if decide(case, host_policy()).passed is None:
        pytest.skip(f"not about this kernel: {decide(case, host_policy()).reason}")
    host = LiveHost(mm_driver, tmp_path)
    try:
        verdict = run(case, host)
    except Undecidable as error:
        pytest.skip(str(error))
    finally:
        host.close()
    assert verdict.passed, verdict.reason
