"""cli.tune: `elfolio tune`. In: files and options. Out: an exit status; new files."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure, Parser, byte_count, one_line
from elfolio.cli.tune_files import named_files

if TYPE_CHECKING:
    from elfolio.layout.plan import Plan
    from elfolio.pagecache.replace import Links
    from elfolio.pagecache.tuning import Subject, Wishes
    from elfolio.report.tune import FileReport

__all__ = ["prepare_parser", "run"]

DESCRIPTION = """\
Puts a program's text where huge pages fit, without linking it again. No address changes.

  tier 0   p_align is edited, so that the program is loaded at a multiple of the huge page
  tier 1   segments move in the file, to offsets that equal their addresses modulo the huge page,
           with holes between them
  tier 2   only with --merge: neighbours become one segment with the permissions of both, where that
           wins a huge page, or where pages of --page-size N hold parts of both. Read-only data can
           be executed then. A page that would be writable and executable is refused.

The lowest tier that wins anything is taken. An undo record travels in the file. Nothing is written
with --plan. How a file is written decides the folios that the page cache has of it: so --in-place
leaves alone what gains by no tier (elfolio warm is for that), and -o copies it."""

EPILOG = """\
exit status: 0 if each file was tuned, or nothing was to be won; 1 if of several files some were
refused or failed, or --check found a difference; 2 for a file that is refused, bad input or options."""


def prepare_parser(parser: Parser) -> None:
    """Adds what `elfolio tune` takes."""
    parser.usage = (
        "elfolio tune [options] FILE... -o OUT | --in-place | --plan\n       elfolio tune --undo FILE... [-o OUT]"
    )
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="a program or a shared object")
    add("--package", action="append", metavar="NAME",
        help="the ELF files of an installed package, and the libraries that its programs need")  # fmt: skip
    add("-o", "--output", metavar="OUT", help="write there; a directory, if there are several files")
    add("--in-place", action="store_true", help="replace each file, at once or not at all")
    add("--plan", action="store_true", help="show what would be done: each field edited, each range of bytes moved")
    add("--undo", action="store_true", help="make files what they were before they were tuned")
    add(
        "--check",
        action="store_true",
        help="hold the new file against the plan and the old one, before it gets its name",
    )
    add("--huge", type=byte_count, default=2 << 20, metavar="N", help="2M, or 32M: bytes of a huge page (2M)")
    add(
        "--page-size", type=byte_count, default=4096, metavar="N", help="16K or 64K: for a machine with such pages (4K)"
    )
    add("--tier", type=int, choices=(0, 1), help="go no further than this (1)")
    add("--force", action="store_true", help="lay the file out anew even where nothing is won")
    add("--merge", action="store_true", help="join segments (tier 2)")
    add(
        "--links",
        choices=("refuse", "leave", "all"),
        default="refuse",
        help="a file's other names (hard links): leave them the old file, or lead all to the new one (refuse)",
    )
    add("--times", action="store_true", help="keep access and modification times")
    add("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from elfolio.layout.finding import counted

    files = named_files(args.files, args.package or ())
    _check_options(args, files)
    rows = []
    for path in files:
        row = _undone(args, path) if args.undo else _treated(args, path, len(files))
        rows.append(row)
        if not (args.json or (args.package and _is_nothing(row))):
            _show(args, row)
    nothing = sum(map(_is_nothing, rows))
    if args.package and nothing and not args.json:
        print(f"{counted(nothing, 'file')} more: nothing to win")
    if args.json:
        from elfolio.report.tune import as_json

        print(as_json(rows))
    return _status(rows)


def _is_nothing(row: "FileReport") -> bool:
    """Not worth a line among the many files of a package."""
    return row["status"] in ("unchanged", "copied")


def _status(rows: "list[FileReport]") -> int:
    bad = [row for row in rows if row["status"] in ("refused", "failed")]
    if any(row["differences"] for row in rows):
        return 1
    return 0 if not bad else 2 if len(rows) == 1 else 1


def _check_options(args: argparse.Namespace, files: list[str]) -> None:
    """What excludes each other, before any work."""
    from elfolio.layout.costs import ALIGN_MOST
    from elfolio.span import is_power_of_two

    if args.undo:
        _check_undo(args)
    if args.output == "-":
        raise Failure("-o -: nothing is written to standard output; name a file, such as ./-")
    if args.in_place and args.output is not None:
        raise Failure("--in-place and -o exclude each other; leave out one")
    if args.merge and args.tier is not None:
        raise Failure("--merge is tier 2, and --tier stops before it; leave out one")
    if not (args.in_place or args.plan or args.undo) and args.output is None:
        raise Failure("where to? -o OUT writes a new file, --in-place replaces, --plan only shows")
    if len(files) > 1 and args.output is not None and not os.path.isdir(args.output):
        raise Failure(f"-o {args.output}: for {len(files)} files it must be a directory that is there")
    names = [os.path.basename(path) for path in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and args.output is not None:
        raise Failure(
            f"-o {args.output}: two of these files are called {twice}; name them one by one, or use --in-place"
        )
    if args.page_size not in (4096, 16384, 65536):
        raise Failure(f"--page-size {args.page_size}: Linux has pages of 4K, 16K and 64K")
    if not is_power_of_two(args.huge) or not args.page_size < args.huge <= ALIGN_MOST:
        raise Failure(f"--huge {args.huge}: a power of two, more than a page and 64M at most, such as 2M")


def _check_undo(args: argparse.Namespace) -> None:
    """Undoing has no plan to show: with --plan it would write, where nothing was to be written."""
    made = {"--plan": args.plan, "--check": args.check, "--tier": args.tier is not None, "--force": args.force}
    made |= {"--merge": args.merge, "--times": args.times}
    wrong = [name for name, given in made.items() if given]
    if wrong:
        raise Failure(f"{wrong[0]} is for tuning, not for --undo; leave out one")


def _wishes(args: argparse.Namespace) -> "Wishes":
    from elfolio.layout.hugepages import Tier
    from elfolio.pagecache.tuning import Wishes

    return Wishes(
        block=args.huge,
        page=args.page_size,
        most=Tier.RELAY if args.tier is None else Tier(args.tier),
        force=args.force,
        merge=args.merge,
    )


def _treated(args: argparse.Namespace, path: str, count: int) -> "FileReport":
    """One file, planned and written."""
    from elfolio.errors import ElfError
    from elfolio.pagecache.tuning import Differs, examined
    from elfolio.report.tune import failed_row

    try:
        with examined(path, _wishes(args)) as subject:
            return _applied(args, subject, count)
    except ElfError as error:
        return failed_row(path, "failed", error=error.why if error.name else str(error))
    except OSError as error:
        return failed_row(path, "failed", error=_io(error, path))
    except Differs as error:
        row = failed_row(path, "failed", error="the new file was thrown away, it is not as planned; please report this")
        row["differences"] = list(error.found)
        return row


def _io(error: OSError, path: str) -> str:
    """What went wrong, and with which other file."""
    name = os.fsdecode(error.filename) if error.filename is not None else path
    if name == ".":  # the directory that a new file was to be made in
        return f"no new file can be made in that directory ({error.strerror}); -o OUT writes elsewhere"
    return (
        f"{error.strerror or error}"
        if os.path.realpath(name) == os.path.realpath(path)
        else f"{name}: {error.strerror}"
    )


def _applied(args: argparse.Namespace, subject: "Subject", count: int) -> "FileReport":
    from elfolio.layout.hugepages import Tier
    from elfolio.pagecache.tuning import write
    from elfolio.report.tune import file_row

    plan = _with_notes(args, subject.plan, count)
    nothing = plan.tier is Tier.AS_IS
    # What an earlier run has done as far as it goes is not refused for the rest.
    if nothing and plan.refusals and (plan.refused or subject.record is None):
        return file_row(plan, "refused")
    if args.plan:
        return file_row(plan, "unchanged" if nothing else "planned")
    if nothing and args.in_place:
        return file_row(plan, "unchanged")
    out = _output(args, subject.path, count)
    written = write(subject, out, check=args.check, links=_links(args), times=args.times)
    status = "copied" if nothing else "tuned"
    return file_row(plan, status, output=out, record=written.record, checked=written.checked, folios=written.folios)


def _with_notes(args: argparse.Namespace, plan: "Plan", count: int) -> "Plan":
    """And what this machine makes of it, if it is for such a machine."""
    from dataclasses import replace

    from elfolio.kernel.advice import tuned_notes
    from elfolio.live.host import policy_here

    out = _output(args, plan.image.name, count)
    policy = policy_here(out if os.path.exists(out) else os.path.dirname(os.path.abspath(out)))
    return replace(plan, notes=(*plan.notes, *tuned_notes(plan, policy)))


def _output(args: argparse.Namespace, path: str, count: int) -> str:
    if args.output is None:
        return path
    into = count > 1 or os.path.isdir(args.output)
    return os.path.join(args.output, os.path.basename(path)) if into else str(args.output)


def _links(args: argparse.Namespace) -> "Links":
    from elfolio.pagecache.replace import Links

    return Links(args.links)


def _undone(args: argparse.Namespace, path: str) -> "FileReport":
    from elfolio.errors import ElfError
    from elfolio.pagecache.undoing import undo
    from elfolio.report.tune import failed_row

    out = _output(args, path, len(args.files))
    try:
        size = undo(path, out, links=_links(args))
    except (ElfError, OSError) as error:
        said = error.why if isinstance(error, ElfError) else _io(error, path)
        return failed_row(path, "failed", error=said)
    row = failed_row(path, "undone", output=out)
    row["size_after"] = size
    return row


def _show(args: argparse.Namespace, row: "FileReport") -> None:
    from elfolio.cli.output import width_and_ink
    from elfolio.report.tune import as_text

    if row["status"] == "failed":
        print(one_line(f"elfolio tune: {row['path']}: {row['error']}"), file=sys.stderr)
        for line in row["differences"]:
            print(one_line(f"elfolio tune: {row['path']}: {line}"), file=sys.stderr)
        return
    if row["status"] == "refused":
        for r in row["refusals"]:
            said = f"elfolio tune: {row['path']}: {r['text']}; {r['mend']} [{r['reason']}]"
            print(one_line(said), file=sys.stderr)
        return
    width, ink = width_and_ink()
    print(as_text(row, width, ink, details=args.plan), flush=True)
