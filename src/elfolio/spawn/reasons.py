"""spawn.reasons: why a start was not warm, in words. In: codes of the C core. Out: texts for counts and `explain`."""

import os

from elfolio import _native

__all__ = ["DRIFTS", "outcome_reason"]

DRIFTS = (
    *("nothing", "surroundings unreadable", "root directory", "resource limits", "scheduling", "CPU affinity"),
    *("I/O priority", "timer slack", "oom_score_adj", "memory policy", "coredump filter", "THP or KSM flags"),
    *(
        "personality",
        "keyrings",
        "cgroup",
        "namespaces",
        "session",
        "terminal",
        "seccomp",
        "credentials",
        "Landlock or user namespace",
    ),
)
"""In the order of enum drift (native/surroundings.h)."""

_OUTCOMES = {
    _native.WARM_GONE: "the template's process ended",
    _native.WARM_FROZEN: "the template's process does not answer",
    _native.WARM_BUSY: "too many stopped children",
    _native.WARM_ENVIRONMENT: "a variable read before main differs",
    _native.WARM_TOO_LARGE: "arguments and environment too large",
    _native.WARM_DESCRIPTOR: "a descriptor to be passed is not open",
    _native.WARM_WORN: "rotated",
}


def outcome_reason(outcome: int, detail: int, image: list[tuple[bytes, tuple[int, ...] | None]]) -> str:
    """A short text; the same for the same cause, because it is counted by it."""
    if outcome == _native.WARM_DRIFTED:
        return f"drifted: {DRIFTS[detail]}"
    if outcome == _native.WARM_STALE:
        return f"changed: {os.fsdecode(image[detail][0])}" if detail < len(image) else "changed"
    if outcome == _native.WARM_REFUSED:
        return f"its child could not prepare itself: {os.strerror(detail)}"
    if outcome == _native.WARM_BARREN:
        return f"fork: {os.strerror(detail)}"
    return _OUTCOMES.get(outcome, str(outcome))
