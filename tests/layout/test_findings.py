"""Findings: one file for each that has it, and a clean one that has none; what they say holds in real processes."""

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import elfolio.layout
from elfolio.elf.image import ElfHead, ElfImage, Fault, Note
from elfolio.layout.finding import SEVERITIES, Finding, ranked, size_text
from elfolio.layout.findings import findings
from elfolio.layout.hugepages import PMD
from elfolio.layout.segments import Layout
from elfolio.span import FileOffset
from tests.layout.programs import (
    ARTICLE,
    PHDR_FIELDS,
    PT_GNU_RELRO,
    PT_GNU_STACK,
    Mapping,
    R,
    W,
    X,
    build,
    head,
    held,
    image_of,
    load,
    maps,
    needs_linux,
    own,
    parse_maps,
    patch,
)

STACK = load(filesz=0, flags=R | W, type=PT_GNU_STACK)
TEXT = load(0x1000, flags=R | X, align=0x10000)
CLEAN = (load(align=0x10000), STACK)
PHDR, INTERP, DT_TEXTREL, DT_FLAGS = 6, 3, 22, 30


def whole(image: ElfHead, **fields: object) -> ElfImage:
    """The same with a dynamic section, notes and faults."""
    given_ = {"sections": (), "interpreter": None, "dynamic": (), "notes": (), "faults": (), **fields}
    return ElfImage(image.name, image.size, image.header, image.segments, **given_)  # type: ignore[arg-type]


def text(vaddr: int, filesz: int, offset: int | None = None, align: int = 0x10000) -> ElfHead:
    """A program of a page of headers, and code."""
    code = load(vaddr, filesz, offset=offset, flags=R | X, align=align)
    return head(load(align=0x10000), code, STACK, size=1 << 30)


NOT_READY = head(load(), load(0x1000, flags=R | X), STACK)
RELRO_DATA = load(0x10000, 0x2000, flags=R | W, align=0x10000)

CASES: dict[str, ElfHead] = {
    "align-bomb": head(load(align=1 << 30), STACK),
    "align-small": head(load(align=16), STACK),
    "align-invalid": head(load(align=3), STACK),
    "bss-only": head(*CLEAN, load(0x20000, 0, memsz=0x1000, flags=R | W, align=0x10000)),
    "descending": head(load(align=0x10000), load(0x40000, align=0x10000), load(0x20000, align=0x10000), STACK),
    "empty-segment": head(*CLEAN, load(0x20000, 0, align=0x10000)),
    "entropy": head(load(align=PMD), STACK),
    "exec-stack": head(load(align=0x10000), replace(STACK, flags=R | W | X)),
    "file-over-memory": head(load(align=0x10000, memsz=0x800), STACK),
    "file-padding": head(load(align=0x10000), load(0x30000, align=0x10000), STACK),
    "gaps": head(load(align=0x10000), load(0x20000, offset=0x10000, align=0x10000), STACK),
    "headers-moved": head(load(0x10000, offset=0x10000, align=0x10000), load(0x20000, offset=0, align=0x10000), STACK),
    "headers-unmapped": head(load(0x10000, align=0x10000), STACK),
    "incongruent": head(load(0x10000, offset=0x18, align=0x10000), STACK),
    "late-header": head(*CLEAN, load(0x40, 0x38, type=PHDR)),
    "malformed": whole(head(*CLEAN), faults=(Fault("a section table of no file"),)),
    "no-gnu-stack": head(load(align=0x10000)),
    "not-contiguous": head(load(0x40, 8, type=INTERP), load(align=0x10000), load(0x30000, align=0x10000), STACK),
    "not-ready-16k": NOT_READY,
    "not-ready-64k": NOT_READY,
    "notes-not-first": whole(head(*CLEAN), notes=(Note("GNU", 3, b"1", FileOffset(0x1200)),)),
    "over-aligned": head(load(align=0x1000), load(0x1000, align=0x1000), load(PMD, align=PMD), STACK),
    "overlap": head(load(align=0x10000, memsz=0x3000), load(0x2000, align=0x10000), STACK),
    "page-collision": head(load(0, 0x800, flags=R | X), load(0x800, 0x800), STACK),
    "page-overlaid": head(load(0, 0x800), load(0x800, 0x800, flags=R | X), STACK),
    "past-end": head(load(0, 0x3000, align=0x10000), STACK, size=0x1001),
    "relro-exposed-4k": head(*CLEAN, RELRO_DATA, load(0x10000, 0x1800, type=PT_GNU_RELRO)),
    "relro-exposed-16k": head(*CLEAN, RELRO_DATA, load(0x10000, 0x1000, type=PT_GNU_RELRO)),
    "relro-exposed-64k": head(*CLEAN, RELRO_DATA, load(0x10000, 0x1000, type=PT_GNU_RELRO)),
    "relro-huge-pages": head(
        load(align=PMD),
        load(PMD, 0x1000, memsz=PMD, flags=R | W, align=PMD),
        load(2 * PMD, 0x1000, flags=R | W, align=PMD),
        load(PMD, 0x1000, memsz=PMD, type=PT_GNU_RELRO),
        STACK,
    ),
    "relro-outside": head(*CLEAN, RELRO_DATA, load(0x10000, 0x10000, type=PT_GNU_RELRO)),
    "relro-pages": head(
        *CLEAN, load(0x10800, 0x1000, flags=R | W, align=0x10000), load(0x10800, 0x800, type=PT_GNU_RELRO)
    ),
    "rwx": head(load(align=0x10000, flags=R | W | X), STACK),
    "shared-page": head(load(0, 0x800), load(0x1800, 0x800, offset=0x800, flags=R | X), STACK),
    "text-align": text(PMD, PMD),
    "text-misplaced": text(0x10000, PMD),
    "text-skewed": text(PMD, PMD, offset=0x10000),
    "textrel": whole(head(*CLEAN, TEXT), dynamic=((DT_TEXTREL, 0),)),
}


def ids(image: ElfHead, page: int = 4096) -> set[str]:
    """Of all findings."""
    return {finding.id for finding in findings(image, page)}


@pytest.mark.parametrize("name", CASES)
def test_each_finding_is_found(name: str) -> None:
    """A file made to have it has it, in a sentence, with a size that is not negative and no command of our own."""
    found = [finding for finding in findings(CASES[name]) if finding.id == name]
    assert found
    for finding in found:
        assert finding.message[0].isupper()
        assert finding.message.endswith(".")
        assert finding.bytes >= 0
        assert "elfolio" not in finding.remedy


def test_a_clean_file_has_none() -> None:
    """A segment and a stack that is not executable: nothing to say, with the pages that it was linked for."""
    assert findings(head(*CLEAN), 65536) == ()
    assert ids(head(*CLEAN)) == {"entropy"}


def test_there_is_a_file_for_each() -> None:
    """Every id in the sources has its file above, and the other way round."""
    folder = Path(elfolio.layout.__file__).parent
    sources = "".join((folder / name).read_text() for name in ("costs.py", "hazards.py"))
    assert {*re.findall(r'Finding\(\s*f?"([a-z-]+-)\{', sources)} == {"not-ready-", "relro-exposed-"}
    written = set(re.findall(r'Finding\(\s*"([a-z-]+)"', sources))
    assert written == {name for name in CASES if not name.startswith(("not-ready-", "relro-exposed-"))}


def test_pages_that_are_the_same_either_way() -> None:
    """Two segments on one page are no collision if the page shows the same bytes with the same permissions."""
    first, second = load(0, 0x800), load(0x800, 0x800)
    assert "page-collision" not in ids(head(first, second, STACK))
    assert "page-collision" in ids(head(first, replace(second, offset=FileOffset(0x1800)), STACK))
    assert "page-collision" in ids(head(replace(first, filesz=0x700), second, STACK))


def test_three_on_one_page() -> None:
    """Text between two segments that are only read: under larger pages the last one takes the page, and nothing there
    can be executed. Without it the page is the same either way."""
    first, text, last = load(0, 0x1000), load(0x1000, 0x444, flags=R | X), load(0x2000, 0x100)
    assert "page-collision" in ids(head(first, text, last, STACK), 16384)
    assert "page-collision" not in ids(head(first, replace(text, flags=R), last, STACK), 16384)


def test_a_missing_gnu_stack_is_graver_in_a_library() -> None:
    """There glibc acts on it; of a program, only old kernels and 32-bit ones do."""
    library = head(load(align=0x10000))
    program = head(load(align=0x10000), load(0x40, 8, type=INTERP))
    for image, severity in ((library, "warning"), (program, "note")):
        assert [x.severity for x in findings(image) if x.id == "no-gnu-stack"] == [severity]


def test_what_nobody_maps() -> None:
    """An object file or a core file has no findings, whatever its program headers are."""
    for type_ in (1, 4):
        assert findings(head(load(align=3), type=type_)) == ()


def test_textrel_in_flags() -> None:
    """DF_TEXTREL says the same as DT_TEXTREL."""
    assert "textrel" in ids(whole(head(*CLEAN, TEXT), dynamic=((DT_FLAGS, 4),)))
    assert "textrel" not in ids(whole(head(*CLEAN, TEXT), dynamic=((DT_FLAGS, 8),)))


FINDINGS = st.builds(Finding, st.sampled_from("abc"), st.sampled_from(SEVERITIES), st.integers(0, 9), st.just(""))


@given(found=st.lists(FINDINGS, max_size=8))
def test_the_gravest_comes_first(found: list[Finding]) -> None:
    """By severity, then by bytes; nothing is lost, and the order given does not matter."""
    order = ranked(found)
    keys = [(SEVERITIES.index(x.severity), -x.bytes) for x in order]
    assert keys == sorted(keys)
    assert sorted(map(repr, order)) == sorted(map(repr, found))
    assert [x.id for x in order] == [x.id for x in ranked(reversed(found))]


def test_sizes_in_words() -> None:
    """In the largest unit that leaves a whole number."""
    sizes = (0, 1, 100, 1024, 3 << 20, 1 << 30, (1 << 20) + 1)
    assert [size_text(n) for n in sizes] == [
        "0 bytes",
        "1 byte",
        "100 bytes",
        "1 KiB",
        "3 MiB",
        "1 GiB",
        "1048577 bytes",
    ]


BIG = ARTICLE + '__asm__(".section .text.big,\\"ax\\"; .zero 7 << 20; .text");\n'
SMALL = "-Wl,-z,max-page-size=4096"
MENDED = (
    ("not-ready-16k", "bfd", (SMALL,)),
    ("not-ready-64k", "lld", (SMALL,)),
    ("relro-exposed-64k", "bfd", (SMALL, "-Wl,-z,now")),
    ("relro-exposed-64k", "lld", (SMALL, "-Wl,-z,now")),
    ("relro-exposed-16k", "mold", (SMALL, "-Wl,-z,now")),
    ("gaps", "bfd", ("-shared", "-Wl,-z,max-page-size=65536")),
    ("not-contiguous", "lld", ("-Wl,-z,max-page-size=65536",)),
    ("shared-page", "lld", (SMALL,)),
    ("shared-page", "bfd", (SMALL, "-Wl,-z,noseparate-code")),
    ("exec-stack", "bfd", ("-Wl,-z,execstack",)),
    ("entropy", "lld", ("-Wl,-z,max-page-size=2097152",)),
    ("file-padding", "lld", ("-Wl,-z,separate-loadable-segments,-z,max-page-size=65536",)),
    ("text-align", "bfd", (SMALL, "-Wl,-z,separate-code")),
    ("text-skewed", "lld", (SMALL,)),
    ("text-misplaced", "bfd", (SMALL, "-Wl,-z,separate-code")),
    ("text-misplaced", "lld", (SMALL,)),
)


@pytest.mark.parametrize(("name", "linker", "flags"), MENDED)
def test_what_a_remedy_says_mends_it(tmp_path: Path, name: str, linker: str, flags: tuple[str, ...]) -> None:
    """A program linked to have a finding, linked again with the options that its remedy names, no longer has it."""
    pie = ("-pie",) if "-shared" not in flags else ()
    before = image_of(build(tmp_path / "before", "-fPIC", *pie, *flags, source=BIG, linker=linker))
    found = [finding for finding in findings(before) if finding.id == name]
    assert found
    said = re.findall(r"-Wl,[^\s;)]*[^\s;:.,)]", found[0].remedy)
    lld_s = [option for option in said if "loadable" in option]
    options = lld_s if linker == "lld" and lld_s else [option for option in said if "loadable" not in option][:1]
    assert options
    after = build(tmp_path / "after", "-fPIC", *pie, *flags, *options, source=BIG, linker=linker)
    left = [finding for finding in findings(image_of(after)) if finding.id == name]
    assert [x for x in left if name != "shared-page" or x.severity == "cost"] == []


def run(program: Path) -> subprocess.CompletedProcess[str]:
    """The program, to its end."""
    return subprocess.run([program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)


QUICK = ARTICLE.replace("pause();", "")


def test_the_kernel_refuses_incongruent_segments(tmp_path: Path) -> None:
    """A program whose text has an offset eight bytes on is killed before its first instruction: an error is one."""
    program = build(tmp_path / "a", "-pie", "-fPIE", source=QUICK)
    assert run(program).returncode == 0
    index, code = next((i, s) for i, s in enumerate(image_of(program).segments) if s.type == 1 and s.flags & X)
    patch(program, index, offset=code.offset + 8)
    assert "incongruent" in ids(image_of(program))
    assert run(program).returncode < 0


def test_the_kernel_refuses_more_file_than_memory(tmp_path: Path) -> None:
    """p_filesz over p_memsz: it does not run."""
    program = build(tmp_path / "a", "-pie", "-fPIE", source=QUICK)
    index, code = next((i, s) for i, s in enumerate(image_of(program).segments) if s.type == 1 and s.flags & X)
    patch(program, index, memsz=code.memsz - 1)
    assert "file-over-memory" in ids(image_of(program))
    assert run(program).returncode < 0


def test_relro_over_pages_of_nobody_ends_the_program(tmp_path: Path) -> None:
    """The dynamic linker cannot protect pages that are not mapped, says so, and gives up."""
    program = build(tmp_path / "a", "-pie", "-fPIE", "-Wl,-z,now", source=QUICK)
    index, guarded = next((i, s) for i, s in enumerate(image_of(program).segments) if s.type == PT_GNU_RELRO)
    patch(program, index, memsz=guarded.memsz + (1 << 20))
    assert "relro-outside" in ids(image_of(program))
    done = run(program)
    assert done.returncode != 0
    assert "protection" in done.stderr


LOADER = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print(open('/proc/self/maps').read())"


def loaded(library: Path) -> "list[Mapping] | subprocess.CompletedProcess[str]":
    """The maps of a process that has loaded a library; or the process, if it could not."""
    command = [sys.executable, "-c", LOADER, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        return done
    return parse_maps(done.stdout.strip())


def shared_library(path: Path, *flags: str, source: str = ARTICLE, linker: str = "bfd") -> Path:
    """A library of the article's source."""
    return build(path, "-shared", "-fPIC", *flags, source=source, linker=linker)


@pytest.mark.parametrize("linker", ["bfd", "lld"])
def test_a_library_s_gaps_are_mappings(tmp_path: Path, linker: str) -> None:
    """A library for 64 KiB pages has as many PROT_NONE mappings as there are gaps, of their sizes; each costs a VMA."""
    library = shared_library(tmp_path / "a.so", "-Wl,-z,max-page-size=65536", linker=linker)
    layout = Layout(image_of(library), 4096)
    mapped = loaded(library)
    assert isinstance(mapped, list)
    nothing = [m for m in mapped if m.path == str(library) and m.perms == "---p"]
    assert [m.memory.size for m in nothing] == [gap.memory.size for gap in layout.gaps]
    assert len(nothing) >= 2
    found = next(finding for finding in findings(image_of(library), vma_bytes=100) if finding.id == "gaps")
    assert found.bytes == 100 * len(nothing)


def test_a_program_s_gaps_are_holes(tmp_path: Path) -> None:
    """A program with the same gaps has nothing there."""
    program = build(tmp_path / "a", "-pie", "-fPIE", "-Wl,-z,max-page-size=65536")
    layout = Layout(image_of(program), 4096)
    assert "not-contiguous" in ids(image_of(program))
    with held(program) as pid:
        base, everything = own(pid, program)[0].memory.start, maps(pid)
    for gap in layout.gaps:
        assert not any(m.memory.common(gap.memory.shifted(base)).size for m in everything)


INSIDE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
extern char __ehdr_start[];
int inside(long at) { Dl_info info; return dladdr(__ehdr_start + at, &info); }
#ifdef PROGRAM
int main(int count, char **at) { printf("%d", inside(strtol(at[count - 1], 0, 10))); return 0; }
#endif
"""


def test_glibc_takes_a_library_for_one_range_and_a_program_with_gaps_not(tmp_path: Path) -> None:
    """An address in a gap belongs to the library around it, says dladdr; in a program with gaps it belongs to nobody
    (l_contiguous is 0), which is what the finding says."""
    wide = "-Wl,-z,max-page-size=65536"
    program = build(tmp_path / "a", "-pie", "-fPIE", "-DPROGRAM", wide, source=INSIDE)
    library = shared_library(tmp_path / "a.so", wide, source=INSIDE)
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).inside(ctypes.c_long(int(sys.argv[2]))), end='')"
    for command, path, is_inside in (
        ([str(program)], program, "0"),
        ([sys.executable, "-c", code, str(library)], library, "1"),
    ):
        gaps = Layout(image_of(path), 4096).gaps
        assert len(gaps) >= 2
        for gap in gaps:
            done = subprocess.run([*command, str(gap.memory.start + 8)], capture_output=True, text=True, check=True)
            assert done.stdout == is_inside
    assert "not-contiguous" in ids(image_of(program))
    assert "not-contiguous" not in ids(image_of(library))


def test_headers_out_of_order(tmp_path: Path) -> None:
    """The kernel runs a program whose last two segments' headers are swapped; the finding is no error."""
    needs_linux(5, 18, "before, the size of the whole was taken from the first header to the last")
    program = build(tmp_path / "a", "-pie", "-fPIE", source=QUICK)
    segments = image_of(program).segments
    third, fourth = [i for i, s in enumerate(segments) if s.type == 1][2:4]
    for index, segment in ((third, segments[fourth]), (fourth, segments[third])):
        patch(program, index, **{name: getattr(segment, name) for name in PHDR_FIELDS})
    assert "descending" in ids(image_of(program))
    assert not [x for x in findings(image_of(program)) if x.severity == "error"]
    assert run(program).returncode == 0


@pytest.mark.parametrize(("align", "name"), [(3, "align-invalid"), (0x800, "align-small"), (1, "align-small")])
def test_a_library_with_an_odd_p_align(tmp_path: Path, align: int, name: str) -> None:
    """A p_align that is no multiple of the page keeps a library out, or is passed over by newer dynamic linkers."""
    library = shared_library(tmp_path / "a.so")
    assert isinstance(loaded(library), list)
    patch(library, next(i for i, s in enumerate(image_of(library).segments) if s.type == 1), align=align)
    assert name in ids(image_of(library))
    done = loaded(library)
    assert isinstance(done, list) or "align" in done.stderr


def test_a_library_without_gnu_stack_opens_the_stack(tmp_path: Path) -> None:
    """Loading it makes the process's stack executable, or fails where glibc no longer does that (from 2.41)."""
    library = shared_library(tmp_path / "a.so")
    index = next(i for i, s in enumerate(image_of(library).segments) if s.type == PT_GNU_STACK)
    patch(library, index, type=0)
    assert "no-gnu-stack" in ids(image_of(library))
    mapped = loaded(library)
    if isinstance(mapped, list):
        assert next(m for m in mapped if m.path == "[stack]").perms == "rwxp"
    else:
        assert "executable stack" in mapped.stderr


def test_an_executable_stack_is_one(tmp_path: Path) -> None:
    """What PT_GNU_STACK says is what the stack has."""
    for flag, perms, found in (("execstack", "rwxp", True), ("noexecstack", "rw-p", False)):
        program = build(tmp_path / flag, "-pie", "-fPIE", f"-Wl,-z,{flag}")
        assert ("exec-stack" in ids(image_of(program))) == found
        with held(program) as pid:
            assert next(m for m in maps(pid) if m.path == "[stack]").perms == perms


def test_pages_behind_the_file_s_end_are_not_there(tmp_path: Path) -> None:
    """A library that was cut off inside of its data is loaded, and gives SIGBUS when the missing part is read."""
    source = "char data[1 << 18] = {1};"
    library = shared_library(tmp_path / "a.so", source=source)
    whole_size = image_of(library).loads[-1].file.end
    assert "past-end" not in ids(image_of(library))
    with library.open("r+b") as file:
        file.truncate(whole_size - (1 << 17))
    image = image_of(library)
    found = next(finding for finding in findings(image) if finding.id == "past-end")
    assert (found.bytes, found.severity) == (1 << 17, "error")
    code = "import sys; from ctypes import *; string_at(addressof(c_char.in_dll(CDLL(sys.argv[1]), 'data')), 1 << 18)"
    done = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, check=False, timeout=60)
    assert -done.returncode == signal.SIGBUS


def test_a_page_of_the_file_that_is_mapped_twice(tmp_path: Path) -> None:
    """What lld puts together by default is mapped once with each segment's permissions."""
    program = build(tmp_path / "a", "-pie", "-fPIE", "-Wl,-z,max-page-size=4096", linker="lld")
    layout = Layout(image_of(program), 4096)
    with held(program) as pid:
        mapped = [m for m in own(pid, program) if m.path]
    pages = [page for m in mapped for page in range(m.offset, m.offset + m.memory.size, 4096)]
    assert len(pages) - len(set(pages)) == sum(meeting.pages.size // 4096 for meeting in layout.shared) > 0


def test_text_relocations_are_found(tmp_path: Path) -> None:
    """An address in the code of a library, linked with -z notext."""
    source = 'int w = 1;\n__asm__(".text; .balign 8; .quad w");'
    library = shared_library(tmp_path / "a.so", "-Wl,-z,notext", source=source)
    assert "textrel" in ids(image_of(library))
    assert "textrel" not in ids(image_of(shared_library(tmp_path / "b.so")))


def test_debian_s_own_programs_run_here() -> None:
    """Nothing is an error in what this machine runs all the time."""
    for path in ("/bin/sh", "/usr/bin/env", sys.executable):
        assert not [x for x in findings(image_of(Path(path).resolve())) if x.severity == "error"], path
