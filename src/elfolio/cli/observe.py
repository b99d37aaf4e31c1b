"""cli.observe: `elfolio observe`. In: a process id. Out: 0; its mappings on stdout."""

import argparse

from elfolio.cli.parsing import Failure, Parser, positive

__all__ = ["prepare_parser", "run"]


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio observe`."""
    parser.description = (
        "Shows what a running process has mapped, which neighbours did not become one mapping and why,\n"
        "what same-page merging does for it, and what its page tables cost."
    )
    parser.add_argument("pid", type=positive, metavar="PID", help="a process of this machine")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from elfolio.cli.output import width_and_ink
    from elfolio.kernel.neighbours import apart
    from elfolio.live.host import policy_here
    from elfolio.live.maps import MapsError
    from elfolio.live.vmas import read_memory
    from elfolio.report.observe import as_json, as_report, as_text

    try:
        memory = read_memory(args.pid)
    except ProcessLookupError as error:
        raise Failure(f"{args.pid}: no such process") from error
    except PermissionError as error:
        raise Failure(f"{error.filename}: {error.strerror}; ask as its owner, or as root") from error
    except MapsError as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from error
    policy = policy_here()
    written = {index for index, use in enumerate(memory.uses) if use.written}
    found = apart([use.vma for use in memory.uses], written, policy)
    report = as_report(memory, found, policy.name)
    if args.json:
        print(as_json(report))
        return 0
    print(as_text(report, *width_and_ink()))
    return 0
