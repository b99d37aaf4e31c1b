"""elfolio.Popen against subprocess.Popen: what differs is only how the child is started, awaited and signalled."""

import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elfolio
from elfolio.spawn.pool import default_pool
from tests.spawn.probing import children, in_fresh_host, open_fds

# Before Linux 6.15 nobody can tell the status of a child that somebody else reaped: then it is the standard
# library's guess, 0.
KERNEL_TELLS = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 15)


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    """The drop-ins' templates are nobody's leak."""
    yield
    default_pool().close()


@contextmanager
def all_ours(**left: int) -> Iterator[None]:
    """What is started inside is started by elfolio, but for what `left` counts."""
    before = elfolio.stats().standard
    yield
    after = elfolio.stats().standard
    assert {reason: n - before.get(reason, 0) for reason, n in after.items() if n != before.get(reason)} == left


def seen(run: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """What a caller of `run` sees: its result, or everything about its exception."""
    keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **keywords}
    try:
        done = run(*args, **keywords)
    except Exception as error:
        return type(error), error.args, getattr(error, "errno", None), getattr(error, "filename", None), str(error)
    return done.returncode, done.stdout, done.stderr


def same(*args: Any, **keywords: Any) -> Any:
    """Both libraries let a caller see the same; returns it."""
    theirs = seen(subprocess.run, *args, **keywords)
    assert seen(elfolio.run, *args, **keywords) == theirs
    return theirs


class Tool:
    """A path-like object."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


WRONG: list[tuple[Any, dict[str, Any]]] = [
    (["no-such-program"], {}),
    (["/no/such/program"], {}),
    (["./no-such-program"], {}),
    (b"no-such-program", {}),
    (Tool("no-such-program"), {}),
    (["sh"], {"executable": "no-such-program"}),
    ("exit 1", {"shell": True, "executable": "/no/such/shell"}),
    (["/etc/passwd"], {}),
    (["/etc/passwd/x"], {}),
    (["/"], {}),
    ([""], {}),
    ([], {}),
    (["true"], {"cwd": "/no/such/directory"}),
    (["true"], {"cwd": "/etc/passwd"}),
    (["true"], {"cwd": b"/no/such/directory"}),
    (["no-such-program"], {"cwd": "/no/such/directory"}),
    (["no-such-program"], {"env": {"A": "a\0b"}}),
    (["no-such-program", "a\0b"], {}),
    (["true", "a\0b"], {}),
    (["tr\0ue"], {}),
    (["true"], {"cwd": "a\0b"}),
    (["true"], {"env": {"A=B": "c"}}),
    (["true"], {"env": {"A": "b\0c"}}),
    (["true"], {"env": {"A": 1}}),
    (["true", 1], {}),
    ([1], {}),
    (1, {}),
    (Tool("true"), {"shell": True}),
    (["true"], {"env": {"PATH": "/no/such/directory"}}),
    (["true"], {"env": {"PATH": "a", b"PATH": b"b"}}),
    (["true"], {"pass_fds": (-1,)}),
    (["true"], {"pass_fds": (2**40,)}),
    (["true"], {"pass_fds": (1000,)}),
    (["true"], {"stdin": 1000}),
    (["true"], {"process_group": 2**30}),
    (["true"], {"user": 2**40}),
    (["true"], {"group": 2**40}),
    (["true"], {"extra_groups": [2**40]}),
    (["true"], {"umask": "a"}),
    (["x" * 5000], {}),
    (["true", "x" * 200_000], {}),
]


@pytest.mark.parametrize(("args", "keywords"), WRONG, ids=range(len(WRONG)))
def test_wrong_calls_fail_as_in_subprocess(args: Any, keywords: dict[str, Any]) -> None:
    """The same exception with the same errno, file name, arguments and text."""
    assert isinstance(same(args, **keywords)[0], type)


def test_a_missing_program_costs_no_process() -> None:
    """That a program is not there is found out without the standard library's fork."""
    with all_ours(), pytest.raises(FileNotFoundError, match="no-such-program"):
        elfolio.run(["no-such-program"])


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def tree(open_folder: Path) -> Path:
    """here/tool and below/tool say who they are; bare/tool may not be executed, file is no directory."""
    for name in ("here", "below", "bare"):
        (open_folder / name).mkdir()
        script(open_folder / name / "tool", f'#!/bin/sh\necho "{name} $0 $*"; pwd\n')
    (open_folder / "bare" / "tool").chmod(0o644)
    (open_folder / "file").touch()
    (open_folder / "link").symlink_to("below")
    return open_folder


def test_relative_programs_are_the_childs_to_find(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative program is looked for in the child's directory; `$0` is what was asked for, unnormalised."""
    monkeypatch.chdir(tree)
    with all_ours():
        assert same(["./tool", "a b"], cwd=tree / "here")[1].startswith(b"here ./tool a b\n")
        assert same(["./tool"], cwd="here")[1].startswith(b"here ./tool")
        assert same(["link/../tool"], cwd="here")[1] is not None
        assert same(["link/tool"])[1].startswith(b"below link/tool")
        assert same(["link/../here/./tool"])[1].startswith(b"here link/../here/./tool")
        assert same([b"./tool"], cwd=b"below")[1].startswith(b"below ./tool")
        assert same(["renamed"], executable="below/tool")[1].startswith(b"below below/tool")
        for path in (":/bin", ".:/bin", "here:/bin", "bare:file:none:here:/bin", "link/:/bin"):
            same(["tool"], cwd=tree / "below", env={"PATH": path})
            same(["tool"], env={"PATH": path})
            same(["tool"], env={b"PATH": os.fsencode(path)})


KINDS = {
    "good": ("#!/bin/sh\necho $0\n", 0o755),
    "closed": ("#!/bin/sh\necho $0\n", 0o644),
    "nonsense": ("\0", 0o755),
    "orphan": ("#!/no/such/interpreter\n", 0o755),
}


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*KINDS, "folder", "dangling", "loop", "missing", "none", "file"]), max_size=5))
def test_the_search_path_is_searched_as_in_subprocess(kinds: list[str]) -> None:
    """Whatever lies on the PATH: the same program runs, or the same error comes."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="path-") as name:
        folders = []
        for number, kind in enumerate(kinds):
            folder = Path(name, str(number))
            folders.append(str(folder))
            if kind == "file":
                folder.touch()
            elif kind != "none":
                folder.mkdir()
            tool = folder / "tool"
            if kind in KINDS:
                script(tool, *KINDS[kind])
            elif kind == "folder":
                tool.mkdir()
            elif kind in ("dangling", "loop"):
                tool.symlink_to("nowhere" if kind == "dangling" else "tool")
        found = same(["tool"], env={"PATH": ":".join(folders)})
        assert ("good" in kinds) == (found[0] == 0)


@pytest.mark.parametrize(
    "keywords",
    [
        {"shell": True},
        {"shell": True, "executable": "/bin/bash"},
        {"env": {}},
        {"env": {b"A": b"b", "PATH": os.defpath}},
        {"umask": 0o27},
        {"umask": 0o1777},
        {"start_new_session": True},
        {"process_group": 0},
        {"close_fds": False},
        {"restore_signals": False},
        {"text": True},
        {"stderr": subprocess.STDOUT},
        {"stdin": None, "stdout": None, "stderr": None},
        {"input": b"x" * 300_000, "stdin": subprocess.PIPE},
        {"pass_fds": (0, 2)},
    ],
    ids=str,
)
def test_right_calls_look_the_same(keywords: dict[str, Any]) -> None:
    """Exit status and output are equal, and elfolio did the starting."""
    text = "cat | wc -c; umask; echo $A; ls /proc/self/fd; grep Sig /proc/self/status >&2; exit 3"
    if "input" in keywords:
        del keywords["stdin"]
    with all_ours():
        args = text if keywords.get("shell") else ["/bin/sh", "-c", text]
        theirs = seen(subprocess.run, args, **keywords) if "input" not in keywords else None
        if theirs is None:
            command: dict[str, Any] = {"args": args, "input": keywords["input"], "capture_output": True}
            done, ours_done = subprocess.run(**command), elfolio.run(**command)
            assert (ours_done.returncode, ours_done.stdout, ours_done.stderr) == (
                done.returncode,
                done.stdout,
                done.stderr,
            )
        else:
            assert seen(elfolio.run, args, **keywords) == theirs


@pytest.mark.root
def test_another_user_reaches_what_that_user_may(programs: Path, tmp_path: Path) -> None:
    """With `user`, whether the program may be reached is decided by that user's rights, script or not."""
    nobody = 65534
    script(tmp_path / "tool", "#!/bin/sh\nid -u; id -g; echo $0\n")
    tmp_path.chmod(0o700)
    with all_ours():
        assert same([str(tmp_path / "tool")], user=nobody)[0] is PermissionError
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o711)
        assert same([str(tmp_path / "tool")], user=nobody, group=nobody, extra_groups=[7])[0] == 0
        path = f"{tmp_path}/bare:{tmp_path}:/bin:/usr/bin"
        (tmp_path / "bare").mkdir(mode=0o700)
        script(tmp_path / "bare" / "tool", "#!/bin/sh\necho wrong\n")
        assert same(["tool"], user=nobody, env={"PATH": path})[0] == 0


def test_what_elfolio_cannot_do_is_the_standard_librarys() -> None:
    """preexec_fn and the like go to the standard path, counted by reason."""
    with all_ours(preexec_fn=1):
        assert elfolio.run(["sh", "-c", "exit $A"], preexec_fn=lambda: os.environ.update(A="6")).returncode in (0, 6)
    with all_ours(**{"start_new_session and process_group together": 1}):
        assert seen(elfolio.run, ["true"], start_new_session=True, process_group=0)[0] in (0, PermissionError)


def test_a_changed_subprocess_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host program has replaced what starts children, that is what starts them."""
    asked = []

    def fork_exec(*args: Any) -> int:
        asked.append(args[0])
        raise RuntimeError("asked")

    monkeypatch.setattr(subprocess, "_fork_exec", fork_exec)
    with all_ours(**{"subprocess was changed by the host program": 1}), pytest.raises(RuntimeError, match="asked"):
        elfolio.run(["true"])
    assert asked == [["true"]]


def test_the_audit_event_comes_once_and_can_refuse() -> None:
    """sys.audit hooks see one subprocess.Popen event for each start, whoever makes it, and may prevent it."""

    def host() -> list[object]:
        import sys

        import elfolio

        events: list[object] = []

        def hook(event: str, args: tuple[object, ...]) -> None:
            if event == "subprocess.Popen":
                events.append([args[0], args[1]])
                if args[1] == ["false"]:
                    raise RuntimeError("refused")

        sys.addaudithook(hook)
        elfolio.run(["true"])
        for wrong in (["no-such-program"], ["no-such-program", "a\0b"], ["false"]):
            try:
                elfolio.run(wrong)
            except (OSError, ValueError, RuntimeError) as error:
                events.append(type(error).__name__)
        elfolio.run(["true"], preexec_fn=int)
        return events

    assert in_fresh_host(host) == [
        ["true", ["true"]],
        ["no-such-program", ["no-such-program"]],
        "FileNotFoundError",
        ["no-such-program", ["no-such-program", "a\0b"]],
        "ValueError",
        ["false", ["false"]],
        "RuntimeError",
        ["true", ["true"]],
    ]


def test_the_functions_are_the_standard_librarys() -> None:
    """run, call, check_call and check_output have the same signatures, and start through elfolio."""
    for name in ("run", "call", "check_call", "check_output"):
        assert inspect.signature(getattr(elfolio, name)) == inspect.signature(getattr(subprocess, name))
    with all_ours():
        assert elfolio.call(["sh", "-c", "exit 4"]) == 4
        assert elfolio.check_output(["cat"], input="ä", text=True) == "ä"
        with pytest.raises(subprocess.CalledProcessError) as caught:
            elfolio.check_call(["sh", "-c", "exit 4"])
        assert caught.value.cmd == ["sh", "-c", "exit 4"]
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            elfolio.run(["sh", "-c", "echo a; exec sleep 600"], capture_output=True, timeout=0.3)
        assert (expired.value.cmd, expired.value.timeout) == (["sh", "-c", "echo a; exec sleep 600"], 0.3)
    assert repr(elfolio.Popen) == "<class 'subprocess.Popen'>"


def test_waiting_with_a_timeout_sleeps_on_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """wait(timeout) never sleeps for an interval: the end of the child is what wakes it."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("polled"))
    with elfolio.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            child.wait(0)
        assert str(expired.value) == "Command '['cat']' timed out after 0 seconds"
        ended: list[int] = []
        thread = threading.Thread(target=lambda: ended.append(child.wait(timeout=1e12)))
        thread.start()
        child.stdin.close()
        thread.join()
        assert ended == [0]
        assert child.pidfd == -1


def test_the_status_is_right_though_sigchld_is_ignored() -> None:
    """Where the kernel reaps, wait, poll and wait(timeout) give the status that the kernel remembers."""

    def host() -> list[object]:
        import signal

        import elfolio

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        codes: list[object] = [elfolio.run(["sh", "-c", "exit 7"]).returncode]
        child = elfolio.Popen(["sh", "-c", "kill -9 $$"])
        codes.append(child.wait(timeout=60))
        child = elfolio.Popen(["sh", "-c", "exit 8"])
        while child.poll() is None:
            pass
        return [*codes, child.returncode, child.pidfd]

    assert in_fresh_host(host) == ([7, -9, 8, -1] if KERNEL_TELLS else [0, 0, 0, -1])


def test_the_status_is_right_though_the_host_reaps_everything() -> None:
    """A thread that waits for any child takes the zombies, not the statuses."""

    def host() -> list[int]:
        import os
        import threading

        import elfolio

        stop = threading.Event()

        def reap() -> None:
            while not stop.is_set():
                try:
                    os.wait()
                except ChildProcessError:
                    continue

        thread = threading.Thread(target=reap)
        thread.start()
        codes = [elfolio.run(["sh", "-c", f"exit {n}"]).returncode for n in range(40)]
        stop.set()
        thread.join()
        return codes

    codes = in_fresh_host(host)
    assert codes == list(range(40)) if KERNEL_TELLS else len(codes) == 40


def test_a_signal_after_somebody_elses_reaping_hits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the child is gone, no number is signalled."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a number was signalled"))
    child = elfolio.Popen(["sh", "-c", "exit 5"])
    os.waitpid(child.pid, 0)
    child.send_signal(signal.SIGKILL)
    assert child.returncode == (5 if KERNEL_TELLS else 0)
    child.returncode = None  # even if nobody had asked yet
    monkeypatch.setattr(child, "poll", lambda: None)
    child.kill()
    child.terminate()
    child.returncode = 5


@pytest.mark.root
def test_a_stranger_with_the_same_number_is_safe() -> None:
    """A process that has been given the number of a reaped child gets neither its signals nor its status."""
    try:
        number = Path("/proc/sys/kernel/ns_last_pid").open("w")
    except OSError:
        pytest.skip("needs a writable ns_last_pid; to force: run where /proc/sys is not read-only")
    with number:
        for _ in range(200):
            child = elfolio.Popen(["sh", "-c", "exit 5"])
            os.waitpid(child.pid, 0)
            number.seek(0)
            number.write(str(child.pid - 1))
            number.flush()
            stranger = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
            with stranger:
                if stranger.pid == child.pid:
                    child.kill()
                    assert child.wait() == (5 if KERNEL_TELLS else 0)
                    assert stranger.poll() is None
                    return
            child.wait()
    pytest.skip("the number was never free in 200 attempts; to force: run on a quieter machine")


def test_one_that_nobody_waits_for_is_reaped_later() -> None:
    """A dropped Popen warns once, as in subprocess, and the next start reaps its child and closes its pidfd."""
    before = open_fds()
    child = elfolio.Popen(["cat"], stdin=subprocess.PIPE)
    pid, stdin = child.pid, child.stdin
    assert stdin is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del child
        gc.collect()
    assert [str(warning.message) for warning in caught] == [f"subprocess {pid} is still running"]
    stdin.close()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    elfolio.run(["true"])
    assert children() == []
    default_pool().close()
    assert open_fds() == before


def test_a_status_set_from_outside_leaves_no_descriptor() -> None:
    """asyncio's watchers reap by number and set `returncode`: the pidfd goes with the object."""
    before = open_fds()
    child = elfolio.Popen(["true"])
    child.returncode = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    assert child.wait() == child.poll() == 0
    del child
    default_pool().close()
    assert open_fds() == before


def test_subclasses_and_generics_work() -> None:
    """Popen can be derived from and subscripted, as the standard one."""

    class Mine(elfolio.Popen[str]):
        pass

    with all_ours(), Mine([sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE, text=True) as child:
        assert child.communicate() == ("1\n", None)
    assert isinstance(child, subprocess.Popen)
