"""`elfolio survey` as its users see it: formats, order, exit statuses, errors of one line, a bar on a terminal."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from elfolio.survey.rows import COLUMNS, COSTS
from tests.cli.running import ELFOLIO, elfolio
from tests.cli.terminal import Terminal
from tests.survey.trees import plant

OPTIONAL = {"linker_version": str, "tier": int}
TEXTS = {"path", "kind", "byteorder", "machine", "linker", "confidence", "code", "stack"}
TRUTHS = {"executable_stack", "both_aligned", "rosegment", "ready_16k", "ready_64k", "rwx", "truncated"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that trees.plant makes."""
    root = tmp_path_factory.mktemp("tree")
    plant(root)
    return root


def surveyed(*words: str) -> dict[str, Any]:
    done = elfolio("survey", *words, "--format", "json")
    assert done.status == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def base_names(report: dict[str, Any]) -> list[str]:
    return [os.path.basename(row["path"]) for row in report["rows"]]


def test_the_object_has_its_schema(planted: Path) -> None:
    """--format json prints one object: command, version, roots, counts, typed rows with every column, problems."""
    report = surveyed(str(planted))
    assert set(report) == {"elfolio", "version", "roots", "sort", "files", "seconds", "rows", "problems"}
    assert (report["elfolio"], report["version"], report["roots"]) == ("survey", 1, [str(planted)])
    assert report["files"] == 10
    for row in report["rows"]:
        assert tuple(row) == COLUMNS
        for name, value in row.items():
            kind = OPTIONAL.get(name) or (str if name in TEXTS else bool if name in TRUTHS else int)
            assert type(value) is kind or (value is None and name in OPTIONAL), name
    (problem,) = report["problems"]
    assert set(problem) == {"path", "kind", "reason"}
    assert (problem["path"], problem["kind"]) == (str(planted / "lib/broken"), "malformed")


def test_what_gains_most_stands_first(planted: Path) -> None:
    """Rows come ranked by what a remedy would win, and by any other cost that is asked for."""
    assert base_names(surveyed(str(planted)))[:2] == ["skewed", "congruent"]
    assert base_names(surveyed(str(planted), "--sort", "exposed"))[0] == "rwx"
    for cost in COSTS:
        assert len(surveyed(str(planted), "--sort", cost)["rows"]) == 6


def test_the_first_rows(planted: Path) -> None:
    """--top leaves the others out, in every format."""
    assert base_names(surveyed(str(planted), "--top", "1")) == ["skewed"]
    assert elfolio("survey", str(planted), "--top", "2", "--format", "csv").stdout.count(b"\n") == 3
    assert b"4 not shown" in elfolio("survey", str(planted), "--top", "2").stdout


def test_csv_has_the_same_rows(planted: Path) -> None:
    """--format csv has a line of names, and the same values as JSON in the same order."""
    text = elfolio("survey", str(planted), "--format", "csv").stdout.decode()
    records = list(csv.DictReader(text.splitlines()))
    for record, row in zip(records, surveyed(str(planted))["rows"], strict=True):
        assert record == {name: "" if value is None else str(value) for name, value in row.items()}


def test_the_table_is_for_people(planted: Path) -> None:
    """The table has a line a row with gain, remedy and path, totals by remedy, and what is malformed."""
    lines = elfolio("survey", str(planted)).stdout.decode().splitlines()
    assert lines[0].split() == [
        *("gain", "had", "most", "remedy", "text", "16K", "64K", "RELRO", "flags", "padding", "linker", "path"),
    ]
    assert lines[1].split()[:5] == ["2", "3", "1", "re-lay", "7.0M"]
    assert lines[1].endswith(str(planted / "bin/skewed"))
    text = "\n".join(lines)
    assert "rwx,execstack" in text
    assert "6 ELF files of 10" in text
    assert "1 gain 2 huge pages for text by editing p_align (tier 0)" in text
    assert "a segment both writable and executable: 1, an executable stack: 1" in text
    assert f"{planted / 'lib/broken'}: malformed program headers" in text


def test_the_work_may_be_shared(planted: Path) -> None:
    """--jobs changes nothing about the rows."""
    one, three = (surveyed(str(planted), "--jobs", jobs)["rows"] for jobs in ("1", "3"))
    assert one == three


def test_it_is_written_to_a_file(planted: Path, tmp_path: Path) -> None:
    """-o takes what standard output would have had."""
    out = tmp_path / "out.csv"
    done = elfolio("survey", str(planted), "--format", "csv", "-o", str(out))
    assert (done.status, done.stdout) == (0, b"")
    assert out.read_bytes() == elfolio("survey", str(planted), "--format", "csv").stdout


def test_a_file_may_be_given(planted: Path) -> None:
    """One file is a tree too, by whatever name it is reached."""
    for path in (planted / "bin/congruent", planted / "lib/link"):
        assert base_names(surveyed(str(path))) == ["congruent"]


def test_strange_names_are_shown(tmp_path: Path) -> None:
    """A line's end or a byte that is no text in a name does not break the table, and JSON has the name itself."""
    plant(tmp_path / "tree")
    strange = os.fsencode(tmp_path / "tree/lib") + b"/new\nline\xff"
    os.rename(tmp_path / "tree/bin/skewed", strange)
    table = elfolio("survey", str(tmp_path / "tree")).stdout.decode()
    assert "new\\nline\\udcff" in table.splitlines()[1]
    assert os.fsencode(surveyed(str(tmp_path / "tree"))["rows"][0]["path"]) == strange


WRONG = {
    "no directory": ((), "DIR"),
    "one that is not there": (("/nowhere/at/all",), "/nowhere/at/all: No such file or directory"),
    "format": ((".", "--format", "xml"), "xml"),
    "cost": ((".", "--sort", "beauty"), "beauty"),
    "jobs": ((".", "--jobs", "0"), "'0'"),
    "Parquet to a pipe": ((".", "--format", "parquet"), "-o FILE"),
    "cluster and processes": ((".", "--on", "dask://x:1", "--jobs", "2"), "--jobs"),
    "no cluster's address": ((".", "--on", "http://x:1"), "dask://"),
    "top of a query": ((".", "--sql", "select 1", "--top", "3"), "LIMIT"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(words: tuple[str, ...], said: str) -> None:
    """A user's mistake ends with status 2 and one line that names it."""
    done = elfolio("survey", *words)
    assert (done.status, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert said in done.stderr.decode()


def test_a_file_that_cannot_be_written(planted: Path) -> None:
    """The file's name and the reason, in one line."""
    done = elfolio("survey", str(planted), "-o", "/nowhere/out")
    assert (done.status, done.stderr) == (2, b"elfolio survey: /nowhere/out: No such file or directory\n")


MISSING = {
    "--sql": ("duckdb", "table", ("--sql", "select 1")),
    "--format parquet": ("pyarrow", "table", ("--format", "parquet", "-o", "x")),
    "--on": ("distributed", "cluster", ("--on", "dask://x:1")),
}


@pytest.mark.parametrize("option", MISSING)
def test_what_is_not_installed_is_named(option: str, planted: Path) -> None:
    """Where a package is missing, one line names it and the extra that brings it, before any work."""
    module, extra, words = MISSING[option]
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {module!r} else find(name, *a)\n"
        f"from elfolio.cli import main; sys.exit(main(['survey', {str(planted)!r}, *{words!r}]))"
    )
    from tests.cli.running import outcome

    done = outcome([sys.executable, "-P", "-c", code])
    if option == "--sql" and b"pyarrow" in done.stderr:
        module = "pyarrow"
    line = f"elfolio survey: {option} needs {module}, which is not installed: pip install 'elfolio[{extra}]'\n"
    assert (done.status, done.stdout, done.stderr.decode()) == (2, b"", line)


def test_a_problem_is_told_beside_other_formats(planted: Path) -> None:
    """Where the rows go to a program, standard error has a line about what has no row."""
    done = elfolio("survey", str(planted), "--format", "csv")
    assert done.status == 0
    assert done.stderr.decode().startswith(f"elfolio survey: {planted / 'lib/broken'}: malformed program headers")
    assert done.stderr.count(b"\n") == 1


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """What cannot be read is listed, and the status is 1."""
    plant(tmp_path / "tree")
    path = tmp_path / "tree/bin/small"
    if os.geteuid() == 0:  # whom no mode keeps out: a file whose first page cannot be read
        path = Path("/proc/self/mem")
    else:
        path.chmod(0)
    done = elfolio("survey", str(tmp_path / "tree/lib"), str(path))
    assert done.status == 1
    assert b"unreadable: 1" in done.stdout


def test_a_terminal_sees_a_bar(planted: Path) -> None:
    """On a terminal a bar shows the files done, and is gone when the table comes."""
    with Terminal([*ELFOLIO, "survey", str(planted)]) as terminal:
        terminal.wait_for(r"\[#+\] 10 of 10 files, \d ELF")
        terminal.wait_for(r"\r\x1b\[K")
        terminal.wait_for("gain")
        terminal.wait_for("malformed: 1")
        assert terminal.status() == 0


def test_no_bar_without_a_terminal(planted: Path) -> None:
    """In a pipe, standard error stays empty."""
    assert elfolio("survey", str(planted / "bin")).stderr == b""


def test_a_reader_that_stops(planted: Path) -> None:
    """`elfolio survey | head` ends by SIGPIPE, as other commands do, without a traceback."""
    from tests.cli.running import outcome

    command = " ".join(ELFOLIO)
    done = outcome(["bash", "-c", f"set -o pipefail; {command} survey '{planted}' --format csv | true; echo $?"])
    assert b"Traceback" not in done.stderr
