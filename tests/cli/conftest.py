"""Fixtures of the cli room: a terminal's signals at their defaults."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def keyboard_signals() -> Iterator[None]:
    """A shell without job control starts what it puts into the background with SIGINT and SIGQUIT ignored, nohup with
    SIGHUP; a command that inherits that is not killed by them, and a test that waits for it would wait for ever."""
    sent = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    ignored = [sig for sig in sent if signal.getsignal(sig) is signal.SIG_IGN]
    for sig in ignored:
        signal.signal(sig, signal.SIG_DFL)
    yield
    for sig in ignored:
        signal.signal(sig, signal.SIG_IGN)
