"""Actions and descriptors: what a list of them does in the child, held against a model in Python."""

import fcntl
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import elfolio
from elfolio import Chdir, Close, CloseRange, Dup2, Fchdir, Open, SigDefault, SigMask
from elfolio.spawn.actions import Action
from tests.spawn.probing import look, open_fds, signal_set

# Far above what a test session has open of its own: what stood at these numbers would be lost.
FILES = range(440, 445)
FOLDERS = (445, 446)
NUMBERS = range(440, 460)
UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
IGNORED = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}


@dataclass(frozen=True)
class Entry:
    """One descriptor of the model."""

    target: str
    cloexec: bool
    meant: bool = False
    """Passed, or made by an action."""


@dataclass
class Model:
    """What the child is expected to have: descriptors, working directory, signals."""

    fds: dict[int, Entry]
    cwd: str
    mask: set[int]
    ignored: set[int]

    def apply(self, action: Action) -> None:
        match action:
            case Close(fd=fd):
                del self.fds[fd]
            case Dup2(fd=fd, newfd=newfd, cloexec=cloexec) if fd != newfd:
                self.fds[newfd] = Entry(self.fds[fd].target, cloexec, meant=not cloexec)
            case Open(newfd=newfd, path=path, flags=flags, dirfd=dirfd):
                base = self.cwd if dirfd < 0 else self.fds[dirfd].target
                cloexec = bool(flags & os.O_CLOEXEC)
                self.fds[newfd] = Entry(os.path.join(base, str(path)), cloexec, meant=not cloexec)
            case CloseRange(first=first, last=last, cloexec=cloexec):
                for fd in [fd for fd in self.fds if first <= fd <= last]:
                    if cloexec:
                        self.fds[fd] = replace(self.fds[fd], cloexec=True)
                    else:
                        del self.fds[fd]
            case Chdir(path=path):
                self.cwd = os.path.normpath(os.path.join(self.cwd, str(path)))
            case Fchdir(fd=fd):
                self.cwd = self.fds[fd].target
            case SigMask(signals=signals):
                self.mask = set(signals) - UNCATCHABLE
            case SigDefault(signals=signals):
                self.ignored -= signals

    def folders(self, root: str) -> list[int]:
        return [fd for fd, entry in self.fds.items() if os.path.isdir(entry.target) and entry.target.startswith(root)]

    def left(self, inherit: bool, close_targets: bool, passed: set[int]) -> dict[int, str]:
        """What is open after exec."""
        return {
            fd: entry.target
            for fd, entry in self.fds.items()
            if not entry.cloexec and (fd < 3 or inherit or (fd in passed if close_targets else entry.meant))
        }


def host_table() -> dict[int, Entry]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            cloexec = bool(fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
        except OSError:
            continue  # the listing's own
        found[int(name)] = Entry(target, cloexec)
    return found


def host_ignores() -> set[int]:
    """Some that no Python call shows: make starts its commands by the C library's posix_spawn, and leaves them its
    internal signals, 32 and 33, ignored."""
    return signal_set(Path("/proc/self/status").read_text(), "SigIgn")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files at 440 to 444 (odd ones close-on-exec), directories at 445 and 446, some signals ignored."""
    root = tmp_path_factory.mktemp("ground").resolve()
    (root / "a" / "b").mkdir(parents=True)
    for name in ("x", "y", "a/x", "a/y", "a/b/x", "a/b/y"):
        (root / name).touch()
    assert not open_fds() & set(NUMBERS)
    opened = [*((fd, root / ("x", "y")[fd % 2]) for fd in FILES), *zip(FOLDERS, (root, root / "a"), strict=True)]
    for number, path in opened:
        fd = os.open(path, os.O_RDONLY)
        os.dup2(fd, number, inheritable=number % 2 == 0)
        os.close(fd)
    before = {sig: signal.signal(sig, signal.SIG_IGN) for sig in IGNORED}
    try:
        yield root
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
        for number, _ in opened:
            os.close(number)


@st.composite
def scenario(draw: st.DrawFn) -> tuple[bool, bool, set[int], list[tuple[str, int, int, bool, set[int]]]]:
    """Options, and the seeds of actions that `valid` turns into ones that succeed."""
    kinds = st.sampled_from(["close", "dup2", "same", "fchdir", "chdir", "open", "range", "mask", "default"])
    number, signals = st.sampled_from(list(NUMBERS)), st.sets(st.integers(1, 64), max_size=5)
    seeds = draw(st.lists(st.tuples(kinds, st.integers(0, 99), number, st.booleans(), signals), max_size=14))
    inherit = draw(st.booleans())
    return inherit, not inherit and draw(st.booleans()), draw(st.sets(st.sampled_from([*FILES, FOLDERS[0]]))), seeds


def valid(model: Model, seed: tuple[str, int, int, bool, set[int]], root: str) -> Action | None:
    """An action that succeeds in the model's present state; None where there is none of the kind."""
    kind, choice, number, flag, signals = seed
    here = sorted(fd for fd in model.fds if fd in NUMBERS)
    folders = sorted(model.folders(root))
    if kind in {"close", "dup2", "same"} and here:
        fd = here[choice % len(here)]
        if kind == "close":
            return Close(fd)
        return Dup2(fd, fd) if kind == "same" or fd == number else Dup2(fd, number, cloexec=flag)
    if kind == "fchdir" and folders:
        return Fchdir(folders[choice % len(folders)])
    if kind == "chdir":
        inside = model.cwd != root
        return Chdir([f"{root}/a/b", root, ".." if inside else "a", os.path.join(model.cwd, ".")][choice % 4])
    if kind == "open":
        flags = os.O_RDONLY | os.O_CLOEXEC * flag
        name = "xy"[choice % 2]
        if choice % 3 and folders:
            return Open(number, name, flags, dirfd=folders[choice % len(folders)])
        return Open(number, f"{model.cwd}/{name}" if choice % 5 else name, flags)
    if kind == "range":
        return CloseRange(number, number + choice % 4, cloexec=flag, unshare=choice % 2 == 0)
    if kind == "mask":
        return SigMask(signals)
    return SigDefault(signals) if kind == "default" else None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scenario=scenario())
def test_a_list_of_actions_does_what_the_model_does(scenario: Any, ground: Path, probe: elfolio.SpawnTemplate) -> None:
    """After any list of valid actions the program has the model's descriptors, directory and signals."""
    inherit, close_targets, passed, seeds = scenario
    model = Model(host_table(), str(ground), signal.pthread_sigmask(signal.SIG_BLOCK, ()), host_ignores())
    model.fds[0] = Entry("/dev/null", cloexec=False)
    for fd in passed:
        model.fds[fd] = replace(model.fds[fd], cloexec=False, meant=True)
    actions: list[Action] = []
    for seed in seeds:
        action: Action | None = valid(model, seed, str(ground))
        if action is not None:
            actions.append(action)
            model.apply(action)
    seen = look(probe, cwd=ground, actions=actions, inherit_fds=inherit, pass_fds=passed, close_targets=close_targets)
    assert seen.targets == model.left(inherit, close_targets, passed)
    assert seen.cwd == model.cwd
    assert seen.signals("SigBlk") == model.mask
    assert seen.signals("SigIgn") == model.ignored - {signal.SIGPIPE, signal.SIGXFSZ}


@pytest.mark.usefixtures("ground")
def test_dup2_of_equal_descriptors_only_checks(probe: elfolio.SpawnTemplate) -> None:
    """Dup2 onto itself keeps the close-on-exec flag, does not pass the descriptor, and refuses a closed one."""
    assert 441 not in look(probe, actions=[Dup2(441, 441)]).fds
    assert 441 not in look(probe, actions=[Dup2(441, 441)], inherit_fds=True).fds
    assert 440 in look(probe, actions=[Dup2(440, 440)], inherit_fds=True).fds
    with pytest.raises(OSError, match=r"action 0, Dup2\(fd=459, newfd=459") as caught:
        probe.spawn(["probe"], actions=[Dup2(459, 459)])
    assert caught.value.errno == 9


def test_actions_run_in_order(probe: elfolio.SpawnTemplate, tmp_path: Path) -> None:
    """The same two actions in the other order give another result."""
    (tmp_path / "file").touch()
    inside: list[Action] = [Chdir(tmp_path), Open(50, "file")]
    assert look(probe, actions=inside).targets[50] == str(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"action 0, Open"):
        probe.spawn(["probe"], actions=inside[::-1], cwd="/")


def test_open_creates_with_mode_and_umask(probe: elfolio.SpawnTemplate, tmp_path: Path) -> None:
    """Open with O_CREAT makes a file with its mode less the spawn's umask, 0o666 where none is given."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    actions: list[Action] = [Open(50, tmp_path / "a", flags, 0o640), Open(51, tmp_path / "b", flags)]
    seen = look(probe, actions=actions, umask=0o027)
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o7777 == 0o640
    assert seen.targets[50] == str(tmp_path / "a")


def test_open_resolve_holds_the_path_below(probe: elfolio.SpawnTemplate, tmp_path: Path) -> None:
    """RESOLVE_BENEATH refuses a path that leaves its directory, with EXDEV from the child."""
    beneath = 0x08
    with pytest.raises(OSError, match="action 1, Open") as caught:
        probe.spawn(["probe"], actions=[Chdir(tmp_path), Open(50, "../..", os.O_PATH, resolve=beneath)])
    assert caught.value.errno == 18
