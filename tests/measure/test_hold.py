"""measure.hold: a program held before it runs."""

import errno
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from elfolio.measure.hold import HoldError, held, strings_size
from elfolio.measure.program import read_image
from tests.elfwriter import ET_EXEC, PT_LOAD, Elf, Ph
from tests.measure.odd import write_program

CAT = "/bin/cat"
_AT_ENTRY = 9


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_at_its_first_instruction() -> None:
    """The program and its loader are mapped, no library is, and nothing has run."""
    with held(CAT) as process:
        names = {vma.name for vma in process.maps()}
        assert os.path.realpath(CAT) in names
        assert not any("libc.so" in name for name in names)
        assert process.auxv()[_AT_ENTRY]


def test_at_its_entry() -> None:
    """After dynamic linking the C library is mapped, and the program's own code has not run."""
    with held(CAT) as process:
        process.to_entry()
        assert any("libc.so" in vma.name for vma in process.maps())
        assert any(vma.flags.perms == "r--p" for vma in process.smaps())


def test_twice_it_lies_at_the_same_place() -> None:
    """Address randomisation is off, for a set-id program too."""
    for path in (CAT, "/bin/su"):
        if not os.path.exists(path):
            continue
        seen = []
        for _ in range(2):
            with held(path) as process:
                seen.append(process.maps().maps())
        assert seen[0] == seen[1]


def test_randomisation_stays_on_for_others() -> None:
    """What is switched off is the held process's: neither this thread's personality nor its privileges change."""
    with held(CAT):
        status = Path("/proc/thread-self/status").read_text()
        assert Path("/proc/thread-self/personality").read_text().strip() == "00000000"
    assert "NoNewPrivs:\t0" in status


def test_it_is_gone_afterwards() -> None:
    """Killed and reaped, after an error inside too."""
    pids = []
    for fails in (False, True):
        try:
            with held(CAT) as process:
                pids.append(process.pid)
                if fails:
                    raise RuntimeError
        except RuntimeError:
            pass
    assert all(is_gone(pid) for pid in pids)


def test_a_program_that_never_comes_to_its_entry_is_killed(tmp_path: Path) -> None:
    """Patience ends: a constructor that waits for ever is killed with its process, and the caller is told."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc; to force: apt-get install gcc")
    text, library, program = tmp_path / "l.c", tmp_path / "l.so", tmp_path / "p"
    text.write_text("#include <unistd.h>\n__attribute__((constructor)) static void f(void) { for (;;) pause(); }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", str(text), "-o", str(library)], check=True)
    text.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-Wl,--no-as-needed", str(text), str(library), "-o", str(program)], check=True)
    with held(str(program), patience=0.5) as process, pytest.raises(HoldError) as caught:
        process.to_entry()
    assert caught.value.lost


def test_what_execve_refuses(tmp_path: Path) -> None:
    """The caller's errno: ENOEXEC for another machine's file, EACCES for one that may not be executed."""
    foreign = write_program(
        tmp_path / "f", Elf(machine=2, type=ET_EXEC, segments=[Ph(PT_LOAD, 5, 0, 0x400000)]).build()
    )
    with pytest.raises(OSError) as caught, held(foreign):
        pass
    assert caught.value.errno == errno.ENOEXEC
    plain = tmp_path / "plain"
    plain.write_bytes(Path(CAT).read_bytes())
    with pytest.raises(PermissionError), held(str(plain)):
        pass


def test_what_execve_kills(tmp_path: Path) -> None:
    """Beyond the point of no return there is only a signal."""
    path = write_program(
        tmp_path / "k", Elf(type=ET_EXEC, segments=[Ph(PT_LOAD, 5, 0, 0x400000, filesz=200, memsz=100)]).build()
    )
    with pytest.raises(HoldError) as caught, held(path):
        pass
    assert caught.value.signal == signal.SIGSEGV


def test_a_loader_of_another_class_does_not_hang(tmp_path: Path) -> None:
    """exec fails with the tracer already there: the launch ends all the same, with the errno."""
    interp = Ph(3, 4, data=b"/lib64/ld-linux-x86-64.so.2\0")
    data = Elf(bits=32, machine=3, type=ET_EXEC, segments=[interp, Ph(PT_LOAD, 5, 0, 0x400000, filesz=100)]).build()
    with pytest.raises(OSError) as caught, held(write_program(tmp_path / "c", data)):
        pass
    assert caught.value.errno in (errno.ELIBBAD, errno.ENOENT, errno.ENOEXEC)


def test_from_several_threads() -> None:
    """Each holds its own."""
    found: list[str] = []

    def hold() -> None:
        with held(CAT) as process:
            found.append(process.maps().maps())

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_the_strings_are_what_the_stack_has() -> None:
    """Path, arguments and environment with their NULs: the strings begin where /proc/PID/stat says."""
    argv, environment = ["cat", "-n", "é"], {"A": "1", "BB": ""}
    with held(CAT, argv, environment) as process:
        space = process.maps()
        stack = next(vma for vma in space if vma.name == "[stack]")
        assert read_image(CAT).header.bits == 64
        assert strings_size(CAT, argv, environment) == len("/bin/cat") + 1 + 4 + 3 + 3 + 4 + 4
        assert space.start_stack < stack.end - 8 - strings_size(CAT, argv, environment)
