"""Faults injected one by one: the right status or a clear error, and nothing left behind."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elfolio.spawn import names
from tests.spawn.probing import NOBODY, ROOT, alive, await_gone, in_fresh_host
from tests.spawn.seccomp import PIDFD_GET_INFO

INFO = Path("/proc/version").read_text().split()[2].split(".")[:2]
KERNEL = tuple(int("".join(c for c in part if c.isdigit())) for part in INFO)


def test_emfile() -> None:
    """With any number of descriptors left, spawn and run either work or say EMFILE, and leave nothing."""

    def host(most: int) -> list[Any]:
        import os
        import resource
        from typing import Any

        import elfolio
        from tests.spawn.probing import children

        def fill() -> list[int]:
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return taken

        def outcome(use: Any) -> list[Any]:
            try:
                return [use(), children()]
            except OSError as error:
                return [error.errno, children()]

        sh, out = elfolio.SpawnTemplate("/bin/sh"), []
        sh.run(["sh", "-c", ":"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        taken = fill()
        for spare in range(most):
            for _ in range(spare):
                os.close(taken.pop())
            got = outcome(lambda: sh.spawn(["sh", "-c", "exit 3"], stdin=elfolio.INHERIT).wait())
            got += outcome(lambda: sh.run(["sh", "-c", "cat; exit 3"], input=b"x").returncode)
            again = fill()
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
        pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115
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


HOSTS = {
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "SA_NOCLDWAIT": "sigaction_nocldwait()",
    "a reaping handler": "signal.signal(signal.SIGCHLD, reap_all)",
    "a reaping thread": "threading.Thread(target=reap_for_ever, daemon=True).start()",
}


def reaping_host(setup: str, deny_info: int) -> list[Any]:
    """In a host whose children are reaped by something else: statuses, or ChildProcessErrors, and leftovers."""
    import ctypes
    import os
    import signal
    import struct
    import threading
    import time

    import elfolio
    from tests.spawn.probing import children, open_fds
    from tests.spawn.seccomp import deny

    def sigaction_nocldwait() -> None:
        # The C library's struct sigaction: handler, 128 bytes of mask, flags
        ctypes.CDLL(None).sigaction(17, struct.pack("P128siP", 0, b"", 2, 0), None)

    def reap_all(*_: object) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def reap_for_ever() -> None:
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0)

    if deny_info:
        deny(("ioctl", 25, 1, 0xFFFF, deny_info))
    sh = elfolio.SpawnTemplate("/bin/sh")
    sh.spawn(["sh", "-c", ":"]).wait()
    eval(setup, {**globals(), **locals()})
    before, out = open_fds(), []
    for i in range(30):
        child = sh.spawn(["sh", "-c", f"exit {i}" if i % 3 else "kill -9 $$"])
        try:
            out.append(child.wait() == (i if i % 3 else -9))
        except ChildProcessError as error:
            out.append("went to somebody else" in str(error) and error.errno == 10)
        try:
            out.append(sh.run(["sh", "-c", "echo x; exit 4"]).returncode == 4)
        except ChildProcessError as error:
            out.append("somebody else" in str(error))
        try:
            sh.spawn(["sh"], cwd="/no/such")
        except FileNotFoundError:
            out.append(True)
    while children():
        pass
    return [all(out), len(out), open_fds() == before]


@pytest.mark.parametrize("name", HOSTS)
def test_somebody_else_reaps(name: str) -> None:
    """With SIGCHLD ignored, or a host that waits for any child, every status is right all the same."""
    if KERNEL < (6, 15):
        pytest.skip("needs PIDFD_GET_INFO with an exit code, Linux 6.15; to force: run on such a kernel")
    assert in_fresh_host(reaping_host, HOSTS[name], 0) == [True, 90, True]


@pytest.mark.usefixtures("seccomp")
@pytest.mark.parametrize("name", HOSTS)
def test_somebody_else_reaps_and_the_kernel_keeps_nothing(name: str) -> None:
    """The same on an older kernel: a right status or a ChildProcessError that says where it went; never a wrong one."""
    assert in_fresh_host(reaping_host, HOSTS[name], PIDFD_GET_INFO) == [True, 90, True]


def test_a_lost_status_stays_lost() -> None:
    """After the ChildProcessError the child counts as ended, with nothing more to wait for, kill or leak."""

    def host() -> list[Any]:
        import signal

        import elfolio
        from tests.spawn.seccomp import PIDFD_GET_INFO, deny

        deny(("ioctl", 25, 1, 0xFFFF, PIDFD_GET_INFO))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        child = elfolio.SpawnTemplate("/bin/true").spawn(["true"])
        said = []
        for _ in range(2):
            try:
                said.append(child.wait(60))
            except ChildProcessError:
                said.append("lost")
        child.kill()
        return [*said, child.kill_tree(), child.pidfd, child.rusage]

    first, second, killed, pidfd, usage = in_fresh_host(host)
    assert first == "lost"
    assert second in ("lost", 255)
    assert (killed, pidfd, usage) == (0, -1, None)


@pytest.mark.usefixtures("seccomp")
def test_a_lost_status_and_a_deadline() -> None:
    """Where the status is lost as well, a deadline still raises TimeoutExpired with what came; nothing is left."""

    def host() -> list[Any]:
        import signal
        import subprocess

        import elfolio
        from tests.spawn.probing import open_fds
        from tests.spawn.seccomp import PIDFD_GET_INFO, deny

        deny(("ioctl", 25, 1, 0xFFFF, PIDFD_GET_INFO))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        sh = elfolio.SpawnTemplate("/bin/sh")
        sh.spawn(["sh", "-c", ":"]).poll()
        before = open_fds()
        try:
            sh.run(["sh", "-c", "echo out; exec sleep 1000"], timeout=0.3)
        except subprocess.TimeoutExpired as error:
            return [error.stdout.decode(), open_fds() == before]
        return []

    assert in_fresh_host(host) == ["out\n", True]


def test_a_failing_start_is_invisible() -> None:
    """A spawn that fails raises no SIGCHLD and is no child for waitpid(-1), not even for a moment."""

    def host() -> list[Any]:
        import os
        import signal
        import threading

        import elfolio

        met: list[Any] = []
        signal.signal(signal.SIGCHLD, lambda *_: met.append("signal"))
        done = threading.Event()

        def reap() -> None:
            while not done.is_set():
                try:
                    met.append(os.waitpid(-1, os.WNOHANG))
                except ChildProcessError:
                    continue

        thread = threading.Thread(target=reap)
        thread.start()
        template, failed = elfolio.SpawnTemplate("/bin/true"), 0
        for _ in range(500):
            try:
                template.spawn(["true"], cwd="/no/such")
            except FileNotFoundError:
                failed += 1
        done.set()
        thread.join()
        return [failed, [m for m in met if m != [0, 0] and m != (0, 0)]]

    assert in_fresh_host(host) == [500, []]


def endless(mark: str, pdeathsig: int) -> None:
    """A host that spawns for ever; each child writes its pid and "whole" and then sleeps."""
    import elfolio

    template = elfolio.SpawnTemplate("/bin/sh")
    while True:
        template.spawn(["sh", "-c", f"echo $$ whole >>{mark}; exec sleep 1000"], pdeathsig=pdeathsig)


@pytest.mark.parametrize("pdeathsig", [0, signal.SIGKILL])
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_the_host_is_killed_in_the_middle(pdeathsig: int, threads: int, tmp_path: Path) -> None:
    """SIGKILL of a spawning host leaves no half-made child: each runs the program, unless pdeathsig ends it."""
    code = (
        f"import sys, threading; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.spawn.test_faults import endless\n"
        "args = sys.argv[1], int(sys.argv[2])\n"
        f"[threading.Thread(target=endless, args=args).start() for _ in range({threads})]\n"
    )
    for attempt in range(3):
        mark = tmp_path / f"mark{attempt}"
        host = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, mark, str(pdeathsig)], process_group=0)
        try:
            while not mark.exists() or mark.read_text().count("\n") < 5 + 7 * attempt:
                os.sched_yield()
            host.kill()
            host.wait()
            members = group_of(host.pid)
            for pid in members if pdeathsig else ():
                await_gone(pid)
            # between exec and its first line a child is whole, and says so soon
            for pid in group_of(host.pid):
                await_program(pid)
        finally:
            for pid in group_of(host.pid):
                os.kill(pid, signal.SIGKILL)
            names._sweep("/dev/shm")  # as the next process would
        assert bool(members) or pdeathsig


def group_of(group: int) -> list[int]:
    """The living members of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def await_program(pid: int) -> None:
    """Asserts that a process executes sh or sleep, and not a copy of its host: that has Python's comm and exe."""
    for _ in range(100000):
        if not alive(pid):
            return
        try:
            exe = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if "python" not in os.path.basename(exe):
            return
        os.sched_yield()
    raise AssertionError(f"{pid} is a half-made child")


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
