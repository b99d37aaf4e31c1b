"""cli.observe: `elfolio observe`. In: processes. Out: an exit status; their mappings and folios on stdout."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure, Parser, one_line, positive, seconds

if TYPE_CHECKING:
    from elfolio.cli.observe_look import Looked

__all__ = ["prepare_parser", "run"]

DESCRIPTION = """\
Shows what running processes have mapped: the folios behind each mapping, by order, kind and what maps them; what keeps
blocks of their files off huge pages, in explain's words; which neighbours did not become one mapping and why; what
same-page merging does, and what page tables cost. Reads only, and faults nothing in."""

EPILOG = """\
Others' processes, and the orders of folios below a huge page's, are root's to see: what is hidden is said.

exit status: 0, or 2 if a process that was asked for could not be looked at (the others are shown)."""


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio observe`."""
    parser.usage = "elfolio observe [options] (PID... | --cgroup PATH | --all)"
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add = parser.add_argument
    add("pids", nargs="*", type=positive, metavar="PID", help="a process of this machine")
    add("--pid", type=_pids, action="extend", default=[], metavar="LIST", help="the same, with commas between")
    add("--cgroup", type=Path, metavar="PATH", help="a control group's, and those below it: a line each")
    add("--all", action="store_true", help="every process: a line each, and the files that lose most huge pages")
    add("--watch", nargs="?", type=seconds, const=2.0, metavar="SECONDS", help="look again every 2, or so many, "
        "seconds: a screen on a terminal, a JSON object a line in a pipe")  # fmt: skip
    add("--html", type=Path, metavar="FILE", help="write the report with its pictures, one file")
    add("--json", action="store_true", help="one JSON object on standard output")


def _pids(text: str) -> list[int]:
    return [positive(word) for word in text.split(",")]


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    args.pids = list(dict.fromkeys(args.pids + args.pid))
    _check(args)
    if args.watch is not None:
        from elfolio.cli.observe_watch import watch

        return watch(args)
    from elfolio.cli.observe_look import look

    looked = look(args)
    status = complain(args, looked)
    if args.html is not None:
        from elfolio.cli.output import write_page
        from elfolio.report.observe_html import as_html

        write_page(args.html, as_html(looked.report, looked.pictures))
    if args.json:
        from elfolio.report.observe import as_json

        print(as_json(looked.report))
    elif looked.report["processes"] or len(args.pids) != 1:
        print(shown(args, looked))
    return status


def _check(args: argparse.Namespace) -> None:
    ways = sum(map(bool, (args.pids, args.cgroup, args.all)))
    if ways != 1:
        said = "give process ids, or --cgroup PATH, or --all"
        if not ways and args.watch is not None:
            said += f"; --watch took {args.watch:g} for its seconds: put the ids first"
        raise Failure(said if not ways else f"{said}: one of them")
    if args.watch is not None and args.html is not None:
        raise Failure("--html is of one moment: leave out --watch")


def complain(args: argparse.Namespace, looked: "Looked") -> int:
    """What was asked for by its id and not seen, on stderr; the exit status. A single one is the command's failure."""
    if not args.pids:
        return 0
    problems = looked.report["problems"]
    if len(args.pids) == 1 and problems:
        raise Failure(f"{problems[0]['pid']}: {problems[0]['reason']}")
    for one in problems:
        print(one_line(f"elfolio observe: {one['pid']}: {one['reason']}"), file=sys.stderr)
    return 2 if problems else 0


def shown(args: argparse.Namespace, looked: "Looked") -> str:
    """For people: processes that were named whole, others a line each."""
    from elfolio.cli.output import width_and_ink
    from elfolio.report.observe_text import as_table, as_text

    return (as_text if args.pids else as_table)(looked.report, *width_and_ink())
