"""cli.observe_watch: `elfolio observe --watch`. In: options. Out: an exit status, when all have ended."""

import argparse
import os
import sys
import time

from elfolio.cli.observe import complain, shown
from elfolio.cli.observe_look import Looked, look
from elfolio.report.observe import as_json

__all__ = ["watch"]

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_CUT, _WRAP = "\x1b[?7l", "\x1b[?7h"
"""DECAWM: lines that are too long end at the edge; switched back behind each screen, because ^C ends us anywhere."""


def watch(args: argparse.Namespace) -> int:
    """Looks at regular times; a look that takes longer than that begins the next one at once."""
    status, due = 0, time.monotonic()
    on_screen = sys.stdout.isatty() and not args.json
    for number in range(sys.maxsize):
        looked = look(args)
        if number == 0:
            status = complain(args, looked)
        if number and args.pids and not looked.report["processes"]:
            break
        _show(args, looked, on_screen=on_screen)
        if not looked.report["processes"] and args.pids:
            break
        due = max(due + args.watch, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return status


def _show(args: argparse.Namespace, looked: Looked, *, on_screen: bool) -> None:
    if not on_screen:
        print(as_json(looked.report), flush=True)
        return
    room = max(2, os.get_terminal_size(sys.stdout.fileno()).lines or 24) - 1
    when = time.strftime("%H:%M:%S", time.localtime(looked.report["time"]))
    lines = [f"{when}, every {args.watch:g} s; ^C ends it", *shown(args, looked).split("\n")]
    if len(lines) > room:
        lines[room - 1 :] = [f"... {len(lines) - room + 1} more lines"]
    screen = "".join(f"{line}{_CLEAR_LINE}\r\n" for line in lines)
    print(f"{_CUT}{_HOME}{screen}{_CLEAR_BELOW}{_WRAP}", end="", flush=True)
