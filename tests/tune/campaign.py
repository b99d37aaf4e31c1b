"""tests.tune.campaign: many files through `elfolio tune`, tier by tier. In: subjects. Out: Score.

Each file is tuned whether or not it gains, judged (tests.tune.trial), tuned again, and undone.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.tune.driver import Tuned, tune
from tests.tune.tools import EDITORS
from tests.tune.trial import Start, Verdict, judge

TIERS: dict[str, tuple[str, ...]] = {"0": ("--tier", "0"), "1": ("--tier", "1"), "2": ("--merge",)}
"""The options for each tier."""
MERGED = {"2": 4096}
"""The page size for which a tier joins segments."""
_STRIDE = len(EDITORS) // 2


@dataclass
class Score:
    """What came of a group of files at one tier."""

    group: str
    tier: str
    count: int = 0
    accepted: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    """By reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """Of each reason, a file and what was said of it."""
    ran: int = 0
    """Runs that were compared."""
    broken: list[str] = field(default_factory=list)
    """What did not hold, each with its file."""
    lacking: list[str] = field(default_factory=list)
    """Kinds that could not be made here, and why."""
    refused: int = 0
    unchanged: int = 0
    """Those to which there is nothing to do: no segments to join."""


def campaign(
    group: str,
    paths: Sequence[Path],
    tier: str,
    start: Callable[[Path], Start | None],
    *,
    every_editor: bool = False,
) -> Score:
    """Tries them all. Each gets two of the tools that edit files, in turn, unless `every_editor`."""
    score = Score(group, tier, len(paths))
    with tempfile.TemporaryDirectory(prefix="tuned-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        tuned = tune(paths, folder / "tuned", "--force", *TIERS[tier])
        done = [one for one in tuned if one.status == "tuned"]
        for one in tuned:
            _count(score, one)
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            jobs = [pool.submit(_judged, index, one, tier, start, every_editor) for index, one in enumerate(done)]
            for one, job in zip(done, jobs, strict=True):
                score.broken += [f"{one.path}: {line}" for line in job.result().broken]
                score.ran += job.result().ran
        score.broken += _again(done, folder, tier)
        score.broken += _undone(done, folder)
    return score


def _count(score: Score, one: Tuned) -> None:
    if one.status == "tuned":
        score.accepted += 1
    elif one.status == "refused":
        score.refused += 1
        said = {refusal["reason"]: refusal["text"] for refusal in reversed(one.row["refusals"])}
        score.refusals.update(said.keys())
        for reason, text in said.items():
            score.examples.setdefault(reason, f"{one.path}: {text}")
    elif one.status == "copied":
        score.unchanged += 1
    else:
        score.broken.append(f"{one.path}: {one.status}: {one.row['error']}")
    if one.status != "tuned" and one.out is not None and one.out.read_bytes() != one.path.read_bytes():
        score.broken.append(f"{one.path}: {one.status}, and the copy is another file")


def _judged(index: int, one: Tuned, tier: str, start: Callable[[Path], Start | None], every_editor: bool) -> Verdict:
    assert one.out is not None
    editors = EDITORS if every_editor else EDITORS[index % _STRIDE :: _STRIDE]
    rerun = [e.name for e in editors] if every_editor else [editors[index // _STRIDE % len(editors)].name]
    try:
        verdict = judge(
            one.path, one.out, merged=MERGED.get(tier, 0), editors=editors, start=start(one.path), rerun=rerun
        )
    except Exception as error:
        return Verdict([f"could not be judged: {error!r}"])
    if one.path.stat().st_mode != one.out.stat().st_mode:
        verdict.broken.append("its mode changed")
    return verdict


def _again(done: Sequence[Tuned], folder: Path, tier: str) -> list[str]:
    """A second time changes nothing."""
    outs = [one.out for one in done if one.out is not None]
    second = tune(outs, folder / "again", "--force", *TIERS[tier])
    return [
        f"{first.path}: tuned twice it is another file ({other.status})"
        for first, other, out in zip(done, second, outs, strict=True)
        if other.out is None or other.out.read_bytes() != out.read_bytes()
    ]


def _undone(done: Sequence[Tuned], folder: Path) -> list[str]:
    """--undo gives the original's bytes."""
    outs = [one.out for one in done if one.out is not None]
    back = tune(outs, folder / "back", "--undo")
    return [
        f"{first.path}: undone it is another file ({other.status}: {other.row['error']})"
        for first, other in zip(done, back, strict=True)
        if other.out is None or other.out.read_bytes() != first.path.read_bytes()
    ]
