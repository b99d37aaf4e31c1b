"""Stops a replacement at every call that changes the disk, from within. In: a callback. Out: it is called at each."""

import os
from collections.abc import Callable
from typing import Any

from elfolio.pagecache import names, replace

CALLS = (
    *("open", "close", "dup2", "pwrite", "ftruncate", "fsync", "link", "rename", "unlink"),
    *("fchown", "fchmod", "setxattr", "removexattr", "utime"),
)
Callback = Callable[[str, str], None]
"""Gets the call's name, and "before", "half" (of a write) or "after"."""


def install(callback: Callback) -> None:
    """From now on, in this process. It is never taken back: the process is a child made for that."""
    for name in CALLS:
        setattr(os, name, _wrapped(getattr(os, name), name, callback))
    names._exchange = _wrapped(names._exchange, "exchange", callback)
    replace._fallocate = _wrapped(replace._fallocate, "fallocate", callback)


def _wrapped(function: Callable[..., Any], name: str, callback: Callback) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        callback(name, "before")
        if name == "pwrite":
            fd, data, offset = args
            _pwrite(fd, bytes(data[: len(data) // 2]), offset)
            callback(name, "half")
        done = function(*args, **named)
        callback(name, "after")
        return done

    return call


_pwrite = os.pwrite
