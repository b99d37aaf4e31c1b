"""`elfolio observe`: a process whose mappings are known, and how it refuses."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from elfolio.report.observe import Report
from tests.cli.running import ELFOLIO, Outcome, outcome
from tests.cli.test_run_json import mismatches

BASE, P = 0x2000000000, 4096
CODE = f"""
import ctypes, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
def mapped(page, prot=3, flags=0x32):
    at = libc.mmap(ctypes.c_void_p({BASE} + page * {P}), ctypes.c_size_t({P}), prot, flags, -1, ctypes.c_long(0))
    assert at == {BASE} + page * {P}
def write(page):
    ctypes.c_char.from_address({BASE} + page * {P}).value = b'x'
mapped(0); write(0)
mapped(2); write(2)
mapped(1)
mapped(3, prot=1)
mapped(4, prot=1, flags=0x31)
libc.madvise(ctypes.c_void_p({BASE}), ctypes.c_size_t({P}), 12)
print('ready', flush=True)
sys.stdin.read()
"""


def observed(*words: str) -> Outcome:
    """The command's outcome."""
    return outcome((*ELFOLIO, "observe", *words))


@pytest.fixture(scope="module")
def process() -> Iterator[int]:
    """A page that KSM may merge and one like it but for that, both written; one read-only; one shared."""
    with subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            yield running.pid
        finally:
            running.kill()


def test_a_process_with_known_mappings(process: int) -> None:
    """Each VMA, and for those that touch the rule that keeps them apart."""
    done = observed("--json", str(process))
    assert (done.status, done.stderr) == (0, b"")
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    assert (value["elfolio"], value["version"], len(value["processes"])) == ("observe", 1, 1)
    value = value["processes"][0]
    assert value["pid"] == process
    own = {(m["start"] - BASE) // P: m for m in value["mappings"] if BASE <= m["start"] < BASE + 8 * P}
    assert [(at, (m["end"] - m["start"]) // P, m["perms"]) for at, m in own.items()] == (
        [(0, 1, "rw-p"), (1, 1, "rw-p"), (2, 1, "rw-p"), (3, 1, "r--p"), (4, 1, "r--s")] if own[0]["mergeable"]
        else [(0, 2, "rw-p"), (2, 1, "rw-p"), (3, 1, "r--p"), (4, 1, "r--s")]
    )  # fmt: skip
    assert own[0]["below"] is None
    assert (own[0]["anonymous"], own[2]["anonymous"]) == (P, P)
    if own[0]["mergeable"]:
        assert own[1]["below"]["differ"] == ["mg"]
        assert value["ksm"]["mergeable_bytes"] == P
    assert own[3]["below"]["rule"] == own[4]["below"]["rule"] == "flags"
    assert {"sh", "ms"} & set(own[4]["below"]["differ"])
    assert value["vmas"] == len(value["mappings"])
    with open(f"/proc/{process}/maps") as maps:
        assert value["vmas"] == sum("[vsyscall]" not in line for line in maps)
    assert value["page_tables"] > 0
    assert sum(value["unmerged"].values()) == value["touching"]


def test_the_text(process: int) -> None:
    """A pipe gets plain text: the summary, each VMA, the reasons."""
    done = observed(str(process))
    assert (done.status, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    for part in (f"{process} ", "VMAs of at most", "page tables", "KSM: PR_SET_MEMORY_MERGE", f"{BASE:x}-", "r--s"):
        assert part.encode() in done.stdout, part


def test_the_tests_own_process() -> None:
    """A large process: what is there is no more than what is mapped, and every pair has its reason."""
    value = json.loads(observed("--json", str(os.getpid())).stdout)["processes"][0]
    assert value["rss"] <= value["mapped"]
    assert all(m["below"] is None or m["below"]["because"] for m in value["mappings"])


@pytest.mark.parametrize("words", [[], ["0"], ["x"], ["-1"], ["999999999"]])
def test_bad_input_is_one_line(words: list[str]) -> None:
    """It says what is wrong, and the status is 2."""
    done = observed(*words)
    assert (done.status, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"elfolio observe: ")
