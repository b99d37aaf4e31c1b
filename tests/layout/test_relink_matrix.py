"""All object sets, all linkers at hand, all modes, from every mode to every mode. Slow; `-rP` shows the counts.

More linkers: ELFOLIO_TEST_LINKERS names a directory with one directory a linker, named lld-... or ld-..., in which
the linker is called `ld`.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from elfolio.layout.relink import relink_all
from tests.layout.linking import RealLinker, differences, installed, ld_modes, link, lld_modes
from tests.layout.objects import SETS, ObjectSet, compiled, why_not

pytestmark = pytest.mark.slow


def given() -> list[RealLinker]:
    place = os.environ.get("ELFOLIO_TEST_LINKERS")
    found = sorted(Path(place).glob("l*/ld")) if place else []
    return [RealLinker(ld.parent.name, ld.parent.name.partition("-")[0], ld.parent) for ld in found]


def every_pair(linker: RealLinker, objects: ObjectSet, directory: Path) -> Counter[str]:
    """How many pairs of modes are equal, how many are not and said to be uncertain; AssertionError for a silent one."""
    files = compiled(objects, directory)
    modes = [*lld_modes(), *lld_modes(rosegment=False)] if linker.kind == "lld" else ld_modes()
    real = [link(linker, objects, files, mode, directory / "out") for mode in modes]
    counts: Counter[str] = Counter()
    for made in real:
        results = relink_all(made.image, modes, made.data)
        for other, found in zip(real, results, strict=True):
            unequal = differences(found, other)
            assert not unequal or found.uncertain, f"{linker.name}: {made.mode} -> {other.mode}: {unequal}"
            counts["unequal" if unequal else "equal"] += 1
            counts["doubted"] += bool(found.uncertain)
    return counts


@pytest.mark.parametrize("kind", ["lld", "ld"])
@pytest.mark.parametrize("objects", SETS, ids=lambda o: o.name)
def test_every_pair_of_modes(objects: ObjectSet, kind: str, tmp_path: Path) -> None:
    """What lld makes in any mode is told from any other; of GNU ld, too, but for what is said to be uncertain."""
    reason = why_not(objects.compiler)
    if reason is not None:
        pytest.skip(reason)
    if objects.only not in {"", kind}:
        pytest.skip(f"{objects.name} is for {objects.only}; to force: nothing, {kind} cannot link it")
    linkers = installed(kind, tmp_path) + [linker for linker in given() if linker.kind == kind]
    if not linkers:
        pytest.skip(f"needs {kind}; to force: apt-get install {'lld' if kind == 'lld' else 'binutils'}")
    for linker in linkers:
        counts = every_pair(linker, objects, tmp_path)
        print(f"{linker.name}: {objects.name}: {dict(counts)}")
        if kind == "lld":
            assert counts["unequal"] == 0
