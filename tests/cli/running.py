"""How the tests of the command start it: as a user would, and beside the command itself."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# -P: the working directory of a test must not be where modules come from.
ELFOLIO = (sys.executable, "-P", "-m", "elfolio")

Words = Sequence[str | bytes]


@dataclass(frozen=True)
class Outcome:
    """What the caller of a command sees of it."""

    status: int
    """Negative for a signal."""
    stdout: bytes
    stderr: bytes


def outcome(words: Words, **keywords: object) -> Outcome:
    """Runs `words` to the end. stdin is empty unless `input` says otherwise; the rest is subprocess's."""
    if "stdin" not in keywords:
        keywords = {"input": b""} | keywords
    # With a directory subprocess does not use posix_spawn for some and not for others; under the C library's the
    # signals 32 and 33 are ignored.
    keywords = {"cwd": "."} | keywords
    done = subprocess.run(words, capture_output=True, check=False, **keywords)  # type: ignore[call-overload]
    return Outcome(done.returncode, done.stdout, done.stderr)


def elfolio(*words: str | bytes, **keywords: object) -> Outcome:
    """Runs `elfolio WORDS`."""
    return outcome((*ELFOLIO, *words), **keywords)


def through(words: Words, *options: str) -> list[str | bytes]:
    """The command line that runs `words` through elfolio."""
    return [*ELFOLIO, "run", *options, "--", *words]
