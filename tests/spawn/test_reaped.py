"""Hosts whose children somebody else reaps: the right status, or a clear error."""

from pathlib import Path
from typing import Any

import pytest

from tests.spawn.probing import in_fresh_host
from tests.spawn.seccomp import PIDFD_GET_INFO

INFO = Path("/proc/version").read_text().split()[2].split(".")[:2]
KERNEL = tuple(int("".join(c for c in part if c.isdigit())) for part in INFO)


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
    import signal  # noqa: F401
    import struct
    import threading  # noqa: F401
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
        said: list[Any] = []
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
        import contextlib
        import signal
        import subprocess

        import elfolio
        from tests.spawn.probing import open_fds
        from tests.spawn.seccomp import PIDFD_GET_INFO, deny

        deny(("ioctl", 25, 1, 0xFFFF, PIDFD_GET_INFO))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        sh = elfolio.SpawnTemplate("/bin/sh")
        with contextlib.suppress(ChildProcessError):
            sh.spawn(["sh", "-c", ":"]).wait()
        before = open_fds()
        try:
            sh.run(["sh", "-c", "echo out; exec sleep 1000"], timeout=0.3)
        except subprocess.TimeoutExpired as error:
            return [str(error.stdout), open_fds() == before]
        return []

    assert in_fresh_host(host) == ["b'out\\n'", True]


def test_a_failing_start_is_invisible() -> None:
    """A cold spawn that fails raises no SIGCHLD and is no child for waitpid(-1), not even for a moment. (A warm one
    ends a child that stood ready, which shows as any child's end does.)"""

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
        template, failed = elfolio.SpawnTemplate("/bin/true", temperature="cold"), 0
        for _ in range(500):
            try:
                template.spawn(["true"], cwd="/no/such")
            except FileNotFoundError:
                failed += 1
        done.set()
        thread.join()
        return [failed, [m for m in met if m != (0, 0)]]

    assert in_fresh_host(host) == [500, []]
