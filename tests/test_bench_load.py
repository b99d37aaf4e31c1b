"""bench/load.py: it runs, its subjects read the same bytes, and its file systems are gone afterwards."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.load_media import ballast, read_ahead, write_files
from bench.load_page import page, taken
from bench.load_tables import Case, middle, rows, verdict
from elfolio.pagecache.formats.files import open_safetensors

BENCH = Path(__file__).parent.parent / "bench" / "load.py"


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    pytest.importorskip("numpy", reason="needs the package; to force: pip install numpy")
    words: list[str | Path] = [sys.executable, BENCH, "--folder", folder, "--size", "0.0625", "--rounds", "1", *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)


def test_every_plain_subject_reads_the_same_bytes(tmp_path: Path) -> None:
    """A run without peers ends well, gives a row a subject and the verdict, and leaves no file behind."""
    subjects = ("read() into bytes", "mmap", "numpy.memmap", "elfolio auto", "elfolio direct")
    raw = tmp_path / "raw"
    done = run(tmp_path, "--raw", str(raw), *(word for name in subjects for word in ("--subject", name)))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n{name} " in done.stdout for name in subjects)
    assert "times the rate of the fastest peer" in done.stdout
    samples = json.loads(raw.read_text())["samples"]
    assert len({found[0]["sum"] for found in samples.values()}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "erofs", "tmpfs"])
def test_file_systems_are_mounted_and_gone(tmp_path: Path, kind: str) -> None:
    """Each file system is made, measured, and unmounted, and its loop device is free again."""
    done = run(tmp_path, "--on", kind, "--subject", "mmap")
    assert "left out" not in done.stderr, done.stderr
    assert f"\n{kind}, 0.0625 GiB" in done.stdout
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.mark.root
@pytest.mark.slow
def test_a_share_of_a_processor_is_given(tmp_path: Path) -> None:
    """With --share 0.1 a load takes as long as its processor time at a tenth asks for, and the group is gone."""
    raw = tmp_path / "raw"
    done = run(tmp_path, "--share", "0.1", "--subject", "read() into bytes", "--raw", str(raw))
    if "Permission" in done.stderr or "Read-only" in done.stderr:
        pytest.skip("control groups cannot be made here; to force: run where /sys/fs/cgroup can be written")
    assert done.returncode == 0, done.stderr
    (sample,) = json.loads(raw.read_text())["samples"]["read() into bytes"]
    assert sample["seconds"] > 4 * sample["processor"]


@pytest.mark.root
@pytest.mark.slow
def test_read_ahead_is_put_back(tmp_path: Path) -> None:
    """The device's read_ahead_kb is what was asked for while a run lasts, and what it was afterwards."""
    with read_ahead(str(tmp_path), None) as before:
        pass
    if before is None:
        pytest.skip("this file system has no device; to force: --basetemp on a disk")
    try:
        with read_ahead(str(tmp_path), before):
            pass
    except OSError:
        pytest.skip("/sys cannot be written here; to force: run outside a container")

    def interrupted() -> None:
        with read_ahead(str(tmp_path), before // 2) as now:
            assert now == before // 2
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    with read_ahead(str(tmp_path), None) as after:
        assert after == before


def test_the_files_are_right(tmp_path: Path) -> None:
    """The file that is measured is one of safetensors, of the size that was asked for, its tensors not all alike."""
    files = open_safetensors(write_files(tmp_path, 64 << 20).safetensors)
    assert files.size == 64 << 20
    assert bytes(files["layer.0"].data) != bytes(files["layer.1"].data)


def test_the_verdict_is_of_medians() -> None:
    """Rates and processor times are medians, and the peer is the fastest one that is not elfolio's."""
    base = {"processor": 1.0, "first": 1.0, "random": 1.0, "bytes": 1e9}
    times = {"read() into bytes": (4.0, 2.0, 9.0), "mmap": (2.0, 2.0, 1.0), "elfolio auto": (1.0, 1.0, 5.0)}
    samples = {name: [base | {"seconds": value} for value in values] for name, values in times.items()}
    assert middle(samples["read() into bytes"], "seconds") == 4
    assert [row[1] for row in rows(samples)] == ["0.25", "0.50", "1.00"]
    assert verdict(samples).startswith("auto: 2.00 times the rate of the fastest peer (mmap); 1.000 of read()'s")


def measured(seconds: float) -> list[dict[str, float]]:
    return [{"seconds": seconds, "processor": seconds / 2, "first": 1.0, "random": 1.0, "bytes": 1e9, "sum": 1.0}]


def raw(case: Case, **seconds: float) -> str:
    names = {"ours": "elfolio auto", "mapped": "elfolio mmap", "read": "read() into bytes", "mmap": "mmap"}
    samples = {names[name]: measured(value) for name, value in seconds.items()}
    return json.dumps({"case": asdict(case), "machine": {"processor": "x"}, "samples": samples})


def test_the_page_has_the_last_samples_of_each_subject() -> None:
    """Runs of one case are put together, what was measured again counts in place of what was before; shares of a
    processor have a table of their own, and what the size of folios makes of the rate is said."""
    case = Case("ext4", 1.0, True, "whole", None, 128)
    tenth, small = replace(case, share=0.1), replace(case, kind="ext4-small", share=0.1)
    lines = [
        raw(case, ours=9.0, read=4.0),
        raw(case, ours=1.0, mmap=2.0),
        raw(tenth, mapped=1.0),
        raw(small, mapped=4.0),
    ]
    text = page(*taken(lines))
    assert "| ext4, 1 GiB, cold, read_ahead_kb 128 | 1.00 | mmap | 0.50 | 2.00 |  | 0.250 | 0.500 |" in text
    assert "| 10% | 1.00 | 0.25 | 4.0 |" in text
    assert text.index("## In short") < text.index("## On a part of a processor") < text.index("## Whole files")


def test_ballast_is_given_back() -> None:
    """Memory that was touched beforehand is in use until the end of the block, and not after it."""
    page, status = os.sysconf("SC_PAGE_SIZE"), Path("/proc/self/statm")

    def resident() -> int:
        return int(status.read_text().split()[1]) * page

    before = resident()
    with ballast(64 << 20):
        assert resident() - before > 48 << 20
    assert resident() - before < 16 << 20


def test_some_tensors_are_the_same_ones_by_every_way(tmp_path: Path) -> None:
    """By name, every plain way gets a quarter of the tensors, the same bytes, and gives a table."""
    raw = tmp_path / "raw"
    subjects = ("read() into bytes", "numpy.fromfile", "mmap", "elfolio auto")
    words = [word for name in subjects for word in ("--subject", name)]
    done = run(tmp_path, "--by-tensor", "--size", "0.125", "--raw", str(raw), *words)
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line)["samples"] for line in raw.read_text().splitlines()][-1]
    assert {sample["bytes"] for samples in found.values() for sample in samples} == {32 << 20}
    assert len({sample["sum"] for samples in found.values() for sample in samples}) == 1
