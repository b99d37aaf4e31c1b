"""bench/survey.py: it runs, its tables are whole, and elfolio is as far ahead as it was."""

import json
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.survey.test_run import many

ROOT = Path(__file__).resolve().parents[2]


def bench(python: str | Path, *words: str) -> str:
    done = subprocess.run(
        [python, ROOT / "bench/survey.py", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs(tmp_path: Path) -> None:
    """Both tables have elfolio twice, for the A/A, and a line of what was measured on."""
    (tmp_path / "tree").mkdir()
    many(tmp_path / "tree")
    said = bench(sys.executable, "--files", "10", "--rounds", "1", str(tmp_path / "tree"))
    assert "One ELF file, microseconds: 10 of 133 files" in said
    assert "seconds: 200 files, 133 of them ELF" in said
    assert said.count("the same again (A/A)") == 2


@pytest.mark.slow
@pytest.mark.network
def test_it_is_ahead(tmp_path: Path) -> None:
    """Of /usr, a file's row takes a twentieth of what pyelftools takes for program headers, and a third of what LIEF
    does."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "lief", "pyelftools"], check=True)
    out = tmp_path / "samples.json"
    bench(python, "--no-tree", "--files", "600", "--rounds", "5", "--json", str(out), "/usr")
    samples = json.loads(out.read_text())["file"]

    def times(name: str) -> float:
        return statistics.median(float(a) / float(b) for a, b in zip(samples[name], samples["elfolio"], strict=True))

    assert times("pyelftools") >= 20
    assert times("LIEF") >= 3
