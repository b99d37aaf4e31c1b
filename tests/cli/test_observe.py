"""`elfolio observe`: a process whose mappings are known, and how it refuses."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from elfolio.report.observe import Report
from tests.cli.running import ELFOLIO, Outcome, outcome
from tests.cli.terminal import Terminal
from tests.cli.test_run_json import mismatches
from tests.report.test_page import outline

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


def test_several_and_one_of_them_is_not_there(process: int) -> None:
    """Those that are there are shown whole, in the order asked for; each other is a line on stderr, and status 2."""
    done = observed("--json", "999999999", str(process), "--pid", f"{os.getpid()},{process}")
    assert (done.status, done.stderr) == (2, b"elfolio observe: 999999999: no such process\n")
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    assert [one["pid"] for one in value["processes"]] == [process, os.getpid()]
    assert [(one["pid"], one["reason"]) for one in value["problems"]] == [(999999999, "no such process")]


def test_a_zombie_is_no_empty_address_space() -> None:
    """It is said, in one line."""
    with subprocess.Popen(["true"]) as done:
        os.waitid(os.P_PID, done.pid, os.WEXITED | os.WNOWAIT)
        found = observed(str(done.pid))
    assert (found.status, found.stdout, found.stderr.count(b"\n")) == (2, b"", 1)
    assert b"a zombie: it has ended" in found.stderr


def test_a_control_group(process: int, tmp_path: Path) -> None:
    """A line for each of its processes, which are counted as /proc counts them; those that have ended are counted."""
    (tmp_path / "cgroup.procs").write_text(f"{process}\n{os.getpid()}\n999999999\n")
    value = json.loads(observed("--json", "--cgroup", str(tmp_path)).stdout)
    assert mismatches(value, Report) == []
    assert {one["pid"] for one in value["processes"]} == {process, os.getpid()}
    assert value["left_out"] == {"ended meanwhile": 1}
    assert all(one["mappings"] is None for one in value["processes"])
    text = observed("--cgroup", str(tmp_path)).stdout.decode()
    assert [line.split()[0] for line in text.splitlines()[:3]] == ["pid", *map(str, sorted((process, os.getpid())))]
    assert "Left out: 1 ended meanwhile" in text


def test_all_processes(process: int) -> None:
    """Every process that has memory is in the table or named as not seen; files are ranked by what they lose."""
    done = observed("--all", "--json")
    assert (done.status, done.stderr) == (0, b"")
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    pids = {one["pid"] for one in value["processes"]} | {one["pid"] for one in value["problems"]}
    assert {process, os.getpid()} <= pids
    lost = [one["lost"] for one in value["files"]]
    assert lost == sorted(lost, reverse=True)
    assert sum(lost) == sum(one["lost"] for one in value["processes"])
    assert all(one["blocks"] == one["could"] + sum(one["barred"].values()) for one in value["files"])
    assert all(one["could"] == one["now"] + sum(one["lacking"].values()) for one in value["files"])


def test_watching_in_a_pipe() -> None:
    """An object a line, at once and again, until the process has ended; then status 0."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as watched:
        words = [*ELFOLIO, "observe", str(watched.pid), "--watch", "0.05"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            try:
                values = [json.loads(running.stdout.readline()) for _ in range(3)]
                watched.communicate()
                rest = running.stdout.read().splitlines()
                assert running.wait() == 0
            finally:
                running.kill()
                watched.kill()
    assert [mismatches(value, Report) for value in values] == [[], [], []]
    assert values[0]["time"] < values[1]["time"] < values[2]["time"]
    # It may have ended while it was looked at.
    assert all(one["pid"] == watched.pid for line in rest for one in json.loads(line)["processes"])


def test_watching_on_a_terminal(process: int) -> None:
    """A screen that is drawn again from its first line; ^C ends it as it ends any command."""
    with Terminal([*ELFOLIO, "observe", "--watch=0.1", str(process)]) as terminal:
        for _ in range(2):
            terminal.wait_for(r"\x1b\[H\d\d:\d\d:\d\d, every 0.1 s; \^C ends it")
            terminal.wait_for(rf"{process} ")
            terminal.wait_for(r"\x1b\[\?7h")
        terminal.type("\x03")
        assert terminal.status() == -signal.SIGINT


def test_the_page(process: int, tmp_path: Path) -> None:
    """One file that needs no network, with the mappings as a picture; what cannot be written is one line."""
    page = tmp_path / "a page.html"
    done = observed(str(process), "--html", str(page))
    assert (done.status, done.stderr) == (0, b"")
    found = outline(page.read_text())
    assert {"svg", "table", "rect"} <= {tag for tag, _ in found.tags}
    assert any(f"{BASE:x}" in word for word in found.words)
    done = observed(str(process), "--html", str(tmp_path))
    assert (done.status, done.stderr.count(b"\n")) == (2, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--all", "1"], b"one of them"),
        (["--watch", "77"], b"--watch took 77 for its seconds"),
        (["--watch=0", "1"], b"above 0"),
        (["--pid", "1,x"], b"is not a number above 0"),
        (["--watch", "--html", "a", "1"], b"leave out --watch"),
        (["--watch", "--html", "a", "--all"], b"--html is of one moment"),
        (["--cgroup", "/nowhere"], b"--cgroup /nowhere: no such directory, nor below /sys/fs/cgroup"),
        (["--cgroup", "/usr"], b"/usr: no control group: it has no cgroup.procs"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], said: bytes) -> None:
    """One line that says what to do, and status 2."""
    if words == ["--watch", "--html", "a", "1"]:
        words = ["--watch=2", *words[1:]]
    done = observed(*words)
    assert (done.status, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert said in done.stderr


AS_NOBODY = """
import locale, os, sys
import elfolio.cli.dispatch, elfolio.cli.observe_look, elfolio.cli.output, elfolio.report.observe_text
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(elfolio.cli.main(["observe", *sys.argv[1:]]))
"""
"""What is imported later may be where nobody cannot read."""


@pytest.mark.root
def test_without_privilege(process: int) -> None:
    """Another user's process is refused in one line; in a table of all it is counted; one's own is shown, with what is
    hidden said."""
    nobody = (sys.executable, "-c", AS_NOBODY)
    done = outcome((*nobody, str(process)))
    assert (done.status, done.stdout) == (2, b"")
    assert done.stderr == f"elfolio observe: {process}: another user's process: ask as its owner, or as root\n".encode()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=65534, group=65534, extra_groups=[]) as own:
        done = outcome((*nobody, "--json", str(own.pid)))
        everybody = outcome((*nobody, "--json", "--all"))
        own.communicate()
    assert (done.status, done.stderr) == (0, b"")
    (seen,) = json.loads(done.stdout)["processes"]
    assert "frame numbers are root's" in seen["hidden"]
    assert {one["order"] for one in seen["folios"]["orders"]} <= {-1, 9}
    value = json.loads(everybody.stdout)
    assert everybody.status == 0
    assert process in {one["pid"] for one in value["problems"]}
    assert own.pid in {one["pid"] for one in value["processes"]}


ELF32 = struct.pack(
    "<16sHHIIIIIHHHHHH8I5s1sH",
    b"\x7fELF\x01\x01\x01" + bytes(9), 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0,
    1, 0, 0x8048000, 0x8048000, 92, 92, 5, 0x1000,
    b"\xb8\x1d\x00\x00\x00", b"\xcd", 0x80 | 0xF4 << 8,
)  # fmt: skip
"""An executable for i386 that calls pause."""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="it is a program for x86")
def test_a_32_bit_process(tmp_path: Path) -> None:
    """Its mappings are below 4 GiB, and shown as any."""
    program = tmp_path / "small"
    program.write_bytes(ELF32)
    program.chmod(0o755)
    try:
        running = subprocess.Popen([program])
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs ({error.strerror}): CONFIG_IA32_EMULATION does")
    with running:
        try:
            (value,) = json.loads(observed("--json", str(running.pid)).stdout)["processes"]
        finally:
            running.kill()
    assert {m["name"] for m in value["mappings"]} >= {str(program), "[stack]"}
    own = next(m for m in value["mappings"] if m["name"] == str(program))
    assert (own["start"], own["folios"]["file"], own["blocks"][-1]["barred"]) == (0x8048000, P, {"edge": 1})
    assert all(m["end"] <= 1 << 32 for m in value["mappings"])
