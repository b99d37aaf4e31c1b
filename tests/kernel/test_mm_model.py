"""The address-space model by itself: reasons, policies, KSM's flag, bounds, values in and out."""

import random
from errno import EACCES, EFAULT, EINVAL, ENOMEM, ENOSYS, EPERM

import pytest

from elfolio.kernel import ksm
from elfolio.kernel.abi import ADVICE, PR_GET_MEMORY_MERGE, PR_SET_MDWE, PR_SET_MEMORY_MERGE
from elfolio.kernel.adopting import adopt
from elfolio.kernel.calls import (
    Brk,
    Madvise,
    Mlock,
    Mmap,
    Mprotect,
    Mremap,
    Mseal,
    Munmap,
    NameVma,
    Operation,
    Prctl,
    Touch,
    UffdRegister,
)
from elfolio.kernel.case_host import fresh
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.merging import TOUCH, between
from elfolio.kernel.mm import Limits, Mm
from elfolio.kernel.mm_switches import MM_SWITCHES
from elfolio.kernel.model import apply, bounds, fault_all
from elfolio.kernel.policy import SWITCHES, policy
from elfolio.kernel.space import AddressSpace, OpenFile, VmFlags
from tests.kernel.sequences import ARENA, KINDS, resolve

_P = 4096
_A = ARENA
_FIXED, _ANON = 0x32, 0x22
_FILE = Mappable(OpenFile("/lib/x", 7, opening=1), 64 * _P, fs="ext4")
_FUSE = Mappable(OpenFile("/fuse/x", 8, opening=2), 64 * _P, fs="fuse")
_MEMFD = Mappable(OpenFile("/memfd:x (deleted)", 9, opening=3), 64 * _P, "shmem", "tmpfs")

_POLICIES = (
    "dontunmap_no_self_merge dontunmap_pgoff_reset dontunmap_shared ksm_early_flag ksm_excludes_droppable "
    "ksm_merge_any ksm_merge_any_exec merge_close_rule merge_unfaulted_target mmap_prepare_files move_pmd "
    "move_pud anon_pgoff "
    "mprotect_unaccount mremap_check_before_unmap mremap_copied_from_fork_check mremap_map_count_rule realign_pmd "
    "mremap_multi_vma sticky_flags anon_thp_align"
)
"""What changed between the kernels that were compared."""


def _mm(name: str = "linux-6.18") -> Mm:
    return Mm(policy(name))


def _do(mm: Mm, *operations: object) -> list[int]:
    return [apply(mm, operation) for operation in operations]  # type: ignore[arg-type]


def _arena(mm: Mm) -> list[tuple[int, int]]:
    """Pages of the mappings in the arena, from its start."""
    return [((a.start - _A) // _P, (a.end - _A) // _P) for a in mm.areas if _A <= a.start < _A + 999 * _P]


def test_every_known_change_is_a_switch() -> None:
    """Each of the 21 changes that a model needs is a switch with a source."""
    names = _POLICIES.split()
    assert len(names) == 21
    assert set(names) <= set(SWITCHES)
    assert all(switch.source for switch in MM_SWITCHES)


# --- reasons --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "rule"),
    [
        ([Mmap(_A + _P, _P, 1, _FIXED)], "flags"),
        ([Mmap(_A + 2 * _P, _P, 3, _FIXED)], "touch"),
        ([Mmap(_A + _P, _P, 3, 0x12, _FILE)], "file"),
        ([Mmap(_A + _P, _P, 3, _FIXED | 0x4000)], "flags"),
        (
            [Mmap(_A + 8 * _P, _P, 3, _FIXED), Touch(_A + 8 * _P), Mremap(_A + 8 * _P, _P, _P, 3, _A + _P)],
            "offset",
        ),
        ([Mmap(_A + _P, _P, 3, _FIXED), UffdRegister(1, _A + _P, _P)], "flags"),
        ([Mmap(_A + _P, _P, 3, _FIXED), NameVma(_A + _P, _P, "x")], "name"),
    ],
)
def test_a_decision_has_a_reason(second: list[object], rule: str) -> None:
    """Of two neighbours that stayed two, the model names the rule that kept them apart, with its source."""
    mm = Mm(policy("linux-6.18"), limits=Limits(anon_names=True))
    _do(mm, Mmap(_A, _P, 3, _FIXED))
    _do(mm, *second)
    upper = max(area.start for area in mm.areas)
    found = mm.why(upper)
    assert found is not None
    assert found.name == rule
    assert "(" in found.source
    assert found.text


def test_any_two_can_be_asked_about() -> None:
    """The order of the two makes no difference; one mapping has nothing between its parts, and others do not touch."""
    mm = _mm()
    _do(mm, Mmap(_A, 3 * _P, 3, _FIXED), Mprotect(_A + _P, _P, 1))
    for a, b in ((_A, _A + _P), (_A + 2 * _P - 1, _A + _P - 1)):
        rule = mm.why(a, b)
        assert rule is not None
        assert rule.name == "flags"
    assert mm.why(_A, _A + _P - 1) is None
    assert mm.why(_A, _A + 2 * _P) == mm.why(_A) == TOUCH
    with pytest.raises(LookupError, match="0x1000"):
        mm.why(_A, 0x1000)


def test_asking_about_nothing_is_an_error() -> None:
    """A reason is asked of a mapping; where there is none, that is said."""
    with pytest.raises(LookupError, match="0x1000"):
        _mm().why(0x1000)


def test_other_anon_vmas_keep_apart() -> None:
    """Two mappings that were faulted while apart have different anon_vmas, and do not merge when they touch."""
    mm = _mm()
    _do(mm, Mmap(_A, 3 * _P, 3, _FIXED), Touch(_A), Touch(_A + 2 * _P), Mprotect(_A + _P, _P, 1))
    assert _arena(mm) == [(0, 1), (1, 2), (2, 3)]
    first, middle, last = mm.areas
    assert first.anon_vma is middle.anon_vma is last.anon_vma
    last.anon_vma = mm.new_anon_vma()
    last.chain = (last.anon_vma,)
    _do(mm, Mprotect(_A + _P, _P, 3))
    assert _arena(mm) == [(0, 2), (2, 3)]
    rule = mm.why(_A + 2 * _P)
    assert rule is not None
    assert rule.name == "anon-vma"


def test_what_has_no_reason_would_merge() -> None:
    """After random operations: where no rule keeps two neighbours apart, changing the upper one to what it is merges
    them; where one does, they stay two."""
    source = random.Random(5)
    merged = kept = 0
    for _ in range(40):
        mm = fresh(policy("linux-6.18"))
        for _ in range(60):
            kind = source.choice([kind for kind in KINDS if kind != "fork"])
            numbers = [source.randrange(65536) for _ in range(6)]
            step = (kind, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])
            operation = resolve(step, mm, (_FILE, _MEMFD, _FUSE))
            if operation is not None:
                apply(mm, operation)
        for area in mm.areas:
            if area.anonymous and area.uffd is None and source.random() < 0.5:
                area.flags = 0x71
        for area in reversed(list(mm.areas)):  # from above: a change merges with what follows too
            if area.prev is None or area.prev.next is not area:
                continue
            rule = between(area.prev, area, mm.rules)
            count = mm.count
            made = mm.change(area, area.start, area.end, area.flags)
            into_lower = not isinstance(made, int) and made is not area and made.start < area.start
            assert into_lower == (rule is None)
            merged += rule is None
            kept += rule is not None and mm.count == count
    assert merged > 5
    assert kept > 100


# --- versions -------------------------------------------------------------------------------------


def test_relro_merges_from_6_7() -> None:
    """Memory never touched that becomes read-only merges with read-only memory from 6.7 on; before, its VM_ACCOUNT
    keeps it apart; once touched it never does."""
    for name, touched, expected in (
        ("linux-6.6", False, [(0, 1), (1, 2)]),
        ("linux-6.7", False, [(0, 2)]),
        ("linux-6.7", True, [(0, 1), (1, 2)]),
    ):
        mm = _mm(name)
        _do(mm, Mmap(_A, _P, 1, _FIXED), Mmap(_A + _P, _P, 3, _FIXED))
        if touched:
            _do(mm, Touch(_A + _P))
        _do(mm, Mprotect(_A + _P, _P, 1))
        assert _arena(mm) == expected, name


def test_a_private_file_mapping_keeps_its_account() -> None:
    """A private file mapping that was writable once never merges again with its read-only neighbours."""
    mm = _mm()
    _do(mm, Mmap(_A, 3 * _P, 1, 0x12, _FILE), Mprotect(_A + _P, _P, 3), Mprotect(_A + _P, _P, 1))
    assert _arena(mm) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(("name", "expected"), [("linux-6.12", [(0, 1), (1, 2), (2, 3)]), ("linux-6.18", [(0, 3)])])
def test_unfaulted_neighbours_take_faulted_memory_from_6_16(name: str, expected: list[tuple[int, int]]) -> None:
    """A faulted page between two that were never touched merges with both from 6.16 on, and with none before."""
    mm = _mm(name)
    # Without VM_ACCOUNT, whose loss would keep them apart by itself.
    _do(mm, Mmap(_A, 3 * _P, 3, _FIXED | 0x4000), Mprotect(_A, _P, 1), Mprotect(_A + 2 * _P, _P, 1), Touch(_A + _P))
    _do(mm, Mprotect(_A + _P, _P, 1))
    assert _arena(mm) == expected


@pytest.mark.parametrize(("name", "error"), [("linux-6.12", -EFAULT), ("linux-6.18", _A + 16 * _P)])
def test_several_mappings_move_from_6_17(name: str, error: int) -> None:
    """One mremap moves several mappings from 6.17; before it fails, and has unmapped the destination."""
    mm = _mm(name)
    _do(mm, Mmap(_A, _P, 3, _FIXED), Mmap(_A + _P, _P, 1, _FIXED), Mmap(_A + 16 * _P, 2 * _P, 3, _FIXED))
    assert _do(mm, Mremap(_A, 2 * _P, 2 * _P, 3, _A + 16 * _P)) == [error]
    assert _arena(mm) == ([(0, 1), (1, 2)] if error < 0 else [(16, 17), (17, 18)])


def test_files_that_place_themselves_move_alone() -> None:
    """A mapping of a file whose file system decides on addresses is moved by itself only, not with what follows."""
    own = Mappable(OpenFile("/ramfs/x", 10, opening=4), 64 * _P, fs="ramfs")
    mm = _mm()
    _do(mm, Mmap(_A, _P, 1, 0x12, own))
    assert _do(mm, Mremap(_A, 2 * _P, 2 * _P, 3, _A + 8 * _P)) == [-EFAULT]
    assert _do(mm, Mremap(_A, _P, _P, 3, _A + 8 * _P)) == [_A + 8 * _P]


def test_a_source_that_is_wrong_keeps_the_destination_from_6_17() -> None:
    """A mremap whose source is not mapped leaves its destination alone from 6.17 on."""
    for name, expected in (("linux-6.18", [(0, 1), (4, 5)]), ("linux-6.12", [(0, 1)])):
        mm = _mm(name)
        _do(mm, Mmap(_A, _P, 3, _FIXED), Mmap(_A + 4 * _P, _P, 3, _FIXED))
        assert _do(mm, Mremap(_A, 2 * _P, _P * 3, 3, _A + 4 * _P)) == [-EFAULT]
        assert _arena(mm) == expected, name


def test_private_file_mappings_have_two_offsets_from_7_3() -> None:
    """From 7.3 a private file mapping that moved after it was touched does not merge where its first offset alone
    continues."""
    for name, expected in (("linux-7.2", [(0, 2)]), ("linux-7.3", [(0, 1), (1, 2)])):
        mm = _mm(name)
        _do(mm, Mmap(_A, _P, 3, 0x12, _FILE), Touch(_A), Mmap(_A + 8 * _P, _P, 3, 0x12, _FILE, _P))
        area = mm.areas.find(_A + 8 * _P)
        assert area is not None
        first = mm.areas.first
        assert first is not None
        area.anon_vma, area.chain = first.anon_vma, first.chain
        _do(mm, Mremap(_A + 8 * _P, _P, _P, 3, _A + _P))
        assert _arena(mm) == expected, name


def test_what_a_kernel_has_not() -> None:
    """Calls and options that came later fail as they did before: ENOSYS, EINVAL."""
    old = _mm("linux-6.1")
    assert _do(old, Mseal(_A, _P)) == [-ENOSYS]
    assert _do(old, Prctl(PR_SET_MEMORY_MERGE, 1), Prctl(PR_SET_MDWE, 1)) == [-EINVAL, -EINVAL]
    _do(old, Mmap(_A, _P, 3, _FIXED))
    assert _do(old, Madvise(_A, _P, ADVICE["GUARD_INSTALL"])) == [-EINVAL]


# --- KSM ------------------------------------------------------------------------------------------


def _merging(name: str, file: Mappable | None, **switches: str) -> list[tuple[int, int]]:
    """Two mappings that continue each other, made after PR_SET_MEMORY_MERGE."""
    mm = Mm(policy(name).switched(**switches))
    flags = _FIXED if file is None else 0x12
    _do(
        mm,
        Prctl(PR_SET_MEMORY_MERGE, 1),
        Mmap(_A, _P, 1, flags, file),
        Mmap(_A + _P, _P, 1, flags, file, _P if file else 0),
    )
    assert all(area.flags & VmFlags.MERGEABLE for area in mm.areas)
    return _arena(mm)


_TWO, _ONE = [(0, 1), (1, 2)], [(0, 2)]


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("linux-6.12", None, _TWO),
        ("linux-6.18", None, _ONE),
        ("linux-6.12", _MEMFD, _TWO),
        ("linux-6.18", _MEMFD, _ONE),
        ("linux-6.12", _FILE, _TWO),
        ("linux-6.18", _FILE, _ONE),
        ("linux-6.18", _FUSE, _TWO),
    ],
)
def test_the_flag_comes_early_or_late(name: str, file: Mappable | None, expected: list[tuple[int, int]]) -> None:
    """After PR_SET_MEMORY_MERGE, new mappings never merge up to 6.16; from 6.17 they do, but for files whose
    file system still has mmap."""
    assert _merging(name, file) == expected


@pytest.mark.parametrize("file", [None, _MEMFD, _FILE, _FUSE])
def test_the_alternative_makes_no_difference(file: Mappable | None) -> None:
    """Asking whether f_op->mmap is missing, as the reviewer proposed, gives what asking for mmap_prepare gives:
    what can be mapped has one of them."""
    assert _merging("linux-6.18", file, ksm_early_flag="no_mmap") == _merging("linux-6.18", file)


def test_the_flag_is_set_in_place() -> None:
    """PR_SET_MEMORY_MERGE marks what may be marked, merges nothing by it, and taking it back clears all."""
    mm = _mm()
    _do(mm, Mmap(_A, _P, 3, _FIXED), Mmap(_A + _P, _P, 3, 0x31), Mmap(_A + 2 * _P, 2 * _P, 3, _FIXED))
    _do(mm, Madvise(_A + 2 * _P, _P, ADVICE["MERGEABLE"]))
    assert _do(mm, Prctl(PR_GET_MEMORY_MERGE), Prctl(PR_SET_MEMORY_MERGE, 1), Prctl(PR_GET_MEMORY_MERGE)) == [0, 0, 1]
    marked = [bool(area.flags & VmFlags.MERGEABLE) for area in mm.areas]
    assert marked == [True, False, True, True]
    assert _arena(mm) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert ksm.mergeable_bytes(mm) == 3 * _P
    assert _do(mm, Prctl(PR_SET_MEMORY_MERGE, 1, 1), Prctl(PR_SET_MEMORY_MERGE)) == [-EINVAL, 0]
    assert not any(area.flags & VmFlags.MERGEABLE for area in mm.areas)


@pytest.mark.parametrize(("name", "merged"), [("linux-6.12", False), ("linux-6.18", True)])
def test_a_heap_and_the_flag(name: str, merged: bool) -> None:
    """The heap keeps growing as one mapping from 6.17 on; before, with the flag, each growth is one of its own, until
    the next has it."""
    mm = fresh(policy(name))
    start = mm.brk
    _do(mm, Prctl(PR_SET_MEMORY_MERGE, 1), Brk(start + 4 * _P), Brk(start + 8 * _P), Brk(start + 12 * _P))
    heap = [area for area in mm.areas if start <= area.start < start + 12 * _P]
    assert (len(heap) == 1) == merged
    assert all(area.flags & VmFlags.MERGEABLE for area in heap)


@pytest.mark.parametrize(("name", "found"), [("linux-6.0", [(0, 2)]), ("linux-6.1", [(0, 1), (1, 2)])])
def test_a_heap_behind_other_memory(name: str, found: list[tuple[int, int]]) -> None:
    """Up to 6.0 the heap joins what lies below its start, a program's zeroes say; later it does not."""
    mm = _mm(name)
    mm.start_brk = mm.brk = _A + _P
    assert _do(mm, Mmap(_A, _P, 3, _FIXED), Brk(_A + 2 * _P)) == [_A, _A + 2 * _P]
    assert _arena(mm) == found


@pytest.mark.parametrize(("name", "after_exec"), [("linux-6.5", False), ("linux-6.7", True)])
def test_fork_and_exec_inherit(name: str, after_exec: bool) -> None:
    """A fork's child merges as its parent does; an exec'd program from 6.7 on, but for its stack and vdso."""
    mm = fresh(policy(name))
    _do(mm, Prctl(PR_SET_MEMORY_MERGE, 1))
    assert _do(mm.fork(), Prctl(PR_GET_MEMORY_MERGE)) == [1]
    program = mm.exec(mm.snapshot())
    assert _do(program, Prctl(PR_GET_MEMORY_MERGE)) == [int(after_exec)]
    space = mm.exec(fresh(policy(name)).snapshot()).snapshot()
    assert not any(vma.flags & VmFlags.MERGEABLE for vma in space if vma.name in ("[stack]", "[vdso]"))


def test_droppable_memory_is_not_mergeable() -> None:
    """MAP_DROPPABLE memory never carries the flag."""
    mm = _mm()
    _do(mm, Prctl(PR_SET_MEMORY_MERGE, 1), Mmap(_A, _P, 3, 0x38))
    assert [area.flags & VmFlags.MERGEABLE for area in mm.areas] == [0]


# --- errors ---------------------------------------------------------------------------------------


def test_limits_have_their_errors() -> None:
    """RLIMIT_AS, RLIMIT_MEMLOCK and vm.max_map_count refuse with the kernel's errno."""
    mm = Mm(policy("linux-6.18"), limits=Limits(address_space=8 * _P, memlock=2 * _P, max_map_count=4))
    assert _do(mm, Mmap(_A, 9 * _P, 3, _FIXED), Mlock(_A, _P)) == [-ENOMEM, -ENOMEM]
    assert _do(mm, Mmap(_A, 6 * _P, 3, _FIXED), Mlock(_A, 3 * _P), Mlock(_A, 2 * _P)) == [_A, -ENOMEM, 0]
    assert _do(mm, Mremap(_A + 2 * _P, 4 * _P, 12 * _P, 1)) == [-ENOMEM]
    assert _do(mm, Munmap(_A + 3 * _P, _P), Mprotect(_A + 4 * _P, _P, 1)) == [0, 0]
    assert mm.count == 4
    assert _do(mm, Munmap(_A, _P), Mprotect(_A + 5 * _P, 1, 5)) == [0, 0]
    assert _do(mm, Mprotect(_A + _P, _P, 0), Munmap(_A + 4 * _P, _P)) == [0, 0]


def test_write_and_exec_denied() -> None:
    """PR_SET_MDWE refuses what is writable and executable, and what becomes executable, and is not taken back."""
    mm = _mm()
    _do(mm, Mmap(_A, _P, 3, _FIXED))
    assert _do(mm, Prctl(PR_SET_MDWE, 1), Prctl(PR_SET_MDWE, 3), Prctl(PR_SET_MDWE, 1)) == [0, -EPERM, 0]
    assert _do(mm, Mmap(0, _P, 7, _ANON), Mprotect(_A, _P, 5)) == [-EACCES, -EACCES]
    assert _do(mm.fork(), Mprotect(_A, _P, 5)) == [-EACCES]


# --- values ---------------------------------------------------------------------------------------


def test_bounds_enclose() -> None:
    """Where a trace does not say what was touched, the two bounds differ where merging depends on it."""
    trace: list[Operation] = [
        Mmap(_A, 2 * _P, 3, _FIXED),
        Mmap(_A + 8 * _P, 2 * _P, 3, _FIXED),
        Mremap(_A + 8 * _P, 2 * _P, 2 * _P, 3, _A + 2 * _P),
    ]
    untouched, touched = bounds(_mm, trace)
    assert _arena(untouched) == [(0, 4)]
    assert _arena(touched) == [(0, 2), (2, 4)]
    rule = touched.why(_A + 2 * _P)
    assert rule is not None
    assert rule.name in ("anon-vma", "offset")


def test_a_snapshot_comes_back() -> None:
    """An address space as a value, taken over again, gives the same value and goes on in the same way."""
    mm = fresh(policy("linux-6.18"))
    _do(
        mm,
        Mmap(_A, 4 * _P, 3, _FIXED),
        Touch(_A),
        Mprotect(_A + _P, _P, 1),
        Mmap(0, _P, 1, 2, _FILE, _P),
        Brk(mm.brk + _P),
    )
    space = mm.snapshot()
    again = adopt(_mm(), space)
    assert again.snapshot() == space
    for one in (mm, again):
        _do(one, Mprotect(_A + _P, _P, 3))
    assert again.snapshot().vmas == mm.snapshot().vmas


def test_names_are_those_of_maps() -> None:
    """The heap, the stack, named memory and files have the names that maps shows."""
    mm = fresh(policy("linux-6.18"))
    assert _do(mm, NameVma(_A, _P, "arena")) == [-EINVAL]
    mm.limits = Limits(anon_names=True)
    _do(mm, Brk(mm.brk + _P), Mmap(_A, _P, 3, _FIXED), NameVma(_A, _P, "arena"), Mmap(_A + 2 * _P, _P, 1, 0x12, _FILE))
    names = [vma.name for vma in mm.snapshot()]
    assert names == ["[anon:arena]", "/lib/x", "[heap]", "[vdso]", "[stack]"]


def test_an_empty_space() -> None:
    """Nothing is mapped, and nothing can be done to it."""
    mm = adopt(_mm(), AddressSpace(()))
    assert len(mm.snapshot()) == 0
    fault_all(mm)
    assert _do(mm, Munmap(_A, _P), Mprotect(_A, _P, 1), Touch(_A), Mremap(_A, _P, _P)) == [0, -ENOMEM, -EFAULT, -EFAULT]


@pytest.mark.parametrize(("kernel", "result"), [("linux-6.18", 0), ("linux-7.2", -EINVAL)])
def test_dofork_of_the_vdso(kernel: str, result: int) -> None:
    """Up to 6.18 MADV_DOFORK is refused of VM_IO only, which the vdso has not."""
    mm = fresh(policy(kernel))
    vdso = next(vma for vma in mm.snapshot() if vma.name == "[vdso]")
    assert _do(mm, Madvise(vdso.start, vdso.size, ADVICE["DOFORK"])) == [result]
