"""kernel.folio_questions: what the discussion of large folios asked, each answered by a run. In: Loads. Out: Answers.

The discussion: "[f2fs-dev] [PATCH v2] f2fs: another way to set large folio by remembering inode number", May 2026
(Jaegeuk Kim, Theodore Tso, Matthew Wilcox, Christoph Hellwig).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from elfolio.kernel.buddy import PMD_ORDER
from elfolio.kernel.memory_life import POLICIES, Load, Setting, live, load

__all__ = ["Answer", "Curves", "answers", "curve", "curves"]

Curves = Mapping[str, Sequence[Load]]
"""By policy's name; `compacted`: hinted-file, with all of memory compacted just before the load."""

_HARDLY, _SEEDS = 0.03, 0.1
"""Shares of the file that differ by less: are the same; may be the seed's doing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """In one sentence, from these runs alone."""

    question: str
    asked: str
    """By whom."""
    answer: str


def curve(setting: Setting, progress: Callable[[int, int], object] | None = None) -> list[Load]:
    """The load under the setting's policy, at each moment of one life."""
    return [load(zone.copy(), setting, tick) for tick, zone in live(setting, progress)]


def curves(setting: Setting, progress: Callable[[int, int], object] | None = None) -> dict[str, list[Load]]:
    """All policies, in lives of the same seed; and the load behind a whole compaction."""
    found: dict[str, list[Load]] = {name: [] for name in (*POLICIES, "compacted")}
    for name, policy in POLICIES.items():
        own = replace(setting, policy=policy)
        for tick, zone in live(own, progress):
            found[name].append(load(zone.copy(), own, tick))
            if name == "hinted-file":
                found["compacted"].append(load(zone.copy(), own, tick, compact=True))
    return found


def answers(found: Curves, file: int) -> list[Answer]:
    """The five questions, and the sixth about compact_memory. `file`: its pages."""
    return [
        Answer("Do high-order requests fail at all, and when?", "Matthew Wilcox", _failing(found)),
        Answer("Does keeping others on small folios help the file?", "Jaegeuk Kim", _small_others(found)),
        Answer("What does a persistent hint on one file give?", "Theodore Tso", _hint(found)),
        Answer("What does room held from boot give?", "Theodore Tso", _reserve(found, file)),
        Answer("Does clean cache in large folios serve as the reserve?", "Christoph Hellwig", _clean(found)),
        Answer("What does compact_memory before the load cost?", "Theodore Tso", _compaction(found, file)),
    ]


def _failing(found: Curves) -> str:
    loads = found["everywhere"]
    first = next((one for one in loads if one.work.failed[PMD_ORDER]), None)
    if first is None:
        return "No: every request for 2 MiB was met."
    last = loads[-1].work
    return (
        f"Yes, from tick {first.tick} on, with {first.free_huge} blocks of 2 MiB free; at the end "
        f"{last.failed[PMD_ORDER]} of {last.tried[PMD_ORDER]} requests for 2 MiB failed."
    )


def _mean(loads: Sequence[Load]) -> float:
    """Of the later half of the moments: before it memory is free whatever the policy."""
    late = loads[len(loads) // 2 :]
    return sum(one.huge for one in late) / len(late)


def _verdict(a: float, b: float) -> str:
    """Whether `a` is more than `b`."""
    if abs(a - b) < _HARDLY:
        return "Hardly"
    if abs(a - b) < _SEEDS:
        return f"A little {'more' if a > b else 'less'}, as seeds differ too"
    return "Yes" if a > b else "No, it harms"


def _small_others(found: Curves) -> str:
    small, large = _mean(found["hinted-file"]), _mean(found["everywhere"])
    return (
        f"{_verdict(small, large)}: {small:.0%} of the file in folios of 2 MiB with others small, "
        f"{large:.0%} with others large."
    )


def _hint(found: Curves) -> str:
    hinted, none = found["hinted-file"], found["small"]
    requests = [sum(loads[-1].work.tried) for loads in (hinted, none)]
    return (
        f"{_mean(hinted):.0%} of the file in folios of 2 MiB instead of {_mean(none):.0%}; {hinted[0].huge:.0%} at "
        f"boot, {hinted[-1].huge:.0%} at the end, with {requests[0]} requests for memory instead of {requests[1]}."
    )


def _reserve(found: Curves, file: int) -> str:
    held, none = found["reserve"][-1], found["everywhere"][-1]
    return (
        f"{held.huge:.0%} at the end instead of {none.huge:.0%}, with {_cost(held)} page moves instead of "
        f"{_cost(none)}; until then others go without {file >> 8} MiB."
    )


def _clean(found: Curves) -> str:
    huge, small = found["huge-cache"], found["hinted-file"]
    return (
        f"{_verdict(_mean(huge), _mean(small))}: {_mean(huge):.0%} of the file in folios of 2 MiB against "
        f"{_mean(small):.0%}; at the end {_cost(huge[-1])} page moves against {_cost(small[-1])}."
    )


def _compaction(found: Curves, file: int) -> str:
    done, none = found["compacted"][-1], found["hinted-file"][-1]
    return (
        f"{done.work.moved} page moves at the end, {done.work.moved / file:.1f} for each page of the file; it has "
        f"{done.huge:.0%} in folios of 2 MiB then instead of {none.huge:.0%}."
    )


def _cost(one: Load) -> int:
    return one.work.moved
