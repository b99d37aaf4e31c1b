"""kernel.advice: what a policy adds to what is said of a file. In: block runs, Policy. Out: Findings.

The layout room says what a file could have. Here stands what this kernel, on this file system, makes of it.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from elfolio.elf.constants import ET_DYN
from elfolio.kernel.blocks import Block, Obstacle, Way
from elfolio.kernel.execve import is_program, machine_for
from elfolio.kernel.loader import slab_bytes
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace
from elfolio.layout.finding import Finding, size_text
from elfolio.layout.hugepages import Tier
from elfolio.layout.plan import Plan

__all__ = ["advice", "mend", "tuned_notes", "under"]

_TEXT = frozenset({"text-align", "text-skewed", "text-misplaced"})
_LARGER_PAGES = ("not-ready-", "relro-exposed-")
"""Ids that begin so are about the pages of a machine that has a choice."""


def under(findings: Iterable[Finding], policy: Policy, *, static: bool, placed_well: bool = False) -> Iterator[Finding]:
    """The layout's findings, with remedies that this kernel knows: before 5.10 (static PIE: 6.10) p_align moves
    nothing, and where no folio can be huge, what a remedy would win is no cost today. `placed_well` says that the load
    address is a multiple of the huge page without it: a static PIE lies where its file system wants a large file."""
    follows = bool(policy["static_pie_align" if static else "pie_align"])
    huge = policy.largest_folio >= policy.pmd_size or (policy.read_only_thp and policy["read_only_thp_for_fs"])
    for finding in findings:
        if policy.machine == "x86_64" and finding.severity == "note" and finding.id.startswith(_LARGER_PAGES):
            continue  # its pages have 4 KiB, always
        if (placed_well and finding.id == "text-align") or (not follows and finding.id == "entropy"):
            continue
        if finding.id == "gaps" and policy.libc.holes != "none":
            yield from _gaps(finding, policy)
            continue
        if finding.id not in _TEXT or (huge and (follows or finding.id != "text-align")):
            yield finding
            continue
        why = (
            _folios_lack(policy)
            if not huge
            else "This kernel does not look at p_align, so that the load address is a multiple of it by chance only"
        )
        remedy = finding.remedy if huge else f"{finding.remedy}; useful with a kernel and a file system that have them"
        mend = "link without -pie, at addresses of huge pages" if huge else remedy
        yield Finding(finding.id, "note", finding.bytes, f"{finding.message} {why}.", mend)


def _folios_lack(policy: Policy) -> str:
    size = size_text(policy.pmd_size)
    if policy.fs.is_hidden:
        return f"Whether it wins that is uncertain: {_HIDDEN}, nor whether it has folios of {size}"
    return f"{policy.fs.title} has no folios of {size} in this kernel: it wins nothing there"


_HIDDEN = "which file system the overlay's layer is cannot be seen from here"


def _gaps(finding: Finding, policy: Policy) -> Iterator[Finding]:
    """The layout room speaks of glibc; bionic covers gaps and others unmap them, which costs nothing."""
    if policy.libc.holes == "left":
        said = finding.message.partition(":")[0]
        text = f"{said}: under {policy.libc.name}, they stay mapped as the first segment is, readable, and cost VMAs."
        yield Finding(finding.id, finding.severity, finding.bytes, text, finding.remedy)


def advice(
    runs: Sequence[Sequence[Block]],
    policy: Policy,
    name: str,
    space: AddressSpace | None,
    *,
    text_is_said: bool = False,
) -> Iterator[Finding]:
    """Of the blocks of a file's mappings, run by run, all of one block size; `space` is what a process has at its first
    instruction, if it comes to that. `text_is_said`: the layout's findings already blame the load address."""
    blocks = [block for run in runs for block in run if not block.writable]
    ready = [block for block in blocks if block.way is Way.FAULT]
    if ready:
        yield _ready(ready, name)
    collapsible = [block for block in blocks if block.way is Way.COLLAPSE]
    if collapsible:
        yield _collapsible(collapsible, policy)
    barred = Counter(block.obstacle for block in blocks)
    size = blocks[0].size if blocks else 0
    for obstacle, words in _WORDS.items():
        if barred[obstacle] and not (obstacle is Obstacle.BASE and text_is_said):
            yield _barred(obstacle, barred[obstacle], size, policy, words)
    if space is None:
        return
    cost = slab_bytes(space, policy)
    text = f"{len(space)} VMAs at the first instruction take {size_text(cost)} of kernel memory in each process"
    yield Finding("vmas", "note", cost, f"{text}.")


def tuned_notes(plan: Plan, policy: Policy) -> Iterator[str]:
    """Why a plan would win less than it says, under this policy; nothing for a file of another machine."""
    image = plan.image
    if machine_for(image) != policy.machine or plan.tier is Tier.AS_IS or not plan.won:
        return
    static = image.interpreter is None
    if image.header.type == ET_DYN and is_program(image) and not policy["static_pie_align" if static else "pie_align"]:
        yield f"{policy.name} does not look at p_align here: the load address is a multiple of it by chance only."
    if policy.largest_folio < plan.block:
        collapses = policy.read_only_thp and policy["read_only_thp_for_fs"]
        how = "khugepaged or MADV_COLLAPSE must make them" if collapses else "nothing is won there"
        if policy.fs.is_hidden:
            yield f"Whether that is won is uncertain: {_HIDDEN}, nor whether it has folios of {size_text(plan.block)}."
            return
        yield f"{policy.fs.title} has no folios of {size_text(plan.block)} under {policy.name}: {how}."


def _ready(blocks: Sequence[Block], name: str) -> Finding:
    size = size_text(blocks[0].size)
    many = "huge page" if len(blocks) == 1 else "huge pages"
    text = f"{len(blocks)} {many} of {size} can be mapped as the file is, where the page cache has folios of {size}"
    why = "cp, tar and package managers leave folios of 64 KiB; a file written in large pieces has large ones"
    old, new, piece = shlex.quote(name), shlex.quote(f"{name}.new"), f"{blocks[0].size >> 10}K"
    mend = f"dd if={old} of={new} bs={piece} && chmod --reference={old} {new} && mv {new} {old}"
    return Finding("folios-needed", "note", len(blocks) * blocks[0].size, f"{text}: {why}.", mend)


def _collapsible(blocks: Sequence[Block], policy: Policy) -> Finding:
    size = size_text(blocks[0].size)
    text = f"{len(blocks)} blocks of {size} become huge pages only when khugepaged or MADV_COLLAPSE has copied them"
    how = "madvise(MADV_HUGEPAGE), or MADV_COLLAPSE at once" if policy["madvise_collapse"] else "madvise(MADV_HUGEPAGE)"
    return Finding("collapse-needed", "note", len(blocks) * blocks[0].size, f"{text}.", f"in the program: {how}")


_WORDS = {
    Obstacle.BASE: "the load address is no multiple of that",
    Obstacle.FILESYSTEM: "{fs} has no folios of {size} in this kernel, and it collapses no pages of files",
    Obstacle.NOT_EXEC: "before 6.8 only executable mappings are collapsed, and these are not",
    Obstacle.WRITER: "somebody has the file open for writing, so that nothing is collapsed",
    Obstacle.NEVER: "transparent huge pages are switched off",
    Obstacle.ADVICE: "their mapping is marked MADV_NOHUGEPAGE",
    Obstacle.PROCESS: "the process has switched huge pages off for itself",
}
_MENDS = {
    Obstacle.BASE: "-Wl,-z,max-page-size={bytes}, under a kernel that heeds it: from 5.10 (static PIE: 6.10)",
    Obstacle.FILESYSTEM: "move it to xfs (large folios from 5.18), or ext4 with Linux 6.16 or later",
    Obstacle.NOT_EXEC: "link with -Wl,--no-rosegment (lld), or -Wl,-z,noseparate-code (GNU ld)",
    Obstacle.WRITER: "close it: fuser -v FILE names who has it open",
    Obstacle.NEVER: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    Obstacle.ADVICE: "in the program: madvise(MADV_HUGEPAGE), or none",
    Obstacle.PROCESS: "in the program: prctl(PR_SET_THP_DISABLE, 0)",
}


def mend(obstacle: Obstacle, size: int) -> str:
    """What takes the obstacle away from blocks of `size` bytes; empty where explain says it of the whole file."""
    return _MENDS.get(obstacle, "").format(bytes=size)


def _barred(obstacle: Obstacle, count: int, size: int, policy: Policy, words: str) -> Finding:
    many = f"{count} block{'s' * (count > 1)} of {size_text(size)} would fit"
    if obstacle is Obstacle.FILESYSTEM and policy.fs.is_hidden:
        text = f"{many}; whether folios of that size are there is uncertain: {_HIDDEN}. They are counted as not there"
        return Finding(f"huge-{obstacle}", "note", count * size, f"{text}.", "name the layer's file system with --fs")
    reason = words.format(fs=policy.fs.title, size=size_text(size))
    text = f"{many} and cannot be huge: {reason}"
    return Finding(f"huge-{obstacle}", "cost", count * size, f"{text}.", mend(obstacle, size))
