"""cli.run: `elfolio run`. In: options and a command. Out: the command's exit status, or its signal."""

import argparse
import errno
import os
from typing import TYPE_CHECKING

from elfolio.cli.child_options import add_child_options, child_keywords
from elfolio.cli.lookup import NOT_EXECUTABLE, NOT_FOUND, Found, find
from elfolio.cli.parsing import Failure, Parser, byte_count, positive, seconds
from elfolio.cli.process import die_by, restore_environment

if TYPE_CHECKING:
    from elfolio.spawn.command import Ran
    from elfolio.spawn.options import SpawnKeywords
    from elfolio.spawn.template import Audit, SpawnTemplate
    from elfolio.spawn.thermostat import Temperature

__all__ = ["TAKES_COMMAND", "prepare_parser", "run"]

TAKES_COMMAND = True
TIMED_OUT = 124
"""As of timeout(1)."""
JSON_LIMIT = 1 << 20

DESCRIPTION = """\
Runs CMD through a spawn template and behaves like CMD itself: its streams, descriptors, environment,
signal mask and process group are this process's, its exit status becomes this one's, and if a signal
kills it, the same signal kills this. A terminal's signals reach both; others sent to this process are
passed on to CMD; when CMD stops (^Z), so does this.

CMD is found as a shell would: a name with a slash is a path, any other is looked for in PATH.

A start is cold unless --warm is given: one start cannot pay for the process that warm ones come from. With
--explain nothing is run; what is printed holds for a program that starts CMD again and again."""

EPILOG = """\
exit status: CMD's own; 124 if it ran into --timeout, 126 if it cannot be executed, 127 if it is not
found, 2 for a bad option. SIGPIPE and SIGXFSZ have their default effect on CMD, even if they were ignored."""


def prepare_parser(parser: Parser) -> None:
    """Adds what `elfolio run` takes."""
    parser.usage = "elfolio run [options] -- CMD [ARG...]"
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    _add_outcome(parser.add_argument_group("outputs and time"))
    _add_temperature(parser.add_argument_group("temperature"))
    add_child_options(parser)


def _add_outcome(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--timeout", type=seconds, metavar="S",
        help="after S seconds kill CMD and its descendants (SIGKILL) and exit 124; what has left the family "
        "is reached only with --private-cgroup, --new-session or through the pipes of --limit and --json",
    )  # fmt: skip
    group.add_argument(
        "--limit", type=byte_count, metavar="BYTES",
        help="of each output pass the first half of BYTES as it comes and the last half at its end; drop the "
        "rest, and say on stderr how much. 64K, 1M. CMD then writes to pipes",
    )  # fmt: skip
    group.add_argument(
        "--json", action="store_true",
        help="print one JSON object: both outputs (each within --limit, or else 1M), status, times, "
        "resource use",
    )  # fmt: skip
    group.add_argument("--verbose", action="store_true", help="say on stderr what was done, and in what time")


def _add_temperature(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--warm", action="store_true",
        help="fork CMD from a process of it that stands before main, where that is the same; implies --close-fds. "
        "For a look at it: making that process costs more than this one start saves",
    )  # fmt: skip
    group.add_argument("--cold", action="store_true", help="execute CMD, as is done without --warm too")
    group.add_argument(
        "--tuned", action="store_true",
        help="execute a copy of CMD whose text lies on huge pages, kept in the user's cache, where that wins any and "
        "CMD does not look at its own path; else CMD itself, and --verbose says why. The first time takes as long as "
        "copying does",
    )  # fmt: skip
    group.add_argument(
        "--explain", action="store_true",
        help="do not run CMD: say which temperature its starts would have, why not a warmer one, what a warm "
        "process holds, and what of a warm start cannot be equal; with --json as one object. Implies --close-fds",
    )  # fmt: skip
    group.add_argument(
        "--measure", type=positive, metavar="N",
        help="with --explain: start CMD N times warm and 2N times cold, in turn, on /dev/null, and say how many "
        "microseconds a warm start saves. Whatever CMD does, it does that often",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Runs the command, reports, and ends as it did."""
    _check(args)
    restore_environment()
    if args.explain:
        return _explain(args, child_keywords(args))
    ran = _stand_in(args, child_keywords(args))
    _report(args, ran)
    if ran.timed_out:
        return TIMED_OUT
    code = ran.returncode or 0
    if code < 0:
        die_by(-code)
    return code


def _check(args: argparse.Namespace) -> None:
    """What excludes each other; and what warm starts, and so explanations of them, imply."""
    if args.warm and args.cold:
        raise Failure("--warm and --cold exclude each other; leave out one")
    if args.measure is not None and not args.explain:
        raise Failure("--measure goes with --explain; add it")
    if args.explain and not (args.timeout is None and args.limit is None):
        raise Failure("--explain shows no outputs and has no deadline; leave out --timeout and --limit")
    args.close_fds = args.close_fds or args.warm or args.explain


def _explain(args: argparse.Namespace, options: "SpawnKeywords") -> int:
    import sys

    from elfolio.report import temperature as report

    found = _find(args)
    try:
        with _template(args, found, "warm" if args.warm else "cold" if args.cold else "auto") as template:
            explanation = template.explain(args.command, measure=args.measure or 0, try_warm=True, **options)
    except OSError as error:
        if error.errno == errno.ESTALE or error.filename == found.path:
            raise _not_executable(error, found) from error
        raise Failure(_words(error)) from error
    if args.json:
        print(report.as_json(args.command, explanation))
    elif sys.stdout.isatty():
        print(report.as_table(explanation, os.get_terminal_size(sys.stdout.fileno()).columns))
    else:
        print(report.as_text(explanation))
    return 0


def _template(args: argparse.Namespace, found: Found, temperature: "Temperature") -> "SpawnTemplate":
    from elfolio.spawn.template import SpawnTemplate

    try:
        audit: Audit = "strict" if args.strict else "descriptor"
        return SpawnTemplate(found.path, temperature=temperature, audit=audit, tuned=args.tuned)
    except OSError as error:
        raise _not_executable(error, found) from error


def _stand_in(args: argparse.Namespace, options: "SpawnKeywords") -> "Ran":
    from elfolio.spawn.command import Bound, stand_in

    found = _find(args)
    bound = Bound(JSON_LIMIT if args.limit is None else args.limit, live=not args.json)
    template = _template(args, found, "warm" if args.warm else "cold")
    try:
        return stand_in(
            template,
            args.command,
            options,
            script=found.called,
            timeout=args.timeout,
            bound=bound if args.json or args.limit is not None else None,
        )
    except OSError as error:
        if error.errno == errno.ESTALE or error.filename == found.path:
            raise _not_executable(error, found) from error
        raise Failure(_words(error)) from error


def _find(args: argparse.Namespace) -> Found:
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = "/proc/self/cwd"  # removed: what is found by absolute paths can run all the same
    search = dict(args.env).get(b"PATH", os.environb.get(b"PATH", os.defpath.encode()))
    return find(args.command[0], os.fsdecode(search), os.path.join(here, args.cwd or ""))


_MENDS = {
    errno.ENOENT: "check the path; a relative one begins at the working directory",
    errno.EACCES: "it must be a regular file with execute permission, on a file system not mounted noexec",
    errno.ENOEXEC: "a script needs #! and its interpreter's path as the first line",
    errno.ESTALE: "it was replaced while it was being started: run it again",
    errno.E2BIG: "shorten the arguments or the environment",
    errno.ETXTBSY: "something has it open for writing: wait until that is done",
}


def _not_executable(error: OSError, found: Found) -> Failure:
    """The line and the status for a program that did not start."""
    status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    text = f"{found.called}: {error.strerror}"
    if error.errno == errno.ENOENT and os.path.lexists(found.path):
        lacking = "" if error.filename in (None, found.path) else f" {os.fsdecode(error.filename)}"
        return Failure(f"{found.called}: its interpreter or loader{lacking} does not exist; install it", status)
    mend = _MENDS.get(error.errno or 0)
    return Failure(f"{text}; {mend}" if mend else text, status)


def _words(error: OSError) -> str:
    name = error.filename
    return f"{error.strerror}" if name is None else f"{error.strerror}: {os.fsdecode(name)!r}"


def _report(args: argparse.Namespace, ran: "Ran") -> None:
    if not (args.json or args.verbose or args.limit is not None):
        return
    import sys

    from elfolio.report import run as report

    if args.json:
        print(report.as_json(ran))
    elif args.limit is not None:
        for line in report.dropped(ran):
            print(f"elfolio run: {line}", file=sys.stderr)
    if args.verbose:
        print(f"elfolio run: {report.summary(ran)}", file=sys.stderr)
