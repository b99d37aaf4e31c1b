"""pagecache.aim: which blocks of a file are worth huge folios. In: a path, a Policy. Out: Aim, or Pointless.

For an ELF file the kernel room says which blocks could be huge mappings once the page cache has such folios; of any
other, every block could, in a program that maps it at a multiple of the huge page.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from elfolio.elf.image import ElfImage
from elfolio.errors import ElfError
from elfolio.kernel.blocks import Block, Obstacle, Way
from elfolio.kernel.execve import machine_for
from elfolio.kernel.policy import Policy
from elfolio.kernel.prediction import BlockRun, Prediction, predict
from elfolio.layout.finding import counted, size_text
from elfolio.layout.hugepages import Tier, climb
from elfolio.live.opened import opened
from elfolio.span import Span, round_up

__all__ = ["Aim", "Pointless", "aim_at", "is_worth_a_look"]


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to be had of one file. Spans are file offsets, of whole blocks."""

    size: int
    """Bytes of the file."""
    huge: int
    """Bytes of a huge page."""
    fill: tuple[Span, ...]
    """What is read; of an ELF file, all that is mapped of it, and what lies between, in whole blocks. The last may end
    behind the file."""
    wanted: tuple[Span, ...]
    """The blocks that could then be huge mappings."""


class Pointless(Exception):
    """Warming the file would win nothing: why, and what to do instead."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


def aim_at(path: str, size: int, policy: Policy, *, whole: bool = False, force: bool = False) -> Aim:
    """`size` is the file's, in bytes; `policy` that of the machine. `whole`: all of an ELF file, what nothing maps too.
    `force`: also where no huge mapping comes of it. Raises Pointless; OSError for a file that cannot be read."""
    huge, end = policy.pmd_size, round_up(size, policy.page_size)
    if end < huge:
        raise Pointless(f"it is smaller than a huge page of {size_text(huge)}")
    everything = tuple(Span(0, size).blocks(huge))
    try:
        with opened(path) as found:
            prediction = _predict(found.image, policy)
            mapped = _mapped(found.image, huge)
    except ElfError:
        return Aim(size, huge, everything, tuple(Span(0, end).whole_blocks(huge).blocks(huge)))
    wanted = tuple(sorted(set(_wanted(prediction, huge))))
    if force and not wanted:
        wanted = tuple(block for block in mapped if block.end <= end)
    if not wanted:
        raise _pointless(prediction, huge)
    return Aim(size, huge, everything if whole else mapped, wanted)


def is_worth_a_look(path: str, least: int = 2 << 20) -> bool:
    """Whether it is an ELF file of that many bytes, by its first ones; False for what cannot be read."""
    try:
        with open(path, "rb", 0) as file:
            return os.fstat(file.fileno()).st_size >= least and file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _predict(image: ElfImage, policy: Policy) -> Prediction:
    """As if the page cache could have any folio: whether it can is found by trial."""
    policy = replace(policy, probed_folio=policy.pmd_size, machine=machine_for(image) or policy.machine)
    if not image.interpreter:
        return predict(image, None, policy)
    try:
        with opened(image.interpreter) as loader:
            return predict(image, loader.image, policy)
    except (OSError, ElfError):
        return predict(image, None, policy, missing="not here")


def _mapped(image: ElfImage, huge: int) -> tuple[Span, ...]:
    """From the first segment's block to the last one's: debug information and symbols stand behind them."""
    loads = [segment for segment in image.loads if segment.filesz]
    if not loads:
        return ()
    start = min(segment.offset for segment in loads)
    end = max(segment.offset + segment.filesz for segment in loads)
    return tuple(Span(start, min(end, image.size)).blocks(huge))


def _runs(prediction: Prediction, huge: int) -> Iterator[tuple[BlockRun, Block]]:
    for run in prediction.runs:
        if run.size == huge:
            yield from ((run, block) for block in run.blocks if not block.writable)


def _wanted(prediction: Prediction, huge: int) -> Iterator[Span]:
    for run, block in _runs(prediction, huge):
        if block.way is Way.FAULT:
            yield block.memory.shifted(run.vma.offset - run.vma.start)


def _pointless(prediction: Prediction, huge: int) -> Pointless:
    """The reason of most of its blocks, the edges left out where there is another."""
    if not prediction.runs:
        return Pointless(prediction.refusal or "nothing of it is mapped")
    counts = Counter(block.obstacle for _, block in _runs(prediction, huge))
    del counts[Obstacle.EDGE], counts[Obstacle.END]
    if not counts:
        relaid = climb(prediction.layout, huge).blocks(Tier.RELAY)
        return Pointless(f"none of its mappings has a whole block of {size_text(huge)}", _TUNE if relaid else "")
    ((obstacle, count),) = counts.most_common(1)
    why, remedy = _WORDS[obstacle]
    blocks = counted(count, "block")
    return Pointless(f"{blocks} of {size_text(huge)} cannot be huge mappings: {why}", remedy)


_TUNE = "elfolio tune, or --force"
_WORDS = {
    Obstacle.BASE: ("its load address is no multiple of that", _TUNE),
    Obstacle.SKEWED: ("they stand at other offsets of the file than their addresses ask for", _TUNE),
}
