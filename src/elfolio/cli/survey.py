"""cli.survey: `elfolio survey`. In: directories and options. Out: an exit status."""

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from elfolio.cli.parsing import Failure, Parser, positive

if TYPE_CHECKING:
    from elfolio.survey.rows import Row
    from elfolio.survey.run import Survey

__all__ = ["prepare_parser", "run"]

FORMATS = ("table", "json", "csv", "parquet")

DESCRIPTION = """\
Looks at every ELF file below the directories and ranks them by what a remedy would win. Hard links count once,
symbolic links are not followed, /proc, /sys and /dev are left out. Files are read, never run.

The columns of a table: the huge pages of 2 MiB that text gains by the cheapest remedy, those that it has, the
most that it could have; the remedy (0: edit p_align, 1: re-lay the file, 2: relink); the size of text; whether
pages of 16 and 64 KiB can map the file as it is; the size of RELRO; segments both writable and executable (rwx),
an executable stack, and bytes missing at the file's end (cut); padding in file and memory; the linker.
All others are in --format json, csv and parquet, and in --sql."""

EPILOG = """\
exit status: 0, or 1 if a file or directory could not be read (they are listed), 2 for a bad option or a
directory that is not there. Files that vanish meanwhile are listed as gone, and change no status.

--format parquet and --sql need elfolio[table], --on needs elfolio[cluster]."""


def prepare_parser(parser: Parser) -> None:
    """Adds what `elfolio survey` takes."""
    from elfolio.survey.rows import COSTS

    parser.usage = "elfolio survey [options] DIR..."
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("roots", nargs="+", metavar="DIR", help="a directory, or a file")
    parser.add_argument("--format", choices=FORMATS, default="table", help="how to write the rows (default: table)")
    costs = "; ".join(f"{name}: {sentence}" for name, (sentence, _) in COSTS.items())
    parser.add_argument(
        "--sort", choices=tuple(COSTS), default="huge", metavar="COST", help=f"what to rank by. {costs}; default: huge"
    )
    parser.add_argument("--top", type=positive, metavar="N", help="only the first N rows")
    parser.add_argument("--jobs", type=positive, metavar="N", help="processes (default: one a CPU)")
    parser.add_argument(
        "--on", metavar="dask://HOST:PORT",
        help="work on this Dask cluster, whose workers see the same files and have elfolio",
    )  # fmt: skip
    parser.add_argument("--sql", metavar="QUERY", help="print what DuckDB answers; the rows are its table survey")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there, not to standard output")


def run(args: argparse.Namespace) -> int:
    """Surveys, writes, and says whether all could be read."""
    _check(args)
    found = _survey(args)
    from elfolio.survey.rows import ranked

    rows = ranked(found.rows, args.sort)
    if args.sql is not None:
        _write_answer(args, found.rows)
    else:
        _write(args, found, rows if args.top is None else rows[: args.top], rows)
    unreadable = [problem for problem in found.problems if problem.kind == "unreadable"]
    if found.problems and (args.format != "table" or args.sql is not None):
        print(_complaint(found), file=sys.stderr)
    return 1 if unreadable else 0


def _check(args: argparse.Namespace) -> None:
    """What excludes each other, and what must be installed, before any work."""
    from importlib.util import find_spec

    if args.format == "parquet" and args.output is None:
        raise Failure("--format parquet is not for a terminal or a pipe; add -o FILE")
    if args.on is not None and args.jobs is not None:
        raise Failure("--jobs is for this machine, --on for a cluster; leave out one")
    if args.sql is not None and args.top is not None:
        raise Failure("--top does not limit --sql; write LIMIT into the query")
    needs = []
    if args.sql is not None:
        needs += [("--sql", "duckdb", "table"), ("--sql", "pyarrow", "table")]
    if args.format == "parquet":
        needs.append(("--format parquet", "pyarrow", "table"))
    if args.on is not None:
        from elfolio.survey.cluster import address_of

        try:
            address_of(args.on)
        except ValueError as error:
            raise Failure(f"--on: {error}") from None
        needs.append(("--on", "distributed", "cluster"))
    for option, module, extra in needs:
        if find_spec(module) is None:
            raise Failure(f"{option} needs {module}, which is not installed: pip install 'elfolio[{extra}]'")


def _survey(args: argparse.Namespace) -> "Survey":
    from elfolio.survey.run import survey

    bar = _Bar() if sys.stderr is not None and sys.stderr.isatty() else None
    try:
        return survey(args.roots, jobs=args.jobs, cluster=args.on, progress=bar)
    except OSError as error:
        name = error.filename if error.filename is not None else args.on
        raise Failure(f"{name}: {error.strerror}" if error.strerror and name is not None else str(error)) from error
    finally:
        if bar is not None:
            bar.clear()


class _Bar:
    """The progress bar, redrawn ten times a second at most."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, done: int, total: int, elves: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            from elfolio.report.survey import progress_line

            self._next = now + 0.1
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            print(f"\r{progress_line(done, total, elves, width)}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leaves the line empty for what comes next."""
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _write(args: argparse.Namespace, found: "Survey", shown: "list[Row]", rows: "list[Row]") -> None:
    from elfolio.report import survey as report
    from elfolio.survey.rows import COLUMNS, values

    if args.format == "parquet":
        from elfolio.survey.table import arrow_table

        _write_parquet(args, arrow_table(shown))
    elif args.format == "json":
        _put(args, report.as_json(found, shown, args.sort) + "\n")
    elif args.format == "csv":
        _put(args, report.as_csv(COLUMNS, map(values, shown)))
    else:
        _put(args, report.as_table(found, rows, args.sort, args.top))


def _write_answer(args: argparse.Namespace, rows: "list[Row]") -> None:
    """What DuckDB answers, in the format asked for."""
    import duckdb

    from elfolio.report import survey as report
    from elfolio.survey.table import records, run_sql

    try:
        table = run_sql(rows, args.sql)
    except duckdb.Error as error:
        raise Failure(f"--sql: {str(error).splitlines()[0]}") from None
    if args.format == "parquet":
        _write_parquet(args, table)
        return
    names, answer = records(table)
    as_format = {"table": report.as_text, "json": report.records_json, "csv": report.as_csv}[args.format]
    _put(args, as_format(names, answer) + ("\n" if args.format == "json" else ""))


def _write_parquet(args: argparse.Namespace, table: Any) -> None:
    from elfolio.survey.table import write_parquet

    try:
        write_parquet(table, args.output)
    except OSError as error:
        raise Failure(f"{args.output}: {error.strerror or error}") from error


def _put(args: argparse.Namespace, text: str) -> None:
    """To the file or to standard output; names that are no UTF-8 as their bytes."""
    if args.output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        return
    try:
        with open(args.output, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
    except OSError as error:
        raise Failure(f"{args.output}: {error.strerror}") from error


def _complaint(found: "Survey") -> str:
    from elfolio.cli.parsing import one_line

    first, count = found.problems[0], len(found.problems)
    more = f", and {count - 1} more: --format json lists them" if count > 1 else ""
    return one_line(f"elfolio survey: {first.path}: {first.reason}{more}")
