"""cli.replay_check: `elfolio replay --check`. In: cases as data, a policy. Out: 0, or 1 where one fails."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from elfolio.cli.parsing import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from elfolio.kernel.cases import Verdict
    from elfolio.kernel.policy import Policy
    from elfolio.report.replay import CaseRow

__all__ = ["run_check"]

_PAGE = 4096


def run_check(args: argparse.Namespace) -> int:
    """Decides every case on the model of one kernel, with --live on the running one too."""
    from elfolio.report.replay import as_cases_json, as_cases_text

    if args.trace is not None or args.command:
        raise Failure("--check takes no trace")
    rows = _live(args) if args.live else _modelled(args)
    print(as_cases_json(rows) if args.json else as_cases_text(rows))
    return 1 if any(row["passed"] is False for row in rows) else 0


def _modelled(args: argparse.Namespace) -> "list[CaseRow]":
    cases, policy = _cases(args.check), _policy(args.policy)
    return [_row(case, policy) for case in cases]


def _policy(names: list[str] | None) -> "Policy":
    from elfolio.errors import InvalidArgument
    from elfolio.kernel.policy import policy
    from elfolio.live.host import policy_here

    if names is None:
        return policy_here()
    if len(names) > 1:
        raise Failure("--check holds one --policy against the cases")
    try:
        return policy(names[0])
    except InvalidArgument as error:
        raise Failure(str(error.strerror)) from error


def _cases(name: str) -> list[Any]:
    try:
        with open(name, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise Failure(f"{name}:{error.lineno}:{error.colno}: no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{name}: no JSON: no UTF-8 at offset {error.start}") from error
    except RecursionError as error:
        raise Failure(f"{name}: nested too deeply") from error
    cases = value.get("cases") if isinstance(value, dict) else value
    if not isinstance(cases, list):
        raise Failure(f"{name}: no list of cases: an object with `cases`")
    return cases


def _live(args: argparse.Namespace) -> "list[CaseRow]":
    import os
    from functools import partial
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from elfolio.cli.replay_live import child
    from elfolio.measure.live_cases import decide_live

    if args.policy is not None:
        raise Failure("--check with --live takes no --policy: a case names the kernels that it is about")
    if os.sysconf("SC_PAGESIZE") != _PAGE:
        raise Failure(f"--check with --live: cases count in pages of {_PAGE} bytes, which this machine does not have")
    cases, here = _cases(args.check), _policy(None)
    with TemporaryDirectory(prefix="elfolio-") as folder, child() as seed:
        decide = partial(decide_live, seed=seed, folder=Path(folder))
        return [_row(case, here, decide) for case in cases]


def _row(case: Any, policy: "Policy", on: "Callable[[Any, Policy], Verdict] | None" = None) -> "CaseRow":
    from elfolio.kernel.cases import CaseError, Verdict, decide
    from elfolio.report.replay import CaseRow

    if not isinstance(case, dict):
        return CaseRow(suite="", name="", passed=None, reason=f"malformed: {type(case).__name__} is no object")
    try:
        verdict = (on or decide)(case, policy)
    except CaseError as error:
        verdict = Verdict(None, f"malformed: {error}")
    return CaseRow(
        suite=str(case.get("suite", "")), name=str(case.get("name", "")), passed=verdict.passed, reason=verdict.reason
    )
