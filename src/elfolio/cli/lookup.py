"""cli.lookup: finds a command's file as a shell does. In: a name, PATH. Out: Found, or Failure."""

import os
from dataclasses import dataclass

from elfolio.cli.parsing import Failure

__all__ = ["NOT_EXECUTABLE", "NOT_FOUND", "Found", "find"]

NOT_EXECUTABLE = 126
NOT_FOUND = 127
"""The exit statuses of a shell (POSIX, Shell Command Language, 2.8.2)."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file, which may still turn out not to be executable."""

    path: str
    """Absolute."""
    called: str
    """As a shell would have executed it; a script sees this as its own name."""


def find(name: str, search: str, start: str) -> Found:
    """A name with a slash is a path; any other is looked for in the directories of `search`, where an empty
    one means the working directory. Relative ones begin at `start`. The first file that may be executed is
    taken; if there is none, the first at all. Raises Failure with status 127 where nothing is found."""
    if "/" in name:
        return Found(os.path.join(start, name.removeprefix("./")), name)
    forbidden = None
    for folder in search.split(":") if name else ():
        # An empty PATH as a whole is the working directory too, without a name (bash, findcmd.c).
        called = f"{folder or '.'}/{name}" if search else name
        found = Found(os.path.join(start, folder, name), called)
        if os.path.isfile(found.path):
            if os.access(found.path, os.X_OK, effective_ids=True):
                return found
            forbidden = forbidden or found
    if forbidden is None:
        raise Failure(f"{name!r}: command not found; give its path, or add its directory to PATH", NOT_FOUND)
    return forbidden
