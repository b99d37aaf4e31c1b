"""cli.simulate: `elfolio simulate folios`. In: a machine, a policy. Out: an exit status; who got which folios."""

import argparse
import contextlib
import errno
import os
import sys
import time
from typing import TYPE_CHECKING

from elfolio.cli.parsing import Failure, Parser, byte_count, one_line

if TYPE_CHECKING:
    from elfolio.kernel.buddy import Zone
    from elfolio.kernel.memory_life import Load, Setting
    from elfolio.kernel.workload import Workload
    from elfolio.live.freelists import HostMemory
    from elfolio.report.simulate import HostRow

__all__ = ["prepare_parser", "run"]

DESCRIPTION = """\
A machine boots, runs applications, and loads one big file, in a model of Linux's buddy allocator and page cache. Shows
in folios of which orders the file came to be at each of several moments, what that cost in pages reclaimed and moved,
and what others lost. Without --policy all are run, and the questions of the discussion about large folios answered."""

EPILOG = """\
A workload is a JSON object: {"applications": [{"name": "browser", "anon": 0.04, "cache": 0.03, "life": 8, "file": 16,
"huge": false}, ...], "ticks": 40, "spike": 0.65, "spikes": 5, "again": 0, "moments": [0, 10, 40]}. anon and cache are
shares of memory, life is in ticks, file is a usual file's pages; one application, by chance, starts each tick. Every
`spikes` ticks unmovable memory rises by `spike` of itself, and falls back page by page. `again` is the share of files
that are used again before their page cache is reclaimed.

exit status: 0, or 2 for a bad option or file."""

_POLICIES = ("everywhere", "hinted-file", "reserve", "small", "huge-cache")
_LEAST = 64 << 20


def prepare_parser(parser: Parser) -> None:
    """Options of `elfolio simulate`."""
    parser.usage = "elfolio simulate folios [OPTION]..."
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add = parser.add_argument
    add("what", choices=["folios"], metavar="folios", help="what is simulated")
    add("--memory", type=byte_count, metavar="SIZE", help="of the machine (default: 16G)")
    add("--unmovable", type=_share, metavar="SHARE", help="of memory that the kernel holds (default: 7%%)")
    add("--policy", choices=_POLICIES, help="who gets large folios (default: all in turn)")
    add("--workload", metavar="FILE", help="the applications, as below")
    add("--file", type=byte_count, default=2 << 30, metavar="SIZE", help="of the big file (default: 2G)")
    add("--seed", type=_seed, default=1, metavar="N", help="another course of the same life (default: 1)")
    add("--from-host", action="store_true", help="this machine's size and unmovable share; its free lists beside")
    add("--html", metavar="FILE", help="write a page with the curves and a picture of memory")
    add("--json", action="store_true", help="one JSON object on standard output")


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share up to 50%, such as 7% or 0.07")
    return value


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 2^32-1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Simulates, and shows it."""
    from elfolio.kernel.folio_questions import answers, curve, curves
    from elfolio.kernel.memory_life import POLICIES
    from elfolio.report.simulate import as_json, as_report, as_text

    if args.html is not None and not os.path.isdir(os.path.dirname(args.html) or "."):
        # Before minutes of work, not after them.
        raise Failure(one_line(f"--html: {args.html}: {os.strerror(errno.ENOENT)}"))
    host = _host() if args.from_host else None
    setting = _setting(args, host)
    bar = _Bar(1 if args.policy else len(POLICIES)) if sys.stderr is not None and sys.stderr.isatty() else None
    try:
        found = {args.policy: curve(setting, bar)} if args.policy else curves(setting, bar)
    finally:
        if bar is not None:
            bar.clear()
    said = [] if args.policy else answers(found, setting.file)
    meanings = {name: one.meaning for name, one in POLICIES.items()}
    beside = _beside(host, setting, next(iter(found.values()))[-1]) if host is not None else None
    report = as_report(setting, found, meanings, said, beside)
    if args.html is not None:
        from elfolio.report.simulate_html import as_html

        _write(args.html, as_html(report, {name: loads[-1].cells for name, loads in found.items()}))
    if args.json:
        print(as_json(report))
    elif args.html is None:
        from elfolio.cli.output import width_and_ink

        print(as_text(report, *width_and_ink()))
    return 0


def _setting(args: argparse.Namespace, host: "HostMemory | None") -> "Setting":
    from elfolio.kernel.memory_life import POLICIES, Setting
    from elfolio.kernel.workload import DEFAULT

    memory = args.memory or (host.total * host.page if host is not None else 16 << 30)
    unmovable = args.unmovable
    if unmovable is None:
        unmovable = host.unmovable_share if host is not None else 0.07
    # Each page of the model takes 13 bytes of ours, twice while a load is tried.
    if not _LEAST <= memory <= 256 << 30:
        raise Failure("--memory: from 64M to 256G")
    if not 1 << 20 <= args.file <= memory // 2:
        raise Failure("--file: from 1M to half of the memory")
    workload = DEFAULT if args.workload is None else _workload(args.workload)
    policy = POLICIES[args.policy or "everywhere"]
    return Setting(policy, memory >> 12 & ~1023, args.file >> 12, unmovable, workload, args.seed)


def _workload(path: str) -> "Workload":
    import json

    from elfolio.kernel.workload import WorkloadError, parsed

    try:
        with open(path, encoding="utf-8") as file:
            return parsed(json.load(file))
    except OSError as error:
        raise Failure(one_line(f"--workload: {path}: {error.strerror}")) from None
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, WorkloadError) else f"not JSON: {error}"
        raise Failure(one_line(f"--workload: {path}: {reason}")) from None


def _host() -> "HostMemory":
    import resource

    from elfolio.live.freelists import read_host_memory

    if resource.getpagesize() != 4096:
        raise Failure("--from-host: the model has pages of 4 KiB, and this machine has not")
    try:
        return read_host_memory()
    except OSError as error:
        raise Failure(one_line(f"--from-host: {error.filename}: {error.strerror}")) from None
    except ValueError as error:
        raise Failure(one_line(f"--from-host: {error}")) from None


def _beside(host: "HostMemory", setting: "Setting", simulated: "Load") -> "HostRow":
    """The file onto this machine's own free lists, where they may be read."""
    from elfolio.kernel.memory_life import load
    from elfolio.report.simulate import host_row

    zone = _own_memory(host, setting.seed)
    return host_row(host, simulated, load(zone, setting, 0) if zone is not None else None)


def _own_memory(host: "HostMemory", seed: int) -> "Zone | None":
    """As page flags show it; where they are hidden, from the free lists alone, spread by chance."""
    from elfolio.kernel.memory_layout import laid_out
    from elfolio.kernel.memory_map import mapped
    from elfolio.live.frames import read_page_flags, read_zones, waiting_pages

    if host.by_type is None or host.blocks is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        if flags := read_page_flags():
            return mapped(flags, read_zones(), host.blocks, waiting=waiting_pages(), seed=seed)
    return laid_out(host.total, host.by_type, host.blocks, host.cache, seed=seed)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Failure(one_line(f"--html: {path}: {error.strerror}")) from None


class _Bar:
    """How far all lives have come."""

    def __init__(self, lives: int) -> None:
        self._lives, self._done, self._last, self._next = lives, 0, 0, time.monotonic() + 0.5

    def __call__(self, tick: int, ticks: int) -> None:
        self._done += tick < self._last
        self._last = tick
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.1
            share = (self._done + tick / (ticks or 1)) / self._lives
            print(f"\r{share:.0%} of {self._lives} lives\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leaves the line empty for what comes next."""
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
