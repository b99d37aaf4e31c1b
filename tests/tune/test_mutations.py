"""Headers with wrong fields: no traceback, and no harm to what is rewritten."""

import struct

import pytest

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.elf.tail import read_tail
from elfolio.elf.write import whole
from elfolio.errors import ElfError
from elfolio.layout.hugepages import Tier
from elfolio.layout.plan import Plan
from elfolio.layout.realign import realign
from tests.tune import raw
from tests.tune.checker import check
from tests.tune.mutations import mutants

MOST = 1 << 28
"""Bytes of a new file, or of a segment in memory, that is looked at."""


def _image(data: bytes) -> ElfImage | None:
    """None where it is no ELF file any more."""
    try:
        return read(data, "mutant")
    except ElfError:
        return None


def _plans(image: ElfImage, data: bytes) -> list[Plan]:
    """By force, at each tier, and for larger pages."""
    tail = read_tail(image, memoryview(data))
    return [
        realign(image, tail, force=True),
        realign(image, tail, force=True, most=Tier.ALIGN),
        realign(image, tail, force=True, merge=True),
        realign(image, tail, merge=True, page=16384),
    ]


def _looked_at(data: bytes) -> raw.Raw | None:
    """None for what the checker cannot read, or has no memory for."""
    try:
        found = raw.read(data)
    except (struct.error, ValueError):
        return None
    return found if all(s.memsz < MOST for s in found.loads) else None


def _harm(before: raw.Raw, after: raw.Raw, plan: Plan) -> list[str]:
    """What is wrong with the new file that was not with the old one."""
    was = check(before, before)
    found = check(before, after, plan.page if plan.tier is Tier.MERGE else 0)
    # Said in a note: what moves together with its program headers does not start before Linux 5.18.
    return [line for line in found if line not in was and not (plan.notes and "5.18" in line)]


def _assert_harmless(seed: int, count: int) -> None:
    rewritten = 0
    for mutant in mutants(seed, count):
        image = _image(mutant.data)
        for plan in _plans(image, mutant.data) if image is not None else ():
            if plan.tier is Tier.AS_IS or plan.rewrite.new_size > MOST:
                continue
            new, old = bytes(whole(plan.rewrite, memoryview(mutant.data))), _looked_at(mutant.data)
            if old is not None:
                assert _harm(old, raw.read(new), plan) == [], f"{mutant.story}, tier {plan.tier}"
                rewritten += 1
    assert rewritten > count, "too few are rewritten to prove anything"


def test_few() -> None:
    """Files with one to three wrong fields are refused, or rewritten to what they were in memory."""
    _assert_harmless(seed=6, count=80)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many(seed: int) -> None:
    """The same of thousands, in all about 100 seconds."""
    _assert_harmless(seed=100 + seed, count=1000)
