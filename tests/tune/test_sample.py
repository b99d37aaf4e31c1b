"""Twenty files of this machine through `elfolio tune`, forced, at each tier: what `tests.tune.campaign` holds of
hundreds (test_corpus.py), without what needs root."""

import pytest

from tests.tune import corpus
from tests.tune.campaign import TIERS, campaign

EACH = 10
LARGEST = 1 << 20


@pytest.mark.parametrize("tier", sorted(TIERS))
def test_a_sample_survives(tier: str) -> None:
    """Programs and libraries are the same in memory, to every tool, and after --undo; a second time changes nothing."""
    paths = [*corpus.executables(EACH, LARGEST), *corpus.shared_objects(EACH, LARGEST)]
    if len(paths) < EACH:
        pytest.skip("finds too few ELF files below /usr; to force: a Debian, or another folder in tests/tune/corpus.py")
    score = campaign("sample", paths, tier, lambda path: None)
    assert score.broken == []
    assert score.accepted >= 0.95 * score.count, score.examples
