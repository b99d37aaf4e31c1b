"""kernel.exec_calls: what execve and a dynamic loader ask of the address-space model."""

import errno

import pytest

from elfolio.kernel.areas import Area
from elfolio.kernel.exec_calls import MapError, map_private, protect, unmap, write, zeroes
from elfolio.kernel.host import Host
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.mm import Mm
from elfolio.kernel.policy import policy
from elfolio.kernel.space import OpenFile, VmFlags

R, W, X = VmFlags.READ, VmFlags.WRITE, VmFlags.EXEC
FILE = Mappable(OpenFile("/a", 1), 1 << 20)
P = 4096


def fresh(name: str = "linux-6.18", host: Host | None = None) -> Mm:
    return Mm(policy(name), host or Host())


def spans(mm: Mm) -> list[tuple[int, int, str]]:
    return [(vma.start // P, vma.end // P, vma.perms[:3]) for vma in mm.snapshot()]


def test_a_hole_in_a_mapping() -> None:
    """Unmapping the middle leaves both ends, with the offsets that they had."""
    made = fresh()
    map_private(made, 0x100000, 8 * P, R, FILE, 0, fixed=True)
    unmap(made, 0x102000, 2 * P)
    assert spans(made) == [(0x100, 0x102, "r--"), (0x104, 0x108, "r--")]
    assert made.snapshot().vmas[1].offset == 4 * P


def test_what_is_put_back_merges_again() -> None:
    """The same pages mapped again between their neighbours give one VMA; those of another opening do not."""
    made = fresh()
    map_private(made, 0x100000, 8 * P, R, FILE, 0, fixed=True)
    map_private(made, 0x102000, 2 * P, R, FILE, 2 * P, fixed=True)
    assert made.count == 1
    other = Mappable(OpenFile("/a", 1, opening=1), 1 << 20)
    map_private(made, 0x102000, 2 * P, R, other, 2 * P, fixed=True)
    assert made.count == 3


def test_written_file_memory_never_merges_with_unwritten_flags() -> None:
    """A private file mapping that was writable keeps VM_ACCOUNT, and stays apart from its read-only neighbour: the
    shape of RELRO."""
    made = fresh()
    map_private(made, 0x100000, 2 * P, R, FILE, 0, fixed=True)
    map_private(made, 0x102000, 2 * P, R | W, FILE, 2 * P, fixed=True)
    protect(made, 0x102000, P, R)
    assert spans(made) == [(0x100, 0x102, "r--"), (0x102, 0x103, "r--"), (0x103, 0x104, "rw-")]


@pytest.mark.parametrize(("name", "count"), [("linux-6.6", 2), ("linux-6.7", 1)])
def test_untouched_anonymous_memory_loses_account(name: str, count: int) -> None:
    """From 6.7 anonymous memory made read-only before it was touched merges with what was so from the start."""
    made = fresh(name)
    map_private(made, 0x100000, P, R, fixed=True)
    map_private(made, 0x101000, P, R | W, fixed=True)
    protect(made, 0x101000, P, R)
    assert made.count == count


def test_touched_anonymous_memory_keeps_account() -> None:
    """Once it has been written to, it does not."""
    made = fresh()
    map_private(made, 0x100000, P, R, fixed=True)
    map_private(made, 0x101000, P, R | W, fixed=True)
    assert write(made, 0x101000)
    protect(made, 0x101000, P, R)
    assert made.count == 2


@pytest.mark.parametrize(
    ("name", "found"),
    [("linux-6.1", [(0x100, 0x102, "rw-"), (0x102, 0x103, "rw-")]), ("linux-6.0", [(0x100, 0x103, "rw-")])],
)
def test_zeroes_join_what_is_before_them_only(name: str, found: list[tuple[int, int, str]]) -> None:
    """vm_brk_flags expands the mapping before it, and not the one after; up to 6.0 both."""
    made = fresh(name)
    zeroes(made, 0x100000, P)
    zeroes(made, 0x102000, P)
    zeroes(made, 0x101000, P)
    assert spans(made) == found


def test_zeroes_replace_what_is_there() -> None:
    """Executable ones on request; without length nothing happens."""
    made = fresh()
    map_private(made, 0x100000, 3 * P, R, FILE, 0, fixed=True)
    zeroes(made, 0x101000, 1, executable=True)
    zeroes(made, 0x100000, 0)
    assert spans(made) == [(0x100, 0x101, "r--"), (0x101, 0x102, "rwx"), (0x102, 0x103, "r--")]
    assert made.total == 3 * P


def test_two_anon_vmas_keep_mappings_apart() -> None:
    """What comes between two that have been written to separately joins the one before it; with one anon_vma in all
    there is one mapping."""
    made = fresh()
    map_private(made, 0x100000, P, R | W, fixed=True)
    map_private(made, 0x102000, P, R | W, fixed=True)
    assert write(made, 0x100000)
    assert write(made, 0x102000)
    map_private(made, 0x101000, P, R | W, fixed=True)
    assert spans(made) == [(0x100, 0x102, "rw-"), (0x102, 0x103, "rw-")]
    one = fresh()
    map_private(one, 0x100000, P, R | W, fixed=True)
    assert write(one, 0x100000)
    map_private(one, 0x101000, P, R | W, fixed=True)
    assert one.count == 1


def test_a_write_beyond_the_file_fails() -> None:
    """A page that begins at or after the file's end gives SIGBUS; so does nothing that is not writable succeed."""
    made = fresh()
    short = Mappable(OpenFile("/b", 2), P + 1)
    map_private(made, 0x100000, 4 * P, R | W, short, 0, fixed=True)
    assert write(made, 0x101000)
    assert not write(made, 0x102000)
    map_private(made, 0x200000, P, R, FILE, 0, fixed=True)
    assert not write(made, 0x200000)


def test_placement_is_top_down() -> None:
    """Without an address the highest gap below mmap_base is taken; a hint is followed where it is free, from the start
    of its page."""
    made = fresh()
    first = map_private(made, 0, P, R)
    assert first == Host().mmap_base - P
    assert map_private(made, 0, P, R, FILE, 0) == first - P
    assert map_private(made, 0x12345, P, R, FILE, 0) == 0x12000
    assert map_private(made, first, P, R, FILE, 0) == first - 2 * P


def test_the_guard_gap_of_a_stack() -> None:
    """Nothing is placed within 256 pages below a stack, but MAP_FIXED goes there."""
    made = fresh(host=Host(stack_top=0x7FFFF7FFF000))
    made.areas.insert(Area(0x7FFFF7FF0000, 0x7FFFF7FFF000, int(R | W | VmFlags.GROWSDOWN), 0x7FFFF7FF0000))
    assert map_private(made, 0, P, R) == 0x7FFFF7FF0000 - (256 + 1) * P
    assert map_private(made, 0x7FFFF7FEF000, P, R, fixed=True) == 0x7FFFF7FEF000


@pytest.mark.parametrize(
    ("address", "length", "offset", "number", "why"),
    [
        (0x1000000, 0, 0, errno.EINVAL, "a mapping without length"),
        (0x1000000, P, 1, errno.EINVAL, "an offset that is no multiple of the page size"),
        (0x1000000, P, -P, errno.EINVAL, "an offset that is no multiple of the page size"),
        (0x1000000, P, (1 << 63) - P, errno.EOVERFLOW, "beyond the end of any file"),
        (1 << 47, P, 0, errno.ENOMEM, "beyond the address space"),
        (0x1000000, 1 << 48, 0, errno.ENOMEM, "longer than the address space"),
        (0x1000000, 1 << 34, 0, errno.ENOMEM, "more than all memory"),
        (0, P, 0, errno.EPERM, "below vm.mmap_min_addr"),
    ],
)
def test_refusals(address: int, length: int, offset: int, number: int, why: str) -> None:
    """No length, an offset inside a page or behind what a file can have, an address beyond the task's or below
    mmap_min_addr, more than there is."""
    made = fresh(host=Host(memory=1 << 33))
    with pytest.raises(MapError, match=why) as caught:
        map_private(made, address, length, R | W, FILE, offset, fixed=True)
    assert caught.value.errno == number
    if not offset and length:
        with pytest.raises(MapError, match=why):
            zeroes(made, address, length)


def test_a_hole_cannot_be_protected() -> None:
    """mprotect fails at the first page that is not mapped, with what comes before it done."""
    made = fresh()
    map_private(made, 0x100000, P, R, fixed=True)
    with pytest.raises(MapError) as caught:
        protect(made, 0x100000, 2 * P, R | W)
    assert caught.value.errno == errno.ENOMEM
    assert spans(made) == [(0x100, 0x101, "rw-")]


def test_noreplace() -> None:
    """MAP_FIXED_NOREPLACE finds its place taken."""
    made = fresh()
    map_private(made, 0x100000, P, R, fixed=True)
    with pytest.raises(MapError) as caught:
        map_private(made, 0x100000, P, R, fixed=True, replaces=False)
    assert caught.value.errno == errno.EEXIST
