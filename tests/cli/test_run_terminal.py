"""A terminal: ^C, ^Z, fg and bg, as with the command itself, on a pseudo-terminal with an interactive shell."""

import os
import shlex
import signal
import sys

import pytest

from tests.cli.running import ELFOLIO, through
from tests.cli.terminal import Terminal
from tests.cli.test_run_signals import LISTENER

RUN = shlex.join([*ELFOLIO, "run", "--"])
# The words appear once, in the output: what is typed is echoed too.
READY = "printf 're%s\\n' ady"


def shell() -> Terminal:
    """An interactive bash that asks with "$ "."""
    return Terminal(
        ["bash", "--norc", "--noprofile", "--noediting", "-i"], env=os.environ | {"PS1": "[$?]> ", "HISTFILE": ""}
    )


def test_stop_and_continue() -> None:
    """^Z stops the job and gives the shell its prompt back with 128 + SIGTSTP; `fg` goes on where it was."""
    with shell() as terminal:
        terminal.type(f"{RUN} sh -c {shlex.quote(READY + '; exec cat')}\n")
        terminal.wait_for("ready")
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.wait_for(r"\[148\]> ")
        terminal.type("fg\n")
        terminal.wait_for("exec cat")
        terminal.type("hello\n")
        terminal.wait_for("hello\r\nhello\r\n")
        terminal.type("\x1a")
        terminal.wait_for(r"\[148\]> ")
        terminal.type("fg\n")
        terminal.wait_for("exec cat")
        terminal.type("\x04")
        terminal.wait_for(r"\[0\]> ")


@pytest.mark.parametrize(("key", "status"), [("\x03", 130), ("\x1c", 131)])
def test_interrupt_and_quit(key: str, status: int) -> None:
    """^C and ^\\ kill the job, and the shell sees which signal did it."""
    with shell() as terminal:
        terminal.type(f"{RUN} sh -c {shlex.quote(READY + '; exec cat')}\n")
        terminal.wait_for("ready")
        terminal.type(key)
        terminal.wait_for(rf"\[{status}\]> ")


def test_background_and_foreground() -> None:
    """A job that stops itself goes on in the background with `bg`; one that reads the terminal from there stops,
    and reads on with `fg`."""
    with shell() as terminal:
        terminal.type(f"{RUN} sh -c 'kill -STOP $$; printf o%s k'\n")
        terminal.wait_for(r"\[147\]> ")
        terminal.type("bg\n")
        terminal.wait_for("ok")
        terminal.type(f"wait; {RUN} cat &\n")
        terminal.type("until jobs -s | grep -q cat; do :; done; (exit 42)\n")
        # The notice of the stop, which names the job too, comes before the prompt.
        terminal.wait_for(r"\[42\]> ")
        terminal.type("fg\n")
        terminal.wait_for(r"run -- cat\r\n")
        terminal.type("hello\n")
        terminal.wait_for("hello\r\nhello\r\n")
        terminal.type("\x04")
        terminal.wait_for(r"\[0\]> ")


def test_a_job_killed_by_the_shell() -> None:
    """`kill %1` ends the job, and `wait` reports the signal."""
    with shell() as terminal:
        terminal.type(f"{RUN} sh -c {shlex.quote(READY + '; exec sleep 1000')} &\n")
        terminal.wait_for("ready")
        terminal.type("kill %1; wait %1\n")
        terminal.wait_for(r"\[143\]> ")


def test_a_shell_script_stops_at_an_interrupt() -> None:
    """^C in a script that runs elfolio ends the script too, as the shell sees that SIGINT killed the command."""
    with shell() as terminal:
        script = f"{RUN} sh -c {shlex.quote(READY + '; exec cat')}; echo went on"
        terminal.type(f"bash -c {shlex.quote(script)}\n")
        terminal.wait_for("ready")
        terminal.type("\x03")
        terminal.wait_for(r"\[130\]> ")
        assert "went on" not in terminal.shown


@pytest.mark.parametrize("options", [[], ["--limit", "1M"]], ids=["plain", "limit"])
def test_the_terminals_signals_come_once(options: list[str]) -> None:
    """What the terminal sends to the whole group is not sent to the command a second time by elfolio."""
    with Terminal(through([sys.executable, "-uc", LISTENER], *options)) as terminal:
        terminal.wait_for("ready")
        for key, sig in (("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT), ("\x1a", signal.SIGTSTP)):
            terminal.type(key)
            terminal.wait_for(rf"{int(sig)}\r\n")
        # Passed on after all that elfolio has had before: a second one would stand before it.
        os.kill(terminal.leader(), signal.SIGUSR1)
        assert terminal.wait_for(r"(?s).*\b10\r\n").group() == "10\r\n"
        os.kill(terminal.leader(), signal.SIGTERM)
        terminal.wait_for("15")
        assert terminal.status() == 0


def test_a_session_of_its_own_gets_them_from_elfolio() -> None:
    """With --new-session the terminal does not reach the command: elfolio passes ^C on."""
    with Terminal(through([sys.executable, "-uc", LISTENER], "--new-session")) as terminal:
        terminal.wait_for("ready")
        terminal.type("\x03")
        terminal.wait_for(r"2\r\n")
        os.kill(terminal.leader(), signal.SIGTERM)
        terminal.wait_for("15")
        assert terminal.status() == 0


def test_the_command_has_the_terminal() -> None:
    """The command's streams are the terminal, and it may use it as the foreground job: `tty`, and stty's settings."""
    with Terminal(through(["sh", "-c", "tty; stty size; test -t 0 -a -t 1 -a -t 2; exit $?"])) as terminal:
        terminal.wait_for(r"/dev/pts/\d+\r\n\d+ \d+\r\n")
        assert terminal.status() == 0
