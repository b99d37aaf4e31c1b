"""tests.tune.driver: `elfolio tune` as its users start it. In: files, options. Out: what it says of each, as JSON.

Many files at once, which is also how a package is tuned; those of one name in turns, because they go to one folder.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BATCH = 40


@dataclass(frozen=True)
class Tuned:
    """One file's answer."""

    path: Path
    row: dict[str, Any]
    out: Path | None
    """The new file, if there is one."""

    @property
    def status(self) -> str:
        """ "tuned", "copied", "refused", "failed", ..."""
        return str(self.row["status"])

    @property
    def reasons(self) -> list[str]:
        """Why it was left alone, or a tier was."""
        return [f"{r['reason']}: {r['text']}" for r in self.row["refusals"]]


def elfolio(*words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The command's end."""
    return subprocess.run(
        [sys.executable, "-m", "elfolio", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def tune(paths: Sequence[Path], folder: Path, *words: str) -> list[Tuned]:
    """New files in `folder`, which is made; in the order of `paths`."""
    found: dict[Path, Tuned] = {}
    for index, batch in enumerate(_batches(paths)):
        into = folder / str(index)
        into.mkdir(parents=True)
        done = elfolio("tune", *words, "--json", "-o", into, *batch)
        try:
            rows = json.loads(done.stdout)["files"]
        except json.JSONDecodeError:
            raise AssertionError(f"elfolio tune {' '.join(words)}: {done.stderr[-2000:]}") from None
        for path, row in zip(batch, rows, strict=True):
            out = into / path.name
            found[path] = Tuned(path, row, out if out.exists() else None)
    return [found[path] for path in paths]


def _batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    left = list(paths)
    while left:
        batch: dict[str, Path] = {}
        for path in left:
            if len(batch) < _BATCH:
                batch.setdefault(path.name, path)
        yield list(batch.values())
        taken = set(batch.values())
        left = [path for path in left if path not in taken]
