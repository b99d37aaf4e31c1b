"""cli.replay: `elfolio replay`. In: a trace and policies, or a command to record. Out: 0, or 1 for a difference."""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from elfolio.cli.parsing import Failure, Parser

if TYPE_CHECKING:
    from elfolio.kernel.policy import Policy
    from elfolio.kernel.replaying import Lane
    from elfolio.kernel.trace import Event, Log
    from elfolio.kernel.trace_steps import Step
    from elfolio.report.replay import Report

__all__ = ["MAY_TAKE_COMMAND", "prepare_parser", "run"]

MAY_TAKE_COMMAND = True
"""With --record."""

_MACHINES = ("x86_64", "aarch64")
_PEEK = 50
"""Lines that are looked at to tell whose log it is."""

EPILOG = """\
TRACE is a log of `strace -f` (with -y it names files, with -e trace=memory,process,desc it is short and knows
which opening of a file was mapped), of `perf trace`, or what --record wrote. Lines that cannot be read are
named, counted, and left out.

Without --policy it is replayed under the kernel that was traced, where the trace says which, or else under this
machine's. Where it does not say which memory was written, each policy is shown twice: nothing, and everything.

With --live every process of the trace is a child of this machine's kernel, which maps and unmaps as the trace says.
What cannot be done there is counted: exec (its image is mapped by mmap), files that are not there or would be written
to, userfaultfd. The first difference ends it. With --check a case must hold on the model and on this kernel.

exit status: 0; 1 if lines could not be read, or if the traced kernel itself would have answered a call
otherwise in the model, or if a case failed; 2 for bad input. With --record that of CMD."""


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio replay`."""
    parser.usage = (
        "elfolio replay [options] TRACE\n       elfolio replay --record OUT [--no-faults] -- CMD [ARG...]\n"
        "       elfolio replay --live [--policy P] [--json] TRACE\n"
        "       elfolio replay --check CASES [--policy P] [--live] [--json]"
    )
    parser.description = "Replays what a program did to its memory through a model of Linux's address space."
    parser.epilog = EPILOG
    add = parser.add_argument
    add("trace", nargs="?", metavar="TRACE", help="a log, or - for standard input")
    add("--policy", action="append", metavar="P", help="linux-X.Y[.Z]; twice: side by side")
    add("--memory-merge", action="store_true",
        help="beside it, as if all programs ran under prctl(PR_SET_MEMORY_MERGE): what that costs in VMAs")  # fmt: skip
    add("--bounds", action="store_true", help="show both bounds also where the trace knows what was written")
    add("--operations", action="store_true", help="print what the trace asks of which address space, and do no more")
    add("--json", action="store_true", help="one JSON object on standard output")
    add("--html", type=Path, metavar="FILE", help="write the report with its picture, one file")
    add("--record", metavar="OUT", help="run CMD, and write what it and all that it starts do to their memory")
    add("--live", action="store_true",
        help="have the running kernel do the same, and compare with the model after every operation")  # fmt: skip
    add("--check", metavar="CASES", help="hold a policy against cases given as data, JSON with `cases`")
    add("--no-faults", action="store_true", help="with --record: do not sample what is written to")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    _refuse(args)
    if args.record is not None:
        from elfolio.cli.replay_record import run_record

        return run_record(args)
    if args.check is not None:
        from elfolio.cli.replay_check import run_check

        return run_check(args)
    if args.command:
        raise Failure("a command goes with --record OUT")
    if args.trace is None:
        raise Failure("a TRACE to replay, or --record OUT -- CMD")
    with _opened(args.trace) as file:
        return _replay(args, file)


_OPTIONS = ("record", "check", "live", "operations", "policy", "memory_merge", "bounds", "json", "html", "no_faults")
_TAKEN = {
    "record": {"no_faults"},
    "check": {"live", "policy", "json"},
    "live": {"policy", "json"},
    "operations": set(),
    "": {"policy", "memory_merge", "bounds", "json", "html"},
}
"""What each manner of the command, the first four options or none of them, does something with."""


def _refuse(args: argparse.Namespace) -> None:
    given = [name for name in _OPTIONS if getattr(args, name) not in (None, False)]
    manner = next((name for name in _OPTIONS[:4] if name in given), "")
    for name in given:
        if name != manner and name not in _TAKEN[manner]:
            option = f"--{name.replace('_', '-')}"
            raise Failure(f"--{manner} takes no {option}" if manner else f"{option} goes with --record OUT")


def _opened(name: str) -> TextIO:
    if name == "-" and sys.stdin is None:
        raise Failure("-: standard input is closed")
    try:
        # A path in a log may be any bytes; only \n ends a line.
        return open(
            sys.stdin.fileno() if name == "-" else name,
            encoding="utf-8-sig",
            errors="surrogateescape",
            newline="\n",
            closefd=name != "-",
        )
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from error


def _read(file: TextIO, name: str) -> Iterator[str]:
    try:
        yield from file
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from error


def _replay(args: argparse.Namespace, file: TextIO) -> int:
    from elfolio.errors import InvalidArgument
    from elfolio.kernel.replaying import replay
    from elfolio.kernel.trace import Log
    from elfolio.kernel.trace_steps import Steps
    from elfolio.report.replay import as_report

    log, steps = Log(args.trace), Steps()
    form, events = _events(file, log)
    try:
        first = next(events, None)  # so that a record's first line has been read
    except InvalidArgument as error:
        raise Failure(f"{log.name}:1: {error.strerror}") from error
    found = steps.of(_again(first, events))
    if args.operations:
        for step in found:
            print(_line(step))
        return _told(log)
    if args.live:
        from elfolio.cli.replay_live import run_live

        return run_live(args, log, found)
    own = _own(log)
    lanes = _lanes(args, log, own)
    begin = time.perf_counter()
    replay(found, lanes)
    seconds = time.perf_counter() - begin
    report = as_report(lanes, log, steps, form=form, own=own.name if log.facts else "", seconds=seconds)
    if args.html is not None:
        from elfolio.cli.output import write_page
        from elfolio.report.replay_html import as_html

        write_page(args.html, as_html(report))
    _show(args, report)
    wrong = any(lane["own"] and _differs(lane) for lane in report["lanes"])  # type: ignore[arg-type]
    return 1 if wrong or report["unreadable"] else 0


def _differs(lane: dict[str, object]) -> bool:
    programs = lane["programs"]
    assert isinstance(programs, list)
    return bool(lane["different"]) or any(program["equal"] < program["checked"] for program in programs)


def _events(file: TextIO, log: "Log") -> "tuple[str, Iterator[Event]]":
    from itertools import chain, islice

    from elfolio.kernel.trace_perf import looks_like_perf, read_perf
    from elfolio.kernel.trace_record import looks_like_record, read_record
    from elfolio.kernel.trace_strace import looks_like_strace, read_strace

    read = _read(file, log.name)
    head = list(islice(read, _PEEK))
    if not head:
        raise Failure(f"{log.name}: empty")
    lines = chain(head, _progress(read))
    for line in head:
        if looks_like_record(line):
            return "record", read_record(lines, log)
        if looks_like_strace(line):
            return "strace", read_strace(lines, log)
        if looks_like_perf(line):
            return "perf trace", read_perf(lines, log)
    raise Failure(f"{log.name}: no log of strace or perf trace, and no record; see elfolio replay --help")


def _progress(file: Iterator[str]) -> Iterator[str]:
    """The lines, and on a terminal how many they are by now."""
    if not sys.stderr.isatty():
        yield from file
        return
    count = _PEEK
    for line in file:
        count += 1
        if count % 50000 == 0:
            print(f"\r{count} lines", end="", file=sys.stderr, flush=True)
        yield line
    print("\r\033[K", end="", file=sys.stderr, flush=True)


def _again(first: "Event | None", rest: "Iterator[Event]") -> "Iterator[Event]":
    if first is not None:
        yield first
        yield from rest


def _own(log: "Log") -> "Policy":
    """The traced kernel's policy; this machine's where the trace does not say."""
    import re
    from dataclasses import replace

    from elfolio.kernel.policy import policy
    from elfolio.live.host import policy_here

    release = re.match(r"\d+\.\d+(?:\.\d+)?", str(log.facts.get("kernel", "")))
    if release is None:
        return policy_here()
    machine = log.facts.get("machine", "x86_64")
    if machine not in _MACHINES:
        raise Failure(f"{log.name}:1: a trace of {machine!r}; the model knows {' and '.join(_MACHINES)}")
    return replace(policy(f"linux-{release[0]}"), machine=str(machine))


def _lanes(args: argparse.Namespace, log: "Log", own: "Policy") -> "list[Lane]":
    from dataclasses import replace

    from elfolio.errors import InvalidArgument
    from elfolio.kernel.policy import PMD_SIZES, policy
    from elfolio.kernel.replaying import Lane

    try:
        machine = str(log.facts.get("machine", own.machine))
        policies = [replace(policy(name), machine=machine) for name in args.policy or ()] or [own]
    except InvalidArgument as error:
        raise Failure(str(error.strerror)) from error
    page = log.facts.get("page", 4096)
    if not isinstance(page, int) or page not in PMD_SIZES:
        raise Failure(f"{log.name}:1: pages of {page} bytes: one of {', '.join(map(str, PMD_SIZES))}")
    known = log.facts.get("faults", "none") != "none"
    ways = (["traced"] if known else []) + (["none", "all"] if args.bounds or not known else [])
    return [
        Lane(one, way, memory_merge=merge, page=page)  # type: ignore[arg-type]
        for one in policies
        for merge in ((False, True) if args.memory_merge else (False,))
        for way in ways
    ]


def _line(step: "Step") -> str:
    name = type(step).__name__.lower()
    if name == "do":
        return f"{step.line}\t{step.space}\t{step.operation!r}\t{step.result}"  # type: ignore[union-attr]
    return f"{step.line}\t{step.space}\t{step!r}"


def _told(log: "Log") -> int:
    from elfolio.report.columns import plain

    for problem in log:
        print(plain(str(problem)), file=sys.stderr)
    return 1 if log.unreadable else 0


def _show(args: argparse.Namespace, report: "Report") -> None:
    if args.json:
        from elfolio.report.replay import as_json

        print(as_json(report))
        return
    from elfolio.cli.output import width_and_ink
    from elfolio.report.replay_text import as_text

    print(as_text(report, *width_and_ink()))
