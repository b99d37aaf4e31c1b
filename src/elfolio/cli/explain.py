"""cli.explain: what the kernel would map of a file, and why. In: options. Out: an exit status.

0: said, or equal to a real process. 1: --verify found differences. 2: bad input.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure, Parser, byte_count

if TYPE_CHECKING:
    from elfolio.elf.image import ElfImage
    from elfolio.kernel.host import Host
    from elfolio.kernel.policy import Policy
    from elfolio.kernel.prediction import Prediction
    from elfolio.layout.relink import Relinked
    from elfolio.report.explain import Report

__all__ = ["prepare_parser", "run"]

_PIPE_WIDTH = 120


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio explain`."""
    parser.description = "Says what Linux would map of an ELF file, page by page, and what keeps it off huge pages."
    parser.add_argument("file", metavar="BIN", help="a program or a shared object")
    add = parser.add_argument
    add("--policy", action="append", metavar="P", help="linux-X.Y[.Z], or a proposal; twice: both (this machine)")
    add("--page-size", type=byte_count, metavar="N", help="4K, 16K or 64K (the machine's)")
    add("--fs", metavar="F", help="the file system that it lies on: ext4, xfs, btrfs, ... (the file's own)")
    add("--libc", metavar="L", help="whose dynamic linker: glibc-2.36, musl, ... (this machine's)")
    add("--relink", action="append", metavar="MODE", help="what a linker would make of the same sections, such as "
        "separate-code,max-page-size=64K; `all`: the nine modes of lld")  # fmt: skip
    add("--html", type=Path, metavar="FILE", help="write the report with its pictures, one file")
    add("--json", action="store_true", help="one JSON object on standard output")
    add("--verify", action="store_true", help="run it to its entry point, and compare")
    add("--verify-from", type=Path, metavar="RECORD", help="compare with a /proc/PID/maps recorded elsewhere")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from elfolio.errors import ElfError, InvalidArgument

    try:
        return _run(args)
    except (ElfError, InvalidArgument) as error:
        raise Failure(str(error.strerror if isinstance(error, OSError) else error)) from error
    except OSError as error:
        name = error.filename or args.file
        raise Failure(f"{os.fsdecode(name)}: {error.strerror}") from error


def _run(args: argparse.Namespace) -> int:
    from elfolio.elf.linker import fingerprint
    from elfolio.layout.modes import linked_as
    from elfolio.layout.relro import relro
    from elfolio.report import explain

    with _Opened(args.file) as (image, data):
        predictions = [_predict(image, policy, args.file) for policy in _policies(args, image)]
        made = fingerprint(image, data)
        relinked = list(_relink(args.relink or (), image, data))
    layout = predictions[0].layout
    report = explain.as_report(
        predictions,
        linker=f"{made.linker} {made.version}" if made.version else made.linker,
        linked_as=linked_as(layout),
        relro=relro(layout),
        relinked=relinked,
    )
    _show(args, report)
    return 0 if report["verify"] is None or report["verify"]["equal"] else 1


def _show(args: argparse.Namespace, report: "Report") -> None:
    from elfolio.report import explain

    if args.html is not None:
        from elfolio.report.explain_html import as_html

        args.html.write_text(as_html(report), encoding="utf-8", errors="replace")
    if args.json:
        print(explain.as_json(report))
        return
    from elfolio.report.columns import Ink
    from elfolio.report.explain_text import as_text

    tty = sys.stdout.isatty()
    width = os.get_terminal_size(sys.stdout.fileno()).columns if tty else _PIPE_WIDTH
    print(as_text(report, width, Ink(tty and "NO_COLOR" not in os.environ)))
