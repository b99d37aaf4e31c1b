"""cli.warm: the page cache filled with huge folios. In: files, processes, packages. Out: an exit status.

0: all warm. 1: not all, and why. 2: bad input.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure, Parser, one_line, positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from elfolio.pagecache.warm import Warmed

__all__ = ["prepare_parser", "run"]

UNITS = "/etc/systemd/system"

DESCRIPTION = """\
Fills the page cache with the largest folios that the file system gives, so that program text can be mapped by huge
pages: what is cached in small folios is dropped, and read again in whole blocks. No privilege is needed but to read
the file. What running programs have mapped cannot be dropped: --rewrite makes a new file instead, which they see
when they start again."""

EPILOG = """\
exit status: 0, or 1 if not all of it is warm (each file's reason is shown), 2 for bad input, or if a file could not be
read (the others are warmed)."""


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio warm`."""
    parser.usage = "elfolio warm [options] [FILE...] [--pid PID] [--package NAME]"
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("files", nargs="*", metavar="FILE", help="a program, a shared object, or any other file")
    add = parser.add_argument
    add("--pid", type=positive, action="append", metavar="PID", help="what this process executes from")
    add("--package", action="append", metavar="NAME", help="the programs and libraries of an installed package")
    add("--libraries", action="store_true", help="also the shared objects that each program needs")
    add("--whole", action="store_true", help="of an ELF file, also what nothing maps (debug information, symbols)")
    add("--force", action="store_true", help="also where no huge mapping comes of it")
    add("--rewrite", action="store_true", help="replace what cannot be dropped by a new file, at once or not at all")
    add("--links", choices=("refuse", "leave", "all"), default="refuse", metavar="HOW", help="--rewrite of a file with "
        "several names: refuse; leave: the others keep the old file; all: if they are in one directory")  # fmt: skip
    add("--install-unit", action="store_true", help="write a systemd unit that does this at every boot")
    add("--uninstall-unit", action="store_true", help="remove it")
    add("--unit-dir", default=UNITS, metavar="DIR", help=f"where systemd looks for it (default: {UNITS})")
    add("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Warms, or sees to the unit."""
    _check(args)
    if args.uninstall_unit or args.install_unit:
        return _unit(args)
    paths, skipped = _paths(args)
    problems: list[tuple[str, str]] = []
    done = list(_warmed(args, paths, problems))
    named = set(args.files)  # what a package has beside its large programs is nobody's fault
    from elfolio.report import warm as report

    if args.json:
        print(report.as_json(done, skipped, problems))
    elif done or not problems:
        from elfolio.cli.output import width_and_ink

        print(report.as_text(done, skipped, *width_and_ink()), end="")
    if problems:
        return 2
    return 0 if all(one.is_warm or (one.is_refused and one.path not in named) for one in done) else 1


def _check(args: argparse.Namespace) -> None:
    named = args.files or args.pid or args.package
    if args.uninstall_unit and (args.install_unit or named):
        raise Failure("--uninstall-unit stands alone, or with --unit-dir")
    if not named and not args.uninstall_unit:
        raise Failure("no file; name one, or give --pid or --package")
    if args.install_unit and (args.pid or args.rewrite):
        raise Failure("--install-unit is for files and packages, without --pid and --rewrite")
    if args.links != "refuse" and not args.rewrite:
        raise Failure("--links belongs to --rewrite")
    if args.unit_dir != UNITS and not (args.install_unit or args.uninstall_unit):
        raise Failure("--unit-dir belongs to --install-unit and --uninstall-unit")


def _paths(args: argparse.Namespace) -> tuple[list[str], int]:
    """The files asked for, each once, and how many of a process or package were left out as nothing for this."""
    from elfolio.live.packages import package_files
    from elfolio.pagecache.aim import is_worth_a_look

    found: list[str] = []
    try:
        for pid in args.pid or ():
            found += _executed(pid)
        for name in args.package or ():
            found += package_files(name)
        found = list(dict.fromkeys(found))
        worth = _once(path for path in found if is_worth_a_look(path))
        chosen = [*args.files, *worth]
        if args.libraries:
            chosen += _once(library for path in chosen for library in _libraries(path) if is_worth_a_look(library))
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from error
    return list(dict.fromkeys(chosen)), len(found) - len(worth)


def _executed(pid: int) -> "tuple[str, ...]":
    from elfolio.live.holders import mapped_files

    try:
        found = mapped_files(pid)
    except PermissionError as error:
        raise Failure(f"--pid {pid}: another user's process: ask as its owner, or as root") from error
    except ProcessLookupError as error:
        raise Failure(f"--pid {pid}: no such process") from error
    if not found:
        raise Failure(f"--pid {pid}: it executes from no file that has a name; is it a kernel thread, or at its end?")
    return found


def _once(paths: "Iterable[str]") -> list[str]:
    """One name of each file."""
    found: dict[tuple[int, int], str] = {}
    for path in paths:
        status = os.stat(path)
        found.setdefault((status.st_dev, status.st_ino), path)
    return list(found.values())


def _libraries(path: str) -> "Iterator[str]":
    from elfolio.errors import ElfError
    from elfolio.live.libraries import libraries
    from elfolio.live.opened import opened

    try:
        with opened(path) as found:
            yield from (library.path for library in libraries(found.image) if library.image is not None)
    except ElfError:
        return


def _warmed(args: argparse.Namespace, paths: list[str], problems: list[tuple[str, str]]) -> "Iterator[Warmed]":
    """What became of each; one that cannot be read is told at once and kept in `problems`, and the others go on."""
    from elfolio.pagecache.replace import Links
    from elfolio.pagecache.warm import rewrite, warm

    bar = sys.stderr is not None and sys.stderr.isatty()
    for index, path in enumerate(paths, 1):
        if bar:
            print(f"\r{index} of {len(paths)}: {one_line(path)[-60:]}\x1b[K", end="", file=sys.stderr, flush=True)
        problem = None
        try:
            found = warm(path, whole=args.whole, force=args.force)
            if args.rewrite and found.needs_new_file:
                found = rewrite(path, found, links=Links(args.links), whole=args.whole, force=args.force)
            yield found
        except OSError as error:
            problem = (os.fsdecode(error.filename or path), error.strerror or str(error))
        finally:
            if bar:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        if problem is not None:
            problems.append(problem)
            print(one_line(f"elfolio warm: {problem[0]}: {problem[1]}"), file=sys.stderr)


def _unit(args: argparse.Namespace) -> int:
    from elfolio.pagecache.unit import NAME, install, uninstall

    try:
        if args.uninstall_unit:
            print(f"removed {uninstall(args.unit_dir)}")
            return 0
        path = install(_command(args), args.unit_dir)
    except (OSError, ValueError) as error:
        name = getattr(error, "filename", None)
        raise Failure(f"{name}: {error.strerror}" if name and isinstance(error, OSError) else str(error)) from error
    print(f"wrote {path}\nat every boot from the next; now, too: systemctl daemon-reload && systemctl start {NAME}")
    return 0


def _command(args: argparse.Namespace) -> list[str]:
    """What the unit runs: this Python's elfolio, and paths that hold without a working directory."""
    for path in args.files:
        if not os.path.isfile(path):
            raise Failure(f"{path}: no such file")
    words = [sys.executable, "-P", "-m", "elfolio", "warm", "--json"]
    words += [f"--{name}" for name in ("libraries", "whole", "force") if getattr(args, name)]
    for name in args.package or ():
        words += ["--package", name]
    return [*words, *(os.path.abspath(path) for path in args.files)]
