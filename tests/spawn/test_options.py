"""Keyword options: each one as the program sees it, and nothing of it in the host."""

import errno
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import elfolio
from tests.spawn.probing import NOBODY, in_fresh_host, look


def test_without_options_everything_is_the_hosts(probe: elfolio.SpawnTemplate) -> None:
    """A plain spawn has the host's directory, umask, limits, niceness, ids, group, session, cgroup, affinity."""
    seen = look(probe)
    mask = os.umask(0)
    os.umask(mask)
    assert (seen.cwd, seen.umask, seen.nice) == (os.getcwd(), mask, os.getpriority(os.PRIO_PROCESS, 0))
    assert (seen.ppid, seen.session, seen.group) == (os.getpid(), os.getsid(0), os.getpgrp())
    assert (seen.uids, seen.gids) == (list(os.getresuid()), list(os.getresgid()))
    assert seen.groups == os.getgroups()
    assert set(seen.cpus) == os.sched_getaffinity(0)
    assert seen.cgroup == Path("/proc/self/cgroup").read_text()
    assert seen.rlimits["7"] == list(resource.getrlimit(7))
    assert seen.targets[0] == "/dev/null"
    assert {f"{key}={value}" for key, value in os.environ.items()} <= set(seen.env)


def test_cwd_umask_nice_affinity_and_oom(probe: elfolio.SpawnTemplate, tmp_path: Path) -> None:
    """cwd, umask, nice, cpu_affinity and oom_score_adj take effect in the child and not in the host."""
    cpu = max(os.sched_getaffinity(0))
    before = os.getcwd(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
    nice = min(19, before[1] + 3)
    score = int(Path("/proc/self/oom_score_adj").read_text()) + 7
    seen = look(probe, cwd=tmp_path, umask=0o137, nice=3, cpu_affinity=[cpu], oom_score_adj=score)
    assert (seen.cwd, seen.umask, seen.nice) == (str(tmp_path), 0o137, nice)
    assert (seen.cpus, int(seen.oom_score_adj)) == ([cpu], score)
    assert (os.getcwd(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)) == before
    assert look(probe, umask=0).umask == 0
    assert look(probe, cwd=os.fsencode(tmp_path)).cwd == str(tmp_path)


def test_rlimits(probe: elfolio.SpawnTemplate) -> None:
    """Every limit named in rlimits is the child's; -1 is no limit; the host's stay."""
    before = {
        r: resource.getrlimit(r) for r in range(resource.RLIM_NLIMITS if hasattr(resource, "RLIM_NLIMITS") else 16)
    }
    wanted = {resource.RLIMIT_NOFILE: (100, 200), resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_CPU: (900, 1000)}
    wanted[resource.RLIMIT_STACK] = (1 << 20, before[resource.RLIMIT_STACK][1])
    seen = look(probe, rlimits=wanted)
    for which, limits in before.items():
        assert seen.rlimits[str(which)] == list(wanted.get(which, limits))
        assert resource.getrlimit(which) == limits


def test_sessions_and_groups(probe: elfolio.SpawnTemplate) -> None:
    """start_new_session and process_group=0 make the child a leader; process_group=N joins."""
    seen = look(probe, start_new_session=True)
    assert (seen.session, seen.group) == (seen.pid, seen.pid)
    seen = look(probe, process_group=0)
    assert (seen.session, seen.group) == (os.getsid(0), seen.pid)
    with (
        elfolio.SpawnTemplate("/bin/cat") as cat,
        cat.spawn(["cat"], stdin=elfolio.PIPE, process_group=0) as leader,
    ):
        assert look(probe, process_group=leader.pid).group == leader.pid
    with pytest.raises(PermissionError, match="process_group"):
        probe.spawn(["probe"], process_group=1)


def test_a_controlling_terminal(probe: elfolio.SpawnTemplate) -> None:
    """controlling_tty makes the terminal on that descriptor the new session's own."""
    ours, theirs = os.openpty()
    try:
        seen = look(probe, stdin=theirs, start_new_session=True, controlling_tty=0)
        fields = seen.tty.rpartition(")")[2].split()
        assert int(fields[4]) == os.fstat(theirs).st_rdev
        passed = look(probe, pass_fds=[theirs], start_new_session=True, controlling_tty=theirs)
        assert int(passed.tty.rpartition(")")[2].split()[4]) == os.fstat(theirs).st_rdev
    finally:
        os.close(ours)
        os.close(theirs)


def test_signals(probe: elfolio.SpawnTemplate) -> None:
    """The child has the host's mask, SIGPIPE and SIGXFSZ at default unless restore_signals=False, no handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMIN + 3})
    old = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        seen = look(probe)
        assert seen.signals("SigBlk") == before | {signal.SIGUSR1, signal.SIGRTMIN + 3}
        assert not seen.signals("SigIgn") & {signal.SIGPIPE, signal.SIGXFSZ}
        assert not seen.signals("SigCgt")
        kept = look(probe, restore_signals=False).signals("SigIgn")
        assert {signal.SIGPIPE, signal.SIGXFSZ} <= kept
        assert look(probe, actions=[elfolio.SigMask()]).signals("SigBlk") == set()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR1, signal.SIGRTMIN + 3}
    finally:
        signal.signal(signal.SIGUSR2, old)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_no_new_privs(probe: elfolio.SpawnTemplate) -> None:
    """no_new_privs is the child's alone."""
    assert look(probe, no_new_privs=True).no_new_privs == 1
    assert look(probe).no_new_privs == 0


def test_env(probe: elfolio.SpawnTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """env is the whole environment, as given and in order; env_allow passes those names and no others."""
    assert look(probe, env={}).env == []
    given = {"A": "1", "EMPTY": "", "Ü": "\udcff", "B": "x=y"}
    assert [e.encode("latin-1") for e in look(probe, env=given).env] == [
        b"A=1", b"EMPTY=", b"\xc3\x9c=\xff", b"B=x=y"
    ]  # fmt: skip
    assert look(probe, env={b"K": b"\xfe"}).env == ["K=\xfe"]
    monkeypatch.setenv("ALLOWED", "yes")
    monkeypatch.setenv("ALLOWED_NOT", "no")
    assert look(probe, env_allow=["ALLOWED", "MISSING"]).env == ["ALLOWED=yes"]
    assert look(probe, env_allow=[]).env == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    argv=st.lists(st.binary(max_size=40).filter(lambda b: 0 not in b), min_size=1, max_size=20),
    env=st.dictionaries(
        st.binary(min_size=1, max_size=9).filter(lambda b: 0 not in b and b"=" not in b),
        st.binary(max_size=30).filter(lambda b: 0 not in b),
    ),
)
def test_argv_and_env_arrive_byte_by_byte(
    argv: list[bytes], env: dict[bytes, bytes], probe: elfolio.SpawnTemplate
) -> None:
    """Any argv and environment of bytes reaches the program unchanged."""
    seen = look(probe, *argv, env=env)  # type: ignore[arg-type]
    assert [arg.encode("latin-1") for arg in seen.argv[2:]] == argv
    assert [entry.encode("latin-1") for entry in seen.env] == [k + b"=" + v for k, v in env.items()]


def test_too_much_to_pass(probe: elfolio.SpawnTemplate) -> None:
    """An argument list beyond the kernel's limit is E2BIG, with nothing left."""
    with pytest.raises(OSError) as caught:
        probe.spawn(["probe", "x" * (1 << 18)])
    assert caught.value.errno == errno.E2BIG


@pytest.mark.root
@pytest.mark.parametrize(("user", "group"), [(NOBODY, NOBODY), ("nobody", "nogroup")])
def test_another_user(user: int | str, group: int | str, probe: elfolio.SpawnTemplate) -> None:
    """user, group and extra_groups, by number or by name, are all three ids of the child, and none of the host's."""
    seen = look(probe, user=user, group=group, extra_groups=[1, "daemon", 7])
    assert (seen.uids, seen.gids) == ([NOBODY] * 3, [NOBODY] * 3)
    assert sorted(set(seen.groups)) == [1, 7]
    assert look(probe, user=user, extra_groups=[]).groups == []
    assert os.getresuid() == (0, 0, 0)


def test_an_unknown_user(probe: elfolio.SpawnTemplate) -> None:
    """A name that nobody has is a KeyError, as in subprocess, and starts nothing."""
    for keywords in ({"user": "no-such"}, {"group": "no-such"}, {"extra_groups": ["no-such"]}):
        with pytest.raises(KeyError):
            probe.spawn(["probe"], **keywords)


@pytest.mark.root
@pytest.mark.parametrize(
    "keywords", [{"user": NOBODY}, {"group": NOBODY}, {"extra_groups": [1]}, {"memory_merge": True}]
)
def test_the_hosts_memory_descriptor_is_left_alone(keywords: dict[str, Any], probe_path: Path) -> None:
    """Options that touch the memory descriptor touch the child's: the host's VMA flags and dumpable flag stay,
    and stats() says that memory was copied."""

    def host(probe: str, keywords: dict[str, Any]) -> list[Any]:
        import ctypes
        from pathlib import Path

        import elfolio
        from tests.spawn.probing import look

        def state() -> list[Any]:
            flags = [line for line in Path("/proc/self/smaps").read_text().splitlines() if line.startswith("VmFlags")]
            merged = sum(" mg" in line for line in flags)
            return [merged, ctypes.CDLL(None).prctl(3), Path("/proc/self").stat().st_uid]

        template = elfolio.SpawnTemplate(probe)
        before = state()
        seen = look(template, **keywords)
        reasons = elfolio.stats().programs[probe].fallbacks
        return [before == state(), seen.memory_merge, [r for r in reasons if not r.startswith("warm: ")]]

    same, merge, reasons = in_fresh_host(host, str(probe_path), keywords)
    assert same
    assert merge == int("memory_merge" in keywords)
    assert reasons == ["memory descriptor copied"]


def test_pdeathsig_is_set(probe: elfolio.SpawnTemplate) -> None:
    """The child of a living parent has its death signal, and lives."""
    assert look(probe, pdeathsig=signal.SIGTERM).pdeathsig == signal.SIGTERM


def test_pdeathsig_ends_the_child_with_its_parent() -> None:
    """When the host is killed, a child with pdeathsig goes with it, and one without lives on."""

    def host() -> list[int]:
        import elfolio

        cat = elfolio.SpawnTemplate("/bin/sleep")
        pids = [cat.spawn(["sleep", "1000"], pdeathsig=sig, stdout=elfolio.DEVNULL).pid for sig in (15, 0)]
        import os

        os.write(1, f"{pids[0]} {pids[1]}\n".encode())
        os.kill(os.getpid(), 9)
        return pids

    import inspect
    import sys
    import textwrap

    from tests.spawn.probing import ROOT, alive, await_gone

    code = textwrap.dedent(inspect.getsource(host)) + "\nhost()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    dies, lives = map(int, done.stdout.split())
    await_gone(dies)
    assert alive(lives)
    os.kill(lives, signal.SIGKILL)


def test_a_session_of_its_own_has_no_terminal(sh: elfolio.SpawnTemplate) -> None:
    """With start_new_session there is no terminal to prompt on."""
    done = sh.run(["sh", "-c", ": </dev/tty"], start_new_session=True, text=True)
    assert done.returncode != 0
