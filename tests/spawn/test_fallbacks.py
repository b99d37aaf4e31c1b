"""Kernels and sandboxes that lack something: the same contract in the next best way, and stats() that says so."""

from typing import Any

import pytest

from tests.spawn.probing import in_fresh_host
from tests.spawn.seccomp import CLONE_PIDFD, ENOSYS, EPERM, PIDFD_GET_INFO

pytestmark = pytest.mark.usefixtures("seccomp")

OLD_CLONE = "clone3 missing or refused"
LATE_PIDFD = "pidfd opened after the start"
Rule = tuple[str, int] | tuple[str, int, int, int, int]
NO_CLONE3: Rule = ("clone3", ENOSYS)
LACKS: dict[str, tuple[list[Rule], list[str]]] = {
    "nothing": ([], []),
    "clone3, ENOSYS": ([NO_CLONE3], [OLD_CLONE]),
    "clone3, EPERM": ([("clone3", EPERM)], [OLD_CLONE]),
    "CLONE_PIDFD as well": (
        [NO_CLONE3, ("clone", 22, 0, CLONE_PIDFD, CLONE_PIDFD)],
        [OLD_CLONE, LATE_PIDFD],
    ),
    "close_range": ([("close_range", ENOSYS)], []),
    "close_range, EPERM": ([("close_range", EPERM)], []),
    "openat2": ([("openat2", ENOSYS)], []),
    "openat2, EPERM": ([("openat2", EPERM)], []),
    "labels": ([("lsm_get_self_attr", ENOSYS)], []),
    "the status of reaped processes": ([("ioctl", 25, 1, 0xFFFF, PIDFD_GET_INFO)], []),
    "all of it": (
        [NO_CLONE3, ("clone", 22, 0, CLONE_PIDFD, CLONE_PIDFD), ("close_range", ENOSYS), ("openat2", ENOSYS)],
        [OLD_CLONE, LATE_PIDFD],
    ),
}


def contract(rules: list[Any], probe: str, folder: str) -> list[Any]:
    """In a host that lacks what `rules` deny: what does not hold, and the fallbacks that stats() names."""
    import errno
    import os
    import signal
    import subprocess

    import elfolio
    from tests.spawn.probing import children, look, open_fds
    from tests.spawn.seccomp import deny

    deny(*[tuple(rule) for rule in rules])
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)
    secret = os.dup2(0, 77, inheritable=True)
    wrong: list[Any] = []

    def check(name: str, holds: object) -> None:
        if not holds:
            wrong.append(name)

    def errno_of(**keywords: Any) -> tuple[int | None, str]:
        before = open_fds()
        try:
            template.spawn(["probe", "/dev/null"], **keywords)
        except OSError as error:
            check("nothing left", children() == [] and open_fds() == before)
            return error.errno, str(error)
        return None, ""

    template = elfolio.SpawnTemplate(probe)
    seen = look(template, pass_fds=[5], actions=[elfolio.Open(60, "/"), elfolio.Dup2(1, 61, cloexec=True)])
    check("descriptors", set(seen.fds) == {0, 1, 2, 5, 60})
    check("signals", not seen.signals("SigCgt") and signal.SIGUSR2 in seen.signals("SigIgn"))
    check("mask", not seen.signals("SigBlk"))
    check("name", (seen.comm, seen.exe) == ("probe", probe))
    check("inheritance", secret in look(template, inherit_fds=True).fds)
    check("closing", secret not in look(template, inherit_fds=True, actions=[elfolio.CloseRange(70, 80)]).fds)
    check("marking", secret not in look(template, inherit_fds=True, actions=[elfolio.CloseRange(70, cloexec=True)]).fds)
    check("nobody's range", look(template, actions=[elfolio.CloseRange(500, 600)]).pid)
    number, text = errno_of(actions=[elfolio.SigMask(), elfolio.Open(60, "/no/such")])
    check("ENOENT", number == errno.ENOENT and "action 1" in text)
    check("EBADF", errno_of(actions=[elfolio.Close(900)])[0] == errno.EBADF)
    check("cwd", errno_of(cwd="/no/such")[0] == errno.ENOENT)
    check("EINVAL", errno_of(cpu_affinity=[])[0] == errno.EINVAL)
    path = f"{folder}/made"
    look(template, actions=[elfolio.Open(60, path, os.O_CREAT | os.O_WRONLY, 0o640)], umask=0)
    check("creating", os.stat(path).st_mode & 0o777 == 0o640)
    resolve = errno_of(actions=[elfolio.Open(60, "/", os.O_PATH, resolve=0x08)])[0]
    check("resolve", resolve in (errno.EXDEV, errno.ENOSYS, errno.EPERM))
    if os.geteuid() == 0:
        check("user", look(template, user=65534, group=65534).uids == [65534] * 3)
    sh = elfolio.SpawnTemplate("/bin/sh")
    child = sh.spawn(["sh", "-c", "read x; exit 3"], stdin=elfolio.PIPE)
    check("pidfd", child.pidfd >= 0 and not os.get_inheritable(child.pidfd) and child.poll() is None)
    with child:
        pass
    check("status", child.returncode == 3 and child.rusage)
    check("killed", sh.run(["sh", "-c", "kill -9 $$"]).returncode == -9)
    check("capture", sh.run(["sh", "-c", "cat; echo e >&2"], input=b"x" * 10**6).stdout == b"x" * 10**6)
    try:
        sh.run(["sh", "-c", "sleep 1000 & exec sleep 1000"], timeout=0.2)
    except subprocess.TimeoutExpired:
        check("deadline", children() == [])
    stopped = sh.spawn(["sh", "-c", "exec sleep 1000"], pdeathsig=9)
    stopped.kill()
    check("kill", stopped.wait() == -9)
    names = {name for program in elfolio.stats().programs.values() for name in program.fallbacks}
    fallbacks = {name for name in names if not name.startswith("warm: ")}
    return [wrong, sorted(fallbacks - {"memory descriptor copied"})]


@pytest.mark.parametrize("lack", LACKS)
def test_the_contract_holds_without(lack: str, probe_path: Any, tmp_path: Any) -> None:
    """Whatever of the newer kernel is missing or forbidden: the same contract, and the fallback is named."""
    rules, fallbacks = LACKS[lack]
    assert in_fresh_host(contract, rules, str(probe_path), str(tmp_path)) == [[], fallbacks]


def test_a_cgroup_without_clone3(probe_path: Any) -> None:
    """Without clone3 the child joins its cgroup itself, before anything else."""

    def host(probe: str) -> list[Any]:
        import os

        import elfolio
        from elfolio.spawn.cgroup import own_cgroup
        from tests.spawn.probing import look
        from tests.spawn.seccomp import ENOSYS, deny

        try:
            path = own_cgroup() / f"test-fallback-{os.getpid()}"
            path.mkdir()
        except OSError as error:
            return [f"needs a writable cgroup v2 directory ({error}); to force: run as root with cgroup2 mounted"]
        try:
            deny(("clone3", ENOSYS))
            template = elfolio.SpawnTemplate(probe)
            seen = look(template, cgroup=path).cgroup
            other = look(template, cgroup=path, user=65534).cgroup if not os.geteuid() else seen
            private = look(template, cgroup=path, private_cgroup=True).cgroup
            try:
                template.spawn(["probe"], cgroup=0)
            except OSError as error:
                return [
                    path.name in seen,
                    path.name in other,
                    f"{path.name}/elfolio-" in private,
                    "cgroup" in str(error),
                ]
            return ["started"]
        finally:
            path.rmdir()

    answer = in_fresh_host(host, str(probe_path))
    if isinstance(answer[0], str) and answer[0].startswith("needs"):
        pytest.skip(answer[0])
    assert answer == [True] * 4


def test_merging_where_the_kernel_cannot(probe_path: Any) -> None:
    """A kernel without PR_SET_MEMORY_MERGE answers EINVAL, as to nonsense: the error says what would be needed."""

    def host(probe: str) -> list[Any]:
        import elfolio
        from tests.spawn.seccomp import EINVAL, EPERM, PR_SET_MEMORY_MERGE, deny

        said = []
        for number in (EINVAL, EPERM):
            deny(("prctl", number, 0, 0xFFFF, PR_SET_MEMORY_MERGE))
            try:
                elfolio.SpawnTemplate(probe).spawn(["probe", "/dev/null"], memory_merge=True)
            except OSError as error:
                said.append([error.errno, error.strerror])
        return said

    assert in_fresh_host(host, str(probe_path)) == [
        [22, "memory_merge: Invalid argument; it needs Linux 6.4, built with CONFIG_KSM"],
        [1, "memory_merge: Operation not permitted"],
    ]


def test_no_way_to_close_is_no_way_to_leak(probe_path: Any) -> None:
    """Without close_range and without /proc, descriptors are closed number by number; none gets through."""

    def host(probe: str) -> list[Any]:
        import os
        import resource

        import elfolio
        from tests.spawn.probing import look
        from tests.spawn.seccomp import ENOSYS, deny

        template = elfolio.SpawnTemplate(probe)
        for number in (50, 100, 900):
            os.dup2(0, number, inheritable=True)
        # A limit that was lowered afterwards does not hide what is open above it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1024))
        deny(("close_range", ENOSYS), ("getdents64", ENOSYS))
        return sorted(look(template).fds)

    def host_with_listing(probe: str) -> list[Any]:
        import os
        import resource

        import elfolio
        from tests.spawn.probing import look
        from tests.spawn.seccomp import ENOSYS, deny

        template = elfolio.SpawnTemplate(probe)
        for number in range(100, 1000):
            os.dup2(0, number, inheritable=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1024))
        deny(("close_range", ENOSYS))
        return sorted(look(template).fds)

    assert in_fresh_host(host_with_listing, str(probe_path)) == [0, 1, 2]


def test_spawning_under_no_new_privs_and_a_filter(probe_path: Any) -> None:
    """A host under no_new_privs and a filter, as in a sandbox, spawns like any other; the child has both."""

    def host(probe: str) -> list[Any]:
        import ctypes

        import elfolio
        from tests.spawn.probing import look
        from tests.spawn.seccomp import ENOSYS, deny

        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
        deny(("clone3", ENOSYS))
        seen = look(elfolio.SpawnTemplate(probe))
        return [seen.no_new_privs, "Seccomp:\t2" in seen.status]

    assert in_fresh_host(host, str(probe_path)) == [1, True]
