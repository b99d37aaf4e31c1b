"""The report by itself: values in, text out."""

from elfolio.report.survey import as_csv, as_table, as_text, progress_line, records_json
from elfolio.survey.rows import Problem
from elfolio.survey.run import Survey


def test_many_problems_are_cut() -> None:
    """The table shows twenty of a kind, and where the others are."""
    problems = [Problem(f"/x/{i:03}", "malformed", "why") for i in range(50)]
    lines = as_table(Survey(("/x",), 50, [], problems, 0.1), [], "huge").splitlines()
    assert "malformed: 50" in lines
    assert sum(line.startswith("  /x/") for line in lines) == 20
    assert lines[-1].strip().endswith("--format json lists them all")


def test_a_querys_answer_in_columns() -> None:
    """Numbers stand to the right, text to the left, and nothing is cut off."""
    assert as_text(["name", "n"], [["a", 1], ["long", 200], [None, None]]) == "name    n\na       1\nlong  200\n\n"
    assert as_text(["only"], []) == "only\n"


def test_a_querys_answer_as_json_and_csv() -> None:
    """Names and values go together, and a comma or a quote does not break a line of CSV."""
    assert records_json(["a", "b"], [[1, "x"]]).endswith('"columns": ["a", "b"], "rows": [{"a": 1, "b": "x"}]}')
    assert as_csv(["a"], [['x,"y"'], [None]]) == 'a\n"x,""y"""\n""\n'


def test_the_bar_fits_any_terminal() -> None:
    """The line is always shorter than the terminal is wide, is empty at the start and full at the end."""
    for width in (1, 10, 40, 80, 300):
        for done in (0, 500, 1000):
            assert len(progress_line(done, 1000, 7, width)) < width
    assert progress_line(0, 1000, 0, 80).startswith("[....")
    assert progress_line(1000, 1000, 7, 80).startswith("[####")
    assert "#.]" not in progress_line(1000, 1000, 7, 80)
