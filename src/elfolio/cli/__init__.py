"""cli: the command line. In: argv. Out: an exit status.

A command is one module here, of its own name, with `prepare_parser(parser)`, `run(args) -> int`, and
`TAKES_COMMAND` where another program's command line follows behind `--` (it becomes `args.command`),
`MAY_TAKE_COMMAND` where it does with some options. Only the module asked for is imported, and `--version` and `--help`
import nothing.
"""

import sys
from io import TextIOWrapper

from elfolio import __version__

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "explain": "what the kernel would map of a file, page by page, and what keeps it off huge pages",
    "folios": "what the page cache has of a file: in folios of which order, and where",
    "load": "read a large file fast, on the largest pages that can be had, and say what it cost",
    "observe": "what processes have mapped, the folios behind it, what keeps it off huge pages, missed merges",
    "replay": "a trace of memory calls through a model of Linux's address space, under any kernel's rules",
    "run": "run one command through a spawn template, as if it had been run itself",
    "simulate": "a machine's memory over its life: who gets huge folios under which rule",
    "survey": "every ELF file of a tree, ranked by what a remedy would win",
    "tune": "put a program's text where huge pages fit, without linking it again",
    "warm": "fill the page cache with huge folios, so that program text can be on huge pages",
}
"""Name and summary of what exists."""


def main(argv: list[str] | None = None) -> int:
    """Runs `argv`, or what this process was given, and returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that its encoding has no letters for is no error
    try:
        status = _status(words)
        # Here, where an error can still be told: at exit Python would print a traceback.
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        return _die_by("SIGPIPE")
    except KeyboardInterrupt:
        return _die_by("SIGINT")
    except OSError as error:
        sys.stdout = None
        return fail(f"elfolio: standard output: {error.strerror}")


def _status(words: list[str]) -> int:
    match words:
        case ["--version"]:
            print(f"elfolio {__version__}")
            return 0
        case ["-h" | "--help"]:
            print(usage(), end="")
            return 0
        case [name, *rest] if name in COMMANDS:
            from elfolio.cli.dispatch import run_command

            return run_command(name, rest)
        case []:
            return fail("elfolio: no command; elfolio --help lists them")
        case [name, *_]:
            return fail(f"elfolio: no command {name!r}; elfolio --help lists them")
    raise AssertionError(words)


def usage() -> str:
    """What `elfolio --help` says."""
    width = max(map(len, COMMANDS))
    lines = "".join(f"  {name:{width}}  {summary}\n" for name, summary in COMMANDS.items())
    return (
        "usage: elfolio COMMAND ...\n"
        "       elfolio --version | --help\n\n"
        "Makes programs start fast on Linux, and shows why they don't.\n\n"
        f"commands:\n{lines}\n"
        "elfolio COMMAND --help tells more of each.\n"
    )


def fail(message: str) -> int:
    """Says what is wrong, in one line, and gives the status of bad input."""
    print(message, file=sys.stderr)
    return 2


def _die_by(name: str) -> int:
    import signal

    from elfolio.cli.process import die_by

    die_by(signal.Signals[name])
