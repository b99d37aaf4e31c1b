"""`elfolio run --explain`, `--measure`, `--warm` and `--cold`."""

import json
import os
import platform
import typing
from pathlib import Path

import pytest

from elfolio.report.temperature import Report
from tests.cli.running import ELFOLIO, elfolio, outcome, through
from tests.cli.terminal import Terminal
from tests.cli.test_run_json import mismatches

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="warm templates are x86-64's; to force: run it there"
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the test's host changes what is loaded."""
    for name in [name for name in os.environ if name.startswith(("LD_", "GLIBC_", "MALLOC_"))]:
        monkeypatch.delenv(name)


def explained(words: list[str], *options: str) -> dict[str, typing.Any]:
    """The object of an explanation, of the right shape, and alone on both outputs."""
    done = outcome(through(words, "--explain", "--json", *options))
    assert (done.status, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1
    value = json.loads(done.stdout)
    assert mismatches(value, Report) == []
    return typing.cast(dict[str, typing.Any], value)


def test_a_warm_one() -> None:
    """A plain program is warm, by default for auto; the object says so, and what the process holds."""
    value = explained(["true", "x"])
    assert (value["elfolio"], value["version"], value["argv"]) == ("run", 1, ["true", "x"])
    assert (value["asked"], value["temperature"], value["why"], value["measured"]) == ("auto", "warm", None, None)
    assert value["process"]["pss_bytes"] > 0
    assert value["unequal"].keys() >= {"layout", "audit"}
    assert explained(["true"], "--warm")["asked"] == "warm"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--cold"], "asked cold"),
        (["--strict"], "audit strict"),
        (["--group", str(os.getgid())], "credentials take effect at exec"),
        (["--env", "LD_LIBRARY_PATH=/nowhere"], "a loader variable"),
        (["--rlimit", "stack=1M"], "rlimits that are read at the start"),
        (["--private-cgroup"], "a cgroup is one of birth"),
        (["--cwd", "/proc"], "a path through /proc"),
    ],
)
def test_a_cold_one(options: list[str], reason: str) -> None:
    """What is asked for can be the reason."""
    value = explained(["true"], *options)
    assert (value["temperature"], value["why"]["reason"]) == ("cold", reason)


def test_nothing_runs(tmp_path: Path) -> None:
    """The command is not run, and its exit status is not ours; what cannot be found is said as without --explain."""
    words = ["touch", str(tmp_path / "made")]
    done = outcome(through(words, "--explain"))
    assert (done.status, done.stderr) == (0, b"")
    assert b"temperature: warm" in done.stdout
    assert b"--measure N" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert outcome(through(["false"], "--explain")).status == 0
    for words in ["./missing"], [str(tmp_path)]:
        assert outcome(through(words, "--explain")) == outcome(through(words))


def test_a_measurement(tmp_path: Path) -> None:
    """--measure runs the command three times as often as it says, on /dev/null."""
    note = tmp_path / "note"
    value = explained(["sh", "-c", f"cat; echo out; echo err >&2; echo x >> {note}"], "--measure", "3")
    assert note.read_text() == "x\n" * 9
    measured = value["measured"]
    assert len(measured["cold_us"]) == len(measured["warm_us"]) == 3 - measured["missed"]
    assert min(measured["cold_us"] + measured["warm_us"]) > 0
    done = outcome(through(["true"], "--explain", "--measure", "3"))
    assert b"\nsaves: " in done.stdout
    assert b" us a start, the median of 3 rounds" in done.stdout


def test_text_and_table() -> None:
    """In a pipe each line is a name and a value; a terminal gets a table that fits."""
    text = outcome(through(["true"], "--explain")).stdout.decode()
    assert all(": " in line for line in text.splitlines())
    with Terminal([*ELFOLIO, "run", "--explain", "--", "true"]) as terminal:
        terminal.wait_for(r"program +/\S+\s+temperature +warm \(asked for: auto\)")
        terminal.wait_for(r"never equal +All children")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--warm", "--cold"], "--cold"),
        (["--measure", "3"], "--explain"),
        (["--explain", "--timeout", "3"], "--timeout"),
        (["--explain", "--limit", "3"], "--limit"),
        (["--explain", "--measure", "0"], "--measure"),
        (["--explain", "--measure", "x"], "--measure"),
    ],
)
def test_options_that_exclude_each_other(options: list[str], named: str) -> None:
    """One line that names them, and status 2."""
    done = outcome(through(["true"], *options))
    assert (done.status, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert named in done.stderr.decode()


def test_a_warm_run() -> None:
    """--warm runs the command in its place as a cold one would, and says that it was warm."""
    words = ["sh", "-c", "cat; echo err >&2; exit 3"]
    cold = outcome(through(words), input=b"in\n")
    assert outcome(through(words, "--warm"), input=b"in\n") == cold == outcome(through(words, "--cold"), input=b"in\n")
    value = json.loads(outcome(through(words, "--warm", "--json"), input=b"in\n").stdout)
    assert (value["temperature"], value["returncode"], value["fallbacks"]) == ("warm", 3, {})
    assert (value["stdout"]["text"], value["stderr"]["text"]) == ("in\n", "err\n")
    killed = outcome(through(["sh", "-c", "kill -9 $$"], "--warm"))
    assert killed.status == -9


def test_a_warm_run_inherits_nothing() -> None:
    """--warm implies --close-fds."""
    fd = os.open("/", os.O_RDONLY)
    try:
        words = ["sh", "-c", f"test -e /proc/self/fd/{fd}"]
        assert outcome(through(words), pass_fds=[fd]).status == 0
        assert outcome(through(words, "--warm"), pass_fds=[fd]).status == 1
    finally:
        os.close(fd)


def test_why_it_ran_cold(tmp_path: Path) -> None:
    """Where --warm could not be, --verbose and --json say why; the command has run."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 4\n")
    script.chmod(0o755)
    for options, words, reason in (
        (["--strict"], ["sh", "-c", "exit 4"], "audit strict"),
        ([], [str(script)], "script"),
        (["--group", str(os.getgid())], ["sh", "-c", "exit 4"], "credentials take effect at exec"),
    ):
        done = outcome(through(words, "--warm", "--json", "--verbose", *options))
        value = json.loads(done.stdout)
        assert (done.status, value["temperature"]) == (4, "cold")
        assert value["fallbacks"][f"warm: {reason}"] == 1
        assert f"warm: {reason}".encode() in done.stderr


def test_help_says_that_one_start_does_not_pay() -> None:
    """--help tells why the default is cold."""
    text = " ".join(elfolio("run", "--help").stdout.decode().split())
    assert "one start cannot pay" in text
