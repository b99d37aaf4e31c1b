"""`elfolio run -- CMD` and CMD side by side: what their caller sees is the same."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.running import outcome, through

FEW = settings(max_examples=25)

COMMANDS = {
    "true": ["true"],
    "false": ["false"],
    "echo": ["echo", "-n", "", "a b", "\\n"],
    "cat": ["cat"],
    "both outputs": ["sh", "-c", "echo out; echo err >&2; exit 7"],
    "much output": ["seq", "200000"],
    "an error": ["ls", "/nonexistent"],
    "argv[0], of a link": ["sh", "-c", "echo $0"],
    "a path": [shutil.which("printf") or "", "%s", "x"],
    "the working directory": ["pwd", "-P"],
    "the environment": ["env", "-u", "_"],
    "limits": ["bash", "-c", "ulimit -a"],
    "the mask": ["sh", "-c", "umask"],
    "priority": ["nice"],
    "signals": ["grep", "^Sig[BIC]\\|^Shd", "/proc/self/status"],
    "credentials and more": ["grep", "^[UGCN][aiop]", "/proc/self/status"],
    "the group": ["sh", "-c", "test $(cut -d' ' -f5 /proc/$$/stat) != $$ && echo inherited"],
    "no such option": ["ls", "--no-such-option"],
    "an exit in between": ["sh", "-c", "head -c 10; exit 3"],
    "a broken pipe within": ["sh", "-c", "yes | head -n 1"],
    "python": [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read()[::-1])"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_the_commands_of_a_table(words: list[str]) -> None:
    """Output, error output and wait status are the command's own."""
    assert outcome(through(words), input=b"1\n2\n3\n") == outcome(words, input=b"1\n2\n3\n")


@FEW
@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\0", b"")), max_size=8))
def test_any_arguments(words: list[bytes]) -> None:
    """Every argument reaches the command byte for byte, `--` and what looks like an option too."""
    command = [b"/usr/bin/printf", b"%s\\0", *words]
    assert outcome(through(command)) == outcome(command)


@FEW
@given(st.binary(max_size=200_000))
def test_any_input(data: bytes) -> None:
    """What is written to elfolio's stdin comes out of cat."""
    assert outcome(through(["cat"]), input=data).stdout == data


@FEW
@given(st.integers(0, 255))
def test_any_exit_status(status: int) -> None:
    """The exit status is the command's."""
    assert outcome(through(["sh", "-c", f"exit {status}"])).status == status


def _ignored() -> set[int]:
    """What this process ignores, and so a command does: make, by posix_spawn, leaves 32 and 33 so."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigIgn:"))
    bits = int(line.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


FATAL = sorted(
    {*signal.valid_signals(), 32}
    - {*(signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT)}
    - {*(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)}
    - (_ignored() - {signal.SIGPIPE, signal.SIGXFSZ})
)


@pytest.mark.parametrize("number", FATAL)
def test_every_fatal_signal(number: int, tmp_path: Path) -> None:
    """A command killed by a signal, real-time ones and one of the C library's own included, kills elfolio by it,
    without a word and without a core file of its own."""
    words = ["sh", "-c", f"ulimit -c 0; kill -{number} $$"]
    limits = ["bash", "-c", 'ulimit -S -c $(ulimit -H -c); exec "$@"', "bash"]
    assert outcome([*limits, *through(words)], cwd=tmp_path) == outcome(words, cwd=tmp_path)
    assert outcome(words).status == -int(number)
    assert list(tmp_path.iterdir()) == []


def test_the_signal_that_no_program_can_be_killed_by() -> None:
    """For 33, which the C library keeps for setuid and does not let go of, a shell sees the same status."""
    words = ["sh", "-c", "kill -33 $$"]
    shell = ["bash", "-c", '"$@" 2>/dev/null; echo $?', "bash"]
    assert outcome([*shell, *through(words)]).stdout == outcome([*shell, *words]).stdout == b"161\n"


@pytest.mark.parametrize(
    "prefix",
    [
        ["env", "--ignore-signal=HUP,USR1,INT"],
        ["env", "--block-signal=USR1,TERM,CHLD"],
        ["nohup"],
        ["nice", "-n", "3"],
        ["env", "-i", "A=b"],
        ["env", "-i", "A=b", "LC_CTYPE=POSIX"],
        ["env", "-i", "A=b", "LC_ALL=C"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "words",
    [["/usr/bin/grep", "^Sig[BI]", "/proc/self/status"], ["/usr/bin/nice"], ["/usr/bin/env"]],
    ids=lambda words: words[0],
)
def test_what_was_inherited_is_passed_on(prefix: list[str], words: list[str]) -> None:
    """Ignored and blocked signals, the niceness and the environment come through, also in the locales in which
    Python changes its own environment."""
    expected = outcome([*prefix, *words])
    if "-i" not in prefix:
        assert outcome([*prefix, *through(words)]) == expected
        return
    # A bare environment leaves Python without its path: it is told by -c.
    start = f"import sys; sys.path[:0] = {sys.path!r}; from elfolio.cli import main; sys.exit(main())"
    assert outcome([*prefix, sys.executable, "-P", "-c", start, "run", "--", *words]) == expected


def test_an_ignored_sigchld_does_not_lose_the_status() -> None:
    """Where the caller ignores SIGCHLD, so that the kernel would reap by itself, the status still comes through."""
    assert outcome(["env", "--ignore-signal=CHLD", *through(["sh", "-c", "exit 5"])]).status == 5


def test_descriptors_are_inherited_as_a_shell_would(tmp_path: Path) -> None:
    """An inheritable descriptor reaches the command; none of elfolio's own does."""
    with open(tmp_path / "file", "w+b") as file:
        words = ["sh", "-c", f"ls /proc/self/fd; readlink /proc/self/fd/{file.fileno()}"]
        own, ours = (outcome(command, pass_fds=(file.fileno(),)) for command in (words, through(words)))
        closed = outcome(through(words, "--close-fds"), pass_fds=(file.fileno(),))
    assert ours == own
    assert str(tmp_path / "file").encode() in own.stdout
    assert closed.stdout == b"0\n1\n2\n3\n", "3 is the directory that ls reads"


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_stay_closed(closed: str, tmp_path: Path) -> None:
    """A standard stream that is closed for elfolio is closed for the command, and nothing of elfolio's has taken
    its number."""
    probe = f"ls /proc/self/fd > {tmp_path}/%s"
    for name, words in (("own", ["sh", "-c"]), ("ours", through(["sh", "-c"]))):
        command = [*words, probe % name]
        outcome(["bash", "-c", f'"$@" {closed}', "bash", *command])
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "own").read_bytes()


def test_the_working_directory_may_be_gone(tmp_path: Path) -> None:
    """In a directory that has been removed, what an absolute PATH finds still runs."""
    command = ["bash", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "bash"]
    assert outcome([*command, *through(["echo", "ok"])], cwd=tmp_path).stdout == b"ok\n"


def test_a_script_sees_its_name_as_the_shell_gives_it(tmp_path: Path) -> None:
    """$0 of a script is what a shell would have executed: the path as given, or where PATH found it."""
    script = tmp_path / "script"
    script.write_text('#!/bin/sh -u\necho "$0 $*"\n')
    script.chmod(0o755)
    for path in ("/usr/bin:/bin", f".:{os.defpath}", f"{tmp_path}:{os.defpath}"):
        for name in ("./script", "script", str(script), "../" + tmp_path.name + "/script"):
            env = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
            shell = outcome(["bash", "-c", f"{name} a 'b c'"], cwd=tmp_path, env=env)
            ours = outcome(through([name, "a", "b c"]), cwd=tmp_path, env=env)
            assert (ours.status, ours.stdout) == (shell.status, shell.stdout), (path, name)
