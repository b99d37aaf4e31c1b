"""cli.explain: what the kernel would map of a file, and why. In: options. Out: an exit status.

0: said, or equal to a real process. 1: --verify found differences. 2: bad input.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure, Parser, byte_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from elfolio.elf.image import ElfImage
    from elfolio.kernel.host import Host
    from elfolio.kernel.policy import Policy
    from elfolio.kernel.prediction import Prediction
    from elfolio.layout.relink import Relinked
    from elfolio.live.opened import Opened
    from elfolio.measure.verify import Verification
    from elfolio.report.explain import Report

__all__ = ["prepare_parser", "run"]


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio explain`."""
    parser.description = "Says what Linux would map of an ELF file, page by page, and what keeps it off huge pages."
    parser.add_argument("file", metavar="BIN", help="a program or a shared object")
    add = parser.add_argument
    add("--policy", action="append", metavar="P", help="linux-X.Y[.Z], or a proposal; twice: both (this machine)")
    add("--page-size", type=byte_count, metavar="N", help="4K, 16K or 64K (the machine's)")
    add("--fs", metavar="F", help="the file system that it lies on: ext4, xfs, btrfs, ... (the file's own)")
    add("--probe", action="store_true", help="find by a scratch file beside BIN which folios its file system gives")
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
    from elfolio.live.maps import MapsError

    try:
        report = _report(args)
        if args.html is not None:
            from elfolio.cli.output import write_page
            from elfolio.report.explain_html import as_html

            write_page(args.html, as_html(report))
    except (ElfError, MapsError) as error:
        raise Failure(str(error)) from error
    except InvalidArgument as error:
        raise Failure(str(error.strerror)) from error
    except OSError as error:
        raise Failure(f"{os.fsdecode(error.filename or args.file)}: {error.strerror}") from error
    _show(args, report)
    return 0 if report["verify"] is None or report["verify"]["equal"] else 1


def _report(args: argparse.Namespace) -> "Report":
    from elfolio.elf.linker import fingerprint
    from elfolio.layout.modes import linked_as
    from elfolio.layout.relro import relro
    from elfolio.live.opened import opened
    from elfolio.report.explain import as_report

    with opened(args.file) as found:
        predictions = [_predict(found, policy) for policy in _policies(args, found.image)]
        made = fingerprint(found.image, found.data)
        relinked = list(_relinked(args.relink, found)) if args.relink else []
    layout = predictions[0].layout
    return as_report(
        predictions,
        linker=f"{made.linker} {made.version}" if made.version else made.linker,
        linked_as=linked_as(layout),
        relro=relro(layout),
        relinked=relinked,
        verified=_verified(args, predictions[0]),
    )


def _verified(args: argparse.Namespace, prediction: "Prediction") -> "Verification | None":
    from elfolio.kernel.host import default_host
    from elfolio.measure.verify import read_program, verify, verify_from

    path = os.path.abspath(args.file)
    if args.verify_from is not None:
        record = args.verify_from.read_text(errors="surrogateescape")
        policy, bits = prediction.policy, prediction.image.header.bits
        host = _host(policy, prediction.image) or default_host(policy, bits)
        return verify_from(record, read_program(path), policy, host)
    if not args.verify:
        return None
    if args.policy:
        raise Failure("--verify runs it on this machine's kernel: leave out --policy, or give a record (--verify-from)")
    if not prediction.is_program:
        raise Failure(f"--verify: {args.file} is no program: give a program that loads it")
    return verify(path, prediction.policy)


def _show(args: argparse.Namespace, report: "Report") -> None:
    if args.json:
        from elfolio.report.explain import as_json

        print(as_json(report))
        return
    from elfolio.cli.output import width_and_ink
    from elfolio.report.explain_text import as_text

    print(as_text(report, *width_and_ink()))


def _policies(args: argparse.Namespace, image: "ElfImage") -> "list[Policy]":
    """Those asked for, or this machine's; each with the options that change it."""
    from dataclasses import replace

    from elfolio.kernel.execve import machine_for
    from elfolio.kernel.policy import policy
    from elfolio.live.host import policy_here

    here = policy_here(args.file)
    machine = machine_for(image) or here.machine  # others are explained as if this one ran them, and refused
    found = []
    for name in args.policy or ():
        found.append(replace(policy(name), machine=machine, fs=here.fs, libc=here.libc))
    if not found:
        found = [here if machine == here.machine else replace(here, machine=machine)]
    found = [one.with_options(page_size=args.page_size, fs=args.fs, libc=args.libc) for one in found]
    return [replace(one, probed_folio=_probed(args.file, one)) for one in found] if args.probe else found


def _probed(path: str, policy: "Policy") -> int:
    from elfolio.pagecache.probe import probe

    directory = os.path.dirname(os.path.realpath(path))
    try:
        return probe(directory, policy.pmd_size).largest or policy.page_size
    except OSError as error:
        raise Failure(f"--probe: {directory}: {error.strerror}; copy the file to where you may write") from error


def _predict(found: "Opened", policy: "Policy") -> "Prediction":
    from elfolio.errors import ElfError
    from elfolio.kernel.prediction import predict
    from elfolio.live.opened import opened

    image = found.image
    host = _host(policy, image)
    if not image.interpreter:
        return predict(image, None, policy, host, file=found.file)
    try:
        with opened(image.interpreter) as loader:
            return predict(image, loader.image, policy, host, file=found.file, interpreter_file=loader.file)
    except (OSError, ElfError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return predict(image, None, policy, host, file=found.file, missing=str(why))


def _host(policy: "Policy", image: "ElfImage") -> "Host | None":
    """This machine's limits and sizes, where the policy is for such a machine."""
    from elfolio.live.host import host_here

    return host_here(policy, image.header.bits) if policy.machine == os.uname().machine else None


def _relinked(modes: "Sequence[str]", found: "Opened") -> "Iterator[tuple[str, Relinked]]":
    from elfolio.layout.relink import nine_modes, relink
    from elfolio.layout.relink_mode import LinkMode

    with memoryview(found.data) as data:
        for text in modes:
            if text == "all":
                for (code, size), result in nine_modes(found.image, data).items():
                    yield f"{code},max-page-size={size >> 10}K", result
            else:
                mode = LinkMode.parse(text)
                yield str(mode), relink(found.image, mode, data)
