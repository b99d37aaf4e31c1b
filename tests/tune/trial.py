"""tests.tune.trial: everything that must hold of one rewritten file. In: two paths. Out: what does not.

The checker, then other tools, then the program itself, in a sandbox and under the tools that edit it. Each tool and run
is tried on the original too, and only what that one stands must the other.
"""

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tune import sandbox, tools
from tests.tune.checker import check
from tests.tune.raw import PT_INTERP, Raw, load

__all__ = ["Start", "judge"]


@dataclass(frozen=True)
class Start:
    """How a file is tried: where it belongs, what runs it, with which words."""

    path: Path
    words: tuple[str, ...] = ()
    through: Path | None = None


def judge(
    before: Path,
    after: Path,
    *,
    merged: int = 0,
    editors: Sequence[tools.Editor] = (),
    start: Start | None = None,
    rerun: Iterable[str] = (),
) -> list[str]:
    """What is wrong with `after`. `rerun`: names of editors after which the program is run as well."""
    old, new = load(before), load(after)
    found = check(old, new, merged)
    found += tools.complaints(before, after)
    if not merged and tools.tables(before) != tools.tables(after):
        found.append(f"readelf: {_first_line(tools.tables(before), tools.tables(after))}")
    if start is not None:
        found += _ran(start, after, "as it is")
    again = set(rerun)
    for editor in editors:
        found += _edited(editor, before, after, old, start if editor.name in again else None)
    return found


def _first_line(old: list[str], new: list[str]) -> str:
    pairs = itertools.zip_longest(old, new, fillvalue="nothing")
    return next((f"{theirs!r} instead of {ours!r}" for ours, theirs in pairs if ours != theirs), "")


def _ran(start: Start, changed: Path, how: str) -> list[str]:
    difference = sandbox.differs(start.path, changed, *start.words, through=start.through)
    return [f"run {how}: {difference}"] if difference else []


def _edited(editor: tools.Editor, before: Path, after: Path, old: Raw, start: Start | None) -> list[str]:
    if not tools.present(editor):
        return []
    interpreter = next((s for s in old.segments if s.type == PT_INTERP), None)
    text = old.data[interpreter.offset : interpreter.file_end].rstrip(b"\0").decode() if interpreter else ""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, part) for part in ("old", "new")]
        for folder in folders:
            folder.mkdir()
        control = tools.edited(editor, before, folders[0], text)
        if isinstance(control, str):
            return []  # it does not take the original either
        mine = tools.edited(editor, after, folders[1], text)
        if isinstance(mine, str):
            return [f"{editor.name}: {mine}"]
        worse = Counter(tools.harm(after, mine)) - Counter(tools.harm(before, control))
        found = [f"{editor.name}: {line}" for line in sorted(worse)]
        if start is not None and not _breaks(start, control):
            found += _ran(start, _readable(mine, Path(name)), f"after {editor.name}")
        return found


def _breaks(start: Start, control: Path) -> bool:
    """Whether the tool broke the original."""
    return bool(sandbox.differs(start.path, control, *start.words, through=start.through))


def _readable(path: Path, folder: Path) -> Path:
    folder.chmod(0o755)
    for inner in folder.iterdir():
        if inner.is_dir():
            inner.chmod(0o755)
    path.chmod(0o755)
    return path


def copied(path: Path, folder: Path) -> Path:
    """A copy that tools may be let loose on."""
    out = folder / path.name
    shutil.copyfile(path, out)
    out.chmod(0o755)
    return out
