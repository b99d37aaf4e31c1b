"""What a start through elfolio.Popen looks like from outside: as one through subprocess, right or wrong."""

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elfolio
from tests.spawn.comparing import all_ours, same, script, seen
from tests.spawn.probing import in_fresh_host

pytestmark = pytest.mark.usefixtures("empty_pool")


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
    (["true"], {"umask": 2**40}),
    (["true"], {"process_group": 2**40}),
    (["true"], {"pass_fds": (1000,), "cwd": "/"}),
    (["true"], {"env": []}),
    (["/bin/true"], {"env": 5}),
    (["/bin/true"], {"env": {"A": "b\0c"}}),
    (["/bin/true", "a\0b"], {}),
    (["/bin/true", 1], {}),
    (["/bin/true"], {"stdin": 1000}),
    (["/bin/true"], {"stdout": -7}),
    (["/bin/true", "x" * 200_000], {}),
    (["true"], {"env": {"\ud800": "a"}}),
    (["no-such-program"], {"env": {"A": "b"}, "cwd": "/"}),
    (["no-such-program"], {"env": {"A=B": "c"}}),
    (["no-such-program"], {"env": {"A": 1}}),
    (["no-such-program"], {"env": {b"A": "\ud800"}}),
    (["no-such-program"], {"cwd": "/etc/passwd"}),
    (["no-such-program", "\ud800"], {}),
    (["no-such-program"], {"stdin": 1000}),
    (["no-such-program"], {"pass_fds": (1000,)}),
    (["x" * 5000], {}),
    (["true", "x" * 200_000], {}),
]


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize(("args", "keywords"), WRONG, ids=range(len(WRONG)))
def test_wrong_calls_fail_as_in_subprocess(args: Any, keywords: dict[str, Any], known: bool) -> None:
    """The same exception with the same errno, file name, arguments and text, whether or not the pool has the
    program: one that it has starts by a shorter way."""
    if known:
        for program in ("true", "/bin/true"):
            elfolio.run([program])
    assert isinstance(same(args, **keywords)[0], type)


class Number:
    """What can be used as 0, and is none."""

    def __index__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return other == 0

    __hash__ = object.__hash__


class Stream:
    """Something with a descriptor that is none."""

    def __init__(self, descriptor: Any) -> None:
        self.descriptor = descriptor

    def fileno(self) -> Any:
        return self.descriptor


ODD: list[Any] = [-1.0, 0.0, 1.0, -2, True, False, None, "", "0", b"", [], (), {}, {2}, frozenset(), range(0), Number()]
ODD += [2**31, -(2**31) - 1, 2**40, -(2**40), float("nan"), Decimal(-1), -1 + 0j, (0.0,), (True,), ["2"], (Number(),)]
JUDGED = ["umask", "process_group", "user", "group", "extra_groups", "pipesize", "close_fds", "pass_fds"]
JUDGED += ["restore_signals", "start_new_session", "shell", "cwd", "env", "stdin", "creationflags", "text"]


@pytest.mark.skipif(
    sys.version_info < (3, 11, 4),
    reason="subprocess loses pipes where it judges, before 3.11.4; to force: make clean test PYTHON=python3.12",
)
@pytest.mark.filterwarnings("ignore:pass_fds overriding", "ignore:line buffering")
@pytest.mark.parametrize("program", ["/bin/true", "true", "/no/such/program"])
@pytest.mark.parametrize("keyword", JUDGED)
def test_odd_values_are_judged_as_in_subprocess(keyword: str, program: str) -> None:
    """Whatever a keyword is given, floats that equal its default included: taken, or refused with the same words."""
    elfolio.run(["true"])
    elfolio.run(["/bin/true"])
    for value in ODD:
        same([program], **{keyword: value})
    for descriptor in ODD if keyword == "stdin" else []:
        same([program], stdin=Stream(descriptor))
    if keyword == "pass_fds":
        for run in (subprocess.run, elfolio.run):  # each with an iterator of its own
            assert seen(run, ["sh", "-c", "ls /proc/self/fd"], pass_fds=iter((0,)))[1] == b"0\n1\n2\n3\n"


@pytest.mark.parametrize(
    "keywords", [{}, {"env": dict(os.environ)}, {"cwd": b"/"}, {"env": {"A": "b"}, "cwd": "/"}], ids="-".join
)
def test_a_missing_program_costs_no_process(keywords: dict[str, Any]) -> None:
    """That a program is not there is found out without the standard library's fork, which would announce it."""
    with all_ours(), pytest.raises(FileNotFoundError, match="no-such-program"):
        elfolio.run(["no-such-program"], **keywords)


def test_no_process_left_fails_as_in_subprocess() -> None:
    """Where fork itself fails (RLIMIT_NPROC), the error names no file, whatever the working directory."""

    def host() -> list[object]:
        import os
        import resource
        import subprocess

        import elfolio

        elfolio.run(["/bin/true"])
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        if os.geteuid() == 0:
            os.setuid(65534)
        seen: list[object] = []
        for run in (subprocess.run, elfolio.run):
            for cwd in (None, "/"):
                try:
                    run(["/bin/true"], cwd=cwd)
                except OSError as error:
                    seen.append([type(error).__name__, list(error.args), error.filename])
        return [seen[:2], seen[2:], elfolio.stats().standard]

    theirs, ours, standard = in_fresh_host(host)
    assert ours == theirs == [["BlockingIOError", [11, os.strerror(11)], None]] * 2
    assert standard == {}


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


RIGHT: list[dict[str, Any]] = [
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
    {"input": b"x" * 300_000},
    {"pass_fds": (0, 2)},
]

# Signals 29 to 36 are left out of the picture: the C library's posix_spawn, which the standard library takes for
# close_fds=False, leaves 32 and 33 (its own, internal ones) ignored.
LOOK = r"""cat | wc -c; umask; echo $A; ls /proc/self/fd
sed -n 's/^\(Sig[BIC].*\)..\(.......\)$/\1--\2/p' /proc/self/status >&2; exit 3"""


@pytest.mark.parametrize("keywords", RIGHT, ids="-".join)
def test_right_calls_look_the_same(keywords: dict[str, Any]) -> None:
    """Exit status and output are equal, and elfolio did the starting."""
    with all_ours():
        assert same(LOOK if keywords.get("shell") else ["/bin/sh", "-c", LOOK], **keywords)[0] == 3


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
