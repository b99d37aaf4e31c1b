"""cli.dispatch: the command asked for, and no other. In: its name and words. Out: an exit status."""

import signal
import sys
from importlib import import_module

from elfolio.cli.parsing import Failure, Parser, one_line

__all__ = ["parser_of", "run_command"]


def parser_of(name: str) -> Parser:
    """The parser of the command `name`, as its module prepares it."""
    parser = Parser(f"elfolio {name}")
    import_module(f"elfolio.cli.{name}").prepare_parser(parser)
    return parser


def run_command(name: str, words: list[str]) -> int:
    """Parses `words` and runs the command."""
    # The system's way to end on ^C is quiet, and right for whoever waits for us.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    module = import_module(f"elfolio.cli.{name}")
    parser = parser_of(name)
    options, command = _split(words)
    if not {"-h", "--help"}.isdisjoint(options):
        print(parser.format_help(), end="")
        return 0
    try:
        needs_command = getattr(module, "TAKES_COMMAND", False)
        if needs_command and not command:
            raise Failure(f"a command belongs behind --, as in: {parser.prog} -- ls -l")
        takes_command = needs_command or getattr(module, "MAY_TAKE_COMMAND", False)
        # For the others -- ends the options: a file may be called -x.
        args = parser.parse_args(options if takes_command else words)
        args.command = command if takes_command else []
        status: int = module.run(args)
        return status
    except Failure as failure:
        print(f"elfolio {name}: {one_line(str(failure))}", file=sys.stderr)
        return failure.status


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before the first `--`, and what behind it."""
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]
