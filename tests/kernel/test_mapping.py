"""kernel.mapping: mmap, brk, munmap, mprotect on a working copy."""

import errno

import pytest

from elfolio.kernel.host import Host
from elfolio.kernel.mapping import MapError, MappedFile, Mappings
from elfolio.kernel.policy import policy
from elfolio.kernel.space import OpenFile, VmFlags

R, W, X = VmFlags.READ, VmFlags.WRITE, VmFlags.EXEC
FILE = MappedFile(OpenFile("/a", 1), 1 << 20)
P = 4096


def fresh(name: str = "linux-6.18") -> Mappings:
    return Mappings(policy(name), Host())


def spans(mappings: Mappings) -> list[tuple[int, int, str]]:
    return [(vma.start // P, vma.end // P, vma.perms[:3]) for vma in mappings.vmas]


def test_a_hole_in_a_mapping() -> None:
    """Unmapping the middle leaves both ends, with the offsets that they had."""
    made = fresh()
    made.map(0x100000, 8 * P, R, FILE, 0, fixed=True)
    made.unmap(0x102000, 2 * P)
    assert spans(made) == [(0x100, 0x102, "r--"), (0x104, 0x108, "r--")]
    assert made.vmas[1].offset == 4 * P


def test_what_is_put_back_merges_again() -> None:
    """The same pages mapped again between their neighbours give one VMA; those of another opening do not."""
    made = fresh()
    made.map(0x100000, 8 * P, R, FILE, 0, fixed=True)
    made.map(0x102000, 2 * P, R, FILE, 2 * P, fixed=True)
    assert len(made.vmas) == 1
    other = MappedFile(OpenFile("/a", 1, opening=1), 1 << 20)
    made.map(0x102000, 2 * P, R, other, 2 * P, fixed=True)
    assert len(made.vmas) == 3


def test_written_file_memory_never_merges_with_unwritten_flags() -> None:
    """A private file mapping that was writable keeps VM_ACCOUNT, and stays apart from its read-only neighbour: the
    shape of RELRO."""
    made = fresh()
    made.map(0x100000, 2 * P, R, FILE, 0, fixed=True)
    made.map(0x102000, 2 * P, R | W, FILE, 2 * P, fixed=True)
    made.protect(0x102000, P, R)
    assert spans(made) == [(0x100, 0x102, "r--"), (0x102, 0x103, "r--"), (0x103, 0x104, "rw-")]


@pytest.mark.parametrize(("name", "count"), [("linux-6.6", 2), ("linux-6.7", 1)])
def test_untouched_anonymous_memory_loses_account(name: str, count: int) -> None:
    """From 6.7 anonymous memory made read-only before it was touched merges with what was so from the start."""
    made = fresh(name)
    made.map(0x100000, P, R, fixed=True)
    made.map(0x101000, P, R | W, fixed=True)
    made.protect(0x101000, P, R)
    assert len(made.vmas) == count


def test_touched_anonymous_memory_keeps_account() -> None:
    """Once it has been written to, it does not."""
    made = fresh()
    made.map(0x100000, P, R, fixed=True)
    made.map(0x101000, P, R | W, fixed=True)
    assert made.write(0x101000)
    made.protect(0x101000, P, R)
    assert len(made.vmas) == 2


def test_brk_joins_what_is_before_it_only() -> None:
    """vm_brk_flags expands the mapping before it, and not the one after."""
    made = fresh()
    made.brk(0x100000, P)
    made.brk(0x102000, P)
    made.brk(0x101000, P)
    assert spans(made) == [(0x100, 0x102, "rw-"), (0x102, 0x103, "rw-")]


def test_two_anon_vmas_keep_mappings_apart() -> None:
    """What comes between two that have been written to separately joins the one before it; with one anon_vma in all
    there is one mapping."""
    made = fresh()
    made.map(0x100000, P, R | W, fixed=True)
    made.map(0x102000, P, R | W, fixed=True)
    assert made.write(0x100000)
    assert made.write(0x102000)
    made.map(0x101000, P, R | W, fixed=True)
    assert spans(made) == [(0x100, 0x102, "rw-"), (0x102, 0x103, "rw-")]
    one = fresh()
    one.map(0x100000, P, R | W, fixed=True)
    assert one.write(0x100000)
    one.map(0x101000, P, R | W, fixed=True)
    assert len(one.vmas) == 1


def test_a_write_beyond_the_file_fails() -> None:
    """A page that begins at or after the file's end gives SIGBUS; so does nothing that is not writable succeed."""
    made = fresh()
    short = MappedFile(OpenFile("/b", 2), P + 1)
    made.map(0x100000, 4 * P, R | W, short, 0, fixed=True)
    assert made.write(0x101000)
    assert not made.write(0x102000)
    made.map(0x200000, P, R, FILE, 0, fixed=True)
    assert not made.write(0x200000)


def test_placement_is_top_down() -> None:
    """Without an address the highest gap below mmap_base is taken; a hint is followed where it is free."""
    made = fresh()
    first = made.map(0, P, R)
    assert first == Host().mmap_base - P
    assert made.map(0, P, R, FILE, 0) == first - P
    assert made.map(0x12345, P, R, FILE, 0) == 0x13000
    assert made.map(first, P, R, FILE, 0) == first - 2 * P


def test_the_guard_gap_of_a_stack() -> None:
    """Nothing is placed within 256 pages below a stack, but MAP_FIXED goes there."""
    host = Host(stack_top=0x7FFFF7FFF000)
    made = Mappings(policy("linux-6.18"), host)
    made.map(0x7FFFF7FF0000, 15 * P, R | W, fixed=True)
    made.vmas[0] = type(made.vmas[0])(
        made.vmas[0].start, made.vmas[0].end, made.vmas[0].flags | VmFlags.GROWSDOWN, name="[stack]"
    )
    assert made.map(0, P, R) == 0x7FFFF7FF0000 - (256 + 1) * P
    assert made.map(0x7FFFF7FEF000, P, R, fixed=True) == 0x7FFFF7FEF000


@pytest.mark.parametrize(
    ("address", "length", "offset", "number"),
    [
        (0x1000000, 0, 0, errno.EINVAL),
        (0x1000000, P, 1, errno.EINVAL),
        (1 << 47, P, 0, errno.ENOMEM),
        (0, P, 0, errno.EPERM),
    ],
)
def test_refusals(address: int, length: int, offset: int, number: int) -> None:
    """No length, an offset inside a page, an address beyond the task's or below mmap_min_addr."""
    with pytest.raises(MapError) as caught:
        fresh().map(address, length, R, FILE, offset, fixed=True)
    assert caught.value.errno == number


def test_noreplace() -> None:
    """MAP_FIXED_NOREPLACE finds its place taken."""
    made = fresh()
    made.map(0x100000, P, R, fixed=True)
    with pytest.raises(MapError) as caught:
        made.map(0x100000, P, R, fixed=True, replaces=False)
    assert caught.value.errno == errno.EEXIST
