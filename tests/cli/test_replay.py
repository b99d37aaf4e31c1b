"""`elfolio replay`: what it prints of traces, what it records, and how it refuses."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import typing
from pathlib import Path

import pytest

from elfolio.report.replay import Cases, Report
from tests.cli.running import ELFOLIO, Outcome, outcome
from tests.cli.test_run_json import mismatches

LOG = """\
1 execve("/bin/x", ["x"], 0x7ffc /* 20 vars */) = 0
1 brk(NULL) = 0x5000
1 mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000004000
1 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000
1 mmap(NULL, 12288, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000001000
1 mprotect(0x7f0000002000, 4096, PROT_READ) = 0
1 +++ exited with 0 +++
"""


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A file with that."""
    path = tmp_path / "log"
    path.write_text(LOG)
    return str(path)


def replayed(*words: str | bytes, **keywords: object) -> Outcome:
    """The command's outcome."""
    return outcome((*ELFOLIO, "replay", *words), **keywords)


def report(*words: str, status: int = 0) -> dict[str, typing.Any]:
    """Its JSON, of the right shape, alone on both outputs."""
    done = replayed("--json", *words)
    assert (done.status, done.stderr) == (status, b"")
    assert done.stdout.count(b"\n") == 1
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    return typing.cast(dict[str, typing.Any], value)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a shell with two children, one of which fails."""
    path = str(tmp_path_factory.mktemp("replay") / "record")
    done = replayed("--record", path, "--", "sh", "-c", "echo out; ls / >/dev/null; cat /nowhere; exit 3")
    if done.status == 2 and b"may be forbidden" in done.stderr:
        pytest.skip(f"this process may not trace: {done.stderr.decode()}; to force: run it outside of the sandbox")
    assert (done.status, done.stdout) == (3, b"out\n")
    assert done.stderr.startswith(b"cat: ")
    return path


def test_both_bounds_of_a_log(log: str) -> None:
    """A log of strace knows no page faults: each policy is tried twice, and the counts are what Linux's rules give."""
    value = report("--policy", "linux-6.18", "--policy", "linux-6.12", log)
    assert [(lane["policy"], lane["touching"]) for lane in value["lanes"]] == [
        ("linux-6.18", "none"), ("linux-6.18", "all"), ("linux-6.12", "none"), ("linux-6.12", "all")]  # fmt: skip
    # Written, those above and below have anon_vmas of their own: what lies between joins one, not both.
    assert [lane["programs"][0]["vmas"] for lane in value["lanes"]] == [3, 4, 3, 4]
    assert [lane["merged"] for lane in value["lanes"]] == [1, 1, 1, 1]
    assert value["lanes"][1]["missed"] == {"sides": 1}
    assert value["reasons"]["sides"]["source"]
    assert (value["format"], value["calls"], value["faults"]) == ("strace", 6, "none")


def test_memory_merge_stands_beside(log: str) -> None:
    """--memory-merge shows each policy without and with KSM's flag."""
    value = report("--policy", "linux-6.12", "--memory-merge", log)
    vmas = {(lane["memory_merge"], lane["touching"]): lane["programs"][0]["vmas"] for lane in value["lanes"]}
    assert vmas == {(False, "none"): 3, (False, "all"): 4, (True, "none"): 5, (True, "all"): 5}
    assert value["lanes"][2]["programs"][0]["mergeable"] == 6 * 4096


def test_a_broken_line_is_named(log: str) -> None:
    """The report names it, with line and column; the rest counts; the status is 1."""
    with open(log, "a") as file:
        file.write("2 munmap(0x1000, 40x6) = 0\n2 brk(NULL) = 0x5000\n")
    value = report(log, status=1)
    assert value["problems"] == [f"{log}:8:18: munmap: '40x6' is no number"]
    assert (value["unreadable"], value["calls"]) == (1, 7)
    done = replayed(log)
    assert done.status == 1
    assert f"{log}:8:18: munmap: '40x6' is no number".encode() in done.stdout


def test_the_text_and_the_page(log: str, tmp_path: Path) -> None:
    """A pipe gets plain text; the page holds the picture and every lane, and needs no network."""
    page = tmp_path / "page.html"
    done = replayed("--html", str(page), "--policy", "linux-6.18", log)
    assert (done.status, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    for part in (
        "linux-6.18, none written",
        "linux-6.18, all written",
        "not merged: sides",
        "/bin/x",
        "Why neighbours",
    ):
        assert part.encode() in done.stdout
    text = page.read_text()
    assert text.count("<polyline") == 4  # two lanes, on wide screens and narrow ones
    assert "linux-6.18, all written" in text
    assert not re.search(r"(?:src|href)=.?(?:https?:)?//", text)


def test_text_page_and_object_have_the_same_figures(log: str, tmp_path: Path) -> None:
    """What the JSON object says of programs, rules and what the trace lacks, text and page say too; policies that have
    the same to show share a line of the chart and a section."""
    page, hurt = tmp_path / "page.html", tmp_path / "log"
    hurt.write_text(
        Path(log).read_text() + "1 munmap(0x1000, 4096)\n1 mlockall(MCL_CURRENT) = 0\n1 shmdt(0x1000) = 0\n"
    )
    words = ("--policy", "linux-6.12", "--policy", "linux-6.18", str(hurt))
    found = json.loads(replayed("--json", *words).stdout)
    text = replayed("--html", str(page), *words).stdout.decode()
    drawn = html.unescape(re.sub(r"<[^>]*>", "\n", page.read_text()))
    cells = drawn.split("\n")
    lane = found["lanes"][0]
    for shown in (text, drawn):
        assert found["problems"][0] in shown
        for said in ("1 lines could not be read", "left out: 1 shmdt", "the truth lies between"):
            assert said in " ".join(shown.split())
    for program in lane["programs"]:
        figures = [str(program[name]) for name in ("processes", "operations", "peak", "vmas", "merged")]
        assert re.search(r" +".join(figures), text)
        assert set(figures) < set(cells)
    for name in {*lane["missed"], *lane["programs"][0]["apart"]}:
        counts = [str(lane["missed"].get(name, 0)), str(lane["programs"][0]["apart"].get(name, 0))]
        assert re.search(rf"^{name} +{counts[0]} +{counts[1]} ", text, re.M)
        at = cells.index(name, cells.index("because"))
        assert [cell for cell in cells[at : at + 8] if cell][1:3] == counts
    assert page.read_text().count("<polyline") == 2 * len({str(lane["points"]) for lane in found["lanes"]}) < 8
    assert drawn.count("KSM may look at") < 1 + len(found["lanes"])


def test_bounds_that_agree_are_one_column(tmp_path: Path) -> None:
    """Where it makes no difference what was written, the text says so in one column."""
    log = tmp_path / "log"
    log.write_text("".join(LOG.splitlines(True)[:3]))
    assert b"linux-6.18, either way" in replayed("--policy", "linux-6.18", str(log)).stdout


def test_operations(log: str) -> None:
    """--operations prints what is asked of which address space, by line, and what the kernel had answered."""
    lines = replayed("--operations", log).stdout.decode().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "1", "1", "2", "3", "4", "5", "6", "7"]
    assert "Mprotect(address=139637976735744, length=4096, prot=1)\t0" in lines[-2]


def test_a_record_is_as_it_was(record: str) -> None:
    """Under the kernel that was traced no call is answered otherwise, and each process ends with its real VMAs."""
    value = report(record)
    (lane,) = value["lanes"]
    assert (value["format"], lane["own"], lane["different"], lane["assumed_bytes"]) == ("record", True, 0, 0), lane
    assert os.uname().release.startswith(lane["version"])
    programs = {os.path.basename(program["path"]): program for program in lane["programs"]}
    assert {"ls", "cat"} <= programs.keys()
    checked = sum(program["checked"] for program in lane["programs"])
    assert checked >= 3
    if value["faults"] == "all":
        assert lane["touching"] == "traced"
        assert sum(program["equal"] for program in lane["programs"]) == checked
    assert len(report("--bounds", record)["lanes"]) == 3 if value["faults"] != "none" else True


def test_standard_input(log: str) -> None:
    """- reads it."""
    done = replayed("--json", "-", input=Path(log).read_bytes())
    assert (done.status, json.loads(done.stdout)["calls"]) == (0, 6)


def test_a_closed_pipe_ends_it_quietly(log: str) -> None:
    """`elfolio replay LOG | head -1` says nothing on stderr."""
    words = f"{' '.join(ELFOLIO)} replay {log} | head -1"
    done = subprocess.run(["sh", "-c", words], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (f"{log}\n".encode(), b"")


@pytest.mark.parametrize("option", [[], ["--json"], ["--operations"]], ids=["text", "json", "operations"])
def test_a_full_disk_is_standard_outputs(log: str, option: list[str]) -> None:
    """What cannot be written is named, not the trace, which was read well."""
    words = [*ELFOLIO, "replay", *option, log]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "elfolio: standard output: No space left on device\n")


def test_streams_that_are_closed(log: str) -> None:
    """No standard output: nothing is written. No standard input to read from: one line."""
    words = f"{' '.join(ELFOLIO)} replay"
    for command, status, said in ((f"{words} {log} >&-", 0, b""), (f"{words} - <&-", 2, b"standard input is closed")):
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (status, b"", status // 2)
        assert said in done.stderr


def test_a_hostile_log_is_harmless(tmp_path: Path) -> None:
    """Control characters, markup and bytes that are no text reach no terminal and no page as such."""
    log, page = tmp_path / "log", tmp_path / "page.html"
    log.write_bytes(LOG.encode().replace(b"/bin/x", b"/\x1b[2J<script>\xff") + b"\x1b[2Jwhat\xff\n")
    done = replayed("--html", str(page), str(log))
    assert done.status == 1
    assert b"\x1b" not in done.stdout
    assert page.read_text().count("<script>") == 1


def test_recording_is_the_commands_own(record: str, tmp_path: Path) -> None:
    """Its exit status, its signal; what is not found is 127, what cannot be executed 126, and nothing else is said."""
    out = str(tmp_path / "out")
    assert replayed("--record", out, "--", "sh", "-c", "kill -TERM $$").status == -signal.SIGTERM
    missing = replayed("--record", out, "--", "no-such-command")
    assert (missing.status, missing.stderr.count(b"\n")) == (127, 1)
    (tmp_path / "file").write_text("no program")
    refused = replayed("--record", out, "--", str(tmp_path / "file"))
    assert (refused.status, refused.stderr.count(b"\n")) == (126, 1)
    assert replayed("--record", out, "--no-faults", "--", "true").status == 0
    assert report(out)["faults"] == "none"


def test_the_keyboard_is_the_commands(record: str, tmp_path: Path) -> None:
    """^C reaches the command alone: one that handles it ends as it likes, and its record is whole."""
    out = tmp_path / "out"
    script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"
    words = [*ELFOLIO, "replay", "--record", str(out), "--", "sh", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(20) == 9
    assert report(str(out))["unreadable"] == 0


CASE = {
    "suite": "s", "name": "n", "kind": "syscall",
    "setup": [{"op": "mmap", "as": "a", "addr": None, "len": "2*P", "prot": "rw-", "flags": ["PRIVATE", "ANON"]},
              {"op": "mprotect", "addr": "a", "len": "1*P", "prot": "r--"}],
    "expect": [{"vma_at": "a", "start": "a", "end": "a+1*P"}],
}  # fmt: skip


def test_cases(tmp_path: Path) -> None:
    """--check says of each case whether the policy holds, fails, or cannot say; a failure is status 1."""
    path = tmp_path / "cases.json"
    wrong = {**CASE, "name": "wrong", "expect": [{"vma_at": "a", "start": "a", "end": "a+2*P"}]}
    newer = {**CASE, "name": "newer", "min_kernel": "7.0"}
    scan = {**CASE, "name": "scan", "kind": "ksm_scan"}
    broken = {**CASE, "name": "broken", "setup": [{"op": "mmap"}]}
    path.write_text(json.dumps({"cases": [CASE, wrong, newer, scan, broken]}))
    done = replayed("--check", str(path), "--policy", "linux-6.12", "--json")
    assert (done.status, done.stderr) == (1, b"")
    value = json.loads(done.stdout)
    assert mismatches(value, Cases) == []
    assert [(row["suite"], row["name"], row["passed"]) for row in value["cases"]] == [
        ("s", "n", True), ("s", "wrong", False), ("s", "newer", None), ("s", "scan", None), ("s", "broken", None)
    ]  # fmt: skip
    assert all(row["reason"] for row in value["cases"][1:])
    assert b"1 passed, 1 failed, 3 not decided" in replayed("--check", str(path), "--policy", "linux-6.12").stdout
    path.write_text(json.dumps({"cases": [CASE]}))
    assert replayed("--check", str(path)).status == 0
    path.write_text('{"cases":\n [,]}')
    done = replayed("--check", str(path))
    assert (done.status, done.stdout) == (2, b"")
    assert f"{path}:2:3: no JSON".encode() in done.stderr


def test_moves_are_counted(tmp_path: Path) -> None:
    """What mremap moves, by level of page tables: 2 MiB that stay aligned are one entry, from 5.0 on."""
    log = tmp_path / "log"
    log.write_text(
        "1 mmap(NULL, 2097152, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000200000\n"
        "1 mremap(0x7f0000200000, 2097152, 4194304, MREMAP_MAYMOVE) = 0x7f0000800000\n"
    )
    for lane in report("--policy", "linux-6.18", str(log))["lanes"]:
        assert lane["moved"] == {"calls": 1, "puds": 0, "pmds": 1, "ptes": 0}


REFUSED = {
    "missing": (["/nowhere/x"], "/nowhere/x: No such file or directory"),
    "a directory": (["/usr"], "/usr: Is a directory"),
    "no log": (["/etc/passwd"], "/etc/passwd: no log of strace or perf trace, and no record"),
    "empty": (["/dev/null"], "/dev/null: empty"),
    "a page that is full": (["--html", "/dev/full", "LOG"], "/dev/full: No space left on device"),
    "a record on standard output": (["--record", "-", "--", "ls"], "--record: a file's name, not -"),
    "an option of another manner": (["--record", "x", "--json", "--", "ls"], "--record takes no --json"),
    "a page of cases": (["--check", "x", "--html", "y"], "--check takes no --html"),
    "a page of operations": (["--operations", "--html", "y", "LOG"], "--operations takes no --html"),
    "both bounds live": (["--live", "--bounds", "LOG"], "--live takes no --bounds"),
    "live recording": (["--live", "--record", "x", "--", "ls"], "--record takes no --live"),
    "no faults of a trace": (["--no-faults", "LOG"], "--no-faults goes with --record OUT"),
    "nothing": ([], "a TRACE to replay, or --record OUT -- CMD"),
    "a command without --record": (["--", "ls"], "a command goes with --record OUT"),
    "no command": (["--record", "x"], "--record: a command belongs behind --"),
    "a record that cannot be made": (["--record", "/nowhere/x", "--", "ls"], "/nowhere/x: No such file"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line(words: list[str], said: str, log: str) -> None:
    """It names the thing, nothing is printed, and the status is 2."""
    done = replayed(*(log if word == "LOG" else word for word in words))
    assert (done.status, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"elfolio replay: ")
    assert said.encode() in done.stderr


def test_bad_options(log: str) -> None:
    """A policy that is none, and a page that cannot be written."""
    assert b"policy windows: linux-X.Y[.Z]" in replayed("--policy", "windows", log).stderr
    done = replayed("--html", "/nowhere/x.html", log)
    assert (done.status, done.stdout) == (2, b"")
    assert b"/nowhere/x.html: No such file" in done.stderr


def test_a_record_of_elsewhere(tmp_path: Path) -> None:
    """A version or a machine that the model does not know is refused, not taken for another."""
    path = tmp_path / "record"
    for facts, said in (
        ('"version":2', "a record of version 2; this elfolio reads version 1"),
        (
            '"version":1,"kernel":"6.1","machine":"riscv64"',
            ":1: a trace of 'riscv64'; the model knows x86_64 and aarch64",
        ),
    ):
        path.write_text('{"elfolio":"record",' + facts + '}\n{"p":1,"c":"brk","a":[0],"r":4096}\n')
        done = replayed(str(path))
        assert (done.status, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
        assert said.encode() in done.stderr


CALLS = ("Mmap", "Munmap", "Mprotect", "Mremap", "Brk", "Madvise")


def test_strace_and_record_agree(record: str, tmp_path: Path) -> None:
    """One program seen by strace and by the recorder: the same memory calls, but for addresses."""
    tool = shutil.which("strace")
    if tool is None:
        pytest.skip("needs strace; to force: apt-get install strace")
    log, out = str(tmp_path / "log"), str(tmp_path / "out")
    command = ["/bin/ls", "/"]
    subprocess.run([tool, "-f", "-o", log, "-e", "trace=memory,process", *command], check=True, capture_output=True)
    assert replayed("--record", out, "--", *command).status == 0
    kinds = [
        [line.split("\t")[2].partition("(")[0] for line in replayed("--operations", file).stdout.decode().splitlines()]
        for file in (log, out)
    ]
    first, second = ([kind for kind in one if kind in CALLS] for one in kinds)
    assert first == second
    assert len(first) > 20
