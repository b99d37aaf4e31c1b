"""Leases: in-place writers held off from check to exec, and nobody else bothered."""

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

import elfolio
from tests.spawn.probing import between_check_and_exec, errno_of_writing, in_fresh_host


@pytest.mark.parametrize("lease", [True, False])
def test_a_lease_holds_writers_off(lease: bool, program: Path) -> None:
    """With a lease nobody can open the file for writing from check to exec; without one they can."""
    seen: list[int] = []
    with elfolio.SpawnTemplate(program, lease=lease) as template:
        assert template.leased is lease
        with between_check_and_exec(program.parent, lambda: seen.append(errno_of_writing(program))) as actions:
            assert template.spawn(["x"], actions=actions).wait() == 7
        assert seen == [errno.EWOULDBLOCK if lease else 0]
        assert errno_of_writing(program) == 0


def test_a_broken_lease_is_no_signal_to_the_host(program: Path) -> None:
    """A writer that meets the lease raises no SIGIO, which would end a host without a handler."""

    def host(program: str) -> list[object]:
        import signal
        from pathlib import Path

        import elfolio
        from tests.spawn.probing import between_check_and_exec, errno_of_writing

        got: list[int] = []
        for sig in (signal.SIGIO, signal.SIGURG):
            signal.signal(sig, lambda sig, _: got.append(sig))
        template, path = elfolio.SpawnTemplate(program), Path(program)
        with between_check_and_exec(path.parent, lambda: got.append(errno_of_writing(path))) as actions:
            return [template.spawn(["x"], actions=actions).wait(), got]

    assert in_fresh_host(host, str(program)) == [7, [errno.EWOULDBLOCK]]


def test_a_fork_cannot_take_the_lease_away(program: Path) -> None:
    """A forked copy of the host that tries to spawn is refused, and the host's lease stands all the same."""

    def host(program: str) -> list[object]:
        import os
        from pathlib import Path

        import elfolio
        from tests.spawn.probing import between_check_and_exec, errno_of_writing

        template, path, got = elfolio.SpawnTemplate(program), Path(program), []

        def act() -> None:
            pid = os.fork()
            if not pid:
                try:
                    template.spawn(["x"])
                except PermissionError:
                    os._exit(13)
                os._exit(0)
            got.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            got.append(errno_of_writing(path))

        with between_check_and_exec(path.parent, act) as actions:
            return [template.spawn(["x"], actions=actions).wait(), got]

    assert in_fresh_host(host, str(program)) == [7, [13, errno.EWOULDBLOCK]]


def test_a_lease_of_the_callers_own_is_left_alone(program: Path) -> None:
    """A template made from a descriptor on which the caller holds a lease does not take that away."""
    fd = os.open(program, os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    owner = fcntl.fcntl(fd, fcntl.F_GETOWN)
    with elfolio.SpawnTemplate(fd) as template:
        assert template.spawn(["x"]).wait() == 7
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        assert fcntl.fcntl(fd, fcntl.F_GETOWN) == owner
        assert fcntl.fcntl(fd, fcntl.F_GETSIG) in (0, signal.SIGIO)
    os.close(fd)


def test_an_open_writer_is_busy(program: Path) -> None:
    """While somebody has the program open for writing a spawn is ETXTBSY, whatever its actions did, as execve."""
    made = program.with_name("made")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with elfolio.SpawnTemplate(program) as template:
        with program.open("r+b"):
            with pytest.raises(OSError) as caught:
                template.spawn(["x"], actions=[elfolio.Open(50, made, flags)])
            assert caught.value.errno == errno.ETXTBSY
        assert template.spawn(["x"]).wait() == 7
