"""tests.tune.table: what `elfolio tune` makes of each group of files. In: nothing. Out: a table, docs/tune-corpus.md.

python -m tests.tune.table [--write docs/tune-corpus.md]
"""

import argparse
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.tune import built, corpus, sandbox
from tests.tune.campaign import TIERS, Score, campaign
from tests.tune.trial import Start

COUNT, FEWER = 300, 100
"""Files of a group at tiers 0 and 1, and at tier 2."""
ORDINARY = ("executables", "shared objects")
DLOPEN = Path(__file__).with_name("dlopen.c")
HEAD = """\
# tune: what it was tried on

Made by `python -m tests.tune.table --write docs/tune-corpus.md`, as root; the same code is a slow test. On
{system}.

Every file is tuned whether or not it gains (`--force`), at each tier by itself. *Accepted*: a new file was written,
and all of this held of it: memory byte for byte and the same permissions under every page size of its machine; no
address changed; headers, sections and the rest of the file consistent; readelf and eu-elflint find nothing that they
did not find before, and readelf prints the same but for offsets; strip, strip -d, objcopy, eu-strip, llvm-strip,
llvm-objcopy and patchelf do no harm to it that they do not do to the original, and it runs after them; the same output
and exit status, in a sandbox; a second time changes nothing; `--undo` gives back the same bytes. *Run*: starts that
were compared with the original's. Tier 2 is `--merge` with pages of 4 KiB: it joins neighbours where no page would be
writable and executable. *Built* are programs of every kind that compilers and linkers here make: tests/tune/built.py.

"""


def _count(tier: str) -> int:
    return FEWER if tier == "2" else COUNT


def _executables(tier: str, folder: Path) -> Score:
    def start(path: Path) -> Start | None:
        return Start(path, ("--version",)) if sandbox.is_harmless(path) else None

    return campaign("executables", corpus.executables(_count(tier)), tier, start)


def _shared_objects(tier: str, folder: Path) -> Score:
    loader = folder / "dlopen"
    subprocess.run(["gcc", "-O1", "-o", loader, DLOPEN], check=True)
    _open_to_all(folder)
    paths = corpus.shared_objects(_count(tier))
    return campaign("shared objects", paths, tier, lambda path: Start(path, (), (str(loader),)))


def _kernel_modules(tier: str, folder: Path) -> Score:
    return campaign("kernel modules", corpus.kernel_modules(10), tier, lambda path: None)


def _built(tier: str, folder: Path) -> Score:
    """One of each kind that can be made here; the name of the kind is the file's."""
    made: dict[Path, built.Kind] = {}
    lacking = []
    for kind in built.kinds():
        place = folder / kind.name
        place.mkdir()
        try:
            path = kind.make(place)
        except built.Lacking as reason:
            lacking.append(f"{kind.name}: {reason}")
            continue
        final = path.rename(folder / f"{kind.name}.made")
        made[final] = kind
    _open_to_all(folder)

    def start(path: Path) -> Start | None:
        runs = made[path].runs
        return Start(path, (), () if runs == "native" else tuple(runs.split()), sandboxed=False) if runs else None

    score = campaign("built", sorted(made), tier, start, every_editor=True)
    score.lacking = lacking
    return score


GROUPS: dict[str, Callable[[str, Path], Score]] = {
    "executables": _executables,
    "shared objects": _shared_objects,
    "kernel modules": _kernel_modules,
    "built": _built,
}


def _open_to_all(folder: Path) -> None:
    """The sandbox's user is nobody."""
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and str(path).startswith(tempfile.gettempdir() + "/"):
            path.chmod(path.stat().st_mode | 0o055)


def text(scores: Sequence[Score]) -> str:
    """Markdown: the counts, then the refusals by reason with one example each, then what did not hold."""
    lines = [
        "| files | tier | tried | accepted | nothing to do | run | refused, by reason |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in scores:
        why = ", ".join(f"{reason} {count}" for reason, count in s.refusals.most_common()) or "none"
        lines.append(f"| {s.group} | {s.tier} | {s.count} | {s.accepted} | {s.unchanged} | {s.ran} | {why} |")
    examples = {reason: said for s in reversed(scores) for reason, said in s.examples.items()}
    if examples:
        lines += ["", "| reason | one of them |", "|---|---|"]
        lines += [f"| {reason} | {_named(said)} |" for reason, said in sorted(examples.items())]
    for title, found in (("Did not hold", [x for s in scores for x in s.broken]), ("Not here", _lacking(scores))):
        lines += ["", f"{title}:", "", *(f"- {line}" for line in found)] if found else []
    return "\n".join(lines) + "\n"


def _named(said: str) -> str:
    path, _, why = said.partition(": ")
    return f"`{path if path.startswith('/usr') else Path(path).name}`: {why}"


def _lacking(scores: Sequence[Score]) -> list[str]:
    return sorted({line for s in scores for line in s.lacking})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--group", choices=sorted(GROUPS), action="append")
    parser.add_argument("--tier", choices=sorted(TIERS), action="append")
    args = parser.parse_args()
    scores = []
    for group in args.group or sorted(GROUPS):
        for tier in args.tier or sorted(TIERS):
            with tempfile.TemporaryDirectory(prefix="corpus-") as name:
                scores.append(GROUPS[group](tier, Path(name)))
            print(text(scores[-1:]), flush=True)
    if args.write:
        system = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.machine()}"
        args.write.write_text(HEAD.format(system=system) + text(scores))


if __name__ == "__main__":
    main()
