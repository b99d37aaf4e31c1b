"""Recorded programs through the model of the running kernel: no call answered otherwise, every VMA as it was."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from elfolio.kernel.policy import policy
from elfolio.kernel.replaying import Lane, replay
from elfolio.kernel.trace import Log
from elfolio.kernel.trace_record import read_record
from elfolio.kernel.trace_steps import Steps
from elfolio.live.host import policy_here
from elfolio.measure.record import RecordError, record

IMPORTS = "import asyncio, ctypes, decimal, json, sqlite3, ssl, unittest"
THREADS = f"""
{IMPORTS}
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
if __name__ == "__main__":
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: sum(bytearray(1 << 18)), range(64)))
    with ProcessPoolExecutor(3) as pool:
        assert sum(pool.map(abs, range(100))) == 4950
"""
START = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
assert libc.personality(0x40000) >= 0
assert sys.argv[1] == "0" or libc.prctl(67, 1, 0, 0, 0) == 0
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, "PYTHONHASHSEED": "0"})
"""
"""Without randomised addresses or hashes, two runs map the same; the first argument is for PR_SET_MEMORY_MERGE."""


def traced(words: list[str], path: Path) -> Log:
    """A record in that file, by a program that must end well; skips where the machine does not allow one."""
    try:
        with open(path, "wb") as file:
            done = record(shutil.which(words[0]) or words[0], words, file.fileno())
    except RecordError as error:
        if error.step == "execve":
            raise
        pytest.skip(f"this process may not trace: {error}; to force: run it outside of the sandbox")
    assert (done.returncode, done.write_error) == (0, 0)
    log = Log(str(path))
    for _ in replayed(path, log):
        pass
    if log.facts["faults"] != "all":
        pytest.skip("page faults inside of system calls may not be sampled here; to force: run as root")
    if log.facts["lost"]:
        pytest.skip("page faults were lost: this machine is too busy; to force: run again")
    return log


def replayed(path: Path, log: Log, *lanes: Lane) -> list[Lane]:
    """All lanes, after the record."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        replay(Steps().of(read_record(file, log)), lanes)
    return list(lanes)


def assert_as_it_was(path: Path, processes: int) -> Lane:
    """Replays it under this kernel, and compares."""
    (lane,) = replayed(path, Log(str(path)), Lane(policy_here()))
    assert lane.differences == []
    assert lane.assumed == 0
    ended = [ending for ending in lane.endings if ending.real is not None]
    assert len(ended) >= processes
    assert [(e.path, e.vmas, e.real) for e in ended if not e.equal] == []
    return lane


def test_a_program_with_threads_and_processes(tmp_path: Path) -> None:
    """Python with a large set of modules, a pool of threads that allocate and a pool of forked processes."""
    script = tmp_path / "threads.py"
    script.write_text(THREADS)
    traced([sys.executable, str(script)], tmp_path / "record")
    lane = assert_as_it_was(tmp_path / "record", 4)
    assert lane.merged > 10
    assert lane.missed["flags"] > 100


def test_a_build(tmp_path: Path) -> None:
    """A compiler's driver, the compiler, the assembler and the linker, twice at the same time."""
    source = tmp_path / "x.c"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("x") < 0; }\n')
    build = " & ".join(f"cc -O2 -o {tmp_path}/x{n} {source}" for n in range(2))
    traced(["sh", "-c", f"{build}; wait"], tmp_path / "record")
    assert_as_it_was(tmp_path / "record", 9)


def test_node(tmp_path: Path) -> None:
    """A start of node: threads, code that is made while it runs, a garbage collector."""
    if shutil.which("node") is None:
        pytest.skip("needs node; to force: apt-get install nodejs")
    traced(
        ["node", "-e", "let a = []; for (let i = 0; i < 30; i++) a.push(new Array(100000).fill(i))"],
        tmp_path / "record",
    )
    assert_as_it_was(tmp_path / "record", 1)


@pytest.mark.slow
def test_a_browser(tmp_path: Path) -> None:
    """A browser without a window: a dozen processes, zygotes that fork, tens of GiB of reservations."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium; to force: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    words = [browser, "--headless", *sandbox, "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    traced([*words, "--dump-dom", "about:blank"], tmp_path / "record")
    assert_as_it_was(tmp_path / "record", 8)


def test_memory_merge(tmp_path: Path) -> None:
    """Under PR_SET_MEMORY_MERGE a program has really as many VMAs as were predicted from a run without it; kernels
    before 6.17, which set the flag late, would have kept more apart."""
    if not Path("/sys/kernel/mm/ksm").is_dir() or policy_here().version < (6, 7):
        pytest.skip("needs a kernel with KSM, 6.7 or later; to force: boot one")
    plain, merged = tmp_path / "plain", tmp_path / "merged"
    for path, on in ((plain, "0"), (merged, "1")):
        traced([sys.executable, "-c", START, on, sys.executable, "-c", IMPORTS], path)
        assert_as_it_was(path, 1)
    (lane,) = replayed(merged, Log("merged"), Lane(policy_here()))
    real = lane.endings[-1]
    assert real.mergeable > 1 << 20
    here, late = Lane(policy_here(), memory_merge=True), Lane(policy("linux-6.12"), memory_merge=True)
    replayed(plain, Log("plain"), here, late)
    assert here.endings[-1].vmas == real.real
    if policy_here()["ksm_early_flag"] != "late":
        assert late.endings[-1].vmas > here.endings[-1].vmas


def test_what_was_written_is_needed(tmp_path: Path) -> None:
    """The two bounds of a record hold the truth between them."""
    script = tmp_path / "threads.py"
    script.write_text(THREADS)
    traced([sys.executable, str(script)], tmp_path / "record")
    lanes = [Lane(policy_here(), way) for way in ("none", "traced", "all")]
    none, known, all_ = (lane.peak for lane in replayed(tmp_path / "record", Log("record"), *lanes))
    assert none <= known <= all_ or all_ <= known <= none


def test_the_policy_is_this_kernels(tmp_path: Path) -> None:
    """The record names the kernel that it was made on."""
    log = traced(["true"], tmp_path / "record")
    release = re.match(r"\d+\.\d+", str(log.facts["kernel"]))
    assert release is not None
    assert policy(f"linux-{release[0]}").version[:2] == policy_here().version[:2]
