"""CPython's own tests of `subprocess` and of asyncio's subprocesses, unedited, on elfolio (run.py runs them)."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import elfolio
from tests.pythons import VERSIONS, Interpreter, interpreters, plain_environment

pytestmark = [pytest.mark.suite, pytest.mark.slow]

RUN = Path(__file__).with_name("run.py")
PACKAGE = Path(elfolio.__file__).resolve().parent.parent
"""Where the elfolio under test lies. Its extension is abi3: every Python from 3.11 loads it."""

SUITES = [
    ("subprocess", "test.test_subprocess"),
    ("asyncio", "test.test_asyncio.test_subprocess"),
    ("asyncio-installed", "test.test_asyncio.test_subprocess"),
]
"""Name and module; "installed": with elfolio's asyncio functions too, else with its Popen below asyncio's own."""

EXCLUDED = {
    "asyncio-installed": {
        "GenericWatcherTests.test_create_subprocess_fails_with_inactive_watcher": (
            "holds that asyncio asks the host's child watcher, and refuses to start where that is inactive;"
            " elfolio's functions ask none: the loop itself watches the pidfd"
        ),
    },
}
"""By suite, the tests that are left out: the end of the identifier, and why. They still run, and must fail."""
EXCLUDED_EAGER: dict[str, dict[str, str]] = {}
"""The same, where templates are warm from the first spawn."""
MOST_EXCLUDED = 12
LEAST_WARM_SHARE = 0.5
LEAST_SHARE = 0.95
"""Of the calls of Popen._execute_child without preexec_fn: what elfolio started, or refused by itself with the
standard library's error because the program is not there."""
PATIENCE = 1200
"""Seconds for a suite that takes less than one minute on an idle machine."""


def run_suite(python: Interpreter, name: str, module: str, folder: Path, *, eager: bool) -> dict[str, Any]:
    """Runs a suite in `folder`; returns what run.py reports, with the exit status and the end of the log."""
    out, log = folder / "out.json", folder / "log.txt"
    command = [python.executable, str(RUN), "--elfolio", str(PACKAGE), "--out", str(out), module]
    command += ["--install"] * name.endswith("installed")
    command += ["--eager"] * eager
    command += [f"--fails={test}" for test in excluded(name, eager=eager)]
    work = folder / "work"
    work.mkdir()
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            cwd=work,
            env={**plain_environment(), "TMPDIR": str(work)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            status = child.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):  # what the suite left, and the suite itself if it took too long
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    end = log.read_text(errors="replace")[-6000:]
    report = json.loads(out.read_text()) if out.exists() else {}
    return {"status": status, "log": end, **report}


def excluded(name: str, *, eager: bool) -> dict[str, str]:
    """What is left out of a suite, and why."""
    return {**EXCLUDED.get(name, {}), **(EXCLUDED_EAGER.get(name, {}) if eager else {})}


def share(report: dict[str, Any]) -> float:
    """The part of the starts without preexec_fn that elfolio dealt with."""
    return float((report["spawned"] + report["refused"]) / (report["calls"] - report["with_preexec_fn"]))


def warm_share(report: dict[str, Any]) -> float:
    """The part of the children that elfolio started which were warm."""
    return float(report["temperatures"].get("warm", 0) / report["spawned"])


def line(report: dict[str, Any], name: str) -> str:
    """One interpreter's rows: who did what, what was left to the standard library and why, what was cold and why."""
    left = ", ".join(f"{n} {reason}" for reason, n in sorted(report["standard"].items()))
    cold = ", ".join(f"{n} {reason.removeprefix('warm: ')}" for reason, n in sorted(report["fallbacks"].items()))
    return (
        f"\n{report['python']:7} {name:17} {report['run']:4} tests, {len(report['excluded'])} left out;"
        f" {report['calls']:5} starts: {report['spawned']:4} spawned, {report['refused']:4} refused,"
        f" {share(report):7.2%} elfolio's; left: {left or 'nothing'}\n"
        f"{warm_share(report):>26.2%} warm; else: {cold or 'nothing'}"
    )


@pytest.mark.parametrize("eager", [False, True], ids=["auto", "eager"])
@pytest.mark.parametrize("version", VERSIONS, ids="{0[0]}.{0[1]}".format)
@pytest.mark.parametrize(("name", "module"), SUITES, ids=[name for name, _ in SUITES])
def test_cpythons_own_tests_pass(
    version: tuple[int, int], name: str, module: str, eager: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With elfolio's Popen in place of the standard one (and its asyncio functions, installed) every test of the
    suite passes, and it is elfolio that does the starting, but for what has a preexec_fn. "eager": warm children
    from each program's first start, where else the suite would have ended before there are many."""
    wanted = [python for python in interpreters() if python.version[:2] == version]
    able = [python for python in wanted if python.has_tests]
    if not able:
        lacks = f"{wanted[0].executable} lacks it" if wanted else "there is none"
        pytest.skip(
            f"needs a Python {version[0]}.{version[1]} with its `test` package: {lacks};"
            " to force: put one on the PATH (libpython3-testsuite, pyenv, a build)"
        )
    for number, python in enumerate(able):
        folder = tmp_path / str(number)
        folder.mkdir()
        report = run_suite(python, name, module, folder, eager=eager)
        assert report["status"] == 0, f"failed: {report.get('failed')}\n{report['log']}"
        with capsys.disabled():
            print(line(report, name))
        check(report, name, eager=eager)


def check(report: dict[str, Any], name: str, *, eager: bool) -> None:
    """The suite was there, whole, and on elfolio."""
    assert report["failed"] == report["unexpected"] == []
    assert report["run"] > report["skipped"]
    assert len(report["excluded"]) == len(excluded(name, eager=eager)), "an exclusion that matches no test or several"
    assert report["spawned"] > 0
    assert report["started_elsewhere"] == 0
    assert share(report) >= LEAST_SHARE
    assert not eager or warm_share(report) > LEAST_WARM_SHARE
    assert bool(report["transports"]) == name.endswith("installed")


def test_few_tests_are_left_out() -> None:
    """At most twelve, over all suites, each with a reason."""
    reasons = [reason for tests in (*EXCLUDED.values(), *EXCLUDED_EAGER.values()) for reason in tests.values()]
    assert len(reasons) <= MOST_EXCLUDED
    assert all(reasons)
