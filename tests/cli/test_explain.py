"""`elfolio explain`: what it prints of real programs, and how it refuses."""

import json
import os
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from elfolio.measure.hold import held
from elfolio.report.explain import Report
from tests.cli.running import ELFOLIO, Outcome, outcome
from tests.cli.test_run_json import mismatches
from tests.elfwriter import Elf, Ph
from tests.layout.files import ET_EXEC, RX, Part, R, linked

LS = os.path.realpath("/bin/ls")
LIBRARY = next(
    line.split()[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/libm" in line or "/libz" in line
)


def explained(*words: str | bytes) -> Outcome:
    """The command's outcome."""
    return outcome((*ELFOLIO, "explain", *words))


def report(*words: str) -> dict[str, typing.Any]:
    """Its JSON, of the right shape, alone on both outputs."""
    done = explained("--json", *words)
    assert (done.status, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    return typing.cast(dict[str, typing.Any], value)


def test_the_object_says_what_readelf_says_and_what_follows() -> None:
    """Each PT_LOAD of readelf's is a segment, and lies in memory where the load bias puts it."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("needs readelf; to force: apt-get install binutils")
    value = report(LS)
    text = subprocess.run([readelf, "-lW", LS], capture_output=True, text=True, check=True).stdout
    loads = [line.split() for line in text.splitlines() if line.strip().startswith("LOAD")]
    assert [(s["offset"], s["vaddr"], s["filesz"], s["memsz"]) for s in value["segments"]] == [
        (int(row[1], 16), int(row[2], 16), int(row[4], 16), int(row[5], 16)) for row in loads
    ]
    assert all(s["mapped"] == s["vaddr"] + value["load_bias"] for s in value["segments"])
    assert value["path"] == LS
    assert {m["name"] for m in value["vmas"]} >= {LS, "[stack]", "[vdso]"}


def test_a_remedy_is_elfolio_s_own_where_it_wins(tmp_path: Path) -> None:
    """tune for a p_align (erofs leaves mappings where they come to lie), warm for folios, with a name a shell takes
    as it is; neither where the file system has no large folios, and no certainty where an overlay hides which."""
    pie, fixed = tmp_path / "p i", tmp_path / "fixed"
    pie.write_bytes(linked([Part(R, 0x100), Part(RX, 5 << 20)]))
    fixed.write_bytes(linked([Part(RX, 5 << 20)], type=ET_EXEC, base=0x400000))

    def remedies(path: Path, fs: str) -> dict[str, str]:
        value = report("--policy", "linux-6.18", "--fs", fs, str(path))
        return {finding["id"]: finding["remedy"] for finding in value["findings"]}

    assert remedies(pie, "erofs")["text-align"].startswith(f"elfolio tune '{pie}' -o OUT; or relink")
    assert remedies(fixed, "ext4")["folios-needed"].startswith(f"elfolio warm {fixed}; or dd ")
    assert not any("elfolio" in text for path in (pie, fixed) for text in remedies(path, "squashfs").values())
    assert remedies(fixed, "overlay")["huge-filesystem"].startswith(f"elfolio warm {fixed} finds out by trial; or ")


def test_the_text_has_every_part() -> None:
    """A pipe gets plain text without control sequences: segments, picture, mappings, blocks, findings."""
    done = explained("--relink", "separate-code,max-page-size=64K", LS)
    assert (done.status, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    for part in (
        "file offset",
        "memory  ",
        "At its first instruction",
        "Blocks of 2 MiB",
        "Findings",
        "lld,separate-code",
    ):
        assert part.encode() in done.stdout


def test_two_policies_stand_side_by_side() -> None:
    """What differs between them, rule by rule, comes first; then each whole."""
    value = report("--policy", "linux-6.1", "--policy", "proposed-max-folio", LS)
    assert (value["policy"], [other["policy"] for other in value["compared"]]) == ("linux-6.1", ["proposed-max-folio"])
    text = explained("--policy", "linux-6.1", "--policy", "proposed-max-folio", LS).stdout.decode()
    row = next(line for line in text.splitlines() if line.startswith("base_align_proposal"))
    assert row.split()[1:] == ["no", "max-folio"]


def test_options_change_the_policy() -> None:
    """Page size, file system and C library are taken, and shown."""
    value = report("--policy", "linux-6.12", "--page-size", "64K", "--fs", "xfs", "--libc", "musl", LS)
    rules = value["rules"]
    assert (rules["page_size"], rules["fs"], rules["libc"]) == (65536, "xfs", "musl")


def test_folios_are_found_by_trial(tmp_path: Path) -> None:
    """--probe looks at what the file system gives, says that it was tried, and leaves nothing behind."""
    copy = tmp_path / "ls"
    shutil.copy(LS, copy)
    rules = report("--probe", str(copy))["rules"]
    assert rules["probed"] is True
    assert rules["largest_folio"] >= rules["page_size"]
    assert list(tmp_path.iterdir()) == [copy]


def test_a_real_exec_is_as_predicted() -> None:
    """--verify holds the program, compares every mapping, and says so with status 0."""
    done = explained("--verify", LS)
    assert (done.status, done.stderr) == (0, b"")
    assert b"Held against a real process (" in done.stdout
    verify = report("--verify", LS)["verify"]
    assert verify["equal"] is True
    assert verify["vmas"] >= len(report(LS)["vmas"])


def test_a_record_is_compared(tmp_path: Path) -> None:
    """Maps recorded at a first instruction are equal; one page more or less is a difference, with status 1."""
    with held(LS) as process:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    record = tmp_path / "maps"
    record.write_text(maps)
    done = explained("--verify-from", str(record), LS)
    assert (done.status, done.stderr) == (0, b""), done.stdout
    first, rest = maps.split("\n", 1)
    start, end = (int(part, 16) for part in first.split()[0].split("-"))
    record.write_text(first.replace(f"{end:x}", f"{end + 4096:x}", 1) + "\n" + rest)
    done = explained("--verify-from", str(record), LS)
    assert done.status == 1
    assert f"{start:x}-{end + 4096:x}".encode() in done.stdout
    record.write_text("rubbish\n")
    done = explained("--verify-from", str(record), LS)
    assert (done.status, done.stdout) == (2, b"")
    assert b"rubbish" in done.stderr


REFUSED = {
    "a policy that is not this machine's, to verify": (
        ["--verify", "--policy", "linux-6.1", LS],
        "--verify runs it on this machine's kernel: leave out --policy",
    ),
    "a library, to verify": (["--verify", LIBRARY], f"--verify: {LIBRARY} is no program"),
    "missing": (["/nowhere/x"], "/nowhere/x: No such file or directory"),
    "a directory": (["/usr"], "/usr: a directory"),
    "no ELF": (["/etc/passwd"], "/etc/passwd: no ELF file: e_ident at offset 0x0 is b'root', expected"),
    "a device": (["/dev/null"], "/dev/null: not a regular file"),
    "a policy": (["--policy", "windows", LS], "policy windows: linux-X.Y[.Z], or one of linux-5.10,"),
    "a page": (["--page-size", "8K", LS], "page size 8192: one of 4096, 16384, 65536"),
    "a libc": (["--libc", "glibc-9", LS], "C library glibc-9: one of glibc-"),
    "a mode": (["--relink", "max-page-size=3", LS], "link mode: 'max-page-size=3': a page size is a power of two"),
    "two files": ([LS, LS], "unrecognized arguments"),
    "a page that cannot be written": (["--html", "/nowhere/x.html", LS], "/nowhere/x.html: No such file"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line(words: list[str], said: str) -> None:
    """It names the thing, nothing is printed, and the status is 2."""
    done = explained(*words)
    assert (done.status, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"elfolio explain: ")
    assert said.encode() in done.stderr


def test_an_empty_file_and_a_fifo(tmp_path: Path) -> None:
    """An empty file is no ELF file; a FIFO is not waited for."""
    empty = tmp_path / "empty"
    empty.touch()
    os.mkfifo(tmp_path / "fifo")
    assert b"empty, no ELF file" in explained(str(empty)).stderr
    assert b"not a regular file" in explained(str(tmp_path / "fifo")).stderr


def test_a_hostile_name_is_harmless(tmp_path: Path) -> None:
    """A path with control characters, markup and bytes that are no text reaches no terminal and no page as such."""
    path = os.fsencode(tmp_path) + b"/\x1b[2J<script>\xff"
    Path(os.fsdecode(path)).write_bytes(Elf(segments=[Ph(data=b"\x90" * 16, flags=5)]).build())
    page = tmp_path / "page.html"
    done = explained("--html", str(page), path)
    assert done.status == 0
    assert b"\x1b" not in done.stdout
    assert "<script>\n" in page.read_text()
    assert page.read_text().count("<script>") == 1
    assert mismatches(json.loads(explained("--json", path).stdout), Report) == []


def test_a_closed_pipe_ends_it_quietly() -> None:
    """`elfolio explain BIN | head -1` says nothing on stderr."""
    words = f"{sys.executable} -P -m elfolio explain {LS} | head -1"
    done = subprocess.run(["sh", "-c", words], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (f"{LS}\n".encode(), b"")


def test_every_object_of_this_process_is_explained() -> None:
    """Some of what is mapped into this Python: program, libraries, extension modules."""
    with open("/proc/self/maps") as maps:
        paths = sorted({line.split()[5] for line in maps if ".so" in line or "python" in line.split()[-1]})
    shown = [path for path in paths if Path(path).is_file() and Path(path).read_bytes()[:4] == b"\x7fELF"]
    assert len(shown) >= 3
    for path in shown[:: max(1, len(shown) // 6)]:
        assert report(path)["segments"]
