"""kernel.loader: what the C libraries map of an object."""

from dataclasses import replace

import pytest

from elfolio.kernel.execve import execve
from elfolio.kernel.libc import LIBCS, libc_of
from elfolio.kernel.loader import LoadError, linked, map_object, relro_span, slab_bytes
from elfolio.kernel.policy import policy
from elfolio.span import Span
from tests.elfwriter import PT_GNU_RELRO, Ph
from tests.kernel.files import LOADER, RW, RX, R, image, lines, load

K64 = 0x10000
RULES = policy("linux-6.18")
GAPPY = image(
    load(0, 0x600, align=K64),
    load(0x10600, 0x800, RX, offset=0x600, align=K64),
    load(0x20E00, 0x600, RW, memsz=0x3000, offset=0xE00, align=K64),
    interp=False,
)
"""Three segments on pages of 64 KiB, looked at with pages of 4 KiB: two gaps."""


def test_glibc_takes_all_permissions_from_gaps() -> None:
    """glibc: the gaps of an object linked for larger pages are PROT_NONE mappings of the file, which a kernel must
    keep."""
    made = map_object(GAPPY, RULES)
    assert lines(made.space, "/a") == [
        "0-1000 r--p 0",
        "1000-10000 ---p 1000",
        "10000-11000 r-xp 0",
        "11000-20000 ---p 11000",
        "20000-22000 rw-p 0",
    ]
    assert lines(made.space, "") == ["22000-24000 rw-p 0"]
    assert made.contiguous
    assert made.span == Span(0, 0x24000)
    assert made.holes == (Span(0x1000, 0x10000), Span(0x11000, 0x20000))


def test_musl_leaves_gaps_as_they_were_mapped() -> None:
    """musl: the gaps keep the first segment's permissions; where these are the same, there is no VMA more."""
    made = map_object(GAPPY, RULES.with_options(libc="musl"))
    assert lines(made.space)[:4] == [
        "0-10000 r--p 0 /a",
        "10000-11000 r-xp 0 /a",
        "11000-20000 r--p 11000 /a",
        "20000-22000 rw-p 0 /a",
    ]


def test_bionic_extends_segments_over_gaps() -> None:
    """bionic: a segment's mapping reaches to the next one as far as the file does; beyond there is room without
    access."""
    long = image(
        load(0, 0x600, align=K64),
        load(0x10600, 0x800, RX, offset=0x600, align=K64),
        interp=False,
        size=None,
        contents={0x20000: b"."},
    )
    made = map_object(long, RULES.with_options(libc="bionic"))
    assert lines(made.space) == ["0-10000 r--p 0 /a", "10000-11000 r-xp 0 /a"]
    short = map_object(GAPPY, RULES.with_options(libc="bionic"))
    assert lines(short.space)[:2] == ["0-2000 r--p 0 /a", "2000-10000 ---p 0 "]


def test_gaps_unmapped() -> None:
    """The policy that unmaps gaps, as the kernel does for a program: fewest VMAs, and strangers may come between."""
    made = map_object(GAPPY, RULES.with_options(libc="unmapping"))
    assert lines(made.space, "/a") == ["0-1000 r--p 0", "10000-11000 r-xp 0", "20000-22000 rw-p 0"]
    assert not made.contiguous
    assert made.holes == map_object(GAPPY, RULES).holes


def test_what_lies_past_the_files_end_is_known() -> None:
    """The room that is reserved maps the file where it has long ended: SIGBUS for whoever reads there."""
    left = map_object(GAPPY, RULES.with_options(libc="musl"))
    assert left.past_end == (Span(0x2000, 0x10000), Span(0x11000, 0x20000))
    assert map_object(LOADER, RULES).past_end == ()


def test_with_the_segments_own_page_size_there_are_no_gaps() -> None:
    """Looked at with pages of 64 KiB the same object is three VMAs and its zero fill."""
    made = map_object(GAPPY, replace(RULES, page_size=K64))
    assert made.holes == ()
    assert len(made.space) == 3


@pytest.mark.parametrize(
    ("vaddr", "memsz", "span"),
    [
        (0x2000, 0x1000, Span(0x2000, 0x3000)),
        (0x2DF0, 0x210, Span(0x2000, 0x3000)),
        (0x2DF0, 0x20F, Span(0x2000, 0x2000)),
        (0x2DF0, 0x1300, Span(0x2000, 0x4000)),
    ],
)
def test_relro_ends_with_a_whole_page(vaddr: int, memsz: int, span: Span) -> None:
    """RELRO begins at the page of its first byte and ends before the page that it does not fill."""
    found = image(load(0, 0x1000), Ph(PT_GNU_RELRO, R, 0, vaddr, memsz=memsz), interp=False)
    assert relro_span(found, 4096) == span


def test_relro_splits_the_writable_segment() -> None:
    """After relocation the front of the writable segment is read-only, and does not merge with the read-only segment
    before it, though their pages follow one another."""
    found = image(
        load(0, 0x2000), load(0x2000, 0x3000, RW), Ph(PT_GNU_RELRO, R, 0x2000, 0x2000, memsz=0x1000), interp=False
    )
    assert lines(map_object(found, RULES).space, "/a") == [
        "0-2000 r--p 0",
        "2000-3000 r--p 2000",
        "3000-5000 rw-p 3000",
    ]


def test_the_program_after_linking() -> None:
    """Of what the kernel mapped, the loader changes RELRO only; the program's gaps have no VMA."""
    program = image(
        load(0, 0x600, align=K64),
        load(0x10600, 0xA00, RW, memsz=0x3000, offset=0x600, align=K64),
        Ph(PT_GNU_RELRO, R, 0x600, 0x10600, memsz=0xA00),
    )
    execution = execve(program, LOADER, RULES)
    made = linked(program, execution.space, execution.load_bias, RULES)
    assert lines(made.space) == ["0-1000 r--p 0 /a", "10000-11000 r--p 0 /a", "11000-14000 rw-p 0 "]
    assert not made.contiguous
    assert (
        lines(linked(program, execution.space, execution.load_bias, RULES, relro=False).space)[1]
        == "10000-11000 rw-p 0 /a"
    )


def test_the_memory_of_vmas() -> None:
    """Kernel memory is the number of VMAs by the size of one: the article's 152 bytes in 6.3."""
    made = map_object(GAPPY, policy("linux-6.3"))
    assert slab_bytes(made.space, policy("linux-6.3")) == 6 * 152


def test_refusals() -> None:
    """No segment, an alignment smaller than a page, incongruent addresses: glibc's refusals, musl maps the second."""
    with pytest.raises(LoadError, match="no loadable segments"):
        map_object(image(interp=False), RULES)
    odd = image(load(0, 0x1000, align=8), interp=False)
    with pytest.raises(LoadError, match="not page-aligned"):
        map_object(odd, RULES)
    assert len(map_object(odd, RULES.with_options(libc="musl")).space) == 1
    skewed = image(load(0x10000, 0x1000, offset=0x1000, align=K64), interp=False)
    assert map_object(skewed, RULES).span.size == 0x1000
    with pytest.raises(LoadError, match="not properly aligned"):
        map_object(skewed, RULES.with_options(libc="glibc-2.31"))


def test_the_library_of_an_interpreter() -> None:
    """musl's and bionic's loaders have names of their own."""
    glibc = LIBCS["glibc-2.36"]
    assert libc_of("/lib/ld-musl-x86_64.so.1", glibc).name == "musl"
    assert libc_of("/system/bin/linker64", glibc).name == "bionic"
    assert libc_of("/lib64/ld-linux-x86-64.so.2", glibc) is glibc
