"""What cannot start, and what is asked for wrongly: one line on stderr, and the status that says which."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.running import Outcome, elfolio, outcome, through


def one_line(done: Outcome, status: int, *words: str) -> None:
    """Asserts the form of every refusal: nothing on stdout, one line that has the words."""
    said = done.stderr.decode()
    assert (done.status, done.stdout) == (status, b""), said
    assert said.startswith("elfolio run: ")
    assert said.count("\n") == 1
    assert said.endswith("\n")
    for word in words:
        assert word in said, said


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with files that cannot be executed, each for its own reason."""
    (tmp_path / "plain").write_text("no program\n")
    (tmp_path / "directory").mkdir()
    for name, text in (
        ("no-format", "echo no first line\n"),
        ("empty", ""),
        ("no-interpreter", "#!/nonexistent/interpreter -x\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "dangling").symlink_to("nowhere")
    loader = b"/lib64/ld-linux-x86-64.so.2"
    program = Path(shutil.which("true") or "").read_bytes()
    if loader in program:
        (tmp_path / "no-loader").write_bytes(program.replace(loader, loader[:-1] + b"9"))
        (tmp_path / "no-loader").chmod(0o755)
    return tmp_path


CANNOT = {
    "./plain": (126, "execute permission"),
    "./directory": (126, "regular file"),
    "./plain/below": (126, "Not a directory"),
    "./no-format": (126, "first line"),
    "./empty": (126, "first line"),
    "./missing": (127, "check the path"),
    "./dangling": (127, "does not exist"),
    "./no-interpreter": (127, "/nonexistent/interpreter"),
    "./no-loader": (127, "loader"),
    "": (127, "command not found"),
    "no-such-command": (127, "command not found"),
    "plain": (126, "execute permission"),
    "./new\nline": (127, "./new\\nline"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_start(place: Path, name: str) -> None:
    """126 for what is there and cannot be executed, 127 for what is not, as bash has it, with the name and the
    mend in one line."""
    if name == "./no-loader" and not (place / name).exists():
        pytest.skip("the loader is not the x86-64 one; to force: run on x86-64")
    status, words = CANNOT[name]
    env = os.environ | {"PATH": f"{os.environ['PATH']}:{place}"}
    one_line(outcome(through([name]), cwd=place, env=env), status, words, name.splitlines()[0] if name else "''")
    if name not in ("./no-format", "./empty"):  # a shell reads these itself
        shell = outcome(["bash", "-c", '"$0"', name], cwd=place, env=env)
        assert shell.status == status


def test_too_long_an_argument_list() -> None:
    """Arguments beyond the kernel's limit: 126, and which mend."""
    script = "import sys; from elfolio.cli import main; sys.exit(main(['run', '--', 'true', *['x' * 120_000] * 40]))"
    one_line(outcome([sys.executable, "-P", "-c", script]), 126, "Argument list too long", "shorten")


WRONG = {
    "no command": ([], "belongs behind --"),
    "no command behind --": (["--"], "belongs behind --"),
    "no --": (["ls"], "belongs behind --"),
    "an unknown option": (["--frob", "--", "true"], "--frob"),
    "an abbreviation": (["--time", "3", "--", "true"], "--time"),
    "a stray word": (["stray", "--", "true"], "stray"),
    "a missing value": (["--timeout", "--", "true"], "--timeout"),
    "a time of zero": (["--timeout", "0", "--", "true"], "seconds above 0"),
    "no time": (["--timeout", "soon", "--", "true"], "'soon'"),
    "an endless time": (["--timeout", "inf", "--", "true"], "seconds above 0"),
    "no number of bytes": (["--limit", "64X", "--", "true"], "such as 4096, 64K or 1M"),
    "a negative number of bytes": (["--limit=-1", "--", "true"], "number of bytes"),
    "no assignment": (["--env", "A", "--", "true"], "NAME=VALUE"),
    "no mask": (["--umask", "999", "--", "true"], "octal"),
    "too wide a mask": (["--umask", "1777", "--", "true"], "octal"),
    "no number": (["--nice", "x", "--", "true"], "--nice"),
    "too large a number": (["--nice", "99999999999", "--", "true"], "--nice"),
    "an unknown limit": (["--rlimit", "frob=1", "--", "true"], "nofile"),
    "a limit without a value": (["--rlimit", "nofile", "--", "true"], "number of bytes"),
    "a soft limit above the hard one": (["--rlimit", "core=5:1", "--", "true"], "rlimits"),
    "a missing directory": (["--cwd", "/nonexistent", "--", "./true"], "/nonexistent"),
    "a file for a directory": (["--cwd", "/dev/null", "--", "true"], "Not a directory"),
    "no cgroup": (["--cgroup", "/tmp", "--", "true"], "/tmp"),
    "a missing cgroup": (["--cgroup", "/nonexistent", "--", "true"], "/nonexistent"),
    "an unknown user": (["--user", "no-such-user", "--", "true"], "no-such-user"),
    "an unknown user's number": (["--user", "4294967000", "--", "true"], "4294967000"),
    "an unknown group": (["--group", "no-such-group", "--", "true"], "no-such-group"),
    "an impossible group": (["--group", "99999999999", "--", "true"], "99999999999"),
    "a line break": (["--cwd", "/non\nexistent", "--", "true"], "/non\\nexistent"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_use(words: list[str], said: str) -> None:
    """Every wrong use gives status 2 and one line that names what is wrong; nothing is started."""
    one_line(elfolio("run", *words), 2, said)


def test_the_command_may_have_words_like_elfolios() -> None:
    """Everything behind the first -- is the command's, --help and another -- included."""
    done = outcome(through(["printf", "%s,", "--", "--help", "--timeout"]))
    assert (done.status, done.stdout) == (0, b"--,--help,--timeout,")
