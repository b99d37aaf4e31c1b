"""report.explain: what the kernel would map. In: Predictions of one file, and what was asked beside. Out: its JSON.

Every other rendering of the command, text and HTML, is made from this object.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from elfolio.kernel.blocks import Block
    from elfolio.kernel.policy import Policy
    from elfolio.kernel.prediction import Prediction
    from elfolio.kernel.space import Vma
    from elfolio.layout.relink import Relinked
    from elfolio.layout.relro import Relro
    from elfolio.layout.segments import Load
    from elfolio.measure.verify import Comparison

__all__ = ["Report", "Under", "as_json", "as_report", "rule_lines"]


class Rules(TypedDict):
    """A policy, as far as it decides what is shown. Sizes in bytes."""

    name: str
    version: str
    machine: str
    page_size: int
    huge_page: int
    fs: str
    largest_folio: int
    libc: str
    random_bits: int
    switches: dict[str, bool | int | str]


class Segment(TypedDict):
    """A PT_LOAD: where it is in the file, where it was linked, where it is mapped."""

    index: int
    perms: str
    offset: int
    filesz: int
    vaddr: int
    memsz: int
    align: int
    mapped: int
    pages: int
    """That it touches in memory."""
    foreign: int
    """Bytes of the file in its pages that are not its own."""
    sections: list[str]


class Mapping(TypedDict):
    """A VMA, as /proc/PID/maps shows it."""

    start: int
    end: int
    perms: str
    offset: int
    name: str


class BlockRow(TypedDict):
    """A huge-page block, or a contiguous run of PTEs, that a mapping touches."""

    start: int
    size: int
    part: list[int]
    """Start and end of what the mapping has of it."""
    offset: int
    perms: str
    way: str
    obstacle: str
    lost: int


class FindingRow(TypedDict):
    """What is worth saying."""

    id: str
    severity: str
    bytes: int
    message: str
    remedy: str


class RelroCost(TypedDict):
    """RELRO over pages of one size."""

    page: int
    protected_pages: int
    pages: int
    without: int
    exposed: int


class Under(TypedDict):
    """The file under one policy."""

    policy: str
    rules: Rules
    load_bias: int
    placed: bool
    """False for a shared object: it has no place of its own, and its addresses are shown from 0."""
    random_bits: int | None
    """Of the load bias, with randomisation on."""
    refusal: str
    """Why the kernel would not execute it."""
    segments: list[Segment]
    vmas: list[Mapping]
    """At the first instruction, randomisation off; of a shared object, once it is loaded."""
    linked: list[Mapping]
    """The file's own, once dynamic linking is done."""
    blocks: list[BlockRow]
    findings: list[FindingRow]


class Relink(TypedDict):
    """What a linker would make of the same sections."""

    mode: str
    size: int
    segments: list[Segment]
    uncertain: list[str]


class Verify(TypedDict):
    """Prediction against a real process."""

    equal: bool
    differences: list[str]


class Report(Under):
    """The object of `elfolio explain --json`; what stands in `Under` is for the first policy."""

    elfolio: str
    version: int
    path: str
    type: str
    machine: str
    bits: int
    size: int
    linker: str
    linked_as: str
    evidence: list[str]
    interpreter: str | None
    build_id: str | None
    relro: list[RelroCost]
    compared: list[Under]
    """The same under each further policy."""
    relink: list[Relink]
    verify: NotRequired[Verify]


def as_json(report: Report) -> str:
    """The object, on one line."""
    return json.dumps(report)
