"""A trace done again by the running kernel: children that need no program of their own, and what is said of them."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elfolio.kernel.calls import Brk, Madvise, Mmap, Mprotect, Mremap, Munmap, Operation, Touch
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.cases import decide_on
from elfolio.kernel.mm import Mm
from elfolio.kernel.model import apply
from elfolio.kernel.trace import Log
from elfolio.kernel.trace_record import read_record
from elfolio.kernel.trace_steps import Do, Exec, Fork, Gone, Step, Steps
from elfolio.live.host import policy_here
from elfolio.measure.live_cases import LiveCaseHost, decide_live
from elfolio.measure.live_replay import LiveReplay, replay_live
from elfolio.measure.oracle import shown_model, twin
from elfolio.measure.oracle_child import DRIVER, OracleChild, oracle_child
from elfolio.measure.record import RecordError, record
from elfolio.report.replay import Cases
from elfolio.report.replay_live import LiveReport
from tests.cli.running import ELFOLIO, outcome
from tests.cli.test_run_json import mismatches

PAGE = os.sysconf("SC_PAGESIZE")
BASE = 0x7E0000000000
HEAP = 0x5550_0000_0000
LOG = """\
1 brk(NULL) = 0x5555557000
1 prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) = 0
1 mmap(NULL, 131072, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7e0000040000
1 mmap(NULL, 65536, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7e0000030000
1 mmap(NULL, 65536, PROT_READ, MAP_PRIVATE, 3</nowhere/at/all>, 0) = 0x7e0000000000
1 mprotect(0x7e0000040000, 65536, PROT_READ) = 0
1 +++ exited with 0 +++
"""


@pytest.fixture
def seed() -> Iterator[OracleChild]:
    """A child of the running kernel; a skip where this process may not trace."""
    context = oracle_child(os.path.realpath(sys.executable))
    try:
        made = context.__enter__()
    except OSError as error:
        pytest.skip(f"this process may not trace: {error}; to force: run it outside of the sandbox")
    try:
        yield made
    finally:
        context.__exit__(None, None, None)


def _step(operation: Operation, result: int = 0) -> Step:
    """One operation of address space 1."""
    return Do(1, operation, result, 7)


def replayed(seed: OracleChild, *operations: Operation) -> LiveReplay:
    """Those, of a process whose image nobody shows."""
    start = Exec(1, None, "", None, HEAP, 1)
    return replay_live([start, *map(_step, operations), Gone(1, None, 9)], seed, twin(seed))


def anonymous(page: int, pages: int, prot: int = 3) -> Mmap:
    """Private memory, so many pages behind BASE."""
    return Mmap(BASE + page * PAGE, pages * PAGE, prot, 0x32)


def test_a_child_does_what_its_model_does(seed: OracleChild) -> None:
    """Mapping, splitting, moving, touching, the heap: results and VMAs of a child are those of its model, its parent's
    are unchanged, and its own child goes on with a copy."""
    mm, before = twin(seed), seed.shown()
    live, model = seed.fork(), mm.fork()
    assert live.set_heap(HEAP)
    model.start_brk = model.brk = HEAP
    _agree(live, model, anonymous(0, 8), Touch(BASE, 3 * PAGE), Mprotect(BASE + PAGE, PAGE, 1), Brk(HEAP + 5 * PAGE))
    child, copy = live.fork(), model.fork()
    _agree(child, copy, Mremap(BASE, PAGE, PAGE, 3, BASE + 64 * PAGE), Touch(BASE, 1, False), Munmap(BASE + PAGE, PAGE))
    _agree(live, model, Touch(BASE, 1, True), Touch(BASE + PAGE, 1, True), Brk(HEAP))
    assert seed.shown() == before == shown_model(mm)


def test_a_stack_does_not_grow_in_a_child(seed: OracleChild) -> None:
    """MADV_POPULATE_WRITE, by which a child writes, reaches no lower than a mapping: left out, not a difference."""
    stack = Mmap(BASE + 64 * PAGE, 2 * PAGE, 3, 0x132)
    found = replayed(seed, stack, Touch(BASE + 60 * PAGE, PAGE, True), Touch(BASE + 65 * PAGE, PAGE, True))
    assert found.difference is None
    assert found.left_out["writing below a stack: only a program's own access lets it grow"] == 1


def _agree(live: OracleChild, mm: Mm, *operations: Operation) -> None:
    assert live.shown() == shown_model(mm)
    for operation in operations:
        assert live.apply(operation) == apply(mm, operation), operation
        assert live.shown() == shown_model(mm), operation


def test_nothing_is_left() -> None:
    """Children that were ended are gone at once, all others with the first of them, and no descriptor stays open."""
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        with oracle_child(os.path.realpath(sys.executable)) as seed:
            first, second = seed.fork(), seed.fork()
            third = second.fork()
            first.end()
            assert not Path(f"/proc/{first.pid}").exists()
            pids = [seed.pid, second.pid, third.pid]
    except OSError as error:
        pytest.skip(f"this process may not trace: {error}; to force: run it outside of the sandbox")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_what_cannot_be_done_is_counted(seed: OracleChild) -> None:
    """Advice that takes memory from the machine, and what lies over the child's own page, are counted and not done."""
    found = replayed(seed, anonymous(0, 1), Madvise(BASE, PAGE, 100), Munmap(DRIVER.start, PAGE))
    assert (found.difference, found.operations, found.left_out.total()) == (None, 1, 2)
    assert any("advice" in why for why in found.left_out)


def test_an_answer_other_than_traced_is_counted(seed: OracleChild) -> None:
    """What the trace says a call returned is held against the kernel's answer too: here a success that is none."""
    found = replayed(seed, Mprotect(BASE, PAGE, 1))
    assert (found.difference, found.otherwise) == (None, 1)


def test_a_wrong_model_is_found_out(seed: OracleChild) -> None:
    """A model that has one mapping more than the child differs at the first look, which ends it."""
    mm = twin(seed)
    assert apply(mm, anonymous(0, 1)) == BASE
    found = replay_live([Exec(1, None, "", None, 0, 3), Fork(1, 2, 4)], seed, mm)
    assert found.difference is not None
    assert (found.difference.line, found.difference.only_kernel) == (3, ())
    assert found.difference.only_model[0][:2] == (BASE, BASE + PAGE)
    assert found.spaces == 1


def test_a_recorded_program_agrees(seed: OracleChild, tmp_path: Path) -> None:
    """A shell and what it starts, recorded: hundreds of operations in several processes without a difference."""
    path = tmp_path / "record"
    shell = shutil.which("sh") or "/bin/sh"
    try:
        with path.open("wb") as file:
            record(shell, ["sh", "-c", "ls / >/dev/null; true | cat; (cat /dev/null)"], file.fileno())
    except RecordError as error:
        pytest.skip(f"this process may not trace: {error}; to force: run it outside of the sandbox")
    with path.open() as lines:
        found = replay_live(Steps().of(read_record(lines, Log(str(path)))), seed, twin(seed))
    assert found.difference is None
    assert found.operations > 100
    assert found.spaces > 4


def _live(log: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = outcome((*ELFOLIO, "replay", "--live", "--json", *words, str(log)))
    if done.status == 2 and b"no child can be traced" in done.stderr:
        pytest.skip(f"this process may not trace: {done.stderr.decode()}; to force: run it outside of the sandbox")
    assert done.stderr == b""
    value = json.loads(done.stdout)
    assert mismatches(value, LiveReport) == []
    return done.status, value["live"]


@pytest.mark.skipif(PAGE > 65536, reason="the log's mappings are multiples of 64 KiB")
def test_the_command_tells_kernels_apart(tmp_path: Path) -> None:
    """Under its own policy the kernel agrees and a file that is not there is counted; under that of a kernel from the
    other side of 6.17, where KSM's flag is set at another time, the line and both sides are named, with status 1."""
    log = tmp_path / "log"
    log.write_text(LOG)
    status, live = _live(log)
    ksm = Path("/sys/kernel/mm/ksm").exists() and policy_here()["ksm_merge_any"]
    assert (status, live["difference"], live["otherwise"]) == (0, None, 0 if ksm else 1)
    assert {"why": "mmap: a file that is not there", "count": 1} in live["left_out"]
    other = "linux-6.12" if policy_here().version[:2] >= (6, 17) else "linux-6.18"
    status, live = _live(log, "--policy", other)
    # Where there is no KSM, the kernel already refuses the prctl that the model grants.
    assert (status, live["difference"]["line"]) == (1, 4 if ksm else 2)
    if ksm:
        assert len(live["difference"]["model"]["vmas"]) != len(live["difference"]["kernel"]["vmas"])


@pytest.mark.parametrize(
    "words", [("--html", "x"), ("--record", "x"), ("--policy", "linux-6.12", "--policy", "linux-6.1")]
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Options that --live has no use for are refused in one line, with status 2."""
    log = tmp_path / "log"
    log.write_text(LOG)
    done = outcome((*ELFOLIO, "replay", "--live", *words, str(log)))
    assert (done.status, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


_CASES = Path(__file__).resolve().parent.parent / "kernel/mm_cases.json"
_MORE = _CASES.with_name("more_cases.json")


def _checked(path: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    done = outcome((*ELFOLIO, "replay", "--json", "--check", str(path), "--live", *words))
    if done.status == 2 and b"no child can be traced" in done.stderr:
        pytest.skip(f"this process may not trace: {done.stderr.decode()}; to force: run it outside of the sandbox")
    assert done.stderr == b""
    value = json.loads(done.stdout)
    assert mismatches(value, Cases) == []
    return done.status, value["cases"]


@pytest.mark.skipif(PAGE != 4096, reason="the cases count in pages of 4 KiB")
def test_cases_hold_on_the_running_kernel() -> None:
    """All cases made of system calls that are about this kernel hold on it, by the command; each other one says why it
    is not decided."""
    status, rows = _checked(_CASES)
    assert status == 0, [row for row in rows if row["passed"] is False]
    assert sum(row["passed"] is True for row in rows) >= 20
    assert all(row["passed"] or row["reason"] for row in rows)


@pytest.mark.skipif(PAGE != 4096, reason="the cases count in pages of 4 KiB")
def test_a_case_that_only_the_kernel_fails_is_named(tmp_path: Path, seed: OracleChild) -> None:
    """A case that does not hold fails with the side that it fails on; what touches the child's own page is refused."""
    setup = [{"op": "mmap", "as": "a", "addr": None, "len": "P", "prot": "rw-", "flags": ["PRIVATE", "ANON"]}]
    case = {"suite": "t", "name": "t", "kind": "syscall", "setup": setup, "expect": [{"unmapped": ["a", "a+P"]}]}
    assert decide_on(case, policy_here(), LiveCaseHost(seed, tmp_path)).passed is False
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([case]))
    status, rows = _checked(path)
    assert (status, rows[0]["passed"]) == (1, False)
    assert rows[0]["reason"].startswith("the model: ")
    host = LiveCaseHost(seed, tmp_path)
    with pytest.raises(Undecidable, match="own"):
        host.apply(Munmap(DRIVER.start, PAGE))
    host.close()


@pytest.mark.skipif(PAGE != 4096, reason="the cases count in pages of 4 KiB")
def test_our_own_cases_hold_on_the_running_kernel(seed: OracleChild, tmp_path: Path) -> None:
    """Each does that was seen to hold, model and kernel alike, as far as this kernel is what it is about."""
    seen = [case for case in json.loads(_MORE.read_text())["cases"] if case.get("observed")]
    verdicts = {f"{case['suite']}/{case['name']}": decide_live(case, policy_here(), seed, tmp_path) for case in seen}
    assert {name: verdict.reason for name, verdict in verdicts.items() if verdict.passed is False} == {}
    assert sum(verdict.passed is True for verdict in verdicts.values()) > 200


@pytest.mark.skipif(PAGE != 4096, reason="the cases count in pages of 4 KiB")
def test_the_child_reads_all_of_a_page(seed: OracleChild, tmp_path: Path) -> None:
    """One byte written is one byte there: the rest of the page has what it had."""
    setup = [
        {"op": "mmap", "as": "a", "addr": None, "len": "P", "prot": "rw-", "flags": ["PRIVATE", "ANON"]},
        {"op": "write", "addr": "a+1", "len": "1", "byte": 7},
    ]
    for start, length, byte, holds in (("a", "1", 0, True), ("a+1", "1", 7, True), ("a", "P", 0, False)):
        check = {"content": [start, length], "byte": byte}
        case = {"suite": "t", "name": "t", "kind": "syscall", "setup": setup, "expect": [check]}
        assert decide_on(case, policy_here(), LiveCaseHost(seed, tmp_path)).passed is holds
