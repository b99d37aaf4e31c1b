"""cli.folios: `elfolio folios`. In: files. Out: an exit status; what the page cache has of them on stdout."""

import argparse
import errno
import os
import sys
import time
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Parser, one_line

if TYPE_CHECKING:
    from elfolio.elf.image import ElfImage
    from elfolio.kernel.backing import Counts
    from elfolio.live.cached import CachedFile
    from elfolio.report.folios import FileRow, Problem

__all__ = ["prepare_parser", "run"]

DESCRIPTION = """\
Shows what the page cache has of files: in folios of which order, where, how much is dirty or being written; and of an
ELF file which blocks of its segments could be huge mappings with the folios that are there. Looking reads nothing from
the disk and leaves no page marked as used."""

EPILOG = """\
Orders need root: others are told those of huge pages, in their own files (and from Linux 6.7).

exit status: 0, or 2 if a file could not be looked at (the others are shown)."""


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio folios`."""
    parser.usage = "elfolio folios [--json] FILE..."
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("files", nargs="+", metavar="FILE", help="any regular file")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Looks at each; shows one at a time, so that the first need not wait for the last."""
    from elfolio.report.folios import as_json, as_report

    rows: list[FileRow] = []
    problems: list[Problem] = []
    shown = 0
    for path in args.files:
        bar = _Bar(path) if sys.stderr is not None and sys.stderr.isatty() else None
        try:
            row = _row(path, bar)
        except OSError as error:
            problems.append({"path": path, "reason": _reason(error, path)})
            print(one_line(f"elfolio folios: {path}: {problems[-1]['reason']}"), file=sys.stderr)
            continue
        finally:
            if bar is not None:
                bar.clear()
        if args.json:
            rows.append(row)
        else:
            _show(row, blank=shown > 0)
            shown += 1
    if args.json:
        print(as_json(as_report(rows, problems)))
    return 2 if problems else 0


def _show(row: "FileRow", *, blank: bool) -> None:
    from elfolio.cli.output import width_and_ink
    from elfolio.report.folios import as_text

    print(("\n" if blank else "") + as_text(row, *width_and_ink()))


def _reason(error: OSError, path: str) -> str:
    if error.errno == errno.EISDIR:
        return f"a directory; give its files, as in: find {path} -type f -exec elfolio folios {{}} +"
    if error.errno in (errno.ENODEV, errno.EINVAL):
        return f"{error.strerror}; give a file on a disk or a tmpfs"
    return error.strerror or str(error)


def _row(path: str, bar: "_Bar | None") -> "FileRow":
    from elfolio.live.cached import look, open_quietly
    from elfolio.live.host import file_system_of
    from elfolio.live.quiet import read_quietly
    from elfolio.report.folios import as_file

    with open_quietly(path) as fd:
        found = look(fd, progress=bar)
        image = read_quietly(fd, path, found) if found.runs is not None and found.size else None
    policy, blocks = _blocks(path, image, found) if image is not None else ("", [])
    return as_file(path, file_system_of(path), found, image, policy, blocks)


def _blocks(path: str, image: "ElfImage", found: "CachedFile") -> "tuple[str, list[Counts]]":
    """Each block of each mapping that this machine's kernel would make of it, and its folios."""
    from elfolio.kernel.backing import counted
    from elfolio.kernel.execve import machine_for
    from elfolio.kernel.prediction import predict
    from elfolio.live.host import policy_here

    policy = policy_here(path)
    if machine_for(image) != policy.machine:
        return "", []
    # The interpreter changes nothing of where the file's own blocks lie.
    prediction = predict(image, None, policy, missing="not looked at")
    return policy.name, [counted(run, found.runs or (), found.page) for run in prediction.runs]


class _Bar:
    """How far a long look has come, ten times a second at most."""

    def __init__(self, path: str) -> None:
        self._name = one_line(os.path.basename(path))
        self._next = time.monotonic() + 0.5

    def __call__(self, done: int, whole: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.1
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            line = f"{100 * done // whole}% of {self._name}"[: width - 1]
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leaves the line empty for what comes next."""
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
