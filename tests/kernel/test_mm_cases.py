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


def _cases(name: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(Path(__file__).with_name(name).read_text())["cases"]
    return made


CASES, MORE = _cases("mm_cases.json"), _cases("more_cases.json")
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


# --- cases of our own, many ----------------------------------------------------------------------

_OF_OTHERS = {
    "vma-unit/existing/sticky_guard": ("linux-6.18",),
    "selftests/mm/guard-regions/sticky_flag_shown": ("linux-6.18",),
    "selftests/mm/guard-regions/file_before_6_15": ("linux-6.18", "linux-7.2"),
    "derived/place/below_6_7_no_alignment": ("linux-6.18", "linux-7.2"),
    "derived/exec/ksm_before_6_7_lost": ("linux-6.18", "linux-7.2"),
}
"""Cases about later or earlier kernels than the presets for 6.18 and 7.2."""


@pytest.mark.parametrize("preset", PRESETS)
def test_our_own_cases_hold_on_the_model(preset: str) -> None:
    """None of them fails under any preset; under those for 6.18 and 7.2 each passes that is about them."""
    verdicts = {_name(case): decide(case, policy(preset)) for case in MORE}
    assert len(verdicts) == len(MORE)
    assert {name: verdict.reason for name, verdict in verdicts.items() if verdict.passed is False} == {}
    assert all(verdict.passed or verdict.reason for verdict in verdicts.values())
    if preset in ("linux-6.18", "linux-7.2"):
        open_ = {name for name, verdict in verdicts.items() if verdict.passed is None}
        assert open_ == {name for name, presets in _OF_OTHERS.items() if preset in presets}


def test_our_own_cases_fail_where_they_are_wrong() -> None:
    """None of them holds with an expectation that is a page, a page table or a content off."""
    wrong = {_name(case): _wrong(case) for case in MORE if _name(case) not in _OF_OTHERS}
    changed = {name: case for name, case in wrong.items() if case is not None}
    assert len(changed) > len(MORE) // 2
    held = [name for name, case in changed.items() if decide(case, policy("linux-6.18")).passed is not False]
    assert held == []


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


_PAIR: list[dict[str, Any]] = [
    {"op": "mmap", "as": "a", "addr": None, "len": "2*P", "prot": "rw-", "flags": ["PRIVATE", "ANON"]}
]


def _verdict(preset: str, **more: Any) -> bool | None:
    made = {"suite": "t", "name": "t", "kind": "syscall", "setup": _PAIR, "expect": [{"mapped": ["a", "a+2*P"]}]}
    return decide({**made, **more}, policy(preset)).passed


@pytest.mark.parametrize(
    ("bounds", "older", "newer"),
    [
        ({"kernels": ">=6.17; before EFAULT"}, None, True),
        ({"kernels": "all"}, True, True),
        ({"kernels": "case-1 merge (fix 6.19, backported 6.18.y)"}, True, True),
        ({"kernels": "<=6.16 (late flag)"}, True, None),
        ({"kernels": ">=6.4, <6.17"}, True, None),
        ({"max_kernel": "6.16"}, True, None),
        ({"kernels": "6.17+ (early flag)"}, None, True),
        ({"kernels": "since 6.17"}, None, True),
        ({"kernels": "up to 6.16"}, True, None),
        ({"kernels": "before 6.17"}, True, None),
        ({"kernels": "6.4-6.16"}, True, None),
        ({"kernels": "6.13 to 6.19"}, None, True),
        ({"kernels": "<7.0"}, True, True),
        ({"min_kernel": 6.17}, None, True),
        ({"min_kernel": "6.17-rc1"}, None, True),
        ({"min_kernel": "6.17", "expect_older": [{"unmapped": ["a", "a+2*P"]}]}, False, True),
        ({"min_kernel": "6.17", "expect_older": {"until": "6.16", "expect": [{"mapped": ["a", "a+P"]}]}}, True, True),
        ({"min_kernel": "6.17", "expect_older": "no merge"}, None, True),
        ({"min_kernel": "6.17", "expect_older": {"6.11": [{"mapped": ["a", "a+P"]}]}}, None, True),
    ],
)
def test_a_case_is_about_its_kernels(bounds: dict[str, Any], older: bool | None, newer: bool | None) -> None:
    """A case is decided for the versions that it names, in fields or in words, and for no other."""
    assert (_verdict("linux-6.12", **bounds), _verdict("linux-6.18", **bounds)) == (older, newer)


def test_an_older_expectation_may_be_an_errno() -> None:
    """Where older kernels refuse the last call, expect_older names its errno, and the call may fail there only."""
    move = {"op": "mremap", "as": "r", "addr": "a", "old_len": "2*P", "new_len": "2*P", "flags": ["MAYMOVE", "FIXED"]}
    hole = {"op": "munmap", "addr": "a+P", "len": "P"}
    setup = [{**_PAIR[0], "len": "3*P"}, {**_PAIR[0], "as": "b", "len": "8*P"}, hole, {**move, "new_addr": "b"}]
    setup[3].update(old_len="3*P", new_len="3*P")
    more = {"setup": setup, "min_kernel": "6.17", "expect": [{"unmapped": ["b+P", "b+2*P"]}]}
    assert _verdict("linux-6.12", **more, expect_older={"6.16": "EFAULT"}) is True
    assert _verdict("linux-6.12", **more, expect_older={"6.16": "EINVAL"}) is False
    assert _verdict("linux-6.12", **more, expect_older={"6.16": [{"errno": "EFAULT"}]}) is True


def test_numbers_are_those_of_a_register() -> None:
    """A negative address or length is the large number that a system call sees."""
    setup = [{**_PAIR[0], "addr": -1}, {"op": "munmap", "addr": "a", "len": -1, "expect_errno": "EINVAL"}]
    assert _verdict("linux-6.18", setup=setup) is True


def test_a_call_is_to_succeed_unless_it_says_otherwise() -> None:
    """A call that fails, and does not expect to, fails its case, whatever check of its errno follows."""
    setup = [{**_PAIR[0], "len": "0"}]
    assert _verdict("linux-6.18", setup=setup, expect=[{"errno": "EINVAL"}]) is False
    assert _verdict("linux-6.18", setup=[{**setup[0], "expect_errno": "EINVAL"}], expect=[{"errno": "EINVAL"}]) is True


def test_what_holds_for_all_is_not_for_later() -> None:
    """A case that says which kernels it is about fails where it is wrong, though a later rule would make it right."""
    setup = [*_PAIR, {"op": "prctl", "option": "PR_GET_MEMORY_MERGE", "args": [0, 0, 0, 0]}]
    assert _verdict("linux-6.1", setup=setup) is None
    assert _verdict("linux-6.1", setup=setup, kernels="all") is False


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "benchmark"},
        {"expect": {"rule": "they merge"}},
        {"expect": "they merge"},
        {"expect": [{"mapped": ["a", "a+P"], "sealed": True}]},
        {"expect": [{"vmflags_at": "a", "has": ["zz"]}]},
        {"setup": [{"op": "clone3"}]},
        {"setup": [{"op": "prctl", "option": "PR_SET_NAME"}]},
        {"setup": [{"op": "prctl", "option": 1}]},
        {"setup": [{**_PAIR[0], "node": 1}]},
        {"setup": [{**_PAIR[0], "flags": ["PRIVATE", "UNHEARD"]}]},
    ],
)
def test_what_is_not_known_is_not_guessed(change: dict[str, Any]) -> None:
    """A kind, an operation, a flag, a check or a detail of one that has no model leaves a case undecided."""
    assert _verdict("linux-6.18", **change) is None


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        ({"mapped": ["a", "a+2*P"], "note": "both"}, True),
        ({"mapped": ["a", "a+2*P"], "unmapped": ["a", "a+P"]}, False),
        ({"vma_at": "a", "prot": "rw-p"}, True),
        ({"vma_at": "a", "prot": "r--"}, False),
        ({"vma_at": "a", "vmflags_has": "rd wr", "vmflags_lacks": ["sh"]}, True),
        ({"aligned": "a", "to": "P"}, True),
        ({"aligned": ["a", "1<<47"]}, False),
        ({"different_vma": ["a", "a+P"]}, False),
        ({"same_vma": ["a", "a-P"]}, False),
        ({"different_vma": ["a", "a-P"]}, False),
        ({"access_ok": "a"}, True),
        ({"content": ["a", "2*P"], "byte": 0}, True),
        ({"content": ["a", "2*P"], "byte": 1}, False),
    ],
)
def test_every_detail_of_a_check_counts(check: dict[str, Any], holds: bool) -> None:
    """Each check that stands in one object is made, and each of its details."""
    assert _verdict("linux-6.18", expect=[check]) is holds


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        ({"content": ["a", "1"], "byte": 7}, True),
        ({"content": ["a", "P"], "byte": 7}, False),
        ({"content": ["a+P", "P"], "byte": 7}, True),
        ({"content": ["a", "1"], "byte": 0}, False),
    ],
)
def test_a_part_of_a_page_has_its_content(check: dict[str, Any], holds: bool) -> None:
    """Who writes one byte has not written the page."""
    written = [
        {"op": "write", "addr": "a", "len": "1", "byte": 7},
        {"op": "write", "addr": "a+P", "len": "P", "byte": 7},
    ]
    assert _verdict("linux-6.18", setup=[*_PAIR, *written], expect=[check]) is holds


def test_two_openings_are_two_files() -> None:
    """What is opened once more does not merge with the first opening; a dup does."""
    first = {**_PAIR[0], "prot": "r--", "flags": ["PRIVATE", "FIXED"], "addr": "a", "len": "P", "fd": "f"}
    for op, merged in (("open", False), ("dup", True)):
        setup = [
            *_PAIR,
            {"op": "file", "as": "f", "len": "2*P"},
            {"op": op, "as": "g", "of": "f"},
            first,
            {**first, "as": "b", "addr": "a+P", "fd": "g", "off": "P"},
        ]
        assert _verdict("linux-6.18", setup=setup, expect=[{"same_vma": ["a", "a+P"]}]) is merged


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
