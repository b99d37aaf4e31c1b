"""`elfolio run --tuned`."""

import json
import shutil
from pathlib import Path

import pytest

from elfolio.report.temperature import Report
from tests.cli.running import outcome, through
from tests.cli.test_run_json import mismatches
from tests.pagecache.files import need_huge_folios, needs_gcc
from tests.spawn.large import large


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/elfolio/tuned"


@needs_gcc
def test_a_copy_runs_and_says_the_same(tmp_path: Path, cache: Path) -> None:
    """Output and status are the command's, and the copy is in the user's cache; --explain names it and what it wins."""
    need_huge_folios(tmp_path)
    path = str(large(tmp_path / "large"))
    plain, tuned = (outcome(through([path, "a"], *options), input=b"in") for options in ([], ["--tuned"]))
    assert (plain.status, plain.stdout) == (2, f"large\n[{path}][a]in".encode())
    assert (tuned.status, tuned.stdout, tuned.stderr) == (plain.status, plain.stdout, plain.stderr)
    (entry,) = cache.iterdir()
    done = outcome(through([path], "--tuned", "--explain", "--json"))
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    found = value["tuned"]
    assert (found["path"], found["why"]) == (f"{entry}/large", None)
    assert found["won"] >= 3
    assert found["consequences"].keys() == {"path", "watchers", "writes"}
    text = outcome(through([path], "--tuned", "--explain")).stdout.decode()
    assert f"tuned copy: {entry}/large\n" in text
    assert "blocks can be huge mappings" in text


def test_a_reason_is_said() -> None:
    """Where there is no copy, the command runs all the same, and the reason is among the fallbacks."""
    true = shutil.which("true") or "/bin/true"
    done = outcome(through([true], "--tuned", "--json"))
    assert (done.status, json.loads(done.stdout)["fallbacks"]) == (0, {"tuned: no block to win": 1})
    done = outcome(through([true], "--tuned", "--explain", "--json"))
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    assert value["tuned"]["why"]["reason"] == "no block to win"
    assert (
        b"why not tuned: no block to win: smaller than a huge page\n"
        in outcome(through([true], "--tuned", "--explain")).stdout
    )
    assert json.loads(outcome(through([true], "--explain", "--json")).stdout)["tuned"] is None
