"""Runs one of CPython's own test modules with elfolio in place of `subprocess.Popen`, and says who did the starting.

    PYTHON tests/suites/run.py --elfolio DIR --out FILE [--install] [--eager] [--fails ID]... MODULE

DIR holds the elfolio package. Needs nothing but that Python and its `test` package: the suite is not edited,
it finds another Popen in `subprocess` when it is imported. FILE gets one JSON object.
"""

import argparse
import collections
import json
import sys
import unittest
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--elfolio", required=True, help="the directory that holds the elfolio package")
    parser.add_argument("--out", required=True, help="the file for the result")
    parser.add_argument("--install", action="store_true", help="elfolio.install(): asyncio's functions as well")
    parser.add_argument("--eager", action="store_true", help="templates are warm from their first spawn")
    parser.add_argument("--fails", action="append", default=[], metavar="ID", help="a test that must fail, by its end")
    parser.add_argument("module", help="test.test_subprocess or test.test_asyncio.test_subprocess")
    options = parser.parse_args()

    # Not by PYTHONPATH: the tests start Pythons that must not inherit it.
    sys.path.append(options.elfolio)
    counts = replace_popen(everywhere=options.install)
    if options.eager:
        from elfolio.spawn.thermostat import policy

        policy.eager, policy.starts = True, 0
    if options.module in sys.modules:
        raise SystemExit(f"{options.module} was imported before Popen was replaced")
    suite = unittest.defaultTestLoader.loadTestsFromName(options.module)
    excluded = expect_failures(suite, options.fails)
    outcome = unittest.TextTestRunner(verbosity=2).run(suite)
    report = {"excluded": excluded, **outcome_of(outcome), **counts.report()}
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
    return 0 if outcome.wasSuccessful() else 1


class Counts:
    """Every call of Popen._execute_child, counted here; and what elfolio says became of them."""

    def __init__(self, elfolio: ModuleType) -> None:
        self.elfolio = elfolio
        self.calls = 0
        self.with_preexec_fn = 0
        self.started_elsewhere = 0
        self.transports = 0

    def report(self) -> dict[str, object]:
        """`spawned` is counted in the C core, by launches, `temperatures` says how they were done, `fallbacks` why
        not in the best way; `refused` raised their error without the standard library; `started_elsewhere` is what
        it started, though there was no preexec_fn; `transports` are the starts by elfolio's own asyncio functions."""
        stats = self.elfolio.stats()
        spawned = sum(program.spawns for program in stats.programs.values())
        return {
            "calls": self.calls,
            "with_preexec_fn": self.with_preexec_fn,
            "spawned": spawned,
            "temperatures": _sum(program.by_temperature for program in stats.programs.values()),
            "fallbacks": _sum(program.fallbacks for program in stats.programs.values()),
            "started_elsewhere": self.started_elsewhere,
            "refused": self.calls - spawned - sum(stats.standard.values()),
            "standard": dict(stats.standard),
            "transports": self.transports,
        }


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum(map(collections.Counter, counts), collections.Counter()))


def replace_popen(*, everywhere: bool) -> Counts:
    """Puts elfolio's Popen into `subprocess`, with a counter around the method that starts the child."""
    import subprocess

    import elfolio

    counts = Counts(elfolio)
    execute_child = elfolio.Popen._execute_child

    def counted(self: Any, args: object, executable: object, preexec_fn: object, *rest: object) -> None:
        counts.calls += 1
        counts.with_preexec_fn += preexec_fn is not None
        execute_child(self, args, executable, preexec_fn, *rest)
        counts.started_elsewhere += preexec_fn is None and self._child is None

    elfolio.Popen._execute_child = counted  # type: ignore[method-assign]
    if everywhere:
        elfolio.install()
        count_transports(counts)
    subprocess.Popen = elfolio.Popen  # type: ignore[misc]
    return counts


def count_transports(counts: Counts) -> None:
    from elfolio.spawn.aio_popen import _Transport

    start = _Transport._start

    def counted(self: Any, *args: Any, **keywords: Any) -> None:
        counts.transports += 1
        start(self, *args, **keywords)

    _Transport._start = counted  # type: ignore[method-assign]


def expect_failures(suite: unittest.TestSuite, endings: list[str]) -> list[str]:
    """Leaves the tests whose identifiers end so out of the judgement; returns them. They run all the same, as
    others lean on what they leave behind, and one that passes is an error: it need not be left out."""
    left_out = []
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            left_out += expect_failures(test, endings)
        elif any(test.id().endswith("." + ending) for ending in endings):
            left_out.append(test.id())
            test.__unittest_expecting_failure__ = True  # type: ignore[attr-defined]
    return left_out


def outcome_of(outcome: unittest.TestResult) -> dict[str, object]:
    return {
        "python": sys.version.split()[0],
        "run": outcome.testsRun,
        "failed": [test.id() for test, _ in outcome.failures + outcome.errors],
        "unexpected": [test.id() for test in outcome.unexpectedSuccesses],
        "skipped": len(outcome.skipped),
        "skip_reasons": collections.Counter(reason for _, reason in outcome.skipped),
    }


if __name__ == "__main__":
    sys.exit(main())
