"""kernel.execve: what it says of files that the tests make, by version. Held against the kernel in tests/measure."""

import errno
from dataclasses import replace

import pytest

from elfolio.elf.image import ElfImage
from elfolio.kernel.bias import base_alignment
from elfolio.kernel.execve import ExecError, Execution, execve
from elfolio.kernel.host import Host, default_host
from elfolio.kernel.policy import PRESETS, Policy, policy
from elfolio.kernel.space import VmFlags
from tests.elfwriter import EM_AARCH64, ET_EXEC, ET_REL, Ph
from tests.kernel.files import LOADER, PAGE, RW, RX, R, image, lines, load

NEW = policy("linux-6.18")
OLD = policy("linux-5.10")
PLAIN = (load(0, 0x1000), load(0x1000, 0x1000, RX), load(0x2000, 0x800, RW, memsz=0x3000))


def run(found: ElfImage, rules: Policy = NEW, host: Host | None = None) -> Execution:
    return execve(found, LOADER if found.interpreter else None, rules, host)


def test_a_pie() -> None:
    """A PIE lies at ELF_ET_DYN_BASE, its zero fill behind it, the loader and the vdso below mmap_base, the stack on
    top."""
    made = run(image(*PLAIN), host=Host(strings=100))
    assert lines(made.space) == [
        "555555554000-555555555000 r--p 0 /a",
        "555555555000-555555556000 r-xp 1000 /a",
        "555555556000-555555557000 rw-p 2000 /a",
        "555555557000-555555559000 rw-p 0 ",
        "7ffff7ff3000-7ffff7ff7000 r--p 0 [vvar]",
        "7ffff7ff7000-7ffff7ff9000 r--p 0 [vvar_vclock]",
        "7ffff7ff9000-7ffff7ffb000 r-xp 0 [vdso]",
        "7ffff7ffb000-7ffff7ffc000 r--p 0 /ld",
        "7ffff7ffc000-7ffff7ffe000 r-xp 1000 /ld",
        "7ffff7ffe000-7ffff7fff000 rw-p 3000 /ld",
        "7ffffffde000-7ffffffff000 rw-p 0 [stack]",
        "ffffffffff600000-ffffffffff601000 --xp 0 [vsyscall]",
    ]
    assert made.load_bias == 0x555555554000
    assert made.interpreter_bias == 0x7FFFF7FFB000
    assert made.space.start_brk == 0x555555559000
    assert made.phdr == made.load_bias + 64


@pytest.mark.parametrize(
    ("align", "base", "bits"),
    [
        (1, 0x555555554000, 28),
        (3, 0x555555554000, 28),
        (PAGE, 0x555555554000, 28),
        (64 << 10, 0x555555550000, 24),
        (2 << 20, 0x555555400000, 19),
        (32 << 20, 0x555554000000, 15),
        (1 << 30, 0x555540000000, 10),
    ],
)
def test_the_base_follows_p_align(align: int, base: int, bits: int) -> None:
    """From 5.10 the base is aligned down to the largest power-of-two p_align, at the price of random bits."""
    made = run(image(load(0, 0x1000), load(0x1000, 0x1000, RX, align=align)))
    assert made.load_bias == base
    assert made.entropy_bits == bits
    assert run(image(load(0, 0x1000, align=align)), policy("linux-5.9")).load_bias == 0x555555554000


def test_it_is_the_first_segment_that_is_aligned() -> None:
    """What comes to lie at the aligned base is the first segment's page: the bias is the base without its address."""
    made = run(image(load(0x201000, 0x1000, offset=0, align=2 << 20)))
    assert made.space.vmas[0].start == 0x555555400000 - 0x201000 + 0x201000
    assert made.load_bias == 0x555555400000 - 0x201000


def test_a_static_pie_before_and_after() -> None:
    """ET_DYN without interpreter lies below mmap_base; its p_align counts from 6.10, its heap moves from 6.15."""
    found = image(load(0, 0x1000, align=2 << 20), interp=False)
    before, after = run(found, policy("linux-6.5")), run(found)
    assert before.load_bias == 0x7FFFF7FFE000
    assert after.load_bias == 0x7FFFF7E00000
    assert before.space.start_brk == 0x7FFFF7FFF000
    assert after.space.start_brk == 0x555555555000
    assert after.entropy_bits == 19
    assert before.entropy_bits == 28


def test_a_large_static_pie_is_placed_for_huge_pages() -> None:
    """A file mapping of 2 MiB or more without an address follows its offset where the file system asks for it."""
    found = image(load(0, 3 << 20), interp=False)
    assert run(found).load_bias == 0x7FFFF7C00000
    assert run(found, NEW.with_options(fs="tmpfs")).load_bias == 0x7FFFF7CFF000
    assert run(found, OLD).load_bias == 0x7FFFF7CFF000


def test_et_exec_takes_its_own_addresses() -> None:
    """ET_EXEC: p_align has no effect, no entropy, nothing is mapped between far segments."""
    made = run(
        image(load(0x400000, 0x1000, offset=0, align=1 << 30), load(0x900000, 0x10, RW, offset=0x1000), type=ET_EXEC)
    )
    assert lines(made.space, "/a") == ["400000-401000 r--p 0", "900000-901000 rw-p 1000"]
    assert (made.load_bias, made.entropy_bits) == (0, 0)


def test_gaps_have_no_vma() -> None:
    """The room that the first mapping kept for all is given back: a gap between segments is unmapped."""
    made = run(image(load(0, 0x1000), load(0x11000, 0x1000, RX, offset=0x1000)))
    assert lines(made.space, "/a") == ["555555554000-555555555000 r--p 0", "555555565000-555555566000 r-xp 1000"]


def test_neighbours_that_continue_each_other_are_one_vma() -> None:
    """Two segments with equal permissions whose pages follow one another in the file and in memory are merged; with a
    gap in the file they are not."""
    together = image(load(0, 0x1000), load(0x1000, 0x1000))
    apart = image(load(0, 0x1000), load(0x1000, 0x1000, offset=0x2000))
    assert lines(run(together).space, "/a") == ["555555554000-555555556000 r--p 0"]
    assert len(lines(run(apart).space, "/a")) == 2


@pytest.mark.parametrize("name", PRESETS)
def test_zero_length_segments_map_nothing(name: str) -> None:
    """A segment without bytes, in the file or in memory, adds nothing to any kernel's address space."""
    plain, more = image(*PLAIN), image(PLAIN[0], load(0x1000, 0, RX, memsz=0), *PLAIN[1:])
    assert lines(run(more, policy(name)).space) == lines(run(plain, policy(name)).space)


def test_a_segment_of_zeroes_only() -> None:
    """Where p_filesz is 0 there is only anonymous memory; before 6.7 also a page of the file, if the address is none of
    a page's start, and the heap begins behind it."""
    found = image(load(0, 0x1000), load(0x3010, 0, RW, memsz=0x2000, offset=0x10))
    new, old = run(found, policy("linux-6.7")), run(found, OLD)
    assert lines(new.space)[1] == "555555557000-55555555a000 rw-p 0 "
    assert lines(old.space)[1:3] == ["555555557000-555555558000 rw-p 0 /a", "555555558000-55555555a000 rw-p 0 [heap]"]
    assert new.space.start_brk == old.space.start_brk == 0x55555555A000


def test_the_zero_fill_before_6_7_is_one_for_all() -> None:
    """Two segments with zero fill: each has its own from 6.7; before, a later segment's is what lies between the
    highest end in the file and the highest in memory."""
    found = image(load(0, 0x800, RW, memsz=0x2000), load(0x3000, 0x800, RW, memsz=0x2000, offset=0x1000))
    for rules in (policy("linux-6.7"), OLD):
        assert [line.split(" ")[0] for line in lines(run(found, rules).space)[:4]] == [
            "555555554000-555555555000",
            "555555555000-555555556000",
            "555555557000-555555558000",
            "555555558000-555555559000",
        ]
    inner = image(load(0, 0x800, RW, memsz=0x6000), load(0x3000, 0x800, RW, memsz=0x800, offset=0x1000))
    assert "555555558000-55555555a000 rw-p 0 " in lines(run(inner, policy("linux-6.7")).space)
    assert "555555558000-55555555a000 rw-p 0 [heap]" in lines(run(inner, OLD).space)


def test_executable_zero_fill() -> None:
    """Anonymous memory of an executable segment is executable, and writable whatever p_flags say."""
    made = run(image(load(0, 0x1000), load(0x1000, 0x1000, RX, memsz=0x3000)))
    assert lines(made.space)[2] == "555555556000-555555558000 rwxp 0 "


def test_headers_out_of_order() -> None:
    """The first PT_LOAD of the table decides the base, wherever the others lie; from 5.18 the room is that of all."""
    found = image(load(0x2000, 0x1000, RX, offset=0x2000), load(0, 0x1000))
    made = run(found)
    assert lines(made.space, "/a") == ["555555552000-555555553000 r--p 0", "555555554000-555555555000 r-xp 2000"]
    assert made.load_bias == 0x555555552000


def test_a_last_segment_below_the_first_before_5_18() -> None:
    """Where the room is counted from the first to the last, one that lies below makes it larger than any address
    space."""
    found = image(load(0x4000, 0x1000), load(0, 0x1000, offset=0))
    assert run(found).load_bias
    with pytest.raises(ExecError) as caught:
        run(found, OLD)
    assert caught.value.signal == 11


def test_at_phdr_before_and_after() -> None:
    """AT_PHDR of a file whose header table is not in its first segment: wrong before 5.18, and in stable branches since
    then right too."""
    table = 0x1800
    segments = load(0x4000, 0x1000, RX, offset=0), load(0x10000, 0x1000, offset=0x1000)
    found = image(*segments, phoff=table, size=0x3000)
    new = run(found)
    assert new.phdr - new.load_bias == 0x10800
    old = run(found, policy("linux-5.10.1"))
    assert old.phdr - old.load_bias == 0x4000 + table


@pytest.mark.parametrize(
    ("flags", "perms"), [(None, "rw-p"), (RW, "rw-p"), (7, "rwxp"), (R, "rw-p")], ids=["none", "rw", "rwx", "r"]
)
def test_the_stack_follows_pt_gnu_stack(flags: int | None, perms: str) -> None:
    """Of PT_GNU_STACK only PF_X counts; without it a 64-bit program's stack is not executable."""
    header = [] if flags is None else [Ph(0x6474E551, flags, 0, 0, align=16)]
    stack = run(image(*PLAIN, *header)).space.vmas[-2]
    assert (stack.name, stack.perms) == ("[stack]", perms)
    assert stack.flags & VmFlags.GROWSDOWN


def test_a_32_bit_program_without_pt_gnu_stack_is_all_executable() -> None:
    """i386: READ_IMPLIES_EXEC, for file mappings, zero fill and stack alike."""
    found = image(load(0x8048000, 0x1000, RW, memsz=0x3000, offset=0), type=ET_EXEC, interp=False, bits=32, machine=3)
    made = run(found)
    assert {vma.perms for vma in made.space if vma.name in ("/a", "", "[stack]")} == {"rwxp"}
    assert made.space.vmas[-1].end == 0xFFFFE000


def test_strings_push_the_stack_down() -> None:
    """The stack is the pages that path, arguments and environment take, and 128 KiB; never more than RLIMIT_STACK
    unless the strings alone are."""
    found = image(*PLAIN)
    sizes = [run(found, host=Host(strings=n)).space.vmas[-2].size for n in (1, 4088, 4089, 3 * 4096)]
    assert sizes == [0x21000, 0x21000, 0x22000, 0x24000]
    assert run(found, host=Host(strings=1, stack_limit=0x8000)).space.vmas[-2].size == 0x8000


@pytest.mark.parametrize(
    ("found", "rules", "number", "signal"),
    [
        (image(*PLAIN, type=ET_REL), NEW, errno.ENOEXEC, None),
        (image(*PLAIN, machine=EM_AARCH64), NEW, errno.ENOEXEC, None),
        (image(*[load(0, 0x1000)] * 74), policy("linux-6.12"), errno.ENOEXEC, None),
        (image(load(0, 0x1000, memsz=0x800)), NEW, errno.EINVAL, 11),
        (image(load(0, 0x1000, offset=0x10)), NEW, errno.EINVAL, 11),
        (image(load(0, 0x1800, RW, memsz=0x4000), size=0x1000), NEW, errno.EFAULT, 11),
        (image(load(1 << 47, 0x1000, offset=0), type=ET_EXEC), NEW, errno.ENOMEM, 11),
        (image(load(0, 0x1000, offset=0), type=ET_EXEC), NEW, errno.EPERM, 11),
        (image(), NEW, errno.EINVAL, 11),
    ],
    ids=["rel", "machine", "table", "memsz", "congruence", "past-end", "far", "low", "empty"],
)
def test_what_execve_refuses(found: ElfImage, rules: Policy, number: int, signal: int | None) -> None:
    """Up to begin_new_exec the caller gets the errno, later the process is killed."""
    with pytest.raises(ExecError) as caught:
        run(found, rules)
    assert (caught.value.errno, caught.value.signal) == (number, signal)


def test_too_many_headers_for_a_page_since_6_13() -> None:
    """A table of 74 headers is larger than a page of 4 KiB: read from 6.13."""
    found = image(load(0, 0x2000), *[load(0, 0, memsz=0)] * 74)
    assert lines(run(found).space, "/a")
    same = image(load(0, 0x2000), *[load(0, 0, memsz=0)] * 74, interp=False, machine=EM_AARCH64)
    assert lines(run(same, replace(policy("linux-6.12"), page_size=16384, machine="aarch64")).space, "/a")


def test_proposals() -> None:
    """max-folio aligns to the largest power of two of a segment up to the file system's folio, where address and offset
    are multiples of it; pmd-32m to PMD_SIZE for read-only segments that long; tiers the same up to 2 MiB."""
    both = image(load(0, 0x1000), load(4 << 20, 5 << 20, RX))
    congruent = image(load(0, 0x1000), load(0x1000, 5 << 20, RX))
    for name in ("proposed-max-folio", "proposed-pmd-32m", "proposed-tiers"):
        rules = policy(name)
        assert run(both, rules).load_bias % (2 << 20) == 0
        assert run(congruent, rules).load_bias % (2 << 20) != 0
    small = image(load(0, 64 << 10, RX))
    assert run(small, policy("proposed-max-folio")).alignment == 64 << 10
    assert run(small, policy("proposed-pmd-32m")).alignment == PAGE


def test_proposals_with_other_pages() -> None:
    """With pages of 16 KiB the PMD is 32 MiB: pmd-32m asks for all of it, max-folio for ext4's largest, tiers for what
    an executable mapping reads ahead; with pages of 64 KiB the PMD of 512 MiB is beyond every proposal's limit."""
    found = image(load(0, 64 << 20, RX), interp=False, machine=EM_AARCH64)
    wanted = {"proposed-pmd-32m": 32 << 20, "proposed-max-folio": 8 << 20, "proposed-tiers": 2 << 20}
    for name, alignment in wanted.items():
        rules = replace(policy(name), page_size=16384, machine="aarch64")
        assert base_alignment(found, rules, static=False) == alignment
    for name in ("proposed-pmd-32m",):
        rules = replace(policy(name), page_size=65536, machine="aarch64")
        assert base_alignment(found, rules, static=False) == 65536


def test_other_page_sizes() -> None:
    """With pages of 16 KiB segments, stack and places are multiples of 16 KiB."""
    rules = replace(policy("linux-6.18"), page_size=16384, machine="aarch64")
    loader = image(
        load(0, 0x1000), load(0x10000, 0x100, RX, align=0x10000), interp=False, machine=EM_AARCH64, name="/ld"
    )
    found = image(load(0, 0x1000, align=65536), load(0x10000, 0x100, RW, memsz=0x8000, align=65536), machine=EM_AARCH64)
    made = execve(found, loader, rules, default_host(rules))
    assert all(vma.start % 16384 == vma.end % 16384 == 0 for vma in made.space)
    assert made.load_bias == 0x555555550000  # the window is 47 bits then; as a running 6.12.117 has it
