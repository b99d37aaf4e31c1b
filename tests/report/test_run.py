"""The report of a run, as values: no process is started."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.report.run import as_report, dropped, summary
from elfolio.spawn.command import Ran
from elfolio.spawn.relay import Said

NOTHING = Said(b"", b"", 0, 0)


def ran(out: Said = NOTHING, returncode: int | None = 0, **changes: object) -> Ran:
    """A run of true."""
    values = {
        "argv": ["true"],
        "path": "/usr/bin/true",
        "pid": 42,
        "temperature": "cold",
        "returncode": returncode,
        "timed_out": False,
        "seconds": 0.5,
        "check_ns": 1500,
        "launch_ns": 250000,
        "rusage": None,
        "fallbacks": {},
        "outputs": (out, NOTHING),
        "errors": (0, 0),
    }
    return Ran(**values | changes)  # type: ignore[arg-type]


def stdout_of(said: Said) -> dict[str, Any]:
    """The report's part for one output."""
    return dict(as_report(ran(said))["stdout"])


@given(st.binary())
def test_whole_output_comes_through(data: bytes) -> None:
    """Whatever a command writes can be taken out of the object again, byte for byte."""
    out = stdout_of(Said(data, b"", len(data), 0))
    assert (base64.b64decode(out["base64"]) if "base64" in out else out["text"].encode()) == data
    assert (out["bytes"], out["dropped"]) == (len(data), 0)


@given(st.text(min_size=1), st.integers(0), st.integers(0))
def test_a_cut_character_does_not_make_text_binary(text: str, first: int, last: int) -> None:
    """Where the limit cuts UTF-8 text in the middle of a character, what is left of it goes, and is counted."""
    data = text.encode()
    first %= len(data)
    last = max(first + 1, len(data) - last % len(data))
    out = stdout_of(Said(data[:first], data[last:], len(data), last - first))
    assert "text" in out
    assert out["dropped"] >= last - first
    head, tail = out["text"].split(f"\n[... {out['dropped']} bytes dropped ...]\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len((head + tail).encode()) == out["bytes"] - out["dropped"]


@pytest.mark.parametrize(
    ("returncode", "name"), [(0, None), (7, None), (None, None), (-9, "SIGKILL"), (-40, "signal 40")]
)
def test_signals_are_named(returncode: int | None, name: str | None) -> None:
    """A signal has its name, where it has one."""
    assert as_report(ran(returncode=returncode))["signal"] == name


def test_the_summary_is_one_line() -> None:
    """The line says what ran, how it ended, the times, and what was done in the next best way."""
    assert summary(ran(returncode=-15, fallbacks={"clone3 missing or refused": 1}, timed_out=True)) == (
        "/usr/bin/true, pid 42, cold: killed by SIGTERM; check 2 us, launch 250 us, 500.0 ms in all; "
        "clone3 missing or refused; timed out"
    )


def test_what_is_missing_is_said() -> None:
    """One line for an output that was cut, one for an output that could not be written, none for a closed pipe."""
    cut = Said(b"", b"", 100, 90)
    assert dropped(ran(cut)) == ["90 of 100 bytes of standard output dropped (--limit)"]
    assert dropped(ran(cut, errors=(28, 0))) == ["standard output cannot be written: ENOSPC"]
    assert dropped(ran(cut, errors=(32, 0))) == []
