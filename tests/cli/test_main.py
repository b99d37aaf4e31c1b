"""The entry: what is there, what is not, and what each costs."""

import os
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

import elfolio as package
from elfolio import cli
from tests.cli.running import ELFOLIO, elfolio


def test_the_version_is_printed() -> None:
    """`elfolio --version` prints the name and the version, and ends with 0."""
    done = elfolio("--version")
    assert (done.status, done.stdout, done.stderr) == (0, f"elfolio {package.__version__}\n".encode(), b"")


def test_the_help_lists_what_exists_and_no_more() -> None:
    """Every command that the help names has its module, and every module with a `run` is named."""
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__"}
    commands = {name for name in modules if hasattr(import_module(f"elfolio.cli.{name}"), "prepare_parser")}
    assert set(cli.COMMANDS) == commands
    said = elfolio("--help").stdout.decode()
    listed = said.partition("commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == list(cli.COMMANDS)
    assert elfolio("-h").stdout.decode() == said


def loaded_by(*words: str) -> set[str]:
    """The modules that a fresh interpreter has after these words, and had not before."""
    code = (
        "import sys; before = set(sys.modules); from elfolio.cli import main; "
        "main(sys.argv[1:]); print(*set(sys.modules) - before, file=sys.stderr)"
    )
    done = subprocess.run([ELFOLIO[0], "-P", "-c", code, *words], capture_output=True, check=True, text=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("words", [["--version"], ["--help"]])
def test_the_small_answers_load_nothing(words: list[str]) -> None:
    """--version and --help import only the package and its cli: no room, no argparse, no signal."""
    assert loaded_by(*words) == {"elfolio", "elfolio.cli"}


def test_a_command_loads_its_own_module_only() -> None:
    """`elfolio run` imports no other command, and no report unless there is something to report."""
    loaded = loaded_by("run", "--", "true")
    assert {name for name in cli.COMMANDS if f"elfolio.cli.{name}" in loaded} == {"run"}
    assert not loaded & {"elfolio.report", "elfolio.spawn.aio", "asyncio", "json", "subprocess"}


WRONG = {
    "nothing": [],
    "an unknown command": ["frobnicate"],
    "an unknown option": ["--frobnicate"],
    "a control character": ["a\nb"],
    "bytes that are no text": [b"\xff"],
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_a_wrong_use_is_one_line(words: list[str]) -> None:
    """What is not understood gives one line on stderr that says where to look, and status 2."""
    done = elfolio(*words)
    assert (done.status, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"elfolio: no command")
    assert done.stderr.endswith(b"elfolio --help lists them\n")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["run", "--json", "--", "true"]])
def test_a_reader_that_has_gone_ends_it_quietly(words: list[str]) -> None:
    """With stdout closed by its reader, elfolio dies of SIGPIPE, as other tools do, without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*ELFOLIO, *words], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (-13, b"")


def test_a_full_disk_is_one_line() -> None:
    """An answer that cannot be written gives one line and status 2."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*ELFOLIO, "--version"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"elfolio: standard output: No space left on device\n"
