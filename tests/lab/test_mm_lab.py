"""The address-space model under Debian's kernels 6.1, 6.12, 7.2 and one for arm64 with pages of 16 KiB."""

import pytest

from tests.lab.kernels import Unavailable
from tests.lab.mm_kernels import LAB
from tests.lab.mm_run import Found, Share, under
from tests.lab.mm_table import page

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
    assert [*found.cases.misses, *found.operations.misses, *found.execs.misses] == []
    assert found.operations.agreed == found.operations.run >= _OPERATIONS
    assert found.execs.agreed == found.execs.run >= _ODD // 2
    if found.page == 4096:
        assert found.cases.agreed == found.cases.run >= 40


def test_a_difference_is_on_the_page() -> None:
    """What differs is counted in its kernel's row, and told below it; without differences the page says so."""
    found = Found("6.1.0-1-amd64", "6.1.192", "x86_64", 4096, 1.0)
    assert "None." in page([found])
    found.operations = Share()
    found.operations.add("")
    found.operations.add("seed 3: after Munmap: real a, model b")
    text = page([found])
    assert "| 1 / 2 |" in text
    assert "- 6.1.0-1-amd64: `seed 3: after Munmap: real a, model b`" in text
    assert "None." not in text
