"""kernel.advice: what a policy adds to a plan."""

from dataclasses import replace

import pytest

from elfolio.elf.reader import read
from elfolio.kernel.advice import tuned_notes
from elfolio.kernel.policy import policy
from elfolio.layout.realign import realign
from tests.layout.files import RX, Part, R, linked

PIE = read(linked([Part(R, 0x100), Part(RX, 5 << 20)]))


@pytest.mark.parametrize(
    ("name", "fs", "said"),
    [
        ("linux-6.18", "ext4", []),
        ("linux-6.12", "xfs", []),
        ("linux-6.12", "ext4", ["no folios of 2 MiB"]),
        ("linux-5.4", "ext4", ["does not look at p_align", "no folios of 2 MiB"]),
    ],
)
def test_where_a_plan_wins_less(name: str, fs: str, said: list[str]) -> None:
    """A kernel that does not heed p_align, a file system without huge folios: each is said, and nothing else is."""
    image = replace(PIE, interpreter="/lib64/ld-linux-x86-64.so.2")
    found = list(tuned_notes(realign(image), replace(policy(name), machine="x86_64").with_options(fs=fs)))
    assert len(found) == len(said)
    assert all(words in text for words, text in zip(said, found, strict=True))


def test_of_another_machine_nothing_is_said() -> None:
    """This machine's kernel will not run it."""
    assert list(tuned_notes(realign(PIE), replace(policy("linux-5.4"), machine="aarch64"))) == []
