"""cli.process: this process, before a command and after it. In: /proc; a signal. Out: nothing; the end."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

__all__ = ["die_by", "restore_environment"]


def restore_environment(proc: str = "/proc") -> None:
    """Takes back what Python's start did to the environment that children inherit: in the C and POSIX locales
    it sets LC_CTYPE (PEP 538). /proc/self/environ shows the environment of the exec."""
    with suppress(OSError), open(f"{proc}/self/environ", "rb") as file:
        before = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
        original, now = before.get(b"LC_CTYPE"), os.environb.get(b"LC_CTYPE")
        if original is None and now is not None:
            del os.environb[b"LC_CTYPE"]
        elif original is not None and original != now:
            os.environb[b"LC_CTYPE"] = original


def die_by(sig: int) -> NoReturn:
    """Ends this process by a signal, so that whoever waits for it sees what became of the command."""
    # A signal ends us without the interpreter's own way out.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    atexit._run_exitfuncs()
    _no_core()
    if sig in signal.valid_signals():
        with suppress(OSError):  # SIGKILL
            signal.signal(sig, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {sig})
    os.kill(os.getpid(), sig)
    # The C library handles its own SIGSETXID once there is a thread, and does not let go of it.
    os._exit(128 + sig)


def _no_core() -> None:
    """The core worth having is the command's. A limit of 1 also keeps a core away from a program that
    core_pattern pipes to, which 0 does not (fs/coredump.c)."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if hard else 0, hard))
