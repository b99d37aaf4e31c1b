"""report.explain: what the kernel would map. In: Predictions of one file, and what was asked beside. Out: its JSON.

Every other rendering of the command, text and HTML, is made from this object.
"""

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from elfolio.elf import constants
from elfolio.kernel.policy import SWITCHES

if TYPE_CHECKING:
    from elfolio.kernel.blocks import Block
    from elfolio.kernel.policy import Policy
    from elfolio.kernel.prediction import Prediction
    from elfolio.kernel.space import Vma
    from elfolio.layout.finding import Finding
    from elfolio.layout.modes import LinkedAs
    from elfolio.layout.relink import Relinked
    from elfolio.layout.relro import Relro
    from elfolio.layout.relro import RelroCost as Cost
    from elfolio.layout.segments import Load
    from elfolio.measure.verify import Verification

__all__ = ["BlockRow", "FindingRow", "Mapping", "Relink", "Report", "Segment", "Under", "as_json", "as_report"]


class Rules(TypedDict):
    """A policy, as far as it decides what is shown. Sizes in bytes."""

    name: str
    version: str
    machine: str
    page_size: int
    huge_page: int
    fs: str
    largest_folio: int
    probed: bool
    """Whether that was found by trial (--probe)."""
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
    copied: bool
    """Its pages are written to, and then private copies: huge, if at all, until then. Counted in no sum."""
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


class ProgramHeader(TypedDict):
    """A program header that a linker would write."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


class Relink(TypedDict):
    """What a linker would make of the same sections."""

    mode: str
    size: int
    segments: list[ProgramHeader]
    uncertain: list[str]
    """Why something may be otherwise; empty where nothing is known to."""


class Verify(TypedDict):
    """Prediction against a real process."""

    equal: bool
    vmas: int
    """That were compared, at all moments."""
    objects: int
    """Files compared after dynamic linking."""
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
    verify: Verify | None
    """None where it was not asked for."""


def as_json(report: Report) -> str:
    """The object, on one line."""
    return json.dumps(report)


def as_report(
    predictions: Sequence["Prediction"],
    *,
    linker: str,
    linked_as: "LinkedAs",
    relro: "Relro | None",
    relinked: Sequence[tuple[str, "Relinked"]] = (),
    verified: "Verification | None" = None,
) -> Report:
    """The object: one file under each policy, at least one; what it was linked with and as."""
    image = predictions[0].image
    return {
        "elfolio": "explain",
        "version": 1,
        "path": image.name,
        "type": _type(predictions[0]),
        "machine": constants.MACHINE_NAMES.get(image.header.machine, f"machine {image.header.machine}"),
        "bits": image.header.bits,
        "size": image.size,
        "linker": linker,
        "linked_as": linked_as.code,
        "evidence": list(linked_as.evidence),
        "interpreter": image.interpreter,
        "build_id": image.build_id.hex() if image.build_id else None,
        "relro": [] if relro is None else [_relro(cost) for cost in relro.costs],
        "compared": [_under(prediction) for prediction in predictions[1:]],
        "relink": [_relink(mode, found) for mode, found in relinked],
        "verify": None if verified is None else _verify(verified),
        **_under(predictions[0]),
    }


def _verify(found: "Verification") -> Verify:
    return {
        "equal": found.equal,
        "vmas": found.first.count + sum(comparison.count for comparison in found.objects),
        "objects": len(found.objects),
        "differences": [f"{c.subject}: {d}" for c in (found.first, *found.objects) for d in c.differences],
    }


def _type(prediction: "Prediction") -> str:
    """e_type, and what it means."""
    kind, program = prediction.image.header.type, prediction.is_program
    if kind == constants.ET_EXEC:
        return "ET_EXEC" if prediction.image.interpreter else "ET_EXEC, static"
    if (
        kind == constants.ET_DYN
        and prediction.image.interpreter
        and prediction.image.tag(constants.DT_SONAME) is not None
    ):
        return "ET_DYN, a shared object that can be executed"
    if kind == constants.ET_DYN:
        dynamic = "ET_DYN, PIE" if prediction.image.interpreter else "ET_DYN, static PIE"
        return dynamic if program else "ET_DYN, shared object"
    return {constants.ET_REL: "ET_REL", constants.ET_CORE: "ET_CORE"}.get(kind, f"type {kind}")


def _under(p: "Prediction") -> Under:
    space = p.space if p.space is not None else p.mapped
    return {
        "policy": p.policy.name,
        "rules": _rules(p.policy),
        "load_bias": p.bias,
        "placed": p.is_placed,
        "random_bits": p.entropy,
        "refusal": p.refusal,
        "segments": [_segment(load, p) for load in p.layout.loads],
        "vmas": [_mapping(vma) for vma in space],
        "linked": [_mapping(vma) for vma in p.mapped],
        "blocks": [_block(block, run.vma.perms) for run in p.runs for block in run.blocks],
        "findings": [
            {"id": f.id, "severity": f.severity, "bytes": f.bytes, "message": f.message, "remedy": _remedy(f, p)}
            for f in p.findings
        ],
    }


_COMMANDS = {"text-align": "elfolio tune {} -o OUT", "text-skewed": "elfolio tune {} -o OUT",
             "folios-needed": "elfolio warm {}"}  # fmt: skip
"""What elfolio itself does about a finding; text that begins at no block's border is the linker's alone to mend."""


def _remedy(finding: "Finding", p: "Prediction") -> str:
    """The finding's own, behind elfolio's command where that wins something under this policy."""
    path = p.image.name
    name = shlex.quote(f"./{path}" if path.startswith("-") else path)
    if finding.id == "huge-filesystem" and p.policy.fs.is_hidden:
        return f"elfolio warm {name} finds out by trial; or {finding.remedy}"
    command = _COMMANDS.get(finding.id)
    if command is None or (finding.id.startswith("text-") and finding.severity != "cost"):
        return finding.remedy
    return f"{command.format(name)}; or {finding.remedy}"


def _rules(policy: "Policy") -> Rules:
    return {
        "name": policy.name,
        "version": ".".join(map(str, policy.version)),
        "machine": policy.machine,
        "page_size": policy.page_size,
        "huge_page": policy.pmd_size,
        "fs": policy.fs.title,
        "largest_folio": policy.largest_folio,
        "probed": policy.probed_folio is not None,
        "libc": policy.libc.name,
        "random_bits": policy.mmap_rnd_bits,
        "switches": {name: policy[name] for name in SWITCHES},
    }


def _segment(load: "Load", prediction: "Prediction") -> Segment:
    segment = load.segment
    return {
        "index": load.index,
        "perms": segment.perms,
        "offset": segment.offset,
        "filesz": segment.filesz,
        "vaddr": segment.vaddr,
        "memsz": segment.memsz,
        "align": segment.align,
        "mapped": segment.vaddr + prediction.bias,
        "pages": load.memory.size // load.page,
        "foreign": load.foreign,
        "sections": [
            section.name
            for section in prediction.image.sections
            if section.flags & constants.SHF_ALLOC and segment.memory.encloses(section.memory) and section.size
        ],
    }


def _mapping(vma: "Vma") -> Mapping:
    return {"start": vma.start, "end": vma.end, "perms": vma.perms, "offset": vma.offset, "name": vma.name}


def _block(block: "Block", perms: str) -> BlockRow:
    return {
        "start": block.memory.start,
        "size": block.size,
        "part": [block.part.start, block.part.end],
        "offset": block.offset,
        "perms": perms,
        "copied": block.writable,
        "way": block.way.value,
        "obstacle": block.obstacle.value,
        "lost": block.lost,
    }


def _relro(cost: "Cost") -> RelroCost:
    return {
        "page": cost.page,
        "protected_pages": cost.protected_pages,
        "pages": cost.pages,
        "without": cost.together,
        "exposed": cost.exposed,
    }


def _relink(mode: str, found: "Relinked") -> Relink:
    return {
        "mode": mode,
        "size": found.size,
        "segments": [
            {
                "type": s.type,
                "flags": s.flags,
                "offset": s.offset,
                "vaddr": s.vaddr,
                "paddr": s.paddr,
                "filesz": s.filesz,
                "memsz": s.memsz,
                "align": s.align,
            }
            for s in found.segments
        ],
        "uncertain": list(found.uncertain),
    }
