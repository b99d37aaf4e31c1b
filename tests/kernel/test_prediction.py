"""kernel.prediction and kernel.advice: one file under one policy."""

from collections.abc import Iterable
from typing import Literal

import pytest

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.kernel.advice import advice, under
from elfolio.kernel.blocks import Way
from elfolio.kernel.execve import is_program
from elfolio.kernel.policy import Policy, policy
from elfolio.kernel.prediction import Prediction, predict
from elfolio.kernel.space import AddressSpace, Vma, VmFlags
from elfolio.layout.finding import Finding
from elfolio.span import MappedAddress
from tests.elfwriter import (
    EM_AARCH64,
    ET_CORE,
    ET_DYN,
    ET_EXEC,
    ET_REL,
    PT_DYNAMIC,
    PT_GNU_RELRO,
    PT_INTERP,
    PT_LOAD,
    Elf,
    Ph,
)

M, K = 1 << 20, 1 << 10
NOW = policy("linux-6.18")
DF_1_PIE = (0x6FFFFFFB, 0x08000000)


LOADER = read(Elf(segments=[Ph(PT_LOAD, 5, 0, 0, data=bytes(4096))]).build(), "/lib/ld.so")


def program(
    *,
    type: int = ET_DYN,
    align: int = 4 * K,
    skew: int = 0,
    machine: int = 62,
    bits: Literal[32, 64] = 64,
    tags: bool = True,
    interpreter: bool = False,
) -> ElfImage:
    """A static PIE, or another type, with 5 MiB of text that begins 2 MiB into the file."""
    base = 0x400000 if type == ET_EXEC else 0
    text = bytes(5 * M)
    dynamic = b"".join(n.to_bytes(bits // 8, "little") for n in (*DF_1_PIE, 0, 0)) if tags else bytes(16)
    segments = [
        Ph(PT_LOAD, 4, 0, base, filesz=4 * K, align=align),
        Ph(PT_LOAD, 5, 2 * M, base + 2 * M + skew, align=align, data=text),
        Ph(PT_LOAD, 6, 8 * M, base + 8 * M + 2 * skew, memsz=64 * K, align=align, data=dynamic),
        Ph(PT_DYNAMIC, 6, 8 * M, base + 8 * M + 2 * skew, filesz=len(dynamic)),
    ]
    if interpreter:
        segments.insert(0, Ph(PT_INTERP, 4, 9 * M, data=b"/lib/ld.so\0"))
    return read(
        Elf(type=type, machine=machine, bits=bits, entry=base + 2 * M + skew, segments=segments).build(), "/bin/x"
    )


NINE = AddressSpace(tuple(Vma(MappedAddress(n), MappedAddress(n + 1), VmFlags(0)) for n in range(9)))


def huge(prediction: Prediction) -> int:
    """Blocks of all sizes that could be huge."""
    return sum(block.way is not Way.NONE for run in prediction.runs for block in run.blocks)


def obstacles(prediction: Prediction) -> set[str]:
    """Of its text."""
    return {block.obstacle.value for run in prediction.runs if "x" in run.vma.perms for block in run.blocks}


def ids(findings: Iterable[Finding]) -> list[str]:
    """Of findings, in order."""
    return [finding.id for finding in findings]


@pytest.mark.parametrize(
    ("image", "kernel", "fs", "count", "why"),
    [
        (program(interpreter=True), "linux-6.18", "ext4", 0, "base"),
        (program(interpreter=True, align=2 * M), "linux-6.18", "ext4", 2, ""),
        (program(interpreter=True, align=2 * M), "linux-6.1", "ext4", 0, "filesystem"),
        (program(interpreter=True, skew=4 * K), "linux-6.18", "ext4", 0, "skewed"),
        (program(type=ET_EXEC), "linux-6.18", "ext4", 2, ""),
        (program(), "linux-6.18", "ext4", 2, ""),
        (program(align=2 * M), "linux-6.6", "erofs", 0, "base"),
        (program(align=2 * M), "linux-6.12", "erofs", 2, ""),
    ],
)
def test_blocks_follow_the_load_bias(image: ElfImage, kernel: str, fs: str, count: int, why: str) -> None:
    """A p_align of 2 MiB gives an aligned base (static PIE: from 6.10), ET_EXEC needs none, and a static PIE on ext4 is
    placed well anyway; nothing helps a skewed file."""
    found = predict(image, LOADER if image.interpreter else None, policy(kernel).with_options(fs=fs))
    assert found.refusal == ""
    assert huge(found) == count
    assert why in obstacles(found)
    assert bool({"text-align", "huge-base"} & set(ids(found.findings))) == (why == "base")


def test_what_is_a_program() -> None:
    """A static PIE says so in DT_FLAGS_1; a shared object without an interpreter is mapped by no execve."""
    assert is_program(program())
    library = program(tags=False)
    assert not is_program(library)
    found = predict(library, None, NOW)
    assert (found.space, found.is_placed, found.entropy, found.refusal) == (None, False, None, "")


def test_a_program_for_another_machine_is_refused_with_the_reason() -> None:
    """ENOEXEC is an answer, and the rest is still said."""
    found = predict(program(machine=EM_AARCH64), None, NOW)
    assert "x86_64" in found.refusal
    assert found.space is None
    assert found.findings


def test_without_its_interpreter_a_program_is_still_placed() -> None:
    """A program for another system lies where it would lie there; that it cannot run here is a finding."""
    image = program(interpreter=True, align=2 * M)
    found = predict(image, None, NOW, missing="No such file or directory")
    assert (found.bias, found.entropy) == (predict(image, LOADER, NOW).bias, 19)
    assert "/lib/ld.so is not here (No such file or directory)" in found.findings[0].message
    assert found.space is not None
    assert "/lib/ld.so" not in {vma.name for vma in found.space}


@pytest.mark.parametrize(("type", "words"), [(ET_REL, "an object file"), (ET_CORE, "a core file")])
def test_what_no_kernel_maps(type: int, words: str) -> None:
    """Object and core files are read, and said to be what they are."""
    found = predict(program(type=type), None, NOW)
    assert words in found.refusal
    assert (found.space, found.mapped, found.runs) == (None, (), ())


def test_entropy_is_what_alignment_leaves() -> None:
    """2 MiB on 4 KiB pages takes 9 of 28 bits; ET_EXEC has none."""
    bits = {name: predict(image, LOADER if image.interpreter else None, NOW).entropy for name, image in (
        ("page", program(interpreter=True)), ("huge", program(interpreter=True, align=2 * M)),
        ("exec", program(type=ET_EXEC)))}  # fmt: skip
    assert bits == {"page": 28, "huge": 19, "exec": 0}


def test_a_skewed_library_is_skewed_wherever_it_lies() -> None:
    """A file whose bytes stand a page before their place has no huge pages, though an object may lie at any page."""
    found = predict(program(tags=False, skew=2 * M - 4 * K), None, NOW.with_options(fs="tmpfs"))
    assert (huge(found), "skewed" in obstacles(found)) == (0, True)


# --- what is said ------------------------------------------------------------------------------------------


def test_a_remedy_that_this_kernel_does_not_know_is_not_given() -> None:
    """Before 5.10 p_align moves nothing; without large folios nothing is won by moving."""
    said = [Finding("text-align", "cost", 4 * M, "Text is not aligned.", "set p_align")]
    assert list(under(said, NOW, static=False)) == said
    (old,) = under(said, Policy("o", (5, 4), read_only_thp=True), static=False)
    assert (old.severity, "does not look at p_align" in old.message, old.remedy) == (
        "note", True, "link without -pie, at addresses of huge pages")  # fmt: skip
    (ext4,) = under(said, policy("linux-6.12"), static=False)
    assert "has no folios" in ext4.message
    (static,) = under(said, policy("linux-6.8").with_options(fs="xfs"), static=True)
    assert static.severity == "note"


def test_other_page_sizes_are_for_machines_that_have_them() -> None:
    """x86-64 has pages of 4 KiB, whatever a file would do with others."""
    said = [Finding("not-ready-16k", "note", 0, "", ""), Finding("relro-exposed-4k", "warning", 1, "", "")]
    assert ids(under(said, NOW, static=False)) == ["relro-exposed-4k"]
    arm = Policy("a", (6, 18), "aarch64")
    assert ids(under(said, arm, static=False)) == ["not-ready-16k", "relro-exposed-4k"]


def test_gaps_are_the_c_library_s() -> None:
    """glibc protects them, musl leaves them readable, bionic covers them."""
    said = [
        Finding("gaps", "cost", 192, "Gaps between its segments, 1 of 4 KiB together: under glibc, each is ...", "")
    ]
    for libc, words in (("glibc-2.36", "glibc"), ("musl", "readable"), ("bionic", None)):
        found = list(under(said, NOW.with_options(libc=libc), static=False))
        assert [str(words) in finding.message for finding in found] == ([] if words is None else [True])


def test_a_library_may_lie_anywhere_unless_something_aligns_it() -> None:
    """ext4 aligns a large one, glibc one whose p_align asks; otherwise its blocks are huge by chance only."""
    libraries = {align: program(tags=False, align=align) for align in (4 * K, 2 * M)}
    for fs, align, count in (("ext4", 4 * K, 2), ("tmpfs", 4 * K, 0), ("tmpfs", 2 * M, 2)):
        found = predict(libraries[align], None, NOW.with_options(fs=fs))
        assert huge(found) == count, fs
        assert found.mapped[0].start == 0
        assert all(run.blocks[0].part.start == run.vma.start for run in found.runs)


@pytest.mark.parametrize(("kernel", "count"), [("linux-6.7", 2), ("linux-6.8", 0)])
def test_a_library_of_32_bits_may_lie_anywhere(kernel: str, count: int) -> None:
    """Since 6.8 no file system aligns what a 32-bit program maps."""
    assert huge(predict(program(tags=False, bits=32, machine=3), None, policy(kernel).with_options(fs="xfs"))) == count


def test_after_linking_relro_is_read_only_and_counts_as_written() -> None:
    """The pages that the dynamic linker protects were written before: no block of theirs is promised."""
    image = program(interpreter=True)
    with_relro = read(
        Elf(
            entry=2 * M,
            segments=[
                Ph(PT_INTERP, 4, 9 * M, data=b"/lib/ld.so\0"),
                Ph(PT_LOAD, 5, 0, 0, filesz=4 * K, align=2 * M),
                Ph(PT_LOAD, 6, 2 * M, 2 * M, align=2 * M, data=bytes(4 * M + 8 * K)),
                Ph(PT_GNU_RELRO, 4, 2 * M, 2 * M, filesz=4 * M),
            ],
        ).build(),
        "/bin/x",
    )
    found = predict(with_relro, LOADER, NOW)
    assert [vma.perms for vma in found.mapped] == ["r-xp", "r--p", "rw-p"]
    assert [b.writable for run in found.runs for b in run.blocks] == [False, True, True, True]
    assert "folios-needed" not in ids(found.findings)
    assert predict(image, LOADER, NOW).mapped[0].file == predict(image, LOADER, NOW).space.vmas[0].file  # type: ignore[union-attr]


def test_blocks_are_summed_by_what_keeps_them() -> None:
    """What could be huge needs folios of that size; what is barred says by whom, and both name their bytes."""
    runs = [run.blocks for run in predict(program(align=2 * M), None, NOW).runs]
    ready, vmas = advice(runs, NOW, "/bin/x", NINE)
    assert (ready.id, ready.bytes) == ("folios-needed", 4 * M)
    assert ready.remedy.startswith("dd if=/bin/x of=/bin/x.new bs=2048K && ")
    hostile = next(iter(advice(runs, NOW, "/a b;reboot", NINE)))
    assert hostile.remedy.startswith("dd if='/a b;reboot' of='/a b;reboot.new' bs=2048K && ")
    assert (vmas.id, vmas.bytes) == ("vmas", 9 * 192 if NOW["vma_bytes"] == 192 else 9 * NOW["vma_bytes"])
    old = policy("linux-6.12")
    runs = [run.blocks for run in predict(program(type=ET_EXEC), None, old).runs]
    barred = next(iter(advice(runs, old, "/bin/x", NINE)))
    assert (barred.id, barred.severity, barred.bytes) == ("huge-filesystem", "cost", 4 * M)
    built = Policy("b", (6, 12), read_only_thp=True)
    runs = [run.blocks for run in predict(program(type=ET_EXEC), None, built).runs]
    assert "MADV_COLLAPSE" in next(iter(advice(runs, built, "/bin/x", NINE))).remedy
