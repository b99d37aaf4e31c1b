"""The options of `elfolio run`, each by what the command then sees of itself."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import Outcome, elfolio, outcome, through


def ran(options: list[str], *words: str, **keywords: object) -> str:
    """What a command that must succeed says, run with these options."""
    done = outcome(through(words, *options), **keywords)
    assert (done.status, done.stderr) == (0, b""), done
    return done.stdout.decode()


def test_cwd(tmp_path: Path) -> None:
    """--cwd is the command's directory; a relative command is found from there, and only from there."""
    (tmp_path / "tool").symlink_to("/usr/bin/env")
    assert ran(["--cwd", str(tmp_path)], "pwd") == f"{tmp_path}\n"
    assert ran(["--cwd", tmp_path.name], "./tool", "pwd", cwd=tmp_path.parent) == f"{tmp_path}\n"
    assert outcome(through(["./tool"], "--cwd", "/"), cwd=tmp_path).status == 127


def test_env() -> None:
    """--env sets, once or more, the last one counts; PATH among them is where the command is looked for."""
    assert ran(["--env", "A=1", "--env", "B=x=y", "--env", "A=2"], "sh", "-c", "echo $A $B") == "2 x=y\n"
    assert outcome(through(["ls"], "--env", "PATH=/nonexistent")).status == 127
    assert elfolio("run", "--env", b"A=\xff", "--", "printenv", "A").stdout == b"\xff\n"


def test_env_allow() -> None:
    """--env-allow passes what it names and no more; --env adds to it. The command is found all the same."""
    env = os.environ | {"ONE": "1", "TWO": "2", "SECRET": "s"}
    assert ran(["--env-allow", "ONE", "--env-allow", "GONE"], "env", env=env) == "ONE=1\n"
    assert ran(["--env-allow", "TWO", "--env", "A=b"], "env", env=env) == "TWO=2\nA=b\n"


def test_umask_nice_and_limits() -> None:
    """--umask, --nice and --rlimit are what the command starts with; one value of a limit is both."""
    assert ran(["--umask", "027"], "sh", "-c", "umask") == "0027\n"
    assert int(ran(["--nice", "3"], "nice")) == os.nice(0) + 3
    limits = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc"
    options = ["--rlimit", "nofile=64:128", "--rlimit", "RLIMIT_CORE=0"]
    assert ran(options, "bash", "-c", limits) == "64\n128\n0\n0\n"
    assert ran(["--rlimit", "as=1G:unlimited"], "bash", "-c", "ulimit -Sv") == f"{1 << 20}\n"


def test_new_session() -> None:
    """--new-session: the command leads a session of its own; without it, it is in elfolio's."""
    session = "set -- $(cat /proc/$$/stat); test $5,$6 = $$,$$ && echo leads || echo follows"
    assert ran(["--new-session"], "sh", "-c", session) == "leads\n"
    assert ran([], "sh", "-c", session) == "follows\n"


def test_no_new_privs() -> None:
    """--no-new-privs sets the flag."""
    assert ran(["--no-new-privs"], "grep", "NoNewPrivs", "/proc/self/status") == "NoNewPrivs:\t1\n"


@pytest.mark.root
def test_user_and_group() -> None:
    """--user gives the user's id, group and supplementary groups, and none of the caller's; --group another."""
    said = outcome(["id", "nobody"]).stdout.decode()
    assert ran(["--user", "nobody"], "id") == said
    assert ran(["--user", re.findall(r"\d+", said)[0]], "id") == said
    assert ran(["--user", "nobody", "--group", "daemon"], "id", "-gn") == "daemon\n"


def test_strict(tmp_path: Path) -> None:
    """--strict executes the path: AT_EXECFN is it, and a script runs as ever."""
    assert "AT_EXECFN:            /usr/bin/env\n" in ran(["--strict", "--env", "LD_SHOW_AUXV=1"], "/usr/bin/env")
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\necho "$0" "$@"\n')
    script.chmod(0o755)
    assert ran(["--strict"], str(script), "a") == f"{script} a\n"


def test_timeout() -> None:
    """--timeout kills the command and its children and ends with 124; what was said before comes through."""
    done = outcome(through(["sh", "-c", "echo started; sleep 1000 & echo $!; wait"], "--timeout", "0.2"))
    assert (done.status, done.stderr) == (124, b"")
    started, grandchild = done.stdout.decode().split()
    assert started == "started"
    # Its pipe has ended, or outcome would still wait: it has gone, or is about to be reaped by init.
    assert not Path(f"/proc/{grandchild}").exists() or "Z" in Path(f"/proc/{grandchild}/stat").read_text()


def test_a_timeout_that_is_not_reached() -> None:
    """A command that ends before its --timeout ends as ever, and a very long one is taken."""
    assert outcome(through(["sh", "-c", "exit 3"], "--timeout", "1e30")).status == 3


def test_a_timeout_although_somebody_keeps_the_pipe() -> None:
    """With --limit, a process that has left the family and keeps the pipe does not keep elfolio."""
    script = "setsid sh -c 'sleep 1000 & wait' & echo out; exit 5"
    done = outcome(through(["sh", "-c", script], "--timeout", "0.2", "--limit", "1K"))
    assert (done.status, done.stdout) == (124, b"out\n")


def limited(limit: str, words: list[str]) -> Outcome:
    """The outcome with --limit."""
    return outcome(through(words, "--limit", limit))


def test_limit() -> None:
    """--limit passes head and tail, byte for byte, and says on stderr how much is missing between them."""
    whole = outcome(["seq", "100000"]).stdout
    done = limited("1001", ["seq", "100000"])
    assert done.stdout == whole[:501] + whole[-500:]
    assert (
        done.stderr
        == f"elfolio run: {len(whole) - 1001} of {len(whole)} bytes of standard output dropped (--limit)\n".encode()
    )
    assert done.status == 0
    assert limited("1M", ["seq", "100000"]) == Outcome(0, whole, b"")
    assert limited(str(len(whole)), ["seq", "100000"]) == Outcome(0, whole, b"")
    assert limited("0", ["seq", "10"]).stdout == b""


def test_limit_is_for_each_output() -> None:
    """Each output has the limit for itself, and standard error is passed on too."""
    done = limited("8", ["sh", "-c", "echo abcdefghijk >&2; echo short; exit 3"])
    assert (done.status, done.stdout) == (3, b"short\n")
    assert done.stderr == b"abcdijk\nelfolio run: 4 of 12 bytes of standard error dropped (--limit)\n"


def test_limit_passes_the_head_at_once() -> None:
    """With --limit, what fits in the head is there before the command ends."""
    words = through(["sh", "-c", "echo first; read line; echo $line"], "--limit", "1K")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "first\n"
        process.stdin.write("second\n")
        process.stdin.close()
        assert process.stdout.read() == "second\n"
    assert process.returncode == 0


def test_limit_with_a_reader_that_has_gone() -> None:
    """With --limit too, a command whose reader goes away gets SIGPIPE, and elfolio says nothing."""
    words = through(["yes"], "--limit", "1G")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -13


def test_limit_with_a_full_disk() -> None:
    """An output that cannot be passed on is said."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(through(["echo", "x"], "--limit", "1K"), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b"elfolio run: standard output cannot be written: ENOSPC\n"


def test_verbose() -> None:
    """--verbose adds one line on stderr, and nothing else changes."""
    done = outcome(through(["sh", "-c", "echo out; exit 3"], "--verbose"))
    assert (done.status, done.stdout) == (3, b"out\n")
    assert re.fullmatch(
        rb"elfolio run: /\S+/sh, pid \d+, cold: status 3; check \d+ us, launch \d+ us, \d+\.\d ms in all\n", done.stderr
    )
