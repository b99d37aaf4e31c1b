"""tests.lab.mm_cases: test cases of memory management on another machine. In: Machine, Rules. Out: Share.

The cases count in pages P. Where a page has another size than 4 KiB, those are run that name no other size, and P is
that machine's page.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from elfolio.kernel.case_host import CaseHost, ModelHost, Undecidable
from elfolio.kernel.case_versions import Expected, expected
from elfolio.kernel.cases import decide, run
from tests.lab.mm_live import RemoteHost, Rules, Spare
from tests.lab.mm_machine import Machine

__all__ = ["Share", "run_cases"]

_KERNEL = Path(__file__).resolve().parent.parent / "kernel"
CASES: list[dict[str, Any]] = [
    case for name in ("mm_cases", "more_cases") for case in json.loads((_KERNEL / f"{name}.json").read_text())["cases"]
]
_SIZES = re.compile(r"[KMG]\b|0x|<<|\d{4}|check_access|pattern_off|pagetable")
"""What ties a case to pages of 4 KiB."""


@dataclass
class Share:
    """How many agreed of how many, and what the others were."""

    agreed: int = 0
    run: int = 0
    misses: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """Of cases: why some were not run. Of operations: how many of each."""

    def add(self, miss: str) -> None:
        """One more; empty for one that agreed."""
        self.run += 1
        self.agreed += not miss
        if miss:
            self.misses.append(miss)

    def __str__(self) -> str:
        return f"{self.agreed} / {self.run}"


def run_cases(made: Machine, rules: Rules) -> Share:
    """Every case that is about this kernel and needs nothing but system calls."""
    share, spare = Share(), Spare(made)
    for case in CASES:
        if case["kind"] not in ("syscall", "pagetable"):
            continue
        page = rules.policy.page_size
        verdict = decide(case, replace(rules.policy, page_size=4096))
        if verdict.passed is None:
            share.kinds[verdict.reason.partition(":")[0]] += 1
        elif page != 4096 and _SIZES.search(json.dumps([case["setup"], case["expect"]])):
            share.kinds["it names sizes for pages of 4 KiB"] += 1
        else:
            _run(case, rules, spare, share)
    return share


def _run(case: Mapping[str, Any], rules: Rules, spare: Spare, share: Share) -> None:
    """On the model, and there: both must do what the case says."""
    page = rules.policy.page_size
    wanted = expected(case, rules.policy)
    host = RemoteHost(spare, rules.policy.machine, page)
    try:
        sides: dict[str, CaseHost] = {"model": ModelHost(rules.policy), "kernel": host}
        failed = [f"{name}: {why}" for name, side in sides.items() if (why := _failure(case, wanted, side, page))]
        share.add(f"{case['name']}: {'; '.join(failed)}" if failed else "")
    except Undecidable as error:
        share.kinds[str(error)] += 1
    except RuntimeError as error:
        share.add(f"{case['name']}: {error}")
    finally:
        host.close()


def _failure(case: Mapping[str, Any], wanted: Expected, host: CaseHost, page: int) -> str:
    return run(case, host, wanted, page).reason
