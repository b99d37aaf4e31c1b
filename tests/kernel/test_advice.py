"""kernel.advice: what a policy adds to a plan."""

from dataclasses import replace

import pytest

from elfolio.elf.reader import read
from elfolio.kernel.advice import advice, tuned_notes, under
from elfolio.kernel.blocks import Block, Obstacle, Way
from elfolio.kernel.filesystems import filesystem, on_layer
from elfolio.kernel.policy import policy
from elfolio.layout.finding import Finding
from elfolio.layout.realign import realign
from elfolio.span import Span
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


def test_an_overlay_has_what_its_layer_has() -> None:
    """Its largest folio is that of the layer's file system, under every kernel; it places as an overlay."""
    for name in ("ext4", "xfs", "btrfs", "tmpfs", "squashfs"):
        layer = filesystem(name)
        for rules in map(policy, ("linux-5.4", "linux-6.12", "linux-6.18")):
            over = replace(rules, fs=on_layer(layer))
            assert over.largest_folio == replace(rules, fs=layer).largest_folio
            assert (over.fs.name, over.fs.is_hidden, over.fs.title) == ("overlay", False, f"overlay over {name}")
            assert over.fs.aligns_since == filesystem("overlay").aligns_since
    assert on_layer(on_layer(layer)) == on_layer(layer)
    assert on_layer(filesystem("overlay")).is_hidden


def test_a_layer_that_cannot_be_seen_is_uncertain() -> None:
    """Nothing is said of folios that the overlay would not have, as it would be of a file system that has none."""
    image = replace(PIE, interpreter="/lib64/ld-linux-x86-64.so.2")
    rules = replace(policy("linux-6.18"), machine="x86_64")
    hidden, without = (rules.with_options(fs=name) for name in ("overlay", "squashfs"))
    said = [Finding("text-align", "cost", 1, "Text.", "relink")]
    span = Span(0, 2 << 20)
    blocks = [[Block(span, span, 0, Way.NONE, Obstacle.FILESYSTEM, writable=False)]]
    texts = {}
    for one in (hidden, without):
        (note,) = tuned_notes(realign(image), one)
        (text,) = under(said, one, static=False)
        (barred,) = advice(blocks, one, "x", None)
        texts[one.fs.name] = (note, text.message, barred.message, barred.severity)
    assert all("uncertain" in text for text in texts["overlay"][:3])
    assert not any("uncertain" in text for text in texts["squashfs"])
    assert (texts["overlay"][3], texts["squashfs"][3]) == ("note", "cost")
