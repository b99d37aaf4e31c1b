"""kernel.policy: presets, versions, switches."""

import itertools

import pytest

from elfolio.errors import InvalidArgument
from elfolio.kernel.policy import PRESETS, SWITCHES, policy


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_answers_every_switch(name: str) -> None:
    """Every preset has a value of its switch's kind for every switch."""
    made = policy(name)
    for switch in SWITCHES.values():
        assert type(made[switch.name]) is type(switch.history[0][1])


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=lambda switch: str(switch.name))
def test_a_switch_names_its_symbol_and_ascends(switch: object) -> None:
    """A switch has a symbol with its file, a source, and a history that begins at 0 and ascends, each value new."""
    from elfolio.kernel.switches import Switch

    assert isinstance(switch, Switch)
    assert "(" in switch.symbol
    assert switch.source
    versions = [since for since, _ in switch.history]
    assert versions[0] == (0,)
    assert versions == sorted(set(versions))
    values = [value for _, value in switch.history]
    assert all(a != b for a, b in itertools.pairwise(values))


def test_a_stable_branch_differs_from_mainline() -> None:
    """A change that a stable branch received holds there from its point release on, and in no other branch."""
    assert policy("linux-6.1")["elf_load"] is True
    assert policy("linux-6.1.1")["elf_load"] is False
    assert policy("linux-6.6")["elf_load"] is False
    assert policy("linux-6.7")["elf_load"] is True


def test_a_switch_can_be_set() -> None:
    """A value that is given counts more than the version's, and an unknown name is an error at once."""
    old = policy("linux-6.18")
    assert old.switched(pie_align=False)["pie_align"] is False
    assert old["pie_align"] is True
    with pytest.raises(KeyError):
        old.switched(pie_aligned=False)
    with pytest.raises(KeyError):
        old["pie_aligned"]


@pytest.mark.parametrize("name", ["windows", "linux-", "linux-6", "linux-6.1.x", "Linux-6.1", ""])
def test_an_unknown_policy_is_refused(name: str) -> None:
    """A name that is no policy is refused, with the names that there are."""
    with pytest.raises(InvalidArgument, match="proposed-tiers"):
        policy(name)


@pytest.mark.parametrize(
    ("name", "fs", "page", "largest"),
    [
        ("linux-6.18", "ext4", 4096, 2 << 20),
        ("linux-6.18", "ext4", 16384, 8 << 20),
        ("linux-6.12", "ext4", 4096, 4096),
        ("linux-6.18", "xfs", 16384, 32 << 20),
        ("linux-6.18", "btrfs", 4096, 4096),
        ("linux-6.18", "xfs", 65536, 128 << 20),
        ("linux-6.18", "something", 4096, 4096),
    ],
)
def test_the_largest_folio(name: str, fs: str, page: int, largest: int) -> None:
    """The largest folio is bounded by the file system, its version, PMD_SIZE and the page cache's index."""
    assert policy(name).with_options(fs=fs, page_size=page).largest_folio == largest


def test_options_are_checked() -> None:
    """A page size or a C library that does not exist is refused."""
    for bad in ({"page_size": 8192}, {"libc": "libc5"}):
        with pytest.raises(InvalidArgument):
            policy("linux-6.18").with_options(**bad)
