"""The explanation of a template, as values: no process is started."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.report.temperature import as_json, as_table, as_text
from elfolio.spawn.explaining import Explanation, WarmProcess, Why
from elfolio.spawn.saving import Measured

WHY = Why("an open file", "/run/x", "A library opens a file.", "", True)
PROCESS = WarmProcess(7, (8, 9), 4096 * 3, 4096, 1.5, 3, 0.06, ("/lib/a", "/lib/b"), ("LD_*", "HOME"))  # fmt: skip
MEASURED = Measured((900.0, 1000.0, 1300.0), (400.0, 300.0, 500.0), (890.0, 1010.0, 1290.0), 1)


def explanation(**changes: Any) -> Explanation:
    """Of a warm true."""
    values: dict[str, Any] = {
        "program": "/usr/bin/true",
        "asked": "auto",
        "temperature": "warm",
        "why": None,
        "wait": None,
        "process": PROCESS,
        "rotate_after": 1000,
        "max_age": 600.0,
        "by_temperature": {"cold": 1, "warm": 2},
        "fallbacks": {"warm: drifted: session": 1},
        "unequal": {"layout": "All the same."},
        "measured": None,
    }
    return Explanation(**values | changes)


def test_the_savings() -> None:
    """The difference is the median of the rounds' own; its control is that of two cold starts."""
    assert (MEASURED.saved_us, MEASURED.noise_us, MEASURED.spread_us) == (700.0, 10.0, (600.0, 750.0))
    assert Measured((3.0,), (1.0,), (2.0,), 0).spread_us == (2.0, 2.0)
    line = next(line for line in as_text(explanation(measured=MEASURED)).splitlines() if line.startswith("saves"))
    assert line == (
        "saves: 700 us a start, the median of 3 rounds (half of them 600 to 750): cold 1000 us, warm 400 us, "
        "from spawn to end; two cold starts differ by 10 us; rounds left out, which were not warm: 1"
    )


def test_text() -> None:
    """Every part has its line."""
    text = as_text(explanation(temperature="cold", why=WHY, wait=5))
    for line in (
        "why not warm: an open file: /run/x",
        "why not warm: A library opens a file.",
        "tried again: after 5 cold starts",
        "saves: not measured",
        "warm process: pid 7, standbys 8, 9; started in 60.0 ms",
        "its memory: 4 KiB, of 12 KiB most of which is shared",
        "its life: 3 of 1000 children, 1.5 of 600 seconds",
        "must not change: /lib/b",
        "must be the same: the variables LD_*, HOME",
        "starts so far: 1 cold, 2 warm",
        "done otherwise: warm: drifted: session (1)",
        "never equal: All the same.",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("width", [0, 60, 80, 200])
def test_a_table_fits(width: int) -> None:
    """Where there is room for it, no line is longer than the terminal is wide; a name stands once."""
    table = as_table(explanation(why=WHY, measured=MEASURED), width)
    assert max(map(len, table.splitlines())) <= max(width, 60)
    assert table.count("must not change") == 1


@given(st.text())
def test_names_of_files_stay_on_their_line(name: str) -> None:
    """Whatever a file is called, the text has the same lines, and all of them can be printed."""
    lines = as_text(explanation(program=name)).split("\n")
    assert len(lines) == len(as_text(explanation()).split("\n"))
    assert all(line.isprintable() for line in lines)
    assert json.loads(as_json([name], explanation(program=name)))["path"] == name
