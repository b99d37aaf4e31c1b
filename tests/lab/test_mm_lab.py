"""The address-space model under Debian's kernels 6.1, 6.12, 7.2 and one for arm64 with pages of 16 KiB."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from elfolio.kernel.policy import policy
from elfolio.measure.program import read_program
from tests.lab import kernels
from tests.lab.kernels import Unavailable
from tests.lab.mm_cases import Share
from tests.lab.mm_execs import compare_program
from tests.lab.mm_kernels import LAB, SMALL
from tests.lab.mm_live import rules_here
from tests.lab.mm_machine import Machine, build, here
from tests.lab.mm_run import Found, run_sequences, under
from tests.lab.mm_table import page
from tests.measure.odd import odd_program, write_program

_OPERATIONS, _ODD = 1500, 100
_MARKS = {"arm64": pytest.mark.qemu("aarch64")}


def _kernels() -> list[object]:
    return [pytest.param(name, marks=_MARKS["arm64"] if "arm64" in name else pytest.mark.qemu) for name in LAB]


@pytest.mark.slow
@pytest.mark.parametrize("name", _kernels())
def test_the_model_is_that_kernel(name: str) -> None:
    """Cases, random operations and programs at their first instruction: all as that kernel's policy says."""
    try:
        found = under(name, _OPERATIONS, _ODD)
    except Unavailable as lacking:
        pytest.skip(str(lacking))
    print(f"{found.release}: cases {found.cases}, operations {found.operations}, programs {found.execs}")
    assert found.release.startswith(name.partition("-")[0])
    assert (found.bits > 47) is (name not in SMALL)
    assert [*found.cases.misses, *found.known.misses, *found.operations.misses, *found.execs.misses] == []
    assert found.operations.agreed == found.operations.run >= _OPERATIONS
    assert found.execs.agreed == found.execs.run >= _ODD // 2
    assert found.cases.agreed == found.cases.run >= 30


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Machine]:
    """The lab's driver on this machine."""
    try:
        build(tmp_path)
    except Unavailable as lacking:
        pytest.skip(str(lacking))
    (tmp_path / "place").mkdir()
    with here(tmp_path, tmp_path / "place") as made:
        yield made


@pytest.mark.skipif(kernels.OWN != "amd64", reason="the odd programs are x86's; to force: run on x86-64")
def test_the_same_driver_serves_here(hands: Machine, tmp_path: Path) -> None:
    """Random operations and programs at their first instruction, through the lab's driver on the running kernel."""
    rules = rules_here(hands)
    operations = run_sequences(hands, rules, 500)
    assert operations.misses == []
    assert operations.agreed == operations.run >= 500
    made = [write_program(tmp_path / f"odd-{seed}", odd_program(seed)) for seed in range(60)]
    found = [compare_program(hands, read_program(path), rules) for path in (*made, "/bin/cat", "/bin/sh")]
    assert [miss for miss in found if miss] == []


@pytest.mark.skipif(
    kernels.OWN != "amd64", reason="needs a kernel whose older rules are known; to force: run on x86-64"
)
def test_another_kernels_rules_are_found_out(hands: Machine) -> None:
    """The same operations differ from a model of 5.10: what agrees above does not agree with anything."""
    rules = rules_here(hands)
    wrong = replace(rules, policy=policy("linux-5.10"))
    assert run_sequences(hands, wrong, 500).misses


def test_a_difference_is_on_the_page() -> None:
    """What differs is counted in its kernel's row, and told below it; without differences the page says so."""
    found = Found("6.1.0-1-amd64", "6.1.192", "x86_64", 4096, 47, 1.0)
    assert "None." in page([found])
    found.operations = Share()
    found.operations.add("")
    found.operations.add("seed 3: after Munmap: real a, model b")
    text = page([found])
    assert "| 1 / 2 |" in text
    assert "- 6.1.0-1-amd64: `seed 3: after Munmap: real a, model b`" in text
    assert "None." not in text
