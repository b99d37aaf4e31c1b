"""What the system and its tools see of a tuned program: a real exec as explain predicts, debuggers and profilers by the
same names, attributes and names of the file as before."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from elfolio.measure.hold import held
from elfolio.measure.verify import verify
from tests.tune import built
from tests.tune.checker import table_address
from tests.tune.driver import elfolio, tune
from tests.tune.raw import ET_EXEC, load

AT_PHDR, AT_BASE, AT_ENTRY = 3, 7, 9
STARTED = ("pie", "exec", "static-pie", "lld-14")
SLOWLY = ("static", "lld-14-exec", "mold", "gold", "noseparate-code", "bulk", "bulk-lld-19", "musl", "clang")
SAMPLE_EVERY = 4000
SPIN = """
#include <stdio.h>
__attribute__((noinline)) unsigned turning(unsigned n) { unsigned s = 0; while (n--) s = s * 31 + n; return s; }
int main(void) { printf("%u\\n", turning(400000000)); return 0; }
"""


def _made(name: str, folder: Path) -> Path:
    kind = next(kind for kind in built.kinds() if kind.name == name)
    try:
        path = kind.make(folder)
    except built.Lacking as reason:
        pytest.skip(str(reason))
    return path


def _tuned(path: Path, folder: Path, tier: str = "1") -> Path:
    (one,) = tune([path], folder / f"tier-{tier}", "--force", "--tier", tier)
    assert one.status in ("tuned", "copied"), one.reasons
    assert one.out is not None
    return one.out


@pytest.mark.parametrize("name", [*STARTED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY)])
def test_execs_as_explain_predicts(name: str, tmp_path: Path) -> None:
    """Every mapping at the first instruction and after linking, and AT_PHDR and AT_ENTRY, are where they were to be."""
    path = _made(name, tmp_path)
    raw = load(path)
    for tier in ("0", "1"):
        out = _tuned(path, tmp_path, tier)
        found = verify(str(out))
        assert found.equal, [str(difference) for difference in found.differences]
        bias = 0 if raw.header["type"] == ET_EXEC else found.predicted.load_bias  # type: ignore[union-attr]
        with held(str(out)) as process:
            vector = process.auxv()
        assert vector[AT_ENTRY] - bias == raw.header["entry"]
        assert vector[AT_PHDR] - bias == table_address(raw, modern=True)


def test_debuggers_see_the_same(tmp_path: Path) -> None:
    """gdb stops at the same line, with the same backtrace and values; addr2line names the same places."""
    if shutil.which("gdb") is None:
        pytest.skip("needs gdb; to force: apt-get install gdb")
    path = _made("debug", tmp_path)
    seen = {_debugged(p) for p in (path, _tuned(path, tmp_path, "0"), _tuned(path, tmp_path))}
    assert len(seen) == 1, seen
    assert "visit" in seen.pop()


def _debugged(path: Path) -> str:
    commands = ("set debuginfod enabled off", "break visit", "run", "bt", "info symbol visit", "print counter")
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", *words, path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [line for line in done.stdout.splitlines() if re.match(r"#\d|\$|.* in section|Breakpoint", line)]
    return re.sub(r"0x[0-9a-f]+", "N", "\n".join(lines).replace(str(path), "FILE"))


@pytest.mark.slow
def test_profilers_see_the_same(tmp_path: Path) -> None:
    """perf names the function that the time goes to, as before. Its cache in the home directory goes by build ID,
    which both files have: each gets one of its own."""
    if shutil.which("perf") is None:
        pytest.skip("needs perf; to force: apt-get install linux-perf")
    path = tmp_path / "spin"
    subprocess.run(["gcc", "-O1", "-x", "c", "-", "-o", path], input=SPIN, text=True, check=True)
    for program in (path, _tuned(path, tmp_path)):
        data, home = str(tmp_path / "perf.data"), {**os.environ, "HOME": str(program.parent)}
        record: list[str] = [
            "perf",
            "record",
            "-q",
            "-e",
            "cpu-clock",
            "-F",
            str(SAMPLE_EVERY),
            "-o",
            data,
            str(program),
        ]
        done = subprocess.run(record, capture_output=True, text=True, check=False, env=home)
        if done.returncode:
            pytest.skip(
                f"perf cannot record here: {done.stderr.strip()[-200:]}; to force: kernel.perf_event_paranoid=1"
            )
        report: list[str] = ["perf", "report", "-i", data, "--stdio", "--sort", "symbol"]
        text = subprocess.run(report, capture_output=True, text=True, check=True, env=home).stdout
        shares = re.findall(r"([\d.]+)%\s+\[.\] (\S+)", text)
        assert shares, text
        share, name = shares[0]
        assert name == "turning", text
        assert float(share) > 80


def _attributes(path: Path) -> dict[str, object]:
    facts = path.stat()
    extended = {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))}
    return {"mode": stat.S_IMODE(facts.st_mode), "owner": (facts.st_uid, facts.st_gid), "extended": extended}


@pytest.mark.root
def test_attributes_stay(tmp_path: Path) -> None:
    """Mode, owner, capabilities, extended attributes and ACLs are the file's own after tune --in-place and after
    --undo."""
    if shutil.which("setcap") is None:
        pytest.skip("needs setcap; to force: apt-get install libcap2-bin")
    path = _made("pie", tmp_path)
    original = path.read_bytes()
    os.chown(path, 65534, 65534)
    path.chmod(0o2755)
    subprocess.run(["setcap", "cap_net_raw+ep", path], check=True)
    os.setxattr(path, "user.elfolio", b"kept")
    if shutil.which("setfacl"):
        subprocess.run(["setfacl", "-m", "u:1:r", path], check=True)
    before = _attributes(path)
    done = elfolio("tune", path, "--force", "--in-place")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() != original
    assert _attributes(path) == before
    done = elfolio("tune", path, "--undo")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == original
    assert _attributes(path) == before


def test_other_names_are_not_left_behind(tmp_path: Path) -> None:
    """A file with two names is refused, or both lead to the new one, or the other keeps the old one: as was asked."""
    path, other = _made("pie", tmp_path), tmp_path / "other"
    original = path.read_bytes()
    os.link(path, other)
    done = elfolio("tune", path, "--force", "--in-place")
    assert done.returncode == 2
    assert other.read_bytes() == path.read_bytes() == original
    done = elfolio("tune", path, "--force", "--in-place", "--links", "leave")
    assert done.returncode == 0, done.stderr
    assert (other.read_bytes() == original) > (path.read_bytes() == original)
    path.unlink()
    os.link(other, path)
    done = elfolio("tune", path, "--force", "--in-place", "--links", "all")
    assert done.returncode == 0, done.stderr
    assert other.samefile(path)
    assert path.read_bytes() != original


def test_symbolic_links_stay(tmp_path: Path) -> None:
    """The file behind a symbolic link is replaced, not the link."""
    path, link = _made("pie", tmp_path), tmp_path / "link"
    original = path.read_bytes()
    link.symlink_to(path.name)
    done = elfolio("tune", link, "--force", "--in-place")
    assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert path.read_bytes() != original
