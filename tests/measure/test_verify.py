"""measure.verify: the model against this machine's kernel. All of it under `slow`; a sample every day."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from elfolio.elf.reader import read
from elfolio.errors import ElfError
from elfolio.kernel.execve import Execution
from elfolio.kernel.host import default_host
from elfolio.kernel.space import AddressSpace, VmFlags
from elfolio.live.host import policy_here
from elfolio.measure.compare import compare
from elfolio.measure.hold import HoldError, held
from elfolio.measure.program import read_program
from elfolio.measure.verify import Verification, verify, verify_from
from tests.measure import programs
from tests.measure.odd import odd_program, write_program

pytestmark = pytest.mark.skipif(
    policy_here().version < (5, 10), reason="the model begins with Linux 5.10; to force: a newer kernel"
)
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="makes x86 programs; to force: run on x86-64")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc; to force: apt-get install gcc")

DIRECTORIES = ("/usr/bin", "/usr/sbin", "/usr/libexec", "/usr/local/bin")
ONCE_WRONG = (6081, 6353, 8752)
"""Odd programs that were predicted wrongly once: an empty segment below the first, whose address wraps."""
COMPILERS = ("gcc*", "llvm*", "go*", "jvm*", "rustlib*", "ocaml*", "ghc*")
"""Below /usr/lib."""


def compilers() -> list[str]:
    """Directories of this system's compilers, and of a Rust toolchain of this user's."""
    found = [str(path) for pattern in COMPILERS for path in sorted(Path("/usr/lib").glob(pattern))]
    if shutil.which("rustc"):
        done = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=False)
        found += [done.stdout.strip()] * (done.returncode == 0)
    return found


def executables(directories: Iterable[str]) -> list[str]:
    """Every ELF file there that may be executed, hard links once, symbolic links not followed."""
    found: dict[tuple[int, int], str] = {}
    for directory in directories:
        for where, _, names in os.walk(directory):
            for path in (os.path.join(where, name) for name in sorted(names)):
                if not os.path.islink(path) and os.access(path, os.X_OK) and _is_elf(path):
                    status = os.stat(path)
                    found.setdefault((status.st_dev, status.st_ino), path)
    return sorted(found.values())


def _is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


class Tally:
    """Shares that are equal, and what is not."""

    def __init__(self) -> None:
        self.first = self.first_equal = self.objects = self.objects_equal = 0
        self.refused = 0
        self.misses: list[str] = []

    def add(self, path: str, *, linking: bool = True) -> Verification:
        found = verify(path, linking=linking)
        self.first += 1
        self.first_equal += found.first.equal
        self.refused += not isinstance(found.predicted, Execution)
        self.objects += len(found.objects)
        self.objects_equal += sum(comparison.equal for comparison in found.objects)
        self.misses += [f"{path}: {difference}" for difference in found.differences]
        return found

    def __str__(self) -> str:
        return (
            f"first instruction: {self.first_equal} of {self.first} equal ({self.refused} refused, as predicted); "
            f"objects after dynamic linking: {self.objects_equal} of {self.objects}\n" + "\n".join(self.misses[:20])
        )

    def check(self) -> None:
        print(self)
        assert self.first_equal == self.first > 0, str(self)
        assert self.objects_equal >= 0.995 * self.objects, str(self)


@pytest.mark.skipif(not os.path.isdir("/usr/bin"), reason="needs programs")
def test_a_sample_of_this_systems_programs() -> None:
    """Forty programs, spread over the system's: every VMA at the first instruction, every object after linking."""
    every = executables(("/usr/bin", "/usr/sbin"))
    tally = Tally()
    for path in every[:: max(1, len(every) // 40)]:
        tally.add(path)
    tally.check()


@pytest.mark.slow
def test_every_program_of_this_system() -> None:
    """All executables of /usr/bin, /usr/sbin, /usr/libexec and the installed compilers."""
    tally = Tally()
    for path in executables((*DIRECTORIES, *compilers())):
        tally.add(path)
    tally.check()


@needs_gcc
def test_programs_of_each_kind(tmp_path: Path) -> None:
    """PIE, ET_EXEC, static and static PIE, of each linker that is here, with pages of 4 KiB and 2 MiB."""
    tally = Tally()
    for path in programs.few(tmp_path):
        tally.add(str(path))
    tally.check()


@needs_gcc
@pytest.mark.slow
def test_programs_of_every_linker_and_language(tmp_path: Path) -> None:
    """Four linkers, four modes, five page sizes up to 1 GiB, four kinds, and what else changes segments."""
    tally = Tally()
    for path in programs.many(tmp_path):
        tally.add(str(path))
        path.unlink()
    tally.check()


def odd_tally(directory: Path, seeds: Iterable[int]) -> Tally:
    tally = Tally()
    for seed in seeds:
        path = write_program(directory / f"odd-{seed}", odd_program(seed))
        try:
            read(Path(path).read_bytes())
        except ElfError:
            continue
        finally:
            found = tally.add(path, linking=False)
        if found.equal:
            os.unlink(path)
    return tally


@x86
def test_odd_programs(tmp_path: Path) -> None:
    """Segments of any order, overlap, size, alignment and permission, loaders that are none, files cut short: the same
    VMAs, or the same errno, or the same signal."""
    tally = odd_tally(tmp_path, [*range(150), *ONCE_WRONG])
    tally.check()
    assert 20 <= tally.refused <= 100


@x86
@pytest.mark.slow
def test_many_odd_programs(tmp_path: Path) -> None:
    """Ten thousand of them."""
    odd_tally(tmp_path, range(1000, 11000)).check()


@pytest.mark.parametrize("pages", [1, 2, 3, 40])
def test_long_arguments_push_the_stack_down(pages: int) -> None:
    """Path, arguments and environment of several pages: the stack's start follows."""
    argv = ["/bin/cat", *["x" * 4000] * pages]
    found = verify("/bin/cat", argv=argv, environment={}, linking=False)
    assert found.equal, found.differences


def test_the_heap_begins_where_predicted() -> None:
    """start_brk, which maps does not show, is what /proc/PID/stat says."""
    found = verify("/bin/cat", linking=False)
    assert isinstance(found.predicted, Execution)
    assert isinstance(found.real, AddressSpace)
    assert found.predicted.space.start_brk == found.real.start_brk


def test_entry_and_headers_are_what_the_auxiliary_vector_says() -> None:
    """AT_ENTRY, AT_PHDR and AT_BASE."""
    found = verify("/bin/cat", linking=False)
    assert isinstance(found.predicted, Execution)
    with held("/bin/cat") as process:
        auxv = process.auxv()
    assert (auxv[9], auxv[3]) == (found.predicted.entry, found.predicted.phdr)
    assert auxv[7] == (found.predicted.interpreter_bias or 0)


@needs_gcc
def test_gaps_after_linking(tmp_path: Path) -> None:
    """A library linked for pages of 64 KiB: glibc's PROT_NONE gaps and musl's readable ones are as predicted."""
    library = tmp_path / "libgap.so"
    text = tmp_path / "l.c"
    text.write_text("int data = 1; static char bss[50000]; int f(void) { return data + bss[7]; }\n")
    main = tmp_path / "m.c"
    main.write_text("int f(void); int main(void) { return f(); }\n")
    link = ["-shared", "-fPIC", "-nostdlib", "-Wl,-z,max-page-size=65536,-z,separate-code"]
    subprocess.run(["gcc", str(text), "-o", str(library), *link], check=True)
    for compiler in filter(shutil.which, ("gcc", "musl-gcc")):
        path = tmp_path / f"with-{compiler}"
        flags = [f"-L{tmp_path}", "-lgap", f"-Wl,-rpath,{tmp_path}"]
        subprocess.run([compiler, str(main), "-o", str(path), *flags], check=True)
        found = verify(str(path))
        assert found.equal, found.differences
        gap = next(c for c in found.objects if "libgap" in c.subject)
        assert gap.count >= (7 if compiler == "gcc" else 5)


def test_a_difference_is_found() -> None:
    """The comparison can fail: against another kernel's rules, and against a mapping that is gone or changed."""
    found = verify("/bin/cat", linking=False)
    assert isinstance(found.real, AddressSpace)
    fewer = AddressSpace(found.real.vmas[1:])
    assert [d.kind for d in compare(found.real, fewer).differences] == ["missing"]
    assert [d.kind for d in compare(fewer, found.real).differences] == ["unexpected"]
    larger = policy_here("/bin/cat").with_options(page_size=16384)
    assert not verify("/bin/cat", larger, linking=False).equal
    other = compare(found.real, AddressSpace(tuple(type(v)(v.start, v.end, v.flags) for v in found.real)))
    assert {d.kind for d in other.differences} <= {"name", "offset", "offset,name"}


def test_a_record_of_another_kernel() -> None:
    """Maps recorded elsewhere compare with a prediction for that kernel, its vdso's size and the strings on its stack
    taken from the record; a record that was changed by one page does not compare."""
    program = read_program("/bin/cat")
    with held("/bin/cat") as process:
        record = process.maps().maps()
    here = policy_here("/bin/cat")
    found = verify_from(record, program, here, default_host(here))
    assert found.equal, found.differences
    line = record.splitlines()[0]
    start = int(line.partition("-")[0], 16)
    wrong = record.replace(f"{start:08x}-", f"{start - 4096:08x}-", 1)
    assert not verify_from(wrong, program, here, default_host(here)).equal


def test_a_loader_that_is_missing(tmp_path: Path) -> None:
    """A program whose interpreter does not exist is predicted to fail with ENOENT, and does."""
    from tests.elfwriter import ET_EXEC, PT_LOAD, Elf, Ph

    headers = [Ph(3, 4, data=b"/nowhere/ld.so\0"), Ph(PT_LOAD, 5, 0, 0x400000, filesz=100)]
    path = write_program(tmp_path / "p", Elf(type=ET_EXEC, segments=headers).build())
    found = verify(path)
    assert isinstance(found.real, HoldError)
    assert found.equal


@needs_gcc
def test_a_library_that_is_missing(tmp_path: Path) -> None:
    """A program that the dynamic loader cannot link is equal at its first instruction, and differs after it."""
    library, main = tmp_path / "l.so", tmp_path / "m.c"
    main.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-xc", os.devnull, "-o", str(library)], check=True)
    path = tmp_path / "p"
    subprocess.run(["gcc", "-Wl,--no-as-needed", str(main), str(library), "-o", str(path)], check=True)
    library.unlink()
    found = verify(str(path))
    assert found.first.equal
    assert not found.equal
    assert "ended before its entry" in str(found.differences[0])


@pytest.mark.parametrize("path", ["/bin/cat", "/usr/bin/python3", "/bin/bash", "/usr/bin/perl", "/sbin/ldconfig"])
def test_flags_are_what_smaps_shows(path: str) -> None:
    """Not only what maps shows: every flag of VmFlags, MAY flags and ACCOUNT among them, which decide what merges."""
    if not os.path.exists(path) or not _is_elf(path):
        pytest.skip(f"needs {path}; to force: install it")
    found = verify(path, linking=False)
    assert isinstance(found.predicted, Execution)
    with held(path) as process:
        real = process.smaps()
    hidden = VmFlags.SOFTDIRTY  # of the machine's configuration
    assert [vma.flags & ~hidden for vma in found.predicted.space] == [vma.flags & ~hidden for vma in real]
