"""Hundreds of this machine's files, and programs of every kind that linkers make, through `elfolio tune` at each tier.

The counts are in docs/tune-corpus.md, which `python -m tests.tune.table --write` makes by the same code.
"""

import pytest

from tests.tune import sandbox, table
from tests.tune.campaign import TIERS

pytestmark = [pytest.mark.slow, pytest.mark.root]

ENOUGH = 0.95


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    """Programs of this machine are run only where they can do no harm."""
    if lacking := sandbox.lacking():
        pytest.skip(lacking)


@pytest.mark.parametrize("tier", sorted(TIERS))
@pytest.mark.parametrize("group", sorted(table.GROUPS))
def test_everything_holds(group: str, tier: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything in the list of tests.tune.trial holds of every file that was tuned; of programs and libraries at least
    95% are accepted at tiers 0 and 1, and every refusal has its reason."""
    score = table.GROUPS[group](tier, tmp_path_factory.mktemp("corpus"))
    print(table.text([score]))
    assert score.broken == []
    assert score.accepted + score.refused + score.unchanged == score.count
    if group in table.ORDINARY and tier in ("0", "1"):
        assert score.accepted >= ENOUGH * score.count
        assert score.count < table.COUNT or score.ran >= score.count / 3, "too few could be run"
