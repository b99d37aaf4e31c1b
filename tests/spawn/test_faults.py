"""Faults injected one by one: the right status or a clear error, and nothing left behind."""

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.spawn.probing import NOBODY, SANITIZED, in_fresh_host


def test_emfile() -> None:
    """With any number of descriptors left, spawn and run either work or say EMFILE, and leave nothing."""

    def host(most: int) -> list[Any]:
        import os
        import resource
        from typing import Any

        import elfolio
        from tests.spawn.probing import children, take_descriptors

        def outcome(use: Any) -> list[Any]:
            try:
                return [use(), children()]
            except OSError as error:
                return [error.errno, children()]

        # A warm template starts cold then: tests/spawn/test_warm_host.py.
        sh, out = elfolio.SpawnTemplate("/bin/sh", temperature="cold"), []
        sh.run(["sh", "-c", ":"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        taken = take_descriptors()
        for spare in range(most):
            for _ in range(spare):
                os.close(taken.pop())
            got = outcome(lambda: sh.spawn(["sh", "-c", "exit 3"], stdin=elfolio.INHERIT).wait())
            got += outcome(lambda: sh.run(["sh", "-c", "cat; exit 3"], input=b"x").returncode)
            again = take_descriptors()
            out.append([*got, len(again) == spare])
            taken += again
        for fd in taken:
            os.close(fd)
        return out

    for spare, (spawned, left, ran, left_by_run, as_before) in enumerate(in_fresh_host(host, 20)):
        assert spawned in (3, errno.EMFILE)
        assert ran in (3, errno.EMFILE)
        assert (left, left_by_run, as_before) == ([], [], True), spare
        assert spawned == 3 or spare < 3
        assert ran == 3 or spare < 12


@pytest.mark.root
def test_eagain_from_rlimit_nproc() -> None:
    """At RLIMIT_NPROC an ordinary user's spawn is EAGAIN (BlockingIOError), and works again afterwards."""

    def host(user: int) -> list[Any]:
        import os
        import resource
        import subprocess  # noqa: F401

        import elfolio
        from tests.spawn.probing import children

        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        sh = elfolio.SpawnTemplate("/bin/sh")
        out: list[Any] = [sh.run(["sh", "-c", "exit 3"]).returncode]
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
        for use in (lambda: sh.spawn(["sh", "-c", "exit 3"]), lambda: sh.run(["sh", "-c", "exit 3"], input=b"x")):
            try:
                use()
            except OSError as error:
                out += [error.errno, "no process could be made" in str(error), children()]
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        return [*out, sh.run(["sh", "-c", "exit 3"]).returncode]

    assert in_fresh_host(host, NOBODY) == [3, errno.EAGAIN, True, [], errno.EAGAIN, True, [], 3]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.ENOSPC])
def test_a_kernel_that_makes_no_process(number: int, seccomp: None) -> None:
    """Whatever clone3 says goes to the caller as it is, and nothing is left."""

    def host(number: int) -> list[Any]:
        import elfolio
        from tests.spawn.probing import children, open_fds
        from tests.spawn.seccomp import deny

        sh = elfolio.SpawnTemplate("/bin/sh")
        sh.run(["sh", "-c", ":"])
        deny(("clone3", number))
        before, out = open_fds(), []
        for use in (lambda: sh.spawn(["sh"]), lambda: sh.run(["sh"], input=b"x")):
            try:
                use()
            except OSError as error:
                out.append(error.errno)
        return [*out, children(), open_fds() == before]

    assert in_fresh_host(host, number) == [number, number, [], True]


@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer ends a process without memory; to force: make test")
def test_no_memory() -> None:
    """When memory for a spawn, or for what it captures, runs out: MemoryError or ENOMEM, nothing left, host alive."""

    def host() -> list[Any]:
        import resource
        import subprocess  # noqa: F401

        import elfolio
        from tests.spawn.probing import children, open_fds

        sh = elfolio.SpawnTemplate("/bin/sh")
        sh.run(["sh", "-c", "echo x"], input=b"x")
        before = open_fds()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        out: list[Any] = []
        for spare in (0, 1 << 16, 1 << 20, 1 << 24):
            resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + spare, hard))
            try:
                sh.run(["sh", "-c", "head -c 100000000 /dev/zero"])
                out.append("ran")
            except MemoryError:
                out.append("memory")
            except OSError as error:
                out.append(error.errno)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        got = sh.run(["sh", "-c", "exit 3"]).returncode
        return [set(map(str, out)) <= {"memory", "12"}, children(), open_fds() == before, got]

    assert in_fresh_host(host) == [True, [], True, 3]


@pytest.mark.root
def test_an_unreadable_file(open_folder: Path) -> None:
    """A program that may neither be read nor executed, or lies behind a closed directory: PermissionError."""
    path = open_folder / "program"
    path.write_bytes(Path("/bin/true").read_bytes())

    def host(path: str, user: int) -> list[Any]:

        import os

        import elfolio

        elfolio.SpawnTemplate("/bin/true").close()  # imports what it needs
        os.chmod(path, 0o700)
        os.setresuid(-1, user, -1)
        out: list[Any] = []
        for target in (path, "/root/x/y"):
            try:
                elfolio.SpawnTemplate(target)
            except PermissionError as error:
                out.append(error.errno)
        return out

    assert in_fresh_host(host, str(path), NOBODY) == [errno.EACCES] * 2


def test_limits_of_the_child_that_stop_its_exec(probe_path: Path) -> None:
    """A limit that exec itself fails under is the caller's error; nothing is left."""

    def host(probe: str) -> list[Any]:
        import resource

        import elfolio
        from tests.spawn.probing import children

        template = elfolio.SpawnTemplate(probe)
        try:
            code = template.spawn(["probe", "/dev/null"], rlimits={resource.RLIMIT_AS: (4096, 4096)}).wait()
            return ["ran", code, children()]
        except OSError as error:
            return [type(error).__name__, error.errno, children()]

    kind, number, left = in_fresh_host(host, str(probe_path))
    # Past the point of no return the kernel kills the child instead.
    assert (kind, number) in {("OSError", errno.ENOMEM), ("OSError", errno.E2BIG), ("ran", -9), ("ran", -11)}
    assert left == []
