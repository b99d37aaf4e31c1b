"""What holds for every test: a skip gives its reason, and no child, descriptor or file is left behind."""

import fcntl
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

# Linux's waitid sees children with any exit signal only with __WALL (include/uapi/linux/wait.h).
WALL = 0x40000000

# A deadline per example would be an assertion on absolute time. The blob reproduces a failure; no database.
hypothesis.settings.register_profile("elfolio", deadline=None, database=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("elfolio")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run; each reason says how to force the test."""
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            reason = "needs root; to force: sudo .venv/bin/python -m pytest -m root"
            item.add_marker(pytest.mark.skip(reason=reason))
        qemu = item.get_closest_marker("qemu")
        if qemu is None:
            continue
        emulator = f"qemu-system-{qemu.args[0] if qemu.args else os.uname().machine}"
        if shutil.which(emulator) is None:
            reason = f"needs {emulator}; to force: apt-get install qemu-system, then pytest -m qemu"
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Held:
    """What the test process holds at one moment."""

    children: frozenset[int]
    descriptors: dict[int, str]
    files: frozenset[Path]

    def leaked_since(self, before: "Held") -> list[str]:
        """What is held now and was not before, one line each. Descriptors count only if their number grew."""
        lines = [f"child {pid}: {_command(pid)}" for pid in sorted(self.children - before.children)]
        lines += [f"left behind: {path}" for path in sorted(self.files - before.files)]
        if len(self.descriptors) > len(before.descriptors):
            fresh = self.descriptors.items() - before.descriptors.items()
            lines += [f"descriptor {fd}: {target}" for fd, target in sorted(fresh)]
        return lines


def held() -> Held:
    """Children (zombies too), open descriptors, and directories of links (spawn.names) that no process holds."""
    places = {Path(tempfile.gettempdir()), Path("/dev/shm")}
    files = frozenset(path for place in places for path in place.glob("elfolio-names-*") if _is_orphan(path))
    return Held(children(), descriptors(), files)


def children() -> frozenset[int]:
    """This process's children, zombies too, but for those that templates keep ready."""
    return frozenset(every_child()) - warm_processes().pids


def descriptors() -> dict[int, str]:
    """This process's descriptors and what they lead to, but for those of what templates keep ready."""
    standing = warm_processes()
    return {fd: target for fd, target in _descriptors().items() if not standing.holds(fd)}


@dataclass(frozen=True)
class Standing:
    """What live templates keep ready: processes, and descriptors of ours. They go with their templates."""

    pids: frozenset[int]
    descriptors: frozenset[int]

    def holds(self, fd: int) -> bool:
        """Whether it is one of theirs: what they stand on, or a pidfd of one of them."""
        return fd in self.descriptors or (bool(self.pids) and _pid_of(fd) in self.pids)


def warm_processes() -> Standing:
    """The templates' processes, and the children that stand by at their sockets. A child that has been taken does
    not: it counts as any other."""
    thermostat = sys.modules.get("elfolio.spawn.thermostat")
    warmths = [] if thermostat is None else [warmth for _, warmth in thermostat.standing()]
    if not warmths:
        return Standing(frozenset(), frozenset())
    sockets = {_control(warmth.pid): warmth.pid for warmth in warmths}
    sockets.pop(None, None)
    pids = {pid for pid in every_child() if (own := _control(pid)) in sockets and _stands_by(pid, sockets[own])}
    return Standing(frozenset(pids), frozenset(fd for warmth in warmths for fd in warmth.descriptors))


def _stands_by(pid: int, template: int) -> bool:
    """Whether it is the template's process, or waits at its socket: one just taken has that for a moment."""
    from elfolio import _native

    while pid != template and _control(pid) is not None:
        try:
            call = Path(f"/proc/{pid}/syscall").read_text().split()
        except OSError:
            return True  # not for us to see
        if len(call) > 1 and call[1] == hex(_native.WARM_FD_CONTROL):
            return True
        os.sched_yield()
    return pid == template


def _control(pid: int) -> str | None:
    """The end of the template's socket that a process has; it is gone before the program runs."""
    from elfolio import _native

    try:
        return os.readlink(f"/proc/{pid}/fd/{_native.WARM_FD_CONTROL}")
    except OSError:
        return None


def _pid_of(pidfd: int) -> int | None:
    with suppress(OSError), open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return None


def _is_orphan(path: Path) -> bool:
    """A directory in use is locked, by this process or by an elfolio that has nothing to do with the test."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def every_child() -> list[int]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL)
    except ChildProcessError:
        return []  # the usual case, for one system call
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended has handed them on
            found += map(int, path.read_text().split())
    return found


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor that listed the directory
    return found


def _command(pid: int) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} ({state})"
    except OSError:
        return "gone"


def _cool() -> None:
    """Ends what stands ready: a pidfd of one that has just ended is nobody's leak while its template lives."""
    thermostat = sys.modules.get("elfolio.spawn.thermostat")
    if thermostat is not None:
        thermostat.cool()


def _reap(pids: frozenset[int]) -> None:
    """Kill and reap leaked children, so that the next test starts clean. An unreaped pid cannot be reused."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, WALL)
        except (ChildProcessError, ProcessLookupError):
            continue


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a child, a descriptor or a temporary file; `leaky(reason)` opts out."""
    _cool()  # one that ends by itself while another test looks would be taken for a leak of that test
    before = held()
    yield
    after = held()
    if not after.leaked_since(before):
        return
    _cool()
    gc.collect()  # only now: a full collection costs more than most tests
    after = held()
    leaked = after.leaked_since(before)
    _reap(after.children - before.children)
    if leaked and not request.node.get_closest_marker("leaky"):
        pytest.fail("left behind by this test:\n  " + "\n  ".join(leaked), pytrace=False)
