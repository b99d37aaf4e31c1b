"""`elfolio simulate folios`: its text, its object, its page, and how it refuses."""

import json
from pathlib import Path
from typing import cast

import pytest

from elfolio.report.simulate import Report, groups
from tests.cli.running import ELFOLIO, Outcome, outcome
from tests.cli.test_run_json import mismatches

QUICK = ("--memory", "1G", "--file", "64M")


def simulate(*words: str) -> Outcome:
    """The command's outcome."""
    return outcome((*ELFOLIO, "simulate", *words))


def test_one_policy_as_json_has_the_object_of_its_type() -> None:
    """The object is Report's, and each load's shares add up to the whole file."""
    done = simulate("folios", *QUICK, "--policy", "hinted-file", "--json")
    assert (done.status, done.stderr) == (0, b"")
    report = cast(Report, json.loads(done.stdout))
    assert not list(mismatches(report, Report))
    assert [one["name"] for one in report["policies"]] == ["hinted-file"]
    for one in report["policies"][0]["loads"]:
        assert sum(one["orders"]) == 64 << 20
        assert sum(groups(one)) == pytest.approx(1)


def test_all_policies_answer_the_questions_and_say_what_is_not_faithful(tmp_path: Path) -> None:
    """Without --policy every question is answered; the page has a picture of each policy's memory."""
    workload = tmp_path / "w.json"
    workload.write_text(
        '{"applications": [{"name": "a", "anon": 0.05, "cache": 0.2, "life": 3}], "ticks": 8, "moments": [0, 8]}'
    )
    done = simulate("folios", *QUICK, "--workload", str(workload))
    assert done.status == 0
    assert b"Does keeping others on small folios help the file?" in done.stdout
    assert b"Not faithful" in done.stdout
    page = tmp_path / "page.html"
    assert simulate("folios", *QUICK, "--workload", str(workload), "--html", str(page)).stdout == b""
    text = page.read_text()
    assert text.count("<polyline") == 6
    assert text.count(": memory after the load") == 6
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pages",), b"invalid choice"),
        (("folios", "--memory", "1M"), b"--memory"),
        (("folios", *QUICK, "--file", "900M"), b"--file"),
        (("folios", "--unmovable", "80%"), b"share"),
        (("folios", "--policy", "all"), b"--policy"),
        (("folios", "--workload", "/nowhere.json"), b"/nowhere.json: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words: tuple[str, ...], said: bytes) -> None:
    """What is wrong is named, on one line of stderr."""
    done = simulate(*words)
    assert done.status == 2
    assert said in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_workload_that_is_no_json_is_named(tmp_path: Path) -> None:
    """The file and the reason."""
    file = tmp_path / "w.json"
    file.write_text("{")
    done = simulate("folios", "--workload", str(file))
    assert done.status == 2
    assert b"not JSON" in done.stderr


def test_this_machine_stands_beside_the_simulation() -> None:
    """--from-host takes its size and unmovable share, and shows its free lists."""
    done = simulate("folios", "--from-host", "--policy", "small", "--memory", "1G", "--file", "64M", "--json")
    assert done.status == 0
    host = json.loads(done.stdout)["host"]
    assert 0 < host["unmovable"] < 1
    assert 0 <= host["free_huge"] <= 1
