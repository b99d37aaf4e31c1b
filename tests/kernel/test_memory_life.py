"""kernel.memory_life, folio_questions, workload, memory_layout: a machine's life, what is asked of it, its pieces."""

from dataclasses import replace

import pytest

from elfolio.kernel.buddy import BLOCK, Kind, MigrateType
from elfolio.kernel.folio_questions import answers, curve, curves
from elfolio.kernel.memory_layout import laid_out
from elfolio.kernel.memory_life import CELLS, POLICIES, Setting, census, live, load
from elfolio.kernel.workload import DEFAULT, Application, WorkloadError, parsed

SMALL = Setting(POLICIES["everywhere"], 1 << 18, 1 << 15, workload=replace(DEFAULT, ticks=12, moments=(0, 6, 12)))
"""1 GiB, with a file of 128 MiB."""


def test_the_same_seed_gives_the_same_course() -> None:
    """Two runs of one setting agree in every figure; another seed's differ."""
    first = curve(SMALL)
    assert first == curve(SMALL)
    assert first != curve(replace(SMALL, seed=2))


@pytest.mark.parametrize("name", POLICIES)
def test_each_load_accounts_for_the_whole_file(name: str) -> None:
    """Under each policy the file is in memory as a whole, and the picture has a letter for each block of 2 MiB."""
    for one in curve(replace(SMALL, policy=POLICIES[name])):
        assert sum(one.orders) == SMALL.file
        assert len(one.cells) == SMALL.memory // BLOCK
        assert set(one.cells) <= set(CELLS)


def test_unmovable_memory_is_what_was_asked_for() -> None:
    """At each moment the kernel holds its share of memory, within a tenth of it."""
    for one in curve(replace(SMALL, unmovable=0.05)):
        assert one.blocks.pages / SMALL.memory == pytest.approx(0.05, rel=0.1)


def test_at_boot_the_file_is_huge_and_small_folios_are_small() -> None:
    """On free memory all is had as asked; with single pages nothing is."""
    assert curve(SMALL)[0].huge == 1
    assert curve(replace(SMALL, policy=POLICIES["small"]))[-1].orders[0] == SMALL.file


def test_room_held_from_boot_is_there_at_the_end() -> None:
    """A reservation gives the whole file huge folios at every moment, without a page moved."""
    for one in curve(replace(SMALL, policy=POLICIES["reserve"])):
        assert one.huge == 1
        assert one.work.moved == 0


@pytest.mark.slow
def test_the_published_pair_is_met() -> None:
    """7% unmovable of 16 GiB is in 34% of 2 MiB blocks, within 5 points in the mean of six seeds."""
    setting = Setting(POLICIES["everywhere"], 16 << 18, 2 << 18, workload=replace(DEFAULT, moments=(40,)))
    shares = []
    for seed in range(1, 7):
        _, zone = next(live(replace(setting, seed=seed)))
        found = census(zone)
        assert found.pages / setting.memory == pytest.approx(0.07, abs=0.004)
        shares.append(found.unmovable / found.all)
    assert sum(shares) / 6 == pytest.approx(0.34, abs=0.05)


def test_every_question_is_answered_from_the_runs() -> None:
    """Six answers, with the reserve's as its run has it."""
    found = curves(SMALL)
    said = answers(found, SMALL.file)
    assert len(said) == 6
    assert f"{found['reserve'][-1].huge:.0%} at the end" in said[3].answer
    assert all(one.answer.endswith(".") for one in said)


def test_a_workload_is_read_as_written() -> None:
    """Fields are taken over; what is left out has the default's value."""
    found = parsed({"applications": [{"name": "a", "anon": 0.1, "cache": 1, "life": 3, "huge": True}], "ticks": 9})
    assert found.applications == (Application("a", 0.1, 1, 3, 64, True),)
    assert (found.ticks, found.spike, found.when()[-1]) == (9, DEFAULT.spike, 9)


ONE = {"anon": 0.1, "cache": 0.1, "life": 3}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "must be an object"),
        ({}, "at least one"),
        ({"applications": [{}]}, 'has no "anon"'),
        ({"applications": [ONE | {"anon": 2}]}, '"anon" must be a number'),
        ({"applications": [ONE | {"life": True}]}, '"life" must be a number'),
        ({"applications": [ONE], "tick": 3}, "unknown field 'tick'"),
        ({"applications": [ONE], "moments": [99]}, "moments"),
        ({"applications": [ONE], "moments": [True]}, "moments"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(value: object, said: str) -> None:
    """The error says which field, and what it may be."""
    with pytest.raises(WorkloadError, match=said):
        parsed(value)


def test_memory_is_laid_out_with_the_given_free_lists() -> None:
    """The free blocks of each type and order are exactly those asked for, where there is room for them."""
    free = {
        MigrateType.UNMOVABLE: (9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 0),
        MigrateType.MOVABLE: (900, 300, 100, 50, 20, 10, 5, 4, 3, 7, 11),
        MigrateType.RECLAIMABLE: (5, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0),
    }
    blocks = {MigrateType.UNMOVABLE: 40, MigrateType.MOVABLE: 452, MigrateType.RECLAIMABLE: 20}
    zone = laid_out(1 << 18, free, blocks, 100_000)
    assert zone.free_blocks() == free
    types = [one.type for one in zone.blocks()]
    assert {kind: types.count(kind) for kind in MigrateType} == blocks
    assert zone.folios(Kind.CACHE)[0] == pytest.approx(100_000, rel=0.02)
    assert sum(load(zone, SMALL, 0).orders) == SMALL.file
