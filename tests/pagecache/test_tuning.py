"""pagecache.tuning: real programs tuned, run, and made what they were."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from elfolio.elf.undo import find_record
from elfolio.layout.hugepages import PMD, Tier
from elfolio.live.host import policy_here
from elfolio.pagecache.replace import CannotReplace, Links
from elfolio.pagecache.tuning import Differs, Wishes, Written, examined, write
from elfolio.pagecache.undoing import NoRecord, undo

FORCED = Wishes(force=True)
PROGRAM = shutil.which("sort") or "/usr/bin/sort"


def tuned(path: Path | str, out: Path | str, wishes: Wishes = FORCED, **options: object) -> Written:
    """Planned, written and checked."""
    with examined(path, wishes) as subject:
        return write(subject, os.fspath(out), check=True, **options)  # type: ignore[arg-type]


def runs(program: Path) -> bool:
    """Whether it does what sort does."""
    done = subprocess.run([program, "-r"], input=b"a\nb\n", capture_output=True, check=False)
    return (done.returncode, done.stdout) == (0, b"b\na\n")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A program of our own."""
    path = tmp_path / "sort"
    shutil.copy(PROGRAM, path)
    return path


def test_a_program_is_tuned_and_runs_and_comes_back(tmp_path: Path) -> None:
    """Forced through tier 1 it runs as before; renamed, it is made what it was, byte for byte."""
    out = tmp_path / "new"
    done = tuned(PROGRAM, out)
    assert (done.path, done.size, done.checked) == (str(out), out.stat().st_size, True)
    assert out.read_bytes() != Path(PROGRAM).read_bytes()
    assert runs(out)
    other = out.rename(tmp_path / "other name")
    undo(str(other))
    assert other.read_bytes() == Path(PROGRAM).read_bytes()
    assert stat.S_IMODE(other.stat().st_mode) == stat.S_IMODE(os.stat(PROGRAM).st_mode)


def test_padding_takes_no_room_on_the_disk(tmp_path: Path) -> None:
    """The file is larger, and its holes are holes."""
    done = tuned(PROGRAM, tmp_path / "new")
    status = os.stat(done.path)
    assert status.st_size > 4 << 20
    assert status.st_blocks * 512 < os.stat(PROGRAM).st_size + (256 << 10)


def test_twice_is_once(tmp_path: Path) -> None:
    """The second run finds nothing to do, and its copy is the same, record and holes too."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    tuned(PROGRAM, once)
    with examined(once, FORCED) as subject:
        assert subject.plan.tier is Tier.AS_IS
        write(subject, str(twice), check=True)
    assert once.read_bytes() == twice.read_bytes()
    assert twice.stat().st_blocks * 512 < os.stat(PROGRAM).st_size + (256 << 10)


def test_a_second_run_with_more_to_do_goes_back_all_the_way(copy: Path) -> None:
    """Tuned for 2 MiB and then for 32, one undo gives the file of the beginning."""
    tuned(copy, copy)
    tuned(copy, copy, Wishes(block=32 << 20, force=True))
    found = find_record(memoryview(copy.read_bytes()))
    assert found is not None
    assert found.record.inner
    assert runs(copy)
    undo(str(copy))
    assert copy.read_bytes() == Path(PROGRAM).read_bytes()


def test_in_place_keeps_what_the_file_has(copy: Path) -> None:
    """Mode and attributes; the inode is another."""
    copy.chmod(0o750)
    os.setxattr(copy, "user.note", b"kept")
    before = copy.stat()
    tuned(copy, copy)
    after = copy.stat()
    assert (stat.S_IMODE(after.st_mode), os.getxattr(copy, "user.note")) == (0o750, b"kept")
    assert after.st_ino != before.st_ino
    assert runs(copy)


def test_hard_links_are_not_torn_apart(copy: Path) -> None:
    """A file with two names is refused, or both lead to the new one."""
    other = copy.with_name("other")
    other.hardlink_to(copy)
    with pytest.raises(CannotReplace):
        tuned(copy, copy)
    tuned(copy, copy, links=Links.ALL)
    assert copy.stat().st_ino == other.stat().st_ino


@pytest.mark.parametrize("tool", ["strip", "objcopy"])
def test_a_file_that_was_stripped_has_no_record(tool: str, tmp_path: Path) -> None:
    """It runs, and undo says that the record is gone."""
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}; to force: apt-get install binutils")
    out = tmp_path / "new"
    tuned(PROGRAM, out)
    subprocess.run([tool, out], check=True)
    assert runs(out)
    with pytest.raises(NoRecord, match="no undo record"):
        undo(str(out))


def test_a_file_that_was_changed_is_not_undone(tmp_path: Path) -> None:
    """Half of an undo is none: the file stays as it is."""
    out = tmp_path / "new"
    tuned(PROGRAM, out)
    raw = bytearray(out.read_bytes())
    raw[0x5000] ^= 1
    out.write_bytes(raw)
    with pytest.raises(NoRecord, match="changed after it was tuned"):
        undo(str(out))
    assert out.read_bytes() == bytes(raw)


def test_a_new_file_that_is_not_as_planned_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check comes before the name: a difference leaves nothing behind."""
    monkeypatch.setattr("elfolio.pagecache.tuning.differences", lambda *_: iter(["a difference"]))
    out = tmp_path / "new"
    with pytest.raises(Differs, match="a difference"):
        tuned(PROGRAM, out)
    assert list(tmp_path.iterdir()) == []


def test_libraries_too(tmp_path: Path) -> None:
    """The C library, forced through tier 1, serves a program that is told to take it."""
    libc = next(Path("/").glob("usr/lib/*/libc.so.6"), None)
    if libc is None:
        pytest.skip("needs glibc at /usr/lib/*/libc.so.6; runs on Debian")
    tuned(libc, tmp_path / "libc.so.6")
    done = subprocess.run(
        [PROGRAM, "-r"], input=b"a\nb\n", capture_output=True, check=False, env={"LD_LIBRARY_PATH": str(tmp_path)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"b\na\n", b"")


HUGE = r"""
#include <stdio.h>
#include <string.h>
__asm__(".text\n.globl bulk\nbulk: .fill 6291456, 1, 0x90\nret\n");
extern const volatile unsigned char bulk[];
int main(void)
{
    char line[4096];
    long kib, sum = 0;
    for (long at = 0; at < 6291456; at += 4096)
        sum += bulk[at];
    FILE *smaps = fopen("/proc/self/smaps", "r");
    for (kib = 0, sum = 0; fgets(line, sizeof line, smaps);)
        if (sscanf(line, "FilePmdMapped: %ld", &kib) == 1)
            sum += kib;
    printf("%ld\n", sum);
    return 0;
}
"""


def test_the_kernel_maps_huge_pages_then(tmp_path: Path) -> None:
    """A PIE with 6 MiB of text: nothing is mapped by PMDs before, and every block that the plan has won afterwards."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc; to force: apt-get install gcc")
    policy = policy_here(str(tmp_path))
    if policy.largest_folio < PMD or not policy["pie_align"]:
        pytest.skip(f"{policy.fs.name} under {policy.name} has no folios of 2 MiB; set TMPDIR to an ext4 or xfs")
    linked, out = tmp_path / "linked", tmp_path / "out"
    options = ["-O1", "-pie", "-fPIE", "-x", "c", "-", "-o", str(linked)]
    subprocess.run(["gcc", *options], input=HUGE.encode(), check=True)
    for _ in range(4):  # whether so large a folio is free is chance
        with examined(linked, Wishes()) as subject:
            plan = subject.plan
            done = write(subject, str(out), check=True)
        if done.folios is None or done.folios[0] == done.folios[1]:
            break
    else:
        pytest.skip(f"no free memory for folios of 2 MiB: {done.folios}")
    assert (plan.tier, plan.won) == (Tier.ALIGN, 2)
    mapped = [int(subprocess.run([path], capture_output=True, check=True).stdout) for path in (linked, out)]
    assert mapped == [0, plan.won * 2048]
