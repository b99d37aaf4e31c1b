"""`elfolio load` as its users see it: a table, an object, a comparison, errors of one line."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from elfolio.cli.load import NAMES
from elfolio.pagecache.load import LoadReport, Strategy
from tests.cli.running import ELFOLIO, elfolio
from tests.cli.terminal import Terminal
from tests.pagecache.files import M


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "file"
    file.write_bytes(b"x" * (3 * M))
    return str(file)


def test_the_table_has_a_line_a_file(path: str) -> None:
    """Size, rate, strategy and name; behind it how and why; nothing on standard error in a pipe."""
    done = elfolio("load", path, path)
    assert (done.status, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == ["size", "time", "GB/s", "CPU", "s/GB", "faults", "strategy", "file"]
    assert [line.split()[-1] for line in lines[1:3]] == [path, path]
    assert any("page cache" in line for line in lines[3:])


def test_the_object_has_its_schema(path: str) -> None:
    """--json prints one object: command, version, page, and each file's whole report."""
    done = elfolio("load", "--json", "--strategy", "read", path)
    found = json.loads(done.stdout)
    assert set(found) == {"elfolio", "version", "page", "files", "problems", "models"}
    assert (found["elfolio"], found["version"]) == ("load", 1)
    (entry,) = found["files"]
    assert set(entry) == {one.name for one in fields(LoadReport)} | {"rate", "processor_per_gb", "cached_orders"}
    assert (entry["strategy"], entry["length"], entry["path"]) == ("read", 3 * M, path)


def test_the_comparison_has_every_strategy(path: str) -> None:
    """A line for each and for the control, and every sample in the object."""
    done = elfolio("load", "--compare", "--rounds", "1", path)
    assert done.status == 0, done.stderr
    names = [line.split()[-1] for line in done.stdout.decode().splitlines()[2:9]]
    assert names == [*NAMES, "again"]
    found = json.loads(elfolio("load", "--compare", "--rounds", "2", "--json", path).stdout)
    assert (found["elfolio"], found["compared"], len(found["trials"])) == ("load", path, 14)
    assert all(len(one["samples"]) == 2 or one["error"] for one in found["trials"])


def test_the_names_are_those_of_the_room() -> None:
    """The command knows every strategy, without importing the room for its help."""
    assert tuple(Strategy) == NAMES


def test_one_bad_file_stops_no_other(path: str) -> None:
    """It is told in a line of its own, in the object too; the others are loaded; status 2."""
    done = elfolio("load", "/missing/file", path)
    assert (done.status, done.stderr.count(b"\n")) == (2, 1)
    assert b"/missing/file: No such file" in done.stderr
    assert path.encode() in done.stdout
    found = json.loads(elfolio("load", "--json", "/missing/file", path).stdout)
    assert [one["path"] for one in found["files"]] == [path]
    assert [one["path"] for one in found["problems"]] == ["/missing/file"]


def test_a_terminal_shows_the_rate(path: str) -> None:
    """A bar with share and rate while it loads, gone before the table."""
    with Terminal([*ELFOLIO, "load", path]) as terminal:
        terminal.wait_for(r"\[[#.]{20}\] \d+% \d+\.\d\d GB/s")
        terminal.wait_for("strategy")


BAD = {
    "no file": ((), "FILE"),
    "missing": (("/missing/file",), "/missing/file: No such file"),
    "directory": (("/",), "/: a directory"),
    "strategy": (("--strategy", "magic", "x"), "magic"),
    "two compared": (("--compare", "a", "b"), "one file"),
}


@pytest.mark.parametrize(("words", "said"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line(words: tuple[str, ...], said: str) -> None:
    """Status 2, one line that names the thing, nothing on standard output."""
    done = elfolio("load", *words)
    assert (done.status, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert said in done.stderr.decode()
