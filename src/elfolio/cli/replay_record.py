"""cli.replay_record: `elfolio replay --record`. In: a file's name, a command. Out: the command's exit status."""

import argparse
import os
import sys

from elfolio.cli.lookup import NOT_EXECUTABLE, find
from elfolio.cli.parsing import Failure
from elfolio.cli.process import die_by, restore_environment
from elfolio.measure.record import RecordError, record

__all__ = ["run_record"]


def run_record(args: argparse.Namespace) -> int:
    """Runs it, and ends as it did."""
    if not args.command or args.trace is not None:
        raise Failure("--record: a command belongs behind --, as in: elfolio replay --record OUT -- ls -l")
    if args.record == "-":
        raise Failure("--record: a file's name, not -: standard output is the command's")
    restore_environment()
    found = find(args.command[0], os.environ.get("PATH", os.defpath), os.getcwd())
    try:
        out = os.open(args.record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise Failure(f"{args.record}: {error.strerror}") from error
    try:
        done = record(found.called, args.command, out, faults=not args.no_faults)
    except RecordError as error:
        if error.step != "execve":
            raise Failure(f"{error.step}: {error.strerror}; tracing may be forbidden here") from error
        raise Failure(f"{found.called}: {error.strerror}", NOT_EXECUTABLE) from error
    except OSError as error:
        raise Failure(f"{args.record}: {error.strerror}") from error
    finally:
        os.close(out)
    if done.write_error:
        print(f"elfolio replay: {args.record}: {os.strerror(done.write_error)}", file=sys.stderr)
    if done.returncode < 0:
        die_by(-done.returncode)
    return done.returncode
