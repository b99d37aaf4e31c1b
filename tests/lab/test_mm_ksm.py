"""PR_SET_MEMORY_MERGE under Linux 6.12, which sets KSM's flag late: real programs, recorded there, replayed here."""

import pytest

from tests.lab import kernels, mm_ksm


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.skipif(kernels.OWN != "amd64", reason="the image is this machine's; to force: run on x86-64")
def test_the_late_flag_costs_what_was_predicted() -> None:
    """Python with many modules, and a compiler: every process ends there with exactly the mappings of the replay under
    linux-6.12, with the prctl as many as were predicted from the run without it. Under linux-6.18 the prctl costs none.
    Workers give back more than half of their memory where their addresses are the same."""
    try:
        found = mm_ksm.seen("6.12")
    except kernels.Unavailable as lacking:
        pytest.skip(str(lacking))
    print(mm_ksm.text(found))
    assert found.release.startswith("6.12")
    assert set(found.counted) == {"python, 10 modules", "gcc"}
    for what, counted in found.counted.items():
        assert counted.unlike == 0, what
        assert counted.live == counted.late > counted.plain + 20, what
        assert counted.early == counted.without <= counted.plain, what
    same, random = found.shared["the same addresses"], found.shared["addresses randomised"]
    assert same.after < same.before / 2
    assert same.merged > same.before / 2
    assert 0 < random.profit < same.profit < same.before
