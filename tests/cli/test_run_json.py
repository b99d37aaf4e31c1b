"""`elfolio run --json`: one object, of one shape, that says what happened."""

import base64
import json
import types
import typing
from collections.abc import Mapping

import pytest

from elfolio.report.run import Report
from tests.cli.running import outcome, through


def mismatches(value: object, kind: object, where: str = "$") -> list[str]:
    """Where `value`, from JSON, is not of the type `kind`: TypedDicts (with no other keys), unions, lists, dicts
    and plain types. An int counts as a float, a bool not as an int."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        found = [mismatches(value, choice, where) for choice in arguments]
        return [] if [] in found else found[0]
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        members = typing.get_type_hints(kind)
        wrong = (
            [f"{where}: keys differ: {sorted(value.keys() ^ members.keys())}"] if value.keys() ^ members.keys() else []
        )
        return wrong + [m for k in value.keys() & members for m in mismatches(value[k], members[k], f"{where}.{k}")]
    if origin is list:
        items = value if isinstance(value, list) else [object]
        return [m for i, item in enumerate(items) for m in mismatches(item, arguments[0], f"{where}[{i}]")]
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [("?", object)]
        return [m for k, item in pairs for m in mismatches(item, arguments[1], f"{where}.{k}")]
    expected = (int, float) if kind is float else kind
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, expected):  # type: ignore[arg-type]
        return [f"{where}: {value!r} is no {kind}"]
    return []


class _Sample(typing.TypedDict):
    one: int
    two: list[str] | None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"one": 1, "two": ["x"]}, 0),
        ({"one": 1, "two": None}, 0),
        ({"one": True, "two": None}, 1),
        ({"one": "1", "two": [1]}, 2),
        ({"one": 1}, 1),
        ({"one": 1, "two": None, "three": 3}, 1),
        ([], 1),
    ],
)
def test_the_checker(value: object, wrong: int) -> None:
    """The checker below finds missing and additional keys and wrong types."""
    assert len(mismatches(value, _Sample)) == wrong


def reported(words: list[str], *options: str, status: int = 0, input: bytes = b"") -> dict[str, typing.Any]:
    """The object of a run that ends with `status`, of the right shape, and alone on both outputs."""
    done = outcome(through(words, "--json", *options), input=input)
    assert (done.status, done.stderr) == (status, b"")
    assert done.stdout.count(b"\n") == 1
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    return typing.cast(dict[str, typing.Any], value)


def test_what_is_reported() -> None:
    """The object names the run, both outputs, status, times and resource use."""
    value = reported(["sh", "-c", "cat; echo err >&2; exit 3"], status=3, input=b"in\n")
    assert value["elfolio"] == "run"
    assert value["version"] == 1
    assert value["argv"] == ["sh", "-c", "cat; echo err >&2; exit 3"]
    assert value["path"].endswith("/sh")
    assert value["temperature"] == "cold"
    assert (value["returncode"], value["signal"], value["timed_out"]) == (3, None, False)
    assert value["stdout"] == {"text": "in\n", "bytes": 3, "dropped": 0}
    assert value["stderr"] == {"text": "err\n", "bytes": 4, "dropped": 0}
    assert 0 < value["check_us"] < value["launch_us"] < value["seconds"] * 1e6
    assert isinstance(value["rusage"], Mapping)
    assert value["rusage"]["minor_faults"] > 0


def test_a_signal() -> None:
    """A command that was killed: its signal by name, the negative number, and elfolio dies of it too."""
    value = reported(["sh", "-c", "echo last; kill -TERM $$"], status=-15)
    assert (value["returncode"], value["signal"], value["stdout"]["text"]) == (-15, "SIGTERM", "last\n")
    assert reported(["bash", "-c", "kill -40 $$"], status=-40)["signal"] == "signal 40"


def test_a_timeout() -> None:
    """At the deadline the object holds what had been said, and the status is 124."""
    value = reported(["sh", "-c", "echo early; exec sleep 1000"], "--timeout", "0.2", status=124)
    assert (value["timed_out"], value["signal"], value["stdout"]["text"]) == (True, "SIGKILL", "early\n")


def test_bytes_that_are_no_text() -> None:
    """An output that is not UTF-8 comes as base64."""
    value = reported(["printf", "\\377\\001"])
    assert base64.b64decode(value["stdout"]["base64"]) == b"\xff\x01"
    assert value["stdout"]["bytes"] == 2


def test_a_limit() -> None:
    """--limit bounds what the object holds, 1 MiB does without it; the middle is missing, and counted."""
    whole = outcome(["seq", "1000000"]).stdout
    for options, limit in ([], 1 << 20), (["--limit", "100"], 100):
        out = reported(["seq", "1000000"], *options)["stdout"]
        dropped = len(whole) - limit
        assert (out["bytes"], out["dropped"]) == (len(whole), dropped)
        head, tail = out["text"].split(f"\n[... {dropped} bytes dropped ...]\n")
        assert (head + tail).encode() == whole[: limit // 2] + whole[-(limit // 2) :]


def test_what_cannot_start_reports_nothing() -> None:
    """Where nothing ran there is no object: the line and the status are those without --json."""
    assert outcome(through(["./missing"], "--json")) == outcome(through(["./missing"]))


def test_a_fallback_is_named() -> None:
    """What had to be done in the next best way is counted under its reason."""
    value = reported(["true"], "--group", str(__import__("os").getgid()))
    assert value["fallbacks"] == {"memory descriptor copied": 1}
