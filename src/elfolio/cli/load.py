"""cli.load: large files into memory, and what it cost. In: files. Out: an exit status.

0: loaded. 2: bad input, or a file that cannot be loaded.
"""

import argparse
import mmap
import os
import sys
import time
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure, Parser, one_line, positive

if TYPE_CHECKING:
    from collections.abc import Callable

    from elfolio.pagecache.formats.fault import FormatError
    from elfolio.pagecache.formats.model import Model
    from elfolio.report.load import Loaded

__all__ = ["prepare_parser", "run"]

NAMES = ("auto", "mmap", "read", "readahead", "direct", "uncached")
_EVERY = 0.1

DESCRIPTION = """\
Loads each file as elfolio.load does, gives the memory back, and says what it cost: so the file is in the page cache
afterwards, in the largest folios that its file system gives, but for the strategies direct and uncached.

Of a model (*.safetensors, *.gguf, and *.index.json, the index of sharded safetensors files) the header is checked
first, and what it holds is said: how many tensors, of which types. An index loads all files that it names."""

EPILOG = """\
strategies:
  auto       looks at the file and the memory, takes one of the others, and says why
  mmap       maps it, MADV_HUGEPAGE first, then MADV_POPULATE_READ
  read       read() into huge pages
  readahead  maps it, WILLNEED piece by piece: for comparison
  direct     O_DIRECT into huge pages, several requests in flight
  uncached   read() that the page cache keeps nothing of (RWF_DONTCACHE)

exit status: 0, or 2 for bad input and files that cannot be loaded."""


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio load`."""
    parser.usage = "elfolio load [options] FILE..."
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="a file")
    add("--strategy", choices=NAMES, default="auto", metavar="S", help="one of those below (default: auto)")
    add("--compare", action="store_true", help="every strategy in turn, cold and warm, and a control beside them; "
        "drops the file from the page cache, no other")  # fmt: skip
    add("--rounds", type=positive, default=5, metavar="N", help="of --compare (default: 5)")
    add("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Loads, or compares."""
    if not args.compare:
        return _loaded(args)
    if len(args.files) > 1 or args.strategy != "auto":
        raise Failure("--compare takes one file, and every strategy")
    try:
        print(_compared(args), end="")
    except OSError as error:
        raise Failure(": ".join(_problem(args.files[0], error))) from error
    return 0


def _problem(path: str, error: "OSError | FormatError") -> tuple[str, str]:
    """The file, and what is wrong with it."""
    if not isinstance(error, OSError):
        return error.name, str(error).removeprefix(f"{error.name}: ")
    return os.fsdecode(error.filename or path), error.strerror or str(error)


def _loaded(args: argparse.Namespace) -> int:
    """One that cannot be loaded is told at once, and the others go on."""
    from elfolio.cli.output import width_and_ink
    from elfolio.pagecache.formats.fault import FormatError
    from elfolio.pagecache.load import load
    from elfolio.report import load as report

    found: list[Loaded] = []
    models: list[Model] = []
    problems: list[tuple[str, str]] = []
    for path in args.files:
        try:
            for file in _files(path, models):
                with load(file, strategy=args.strategy, progress=_bar(file)) as loaded:
                    found.append((loaded.report, loaded.orders()))
        except (OSError, FormatError) as error:
            problems.append(_problem(path, error))
            _clear()
            print(one_line(f"elfolio load: {': '.join(problems[-1])}"), file=sys.stderr)
        finally:
            _clear()
    if args.json:
        print(report.as_json(found, mmap.PAGESIZE, problems, models))
    elif found:
        print(report.as_text(found, mmap.PAGESIZE, *width_and_ink(), models), end="")
    return 2 if problems else 0


def _files(path: str, models: "list[Model]") -> tuple[str, ...]:
    """What is to be loaded for it: of a model, whose header is checked first, all its files."""
    from elfolio.pagecache.formats.model import model_at

    model = model_at(path)
    if model is None:
        return (path,)
    models.append(model)
    return model.files


def _compared(args: argparse.Namespace) -> str:
    from elfolio.cli.output import width_and_ink
    from elfolio.pagecache.load_compare import compare
    from elfolio.report import load as report

    (path,) = args.files

    def tell(done: int, total: int) -> None:
        if _shows():
            print(f"\rload {done} of {total}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        trials = compare(path, rounds=args.rounds, tell=tell)
    finally:
        _clear()
    if args.json:
        return report.compared_as_json(path, trials) + "\n"
    return report.compared_as_text(path, trials, *width_and_ink())


def _bar(path: str) -> "Callable[[int, int], None] | None":
    """Rate and share, ten times a second; None where nobody looks."""
    if not _shows():
        return None
    began, told, name = time.monotonic(), 0.0, one_line(path)[-40:]

    def tell(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < _EVERY:
            return
        told = now
        full = 20 * done // max(total, 1)
        rate = done / (now - began) / 1e9 if now > began else 0.0
        said = f"\r{name} [{'#' * full}{'.' * (20 - full)}] {100 * done // max(total, 1)}% {rate:.2f} GB/s\x1b[K"
        print(said, end="", file=sys.stderr, flush=True)

    return tell


def _shows() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _clear() -> None:
    if _shows():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
