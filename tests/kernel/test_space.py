"""kernel.space: the type of an address space."""

from pathlib import Path

from elfolio.kernel.space import AddressSpace, OpenFile, Vma, VmFlags
from elfolio.span import FileOffset, MappedAddress, Span

_RX = VmFlags.READ | VmFlags.EXEC
_RW = VmFlags.READ | VmFlags.WRITE


def _vma(start: int, end: int, **fields: object) -> Vma:
    return Vma(MappedAddress(start), MappedAddress(end), VmFlags.READ, **fields)  # type: ignore[arg-type]


def test_a_line_is_written_as_the_kernel_writes_it() -> None:
    """A VMA with a file, one without a name and one with a special name give lines of /proc/PID/maps."""
    file = OpenFile("/usr/bin/cat", 260131, 0xFE, 0)
    with_file = Vma(
        MappedAddress(0x555555556000), MappedAddress(0x55555555B000), _RX, file, FileOffset(0x2000), file.path
    )
    assert with_file.line() == ("555555556000-55555555b000 r-xp 00002000 fe:00 260131                     /usr/bin/cat")
    plain = Vma(MappedAddress(0x7FFFF7D50000), MappedAddress(0x7FFFF7D72000), _RW)
    assert plain.line() == "7ffff7d50000-7ffff7d72000 rw-p 00000000 00:00 0 "
    low = Vma(MappedAddress(0x1000), MappedAddress(0x2000), _RW | VmFlags.MAYSHARE, name="[heap]")
    assert low.line() == "00001000-00002000 rw-s 00000000 00:00 0                                  [heap]"


def test_finding() -> None:
    """Addresses find their VMA, spans all that overlap them and the holes between."""
    space = AddressSpace((_vma(0x1000, 0x3000), _vma(0x3000, 0x4000, name="b"), _vma(0x6000, 0x7000)))
    assert space.at(0xFFF) is None
    assert space.at(0x1000) is space.vmas[0]
    assert space.at(0x2FFF) is space.vmas[0]
    assert space.at(0x3000) is space.vmas[1]
    assert space.at(0x4000) is None
    assert space.within(Span(0x2FFF, 0x3001)) == space.vmas[:2]
    assert space.holes(Span(0, 0x8000)) == (Span(0, 0x1000), Span(0x4000, 0x6000), Span(0x7000, 0x8000))
    assert space.holes(Span(0x1000, 0x4000)) == ()


def test_equal_values_are_equal() -> None:
    """Two spaces with equal VMAs are equal: a comparison needs no more."""
    assert AddressSpace((_vma(0, 1),)) == AddressSpace((_vma(0, 1),))
    assert AddressSpace((_vma(0, 1),)) != AddressSpace((_vma(0, 2),))


def test_vm_flags_stand_where_the_kernel_has_them() -> None:
    """Bits that smaps' VmFlags name are one bit each, and no two have the same."""
    from elfolio.kernel.vmflags import MNEMONICS

    assert len({int(bit) for bit in MNEMONICS.values()}) == len(MNEMONICS)
    shown = next(line for line in Path("/proc/self/smaps").read_text().splitlines() if line.startswith("VmFlags"))
    assert set(shown.split()[1:]) & set(MNEMONICS)
