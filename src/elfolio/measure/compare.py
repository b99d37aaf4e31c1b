"""measure.compare: two address spaces held against each other. In: predicted, real. Out: Comparison, with differences.

Nothing is started or read here: a recorded maps file of another kernel compares as well as a live process.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from elfolio.kernel.space import AddressSpace, Vma

__all__ = ["Comparison", "Difference", "compare", "compare_vmas"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One VMA that is not as predicted. Addresses are as in the spaces compared."""

    kind: str
    """`missing`: predicted only; `unexpected`: real only; the fields that differ, as `end,perms`; or, of no VMA, what
    happened instead."""
    predicted: Vma | None
    real: Vma | None

    def __str__(self) -> str:
        if self.predicted is None and self.real is None:
            return self.kind
        if self.predicted is None:
            return f"unexpected: {self.real.line() if self.real else ''}"
        if self.real is None:
            return f"missing: {self.predicted.line()}"
        return f"{self.kind}: predicted {self.predicted.line()} | real {self.real.line()}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it."""

    subject: str
    """Which file, and which of its moments."""
    count: int
    """VMAs that were predicted."""
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether every VMA's start, end, permissions, offset and name are as predicted, and there is no other."""
        return not self.differences


def compare(predicted: AddressSpace, real: AddressSpace, subject: str = "") -> Comparison:
    """Every VMA, absolute."""
    return compare_vmas(predicted.vmas, real.vmas, subject)


def compare_vmas(
    predicted: Iterable[Vma], real: Iterable[Vma], subject: str = "", *, seen: Callable[[Vma], object] | None = None
) -> Comparison:
    """The same for parts of spaces. `seen` gives what counts of a VMA; by default all that maps shows but device and
    inode."""
    seen = seen or (lambda vma: vma.seen)
    wanted, found = list(predicted), list(real)
    by_start = {vma.start: vma for vma in found}
    differences = []
    for vma in wanted:
        other = by_start.pop(vma.start, None)
        if other is None:
            differences.append(Difference("missing", vma, None))
        elif seen(vma) != seen(other):
            differences.append(Difference(_fields(vma, other), vma, other))
    differences += [Difference("unexpected", None, vma) for vma in by_start.values()]
    differences.sort(key=lambda d: (d.predicted or d.real or wanted[0]).start)
    return Comparison(subject, len(wanted), tuple(differences))


def _fields(predicted: Vma, real: Vma) -> str:
    names = ("end", "perms", "offset", "name")
    return ",".join(name for name in names if getattr(predicted, name) != getattr(real, name)) or "file"
