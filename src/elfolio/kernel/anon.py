"""kernel.anon: anon_vma identities. In: faults, forks. Out: AnonVma, who may share one, what a fork's child gets.

An anon_vma is what leads from an anonymous page to the VMAs that may map it (mm/rmap.c). Two VMAs with different ones
never merge, so who has which is part of every merging decision.
"""

__all__ = ["AnonVma"]


class AnonVma:
    """One struct anon_vma; compared by identity."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number
