"""What is refused before anything starts, what fails in the child, and what a failure leaves: nothing."""

import errno
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import elfolio
from elfolio import Chdir, Close, CloseRange, Dup2, Fchdir, Open, SigDefault, SigMask
from elfolio.spawn.actions import Action
from tests.spawn.probing import children, look, open_fds

RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x08, 0x10
BIG = 2**31

IMPOSSIBLE_ACTIONS: list[tuple[str, Callable[[], object]]] = [
    ("Close of a negative number", lambda: Close(-1)),
    ("Close of what no descriptor is", lambda: Close("3")),  # type: ignore[arg-type]
    ("Close of a bool", lambda: Close(True)),
    ("Close beyond int", lambda: Close(BIG)),
    ("Dup2 from a negative number", lambda: Dup2(-1, 3)),
    ("Dup2 to a negative number", lambda: Dup2(3, -1)),
    ("Dup2 beyond int", lambda: Dup2(3, BIG)),
    ("Dup2 onto itself with a flag", lambda: Dup2(3, 3, cloexec=True)),
    ("Fchdir to a negative number", lambda: Fchdir(-100)),
    ("Chdir to nowhere", lambda: Chdir("")),
    ("Chdir with NUL", lambda: Chdir("a\0b")),
    ("Chdir to a number", lambda: Chdir(3)),  # type: ignore[arg-type]
    ("Open with NUL", lambda: Open(3, b"a\0")),
    ("Open of nothing", lambda: Open(3, "")),
    ("Open at a negative number", lambda: Open(-1, "/")),
    ("Open from a negative directory", lambda: Open(3, "x", dirfd=-2)),
    ("Open with an unknown flag", lambda: Open(3, "/", 1 << 30)),
    ("Open with negative flags", lambda: Open(3, "/", -1)),
    ("Open with a mode and nothing to create", lambda: Open(3, "/", os.O_RDONLY, 0o600)),
    ("Open with too much mode", lambda: Open(3, "/x", os.O_CREAT | os.O_WRONLY, 0o10000)),
    ("Open with an unknown resolve flag", lambda: Open(3, "/", resolve=0x40)),
    ("Open with a negative resolve", lambda: Open(3, "/", resolve=-1)),
    ("Open with exclusive resolve flags", lambda: Open(3, "/", resolve=RESOLVE_BENEATH | RESOLVE_IN_ROOT)),
    ("CloseRange backwards", lambda: CloseRange(5, 4)),
    ("CloseRange from a negative number", lambda: CloseRange(-1)),
    ("CloseRange beyond int", lambda: CloseRange(3, 2**32)),
    ("SigMask of 0", lambda: SigMask([0])),
    ("SigMask of 65", lambda: SigMask([65])),
    ("SigDefault of a negative", lambda: SigDefault([-1])),
    ("SigDefault of a name", lambda: SigDefault(["SIGTERM"])),  # type: ignore[list-item]
]

IMPOSSIBLE_OPTIONS: list[dict[str, Any]] = [
    {"actions": ["close 3"]},
    {"actions": [None]},
    {"env": {}, "env_allow": ["PATH"]},
    {"env": {"PATH"}},
    {"env": ["A=b"]},
    {"inherit_fds": True, "close_targets": True},
    {"start_new_session": True, "process_group": 0},
    {"controlling_tty": 0},
    {"controlling_tty": -1, "start_new_session": True},
    {"controlling_tty": BIG, "start_new_session": True},
    {"process_group": -1},
    {"process_group": BIG},
    {"pdeathsig": 65},
    {"pdeathsig": -1},
    {"oom_score_adj": 1001},
    {"oom_score_adj": -1001},
    {"umask": 0o10000},
    {"umask": -2},
    {"pass_fds": [-1]},
    {"pass_fds": [BIG]},
    {"nice": 2**40},
    {"rlimits": {BIG: (1, 1)}},
    {"rlimits": {resource.RLIMIT_NOFILE: (-5, 1)}},
    {"rlimits": {resource.RLIMIT_NOFILE: (1, 2**64)}},
    {"cpu_affinity": [-1]},
    {"cpu_affinity": [65536]},
    {"user": -1},
    {"user": 0xFFFFFFFF},
    {"group": -1},
    {"extra_groups": [2**32]},
    {"cgroup": "/proc"},
    {"private_cgroup": True, "cgroup": 3},
    {"stdin": -7},
    {"stdout": -7},
    {"cwd": ""},
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in IMPOSSIBLE_ACTIONS])
def test_an_impossible_action_cannot_be_made(make: Callable[[], object]) -> None:
    """An action that can never be right is EINVAL when it is made, as an OSError and as a ValueError."""
    with pytest.raises(elfolio.InvalidArgument) as caught:
        make()
    assert caught.value.errno == errno.EINVAL
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("keywords", IMPOSSIBLE_OPTIONS, ids=str)
def test_an_impossible_option_starts_nothing(keywords: dict[str, Any], probe: elfolio.SpawnTemplate) -> None:
    """Unknown, reserved and mutually exclusive arguments are EINVAL, or ENOENT for an empty path, before a start."""
    before = open_fds()
    for use in (probe.spawn, probe.run):
        with pytest.raises(OSError) as caught:
            use(["probe"], **{"stdin": elfolio.PIPE, "stderr": elfolio.PIPE, **keywords})
        assert caught.value.errno == (errno.ENOENT if keywords.get("cwd") == "" else errno.EINVAL)
    with pytest.raises(TypeError):
        probe.spawn(["probe"], stdin=elfolio.PIPE, no_such_keyword=1)  # type: ignore[call-arg]
    assert children() == []
    assert open_fds() == before


@pytest.mark.parametrize("argv", [[], (), ["a\0b"]], ids=repr)
def test_argv_is_checked(argv: list[str], probe: elfolio.SpawnTemplate) -> None:
    """An empty argv and one with a NUL byte are a ValueError, not a program started with something else."""
    with pytest.raises(ValueError):
        probe.spawn(argv)


@pytest.mark.parametrize("env", [{"A=B": "c"}, {"A\0": "c"}, {"A": "c\0"}], ids=repr)
def test_env_is_checked(env: dict[str, str], probe: elfolio.SpawnTemplate) -> None:
    """Names with `=` and NUL bytes in the environment are a ValueError."""
    with pytest.raises(ValueError):
        probe.spawn(["probe"], env=env)


def test_at_most_256_actions(probe: elfolio.SpawnTemplate) -> None:
    """256 actions run; 257 are E2BIG and start nothing."""
    many: list[Action] = [Dup2(1, 100 + i) for i in range(256)]
    assert set(range(100, 356)) <= set(look(probe, actions=many).fds)
    with pytest.raises(elfolio.TooManyActions) as caught:
        probe.spawn(["probe"], actions=[*many, Close(100)])
    assert caught.value.errno == errno.E2BIG
    assert children() == []


FAILING: list[tuple[Action, type[OSError], int]] = [
    (Close(900), OSError, errno.EBADF),
    (Dup2(900, 901), OSError, errno.EBADF),
    (Dup2(900, 900), OSError, errno.EBADF),
    (Dup2(1, 2**31 - 1), OSError, errno.EBADF),
    (Fchdir(900), OSError, errno.EBADF),
    (Fchdir(1), NotADirectoryError, errno.ENOTDIR),
    (Chdir("/no/such"), FileNotFoundError, errno.ENOENT),
    (Chdir("/dev/null"), NotADirectoryError, errno.ENOTDIR),
    (Chdir("x" * 300), OSError, errno.ENAMETOOLONG),
    (Open(5, "/no/such"), FileNotFoundError, errno.ENOENT),
    (Open(5, "/", os.O_WRONLY), IsADirectoryError, errno.EISDIR),
    (Open(5, "/dev", os.O_CREAT | os.O_EXCL | os.O_WRONLY), FileExistsError, errno.EEXIST),
    (Open(5, "x", dirfd=900), OSError, errno.EBADF),
    (Open(2**31 - 1, "/dev/null"), OSError, errno.EBADF),
]


@pytest.mark.parametrize(("action", "kind", "number"), FAILING, ids=lambda value: str(value)[:60])
def test_a_failing_action_says_which(
    action: Action, kind: type[OSError], number: int, probe: elfolio.SpawnTemplate, tmp_path: Path
) -> None:
    """A failing action raises its errno's OSError with index and action; no child, no descriptor is left."""
    with open(tmp_path / "out", "w") as out:
        before = open_fds()
        actions: list[Action] = [SigMask(), action, Chdir("/")]
        with pytest.raises(kind) as caught:
            probe.spawn(["probe"], stdin=elfolio.PIPE, stdout=out, actions=actions, cwd=tmp_path)
        assert caught.value.errno == number
        assert f"action 1, {action!r}: {os.strerror(number)}" in str(caught.value)
        assert children() == []
        assert open_fds() == before


def test_a_failing_option_says_which(probe: elfolio.SpawnTemplate) -> None:
    """A keyword that fails in the child is named; a missing cwd is FileNotFoundError with its path."""
    with pytest.raises(FileNotFoundError) as caught:
        probe.spawn(["probe"], cwd="/no/such")
    assert caught.value.filename == "/no/such"
    with pytest.raises(OSError, match="cpu_affinity: Invalid argument"):
        probe.spawn(["probe"], cpu_affinity=[])
    with pytest.raises(OSError, match="pass_fds: Bad file descriptor"):
        probe.spawn(["probe"], pass_fds=[900])
    with pytest.raises(OSError, match="controlling_tty"):
        probe.spawn(["probe"], start_new_session=True, controlling_tty=0)
    with pytest.raises(OSError, match="stdout: Bad file descriptor"):
        probe.spawn(["probe"], stdout=900)
    assert children() == []


def test_what_passes_and_what_does_not(probe: elfolio.SpawnTemplate) -> None:
    """From 3 up nothing passes but pass_fds and what actions made; inherit_fds adds the inheritable ones."""
    with socket.socket() as plain, socket.socket() as loose:
        loose.set_inheritable(True)
        p, q = plain.fileno(), loose.fileno()
        assert set(look(probe).fds) == {0, 1, 2}
        assert set(look(probe, pass_fds=[p]).fds) == {0, 1, 2, p}
        assert p not in look(probe, inherit_fds=True).fds
        assert q in look(probe, inherit_fds=True).fds
        made: list[Action] = [Dup2(p, 300), Dup2(p, 301, cloexec=True), Open(302, "/"), Open(303, "/", os.O_CLOEXEC)]
        assert set(look(probe, actions=made).fds) == {0, 1, 2, 300, 302}
        assert set(look(probe, actions=made, pass_fds=[q], close_targets=True).fds) == {0, 1, 2, q}
        assert set(look(probe, actions=[Close(q)], pass_fds=[q]).fds) == {0, 1, 2}
        assert set(look(probe, actions=[CloseRange(q, q, cloexec=True)], pass_fds=[q]).fds) == {0, 1, 2}
        assert plain.get_inheritable() is False


def test_passing_close_to_the_highest_number(probe: elfolio.SpawnTemplate) -> None:
    """A descriptor at the limit's very end can be passed, and so can every second one of many."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    numbers = {soft - 1, *range(600, 700, 2)}
    for number in numbers:
        os.dup2(0, number, inheritable=False)
    try:
        assert set(look(probe, pass_fds=numbers).fds) == {0, 1, 2, *numbers}
    finally:
        for number in numbers:
            os.close(number)
