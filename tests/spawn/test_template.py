"""Templates: what can be held, who may use one, and what it counts."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import elfolio
from tests.spawn.probing import NOBODY, in_fresh_host, look, mounted, open_fds


def refused(target: str | Path | int, number: int, kind: type[OSError] = OSError) -> OSError:
    """Asserts that no template of `target` can be made, and that the attempt leaves no descriptor."""
    before = open_fds()
    with pytest.raises(kind) as caught:
        elfolio.SpawnTemplate(target)
    assert caught.value.errno == number
    assert open_fds() == before
    return caught.value


def test_a_relative_path_is_refused() -> None:
    """A relative path is EINVAL and a ValueError: it would mean another file elsewhere."""
    assert isinstance(refused("bin/sh", errno.EINVAL), ValueError)
    refused("sh", errno.EINVAL)
    refused("", errno.EINVAL)


def test_what_may_not_be_executed_is_refused(program: Path) -> None:
    """Not executable, a directory, a FIFO, a device, a socket's descriptor: PermissionError, EACCES."""
    program.chmod(0o644)
    refused(program, errno.EACCES, PermissionError)
    refused(program.parent, errno.EACCES, PermissionError)
    refused("/dev/null", errno.EACCES, PermissionError)
    fifo = program.parent / "fifo"
    os.mkfifo(fifo, 0o755)
    refused(fifo, errno.EACCES, PermissionError)
    reading, writing = os.pipe()
    refused(reading, errno.EACCES, PermissionError)
    os.close(reading)
    os.close(writing)


def test_what_is_not_there_is_refused(program: Path) -> None:
    """A missing file, a loop of links, a file used as directory, a closed descriptor: the kernel's errno."""
    refused(program.parent / "none", errno.ENOENT, FileNotFoundError)
    refused(program / "x", errno.ENOTDIR, NotADirectoryError)
    loop = program.parent / "loop"
    loop.symlink_to(loop)
    refused(loop, errno.ELOOP)
    refused(987654, errno.EBADF)
    refused(-1, errno.EBADF)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x7fELF", b"\x7fELF" + b"\0" * 60, b"echo hello\n", b"#!\n", b"#! \t\n"]
)
def test_an_unknown_format_is_refused(content: bytes, program: Path) -> None:
    """What the kernel has no loader for is ENOEXEC, as execve says."""
    program.write_bytes(content)
    with pytest.raises(OSError) as plain:
        os.posix_spawn(program, ["x"], {})
    assert plain.value.errno == errno.ENOEXEC
    refused(program, errno.ENOEXEC)


@pytest.mark.root
def test_a_noexec_mount_is_refused(program: Path) -> None:
    """A program on a noexec mount is PermissionError, by path and by descriptor; remounted so later, as well."""
    with mounted(program.parent / "mount", "noexec,size=8m") as folder:
        path = shutil.copy(program, folder / "p")
        refused(path, errno.EACCES, PermissionError)
        fd = os.open(path, os.O_RDONLY)
        refused(fd, errno.EACCES, PermissionError)
        os.close(fd)
        subprocess.run(["mount", "-o", "remount,exec", folder], check=True)
        with elfolio.SpawnTemplate(path) as template:
            assert template.spawn(["p"]).wait() == 7
            subprocess.run(["mount", "-o", "remount,noexec", folder], check=True)
            with pytest.raises(PermissionError):
                template.spawn(["p"])


def test_temperature_and_audit_are_checked(program: Path) -> None:
    """Temperatures and audit modes that do not exist, and a strict descriptor, are EINVAL."""
    for keywords in ({"temperature": "tepid"}, {"audit": "none"}):
        with pytest.raises(elfolio.InvalidArgument):
            elfolio.SpawnTemplate(program, **keywords)  # type: ignore[arg-type]
    with pytest.raises(elfolio.InvalidArgument):
        elfolio.SpawnTemplate(0, audit="strict")


def test_a_descriptor_is_held_for_itself(program: Path, probe_path: Path) -> None:
    """A template of a descriptor outlives it, its file's name and its file; in-place changes are still seen."""
    shutil.copy(probe_path, program)
    fd = os.open(program, os.O_RDONLY)
    with elfolio.SpawnTemplate(fd) as template:
        os.close(fd)
        assert look(template).exe == str(program)
        assert look(template).comm == "program"
        program.rename(program.with_name("renamed"))
        with pytest.raises(elfolio.StaleTemplate) as caught:
            template.spawn(["probe"])
        assert caught.value.changed == ("ctime",)
    unlinked = os.open(program.with_name("renamed"), os.O_RDONLY)
    program.with_name("renamed").unlink()
    with elfolio.SpawnTemplate(unlinked) as template:
        assert look(template).comm == "renamed"
    os.close(unlinked)


@pytest.mark.parametrize("mode", ["close", "reuse"])
def test_a_host_that_closes_foreign_descriptors(mode: str, programs: Path) -> None:
    """Where the host closes the pinned descriptor, and even opens another program under its number, a spawn
    runs the pinned program or raises; never the other one."""

    def host(pinned: str, other: str, mode: str) -> list[object]:
        import os

        import elfolio

        template = elfolio.SpawnTemplate(pinned)
        assert template._held is not None
        number = template._held.exec_fd
        os.close(number)
        if mode == "reuse":
            fd = os.open(other, os.O_RDONLY)
            os.dup2(fd, number)
        try:
            return ["ran", template.spawn(["x"]).wait()]
        except OSError as error:
            return ["raised", type(error).__name__]
        finally:
            if mode == "close":
                os.dup2(0, number)

    how, what = in_fresh_host(host, str(programs / "exit-7"), str(programs / "exit-8"), mode)
    assert (how, what) == ("ran", 7) or how == "raised", what


def test_a_closed_template_refuses(probe_path: Path) -> None:
    """After close a spawn is a ValueError; closing twice is nothing; children live on."""
    with elfolio.SpawnTemplate("/bin/cat") as template:
        child = template.spawn(["cat"], stdin=elfolio.PIPE)
    template.close()
    with pytest.raises(ValueError, match="closed"):
        template.spawn(["cat"])
    assert child.poll() is None
    with child:
        pass
    assert child.returncode == 0


def test_stats_count_each_program(program: Path) -> None:
    """stats() names every program with its spawns, failures and times, and outlives the template."""
    with elfolio.SpawnTemplate(program) as template:
        for _ in range(3):
            template.spawn(["x"]).wait()
        with pytest.raises(FileNotFoundError):
            template.spawn(["x"], cwd="/no/such")
    got = elfolio.stats().programs[str(program)]
    assert (got.spawns, dict(got.by_temperature)) == (3, {"cold": 3})
    assert dict(got.failures) == {"FileNotFoundError": 1}
    assert min(got.check_ns, got.launch_ns, got.life_ns) > 0


@pytest.mark.root
def test_an_execute_only_program_runs(programs: Path, open_folder: Path) -> None:
    """An ordinary user can hold and run a program that may be executed and not read (mode 0111)."""
    path = shutil.copy(programs / "exit-7", open_folder / "secret")
    os.chmod(path, 0o111)

    def host(path: str, user: int) -> list[object]:
        import os
        import subprocess  # noqa: F401

        import elfolio

        elfolio.SpawnTemplate("/bin/true").spawn(["true"]).wait()
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        try:
            os.open(path, os.O_RDONLY)
        except PermissionError:
            template = elfolio.SpawnTemplate(path)
            return [template.spawn(["x"]).wait(), template.leased]
        return ["readable"]

    assert in_fresh_host(host, str(path), NOBODY) == [7, False]
