"""Writes docs/reference.md from what `elfolio --help` and each command's --help say; --check only compares.

Run by the Python that elfolio is installed in: `make docs`, and `make check` for --check.
"""

import subprocess
import sys
from pathlib import Path

from elfolio.cli import COMMANDS

REFERENCE = Path(__file__).parent / "reference.md"
HEAD = "# The command\n\nWritten by `make docs` from the help of each command; `make check` fails when it is stale.\n"


def help_of(*words: str) -> str:
    """What `elfolio WORDS --help` prints."""
    command = [sys.executable, "-P", "-m", "elfolio", *words, "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for words in ((), *((name,) for name in COMMANDS)):
        parts.append(f"\n## {' '.join(('elfolio', *words))}\n\n```text\n{help_of(*words)}```\n")
    return "".join(parts)


def main(arguments: list[str]) -> int:
    """0, or 1 if the page on disk is stale."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    page = reference()
    if not arguments:
        REFERENCE.write_text(page)
    elif not REFERENCE.exists() or REFERENCE.read_text() != page:
        print("docs/reference.md is stale: run make docs, and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
