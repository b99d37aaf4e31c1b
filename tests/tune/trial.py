"""tests.tune.trial: everything that must hold of one rewritten file. In: two paths. Out: what does not.

The checker, then other tools, then the program itself, in a sandbox and under the tools that edit it. Each tool and run
is tried on the original too, and only what that one stands must the other.
"""

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.tune import sandbox, tools
from tests.tune.checker import check
from tests.tune.raw import PT_INTERP, Raw, load

__all__ = ["Start", "Verdict", "judge"]


@dataclass(frozen=True)
class Start:
    """How a file is tried: where it belongs, with which words, what runs it, and whether in a sandbox."""

    path: Path
    words: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    sandboxed: bool = True

    def run(self, instead: Path | None) -> sandbox.Ended:
        """Runs it, or the other file in its place."""
        how = sandbox.run if self.sandboxed else sandbox.run_plain
        return how(self.path, instead, self.words, self.prefix)

    @cached_property
    def twice(self) -> tuple[sandbox.Ended, sandbox.Ended]:
        """How the original ends, and again."""
        return self.run(None), self.run(None)

    def difference(self, changed: Path) -> str | None:
        """As `tests.tune.sandbox.difference`."""
        return sandbox.difference(*self.twice, self.run(changed))


@dataclass
class Verdict:
    """What came of it."""

    broken: list[str]
    ran: int = 0
    """Runs whose output and status could be compared."""

    def run(self, start: Start, changed: Path, how: str) -> None:
        """Adds how a run went."""
        difference = start.difference(changed)
        self.ran += difference is not None
        if difference:
            self.broken.append(f"run {how}: {difference}")


def judge(
    before: Path,
    after: Path,
    *,
    merged: int = 0,
    editors: Sequence[tools.Editor] = (),
    start: Start | None = None,
    rerun: Iterable[str] = (),
) -> Verdict:
    """What is wrong with `after`. `rerun`: names of editors after which the program is run as well."""
    old, new = load(before), load(after)
    verdict = Verdict(check(old, new, merged))
    verdict.broken += tools.complaints(before, after)
    if not merged and tools.tables(before) != tools.tables(after):
        verdict.broken.append(f"readelf: {_first_line(tools.tables(before), tools.tables(after))}")
    if start is not None:
        verdict.run(start, after, "as it is")
    again = set(rerun)
    for editor in editors:
        _edited(verdict, editor, before, after, start if editor.name in again else None)
    return verdict


def _first_line(old: list[str], new: list[str]) -> str:
    pairs = itertools.zip_longest(old, new, fillvalue="nothing")
    return next((f"{theirs!r} instead of {ours!r}" for ours, theirs in pairs if ours != theirs), "")


def _edited(verdict: Verdict, editor: tools.Editor, before: Path, after: Path, start: Start | None) -> None:
    if not tools.present(editor):
        return
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, part) for part in ("old", "new")]
        for folder in folders:
            folder.mkdir()
        control = tools.edited(editor, before, folders[0], _interpreter(load(before)))
        if isinstance(control, str):
            return  # it does not take the original either
        mine = tools.edited(editor, after, folders[1], _interpreter(load(before)))
        if isinstance(mine, str):
            verdict.broken.append(f"{editor.name}: {mine}")
            return
        worse = Counter(tools.harm(after, mine)) - Counter(tools.harm(before, control))
        verdict.broken += [f"{editor.name}: {line}" for line in sorted(worse)]
        if start is not None and start.difference(_readable(control, Path(name))) == "":
            verdict.run(start, _readable(mine, Path(name)), f"after {editor.name}")


def _interpreter(raw: Raw) -> str:
    found = next((s for s in raw.segments if s.type == PT_INTERP), None)
    return raw.data[found.offset : found.file_end].rstrip(b"\0").decode() if found else ""


def _readable(path: Path, folder: Path) -> Path:
    folder.chmod(0o755)
    for inner in folder.iterdir():
        if inner.is_dir():
            inner.chmod(0o755)
    path.chmod(0o755)
    return path
