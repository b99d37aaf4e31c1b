"""Scripts: what a template makes of a first line is what the kernel makes of it."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import elfolio
from tests.spawn.probing import Snapshot, answer_file, look, snapshot

HEAD = 256
"""BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h"""


def script(path: Path, content: bytes) -> Path:
    """An executable file; a new inode, because an old one may still run."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def by_kernel(path: Path, argv: list[str], answer: Path) -> Snapshot | int:
    """What a real execve gives: the probe's snapshot, or the errno."""
    try:
        pid = os.posix_spawn(path, argv, {"PROBE": str(answer)})
    except OSError as error:
        return error.errno or 0
    _, status = os.waitpid(pid, 0)
    assert status == 0
    return snapshot(answer.read_text())


def by_template(path: Path, argv: list[str], answer: Path) -> Snapshot | int:
    """The same through a template."""
    try:
        with elfolio.SpawnTemplate(path) as template:
            assert template.spawn(argv, env={"PROBE": str(answer)}).wait() == 0
    except OSError as error:
        return error.errno or 0
    return snapshot(answer.read_text())


def same(path: Path) -> Snapshot | int:
    """Asserts that both ways agree on errno, or on argv, task name and /proc/PID/exe; returns the outcome."""
    with answer_file() as answer:
        kernel = by_kernel(path, ["zero", "one two", ""], answer)
        answer.write_bytes(b"")
        ours = by_template(path, ["zero", "one two", ""], answer)
    if isinstance(kernel, int) or isinstance(ours, int):
        assert ours == kernel
    else:
        assert (ours.argv, ours.comm, ours.exe) == (kernel.argv, kernel.comm, kernel.exe)
    return kernel


@pytest.fixture(scope="module")
def interpreter(programs: Path) -> Path:
    """A program that writes its snapshot where $PROBE says, whatever its arguments are."""
    source = (Path(__file__).parent / "probe.c").read_text()
    source = source.replace('argv[1] && strcmp(argv[1], "-") ? open(argv[1]', 'getenv("PROBE") ? open(getenv("PROBE")')
    from tests.spawn.probing import compile_c

    return compile_c(programs / "i", source)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.text(" \t", max_size=3),
    rest=st.text(" \t\0\r#!-ax", max_size=12),
    end=st.sampled_from(["\n", "", "\nmore\n", "\r\n"]),
    padding=st.sampled_from([0, 0, 0, 220, 230, 235, 240, 250, 300]),
    where=st.sampled_from(["before", "argument", "end"]),
)
@example(before="", rest=" -x  ", end="", padding=0, where="end")
@example(before="", rest=" -x", end="", padding=300, where="argument")
@example(before=" \t", rest="\0 x", end="\n", padding=0, where="end")
def test_a_first_line_is_read_as_the_kernel_reads_it(
    before: str, rest: str, end: str, padding: int, where: str, interpreter: Path, open_folder: Path
) -> None:
    """Blanks, NULs, CR, a missing newline and a line cut by the kernel's buffer give execve's result exactly."""
    line = "#!" + before + " " * padding * (where == "before") + str(interpreter)
    line += " " + "a" * padding if where == "argument" else ""
    line += rest + " " * padding * (where == "end") + end
    same(script(open_folder / "script", line.encode()))


@pytest.mark.parametrize("size", range(HEAD - 8, HEAD + 3))
def test_an_interpreter_path_that_the_buffer_cuts(size: int, interpreter: Path, open_folder: Path) -> None:
    """A path that ends near the end of the kernel's buffer is run or refused as execve does."""
    for tail in (b"", b"\n", b" ", b" x\n"):
        name = "i" * max(1, size - 2 - len(str(open_folder)) - 1)
        shutil.copy(interpreter, open_folder / name)
        same(script(open_folder / "script", b"#!" + str(open_folder / name).encode() + tail))


@pytest.mark.parametrize("depth", range(1, 8))
def test_interpreters_that_are_scripts(depth: int, interpreter: Path, open_folder: Path) -> None:
    """A chain of scripts is followed as deep as the kernel does, then ELOOP, and argv is put together alike."""
    path = interpreter
    for i in range(depth):
        path = script(open_folder / f"s{i}", f"#!{path} argument {i}\n".encode())
    outcome = same(path)
    assert outcome == errno.ELOOP if depth > 5 else isinstance(outcome, Snapshot)


def test_a_missing_or_forbidden_interpreter(open_folder: Path, program: Path) -> None:
    """A missing interpreter is ENOENT; one that may not be executed, or is a directory, EACCES."""
    assert same(script(open_folder / "s", b"#!/no/such\n")) == errno.ENOENT
    assert same(script(open_folder / "s", f"#!{open_folder}\n".encode())) == errno.EACCES
    program.chmod(0o644)
    assert same(script(open_folder / "s", f"#!{program}\n".encode())) == errno.EACCES
    assert same(script(open_folder / "s", b"#!\n")) == errno.ENOEXEC


def test_what_cannot_be_pinned_says_so(open_folder: Path) -> None:
    """A relative interpreter means another file in every directory: ENOEXEC, naming subprocess as the mend."""
    with pytest.raises(OSError, match="subprocess") as caught:
        elfolio.SpawnTemplate(script(open_folder / "s", b"#!sh\n"))
    assert caught.value.errno == errno.ENOEXEC


def test_a_script_sees_its_own_path(open_folder: Path) -> None:
    """$0 is the script's path; the task is called as the script."""
    path = script(open_folder / "a-script", b'#!/bin/sh\ncat /proc/$$/comm; echo "$0|$1|$#"\n')
    with elfolio.SpawnTemplate(path) as template:
        done = template.run(["ignored", "a b", ""], text=True)
    assert done.stdout == f"a-script\n{path}|a b|2\n"


@pytest.mark.parametrize("what", ["script", "interpreter", "middle"])
@pytest.mark.parametrize("how", ["rename", "touch", "write"])
def test_each_file_of_a_script_is_held(what: str, how: str, programs: Path, open_folder: Path) -> None:
    """Replacing, touching or rewriting the script or any of its interpreters makes the template stale."""
    paths = {"interpreter": open_folder / "interpreter"}
    shutil.copy(programs / "exit-7", paths["interpreter"])
    paths["middle"] = script(open_folder / "middle", f"#!{paths['interpreter']}\n".encode())
    paths["script"] = script(open_folder / "script", f"#!{paths['middle']}\n".encode())
    path = paths[what]
    with elfolio.SpawnTemplate(paths["script"]) as template:
        assert template.spawn(["x"]).wait() == 7
        if how == "rename":
            shutil.copy(path, path.with_suffix(".new"))
            path.with_suffix(".new").rename(path)
        elif how == "touch":
            path.touch()
        else:
            with path.open("ab") as file:
                file.write(b"\n")
        with pytest.raises(elfolio.StaleTemplate) as caught:
            template.spawn(["x"])
        assert caught.value.filename == str(path)


def test_a_strict_script_runs_as_execve_runs_it(interpreter: Path, open_folder: Path) -> None:
    """With audit="strict" the kernel itself puts a script's argv together: nothing is there twice."""
    path = script(open_folder / "script", f"#!{interpreter} -x\n".encode())
    with answer_file() as answer:
        kernel = by_kernel(path, ["zero", "one"], answer)
        answer.write_bytes(b"")
        with elfolio.SpawnTemplate(path, audit="strict") as template:
            assert template.spawn(["zero", "one"], env={"PROBE": str(answer)}).wait() == 0
        ours = snapshot(answer.read_text())
    assert isinstance(kernel, Snapshot)
    assert (ours.argv, ours.execfn, ours.comm) == (kernel.argv, kernel.execfn, kernel.comm)


def test_a_script_by_descriptor(interpreter: Path, open_folder: Path) -> None:
    """A script held by descriptor runs after its file is gone, named as it was, its path /dev/fd/N."""
    path = script(open_folder / "gone", f"#!{interpreter} -x\n".encode())
    fd = os.open(path, os.O_RDONLY)
    path.unlink()
    with elfolio.SpawnTemplate(fd) as template, answer_file() as answer:
        os.close(fd)
        seen = None
        assert template.spawn(["zero", "one"], env={"PROBE": str(answer)}).wait() == 0
        seen = snapshot(answer.read_text())
    assert seen.argv[:2] == [str(interpreter), "-x"]
    assert seen.argv[2].startswith("/dev/fd/")
    assert seen.argv[3:] == ["one"]
    assert seen.comm == "gone"


def test_a_program_through_links(probe_path: Path, open_folder: Path) -> None:
    """A path that is a chain of links is held as such: leading a link elsewhere makes the template stale."""
    link, alias = open_folder / "link", open_folder / "alias"
    link.symlink_to(probe_path)
    alias.symlink_to(link)
    with elfolio.SpawnTemplate(alias) as template:
        seen = look(template)
        assert (seen.comm, seen.exe) == ("alias", str(probe_path))
        link.unlink()
        link.symlink_to("/bin/true")
        with pytest.raises(elfolio.StaleTemplate, match="inode"):
            template.spawn(["x"])
