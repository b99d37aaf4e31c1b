"""Where mappings go on machines with more bits of address than programs ask for: below the window, unless asked."""

from dataclasses import replace
from errno import ENOMEM
from pathlib import Path

import pytest

from elfolio.kernel.calls import Mmap, Mremap, Munmap
from elfolio.kernel.exec_calls import map_private
from elfolio.kernel.host import Host, default_host, with_large_addresses
from elfolio.kernel.mm import Mm
from elfolio.kernel.model import apply
from elfolio.kernel.policy import Policy, policy
from elfolio.kernel.space import VmFlags
from elfolio.live.host import host_here

_LENGTH = 1 << 20
_PRIVATE, _FIXED = 0x22, 0x32
_X86 = policy("linux-6.18")
_ARM_4K = replace(_X86, machine="aarch64")
_ARM_16K = replace(_ARM_4K, page_size=16384)


def _sides(rules: Policy) -> tuple[Host, Host]:
    plain = default_host(rules)
    return plain, with_large_addresses(plain, rules.machine)


@pytest.mark.parametrize(
    ("rules", "window", "end"),
    [
        (_X86, (1 << 47) - 4096, (1 << 56) - 4096),
        (_ARM_4K, 1 << 48, 1 << 52),
        (_ARM_16K, 1 << 47, 1 << 52),
    ],
    ids=["x86-64", "arm64", "arm64 with 16 KiB"],
)
def test_only_a_hint_leads_above_the_window(rules: Policy, window: int, end: int) -> None:
    """Without a hint, or with one that ends above the window, room is found below mmap_base; a hint above the window is
    taken where the machine has addresses there, and is as good as none where it has not."""
    plain, large = _sides(rules)
    assert (plain.window, plain.task_size) == (window, window)
    assert (large.window, large.task_size, large.mmap_base) == (window, end, plain.mmap_base)
    page = rules.page_size
    for host in (plain, large):
        mm = Mm(rules, host)
        first = apply(mm, Mmap(0, page, 3, _PRIVATE))
        assert first == host.mmap_base // page * page - page
        assert apply(mm, Mmap(window - page, 2 * page, 3, _PRIVATE)) == first - 2 * page
    hint = window + 64 * _LENGTH
    assert apply(Mm(rules, plain), Mmap(hint, page, 3, _PRIVATE)) == first
    mm = Mm(rules, large)
    assert apply(mm, Mmap(hint, page, 3, _PRIVATE)) == hint
    # What is taken leaves the highest gap, under a base that is lifted by as much as there is above the window.
    base = (end - window + plain.mmap_base) // page * page
    assert apply(mm, Mmap(hint, page, 3, _PRIVATE)) == base - page


@pytest.mark.parametrize("rules", [_X86, _ARM_4K, _ARM_16K], ids=["x86-64", "arm64", "arm64 with 16 KiB"])
def test_checks_know_all_addresses(rules: Policy) -> None:
    """Fixed addresses, unmapping and moving are held against TASK_SIZE, not against the window."""
    plain, large = _sides(rules)
    at, page = plain.window + 16 * _LENGTH, rules.page_size
    assert apply(Mm(rules, plain), Mmap(at, page, 3, _FIXED)) == -ENOMEM
    mm = Mm(rules, large)
    assert apply(mm, Mmap(at, page, 3, _FIXED)) == at
    low = apply(mm, Mmap(0, page, 3, _PRIVATE))
    assert apply(mm, Mremap(low, page, page, 3, at + 4 * page)) == at + 4 * page
    assert apply(mm, Munmap(at, 5 * page)) == 0
    assert apply(mm, Mmap(large.task_size, page, 3, _FIXED)) == -ENOMEM
    assert mm.snapshot().vmas == ()


def test_the_last_resort() -> None:
    """What fits nowhere below mmap_base is looked for upwards from a third of the window on x86-64, a quarter on arm64,
    and not above the window unless the hint is."""
    assert default_host(_X86).bottom == 0x2AAAAAAAB000
    assert default_host(_ARM_16K).bottom == 1 << 45
    for rules in (_X86, _ARM_16K):
        _, large = _sides(rules)
        assert apply(Mm(rules, large), Mmap(0, large.window, 3, _PRIVATE | 0x4000)) == -ENOMEM
        assert apply(Mm(rules, large), Mmap(large.window + _LENGTH, large.window, 3, _PRIVATE | 0x4000)) >= _LENGTH


def test_a_length_beyond_the_window_is_no_fixed_length_on_arm64() -> None:
    """The generic search refuses it before it looks at MAP_FIXED; x86-64 does not ask."""
    for rules, refused in ((_ARM_16K, True), (_X86, False)):
        _, large = _sides(rules)
        result = apply(Mm(rules, large), Mmap(1 << 30, large.window, 3, _FIXED | 0x4000))
        assert result == (-ENOMEM if refused else 1 << 30)


@pytest.mark.parametrize("rules", [_X86, _ARM_4K, _ARM_16K], ids=["x86-64", "arm64", "arm64 with 16 KiB"])
def test_exec_places_by_the_same_rule(rules: Policy) -> None:
    """A program's images too: a hint that is beyond all addresses, as a static program that is linked above its own
    base gives one, leads to the highest there are."""
    page = rules.page_size
    for host in _sides(rules):
        large = host.task_size > host.window
        top = host.task_size - host.window + host.mmap_base
        for hint, end in ((0, host.mmap_base), (host.window - page, host.window), ((1 << 64) - 2 * page, top)):
            mm = Mm(rules, host)
            assert map_private(mm, hint, page, VmFlags.READ) == end // page * page - page
            found = map_private(mm, hint, 3 * page, VmFlags.READ)
            assert (found > host.window) is (large and hint > host.window)


def test_programs_of_32_bits_stay_as_they_are() -> None:
    """Their window is their address space, on every processor."""
    host = default_host(_X86, 32)
    assert host.window == host.task_size
    assert with_large_addresses(host, "x86_64") == host


def test_five_levels_are_seen(tmp_path: Path) -> None:
    """An x86-64 that uses LA57 says so among its flags; other words do not count."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/maps").write_bytes(b"")
    for flags, large in (("fpu la57 vme", True), ("fpu vla57 la5", False)):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: la57\n")
        host = host_here(_X86, proc=tmp_path)
        assert (host.task_size > host.window) is large
