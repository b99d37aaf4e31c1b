"""kernel.neighbours: what can be told of two VMAs from outside."""

from dataclasses import replace

from elfolio.kernel.neighbours import Apart, apart
from elfolio.kernel.policy import policy
from elfolio.kernel.space import OpenFile, Vma, VmFlags
from elfolio.span import FileOffset, MappedAddress

P = 4096
FLAGS = VmFlags.READ | VmFlags.WRITE | VmFlags.MAYREAD | VmFlags.MAYWRITE | VmFlags.MAYEXEC | VmFlags.ACCOUNT
LOW = Vma(MappedAddress(0x10000), MappedAddress(0x11000), FLAGS)
HIGH = replace(LOW, start=MappedAddress(0x11000), end=MappedAddress(0x13000))
KERNEL = policy("linux-6.18")


def why(a: Vma, b: Vma, *written: int) -> Apart:
    """Of two that touch."""
    (found,) = apart([a, b], set(written), KERNEL)
    return found


def test_what_can_be_seen_is_certain() -> None:
    """Flags, by name; files; offsets; names."""
    found = why(LOW, replace(HIGH, flags=FLAGS & ~VmFlags.WRITE & ~VmFlags.ACCOUNT))
    assert (found.rule, found.certain, found.differ) == ("flags", True, ("wr", "ac"))
    file = OpenFile("/x", 7)
    low = replace(LOW, file=file, name="/x")
    assert why(low, HIGH).rule == "file"
    assert why(low, replace(HIGH, file=OpenFile("/y", 8))).rule == "file"
    found = why(low, replace(HIGH, file=file, offset=FileOffset(8 * P)))
    assert (found.rule, found.certain) == ("offset", True)
    assert why(replace(LOW, name="[anon:a]"), HIGH).rule == "name"
    assert why(LOW, replace(HIGH, flags=FLAGS | VmFlags.DONTEXPAND)).rule in ("flags", "special")


def test_what_cannot_be_seen_is_not() -> None:
    """Both written: perhaps different anon_vmas. Else nothing that can be seen; of a file, perhaps two openings."""
    assert (why(LOW, HIGH, 0, 1).rule, why(LOW, HIGH, 0, 1).certain) == ("anon-vma", False)
    assert (why(LOW, HIGH, 0).rule, why(LOW, HIGH).certain) == ("unseen", False)
    file = OpenFile("/x", 7)
    found = why(replace(LOW, file=file), replace(HIGH, file=file, offset=FileOffset(P)))
    assert (found.rule, found.certain) == ("unseen", False)
    assert "openings" in found.because


def test_a_gap_is_no_neighbourhood() -> None:
    """Those that do not touch are not mentioned; the dirty bit that Linux ignores is none that differs."""
    far = replace(HIGH, start=MappedAddress(0x12000))
    assert apart([LOW, far], set(), KERNEL) == ()
    assert [
        one.lower for one in apart([LOW, HIGH, replace(far, start=HIGH.end, end=MappedAddress(0x20000))], set(), KERNEL)
    ] == [0, 1]
    assert why(LOW, replace(HIGH, flags=FLAGS | VmFlags.SOFTDIRTY)).rule == "unseen"
