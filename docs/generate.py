"""Writes what follows from the commands' own parsers: docs/reference.md, manual pages and shell completion in share/.

--check only compares. Run by the Python that elfolio is installed in, with the packages of the group `dev`:
`make docs`, and `make check` for --check.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from elfolio import __version__
from elfolio.cli import COMMANDS, usage
from elfolio.cli.dispatch import parser_of

ROOT = Path(__file__).parent.parent
HEAD = "# The command\n\nWritten by `make docs` from the help of each command; `make check` fails when it is stale.\n"
PLACES = {
    "bash": "share/bash-completion/completions/elfolio",
    "zsh": "share/zsh/site-functions/_elfolio",
}
"""Where each shell looks for a completion below a prefix."""
COMPLETED = {
    **dict.fromkeys(("BIN", "CASES", "FILE", "OUT", "RECORD", "TRACE"), shtab.FILE),
    "DIR": shtab.DIRECTORY,
}
"""What an operand of this name is completed with."""


def help_of(*words: str) -> str:
    """What `elfolio WORDS --help` prints."""
    command = [sys.executable, "-P", "-m", "elfolio", *words, "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def reference() -> str:
    """The page of all commands."""
    parts = [HEAD]
    for words in ((), *((name,) for name in COMMANDS)):
        parts.append(f"\n## {' '.join(('elfolio', *words))}\n\n```text\n{help_of(*words)}```\n")
    return "".join(parts)


def manual(name: str, summary: str, parser: argparse.ArgumentParser, sections: dict[str, str]) -> str:
    """One manual page."""
    forms = re.split(r"\n +(?=elfolio )", parser.format_usage().removeprefix("usage: "))
    description, parser.description, parser.epilog = parser.description or "", None, None
    page = Manpage(parser)
    # No date: the page would differ each day.
    page.prog, page.date, page.source, page.manual = name, "", f"elfolio {__version__}", "elfolio"
    page.description = summary
    page.add_section("synopsis", "=", "\n.br\n".join(roff(" ".join(form.split())) for form in forms))
    page.add_section("description", "=", roff(description))
    for title, text in sections.items():
        page.add_section(title, "=", text)
    return str(page)


def manuals() -> Iterator[tuple[str, str]]:
    """The pages of section 1, by path."""
    for name, summary in COMMANDS.items():
        parser = parser_of(name)
        sections = {"notes": roff(parser.epilog or ""), "see also": r".BR elfolio (1)"}
        if not parser.epilog:
            del sections["notes"]
        yield f"share/man/man1/elfolio-{name}.1", manual(f"elfolio-{name}", summary, parser, sections)
    whole = argparse.ArgumentParser("elfolio", usage=usage().partition("\n\n")[0].removeprefix("usage: "))
    whole.description = usage().split("\n\n")[1]
    whole.add_argument("--version", action="store_true", help="show the version and exit")
    listed = "\n".join(f".TP\n.BR elfolio\\-{name} (1)\n{roff(text)}" for name, text in COMMANDS.items())
    yield (
        "share/man/man1/elfolio.1",
        manual("elfolio", "programs that start fast on Linux", whole, {"commands": listed}),
    )


def roff(text: str) -> str:
    """Plain text as a manual page's: paragraphs are filled, those that begin with a space stand as they are."""
    parts = text.replace("\\", r"\e").replace("-", r"\-").split("\n\n")
    return "\n.PP\n".join(f".nf\n{part}\n.fi" if part.startswith(" ") else part for part in parts)


def completions() -> Iterator[tuple[str, str]]:
    """The shells' files, by path."""
    whole = argparse.ArgumentParser("elfolio", description=usage().split("\n\n")[1])
    whole.add_argument("--version", action="store_true", help="show the version and exit")
    commands = whole.add_subparsers()
    for name, summary in COMMANDS.items():
        parser = parser_of(name)
        one = commands.add_parser(name, parents=[parser], add_help=False, help=summary, description=summary)
        for action in one._actions:
            kind = COMPLETED.get(str(action.metavar))
            if kind:
                action.complete = kind  # type: ignore[attr-defined]
    for shell, path in PLACES.items():
        yield path, shtab.complete(whole, shell) + "\n"


def written() -> dict[Path, str]:
    """Everything, by path."""
    files = {"docs/reference.md": reference(), **dict(manuals()), **dict(completions())}
    return {ROOT / path: text for path, text in files.items()}


def main(arguments: list[str]) -> int:
    """0, or 1 if a file on disk is stale."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    files = written()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    # A command that is gone leaves its page.
    gone = [path for path in (ROOT / "share").glob("**/*") if path.is_file() and path not in files]
    if not arguments:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
        for path in gone:
            path.unlink()
    elif stale or gone:
        names = " ".join(str(path.relative_to(ROOT)) for path in [*stale, *gone])
        print(f"stale: {names}; run make docs, and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
