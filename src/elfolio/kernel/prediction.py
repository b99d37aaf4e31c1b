"""kernel.prediction: one file under one policy, whole. In: ElfImage, its interpreter's, Policy, Host. Out: Prediction.

What `elfolio explain` shows: the address space at the first instruction, the file's own mappings after dynamic linking,
and for each block of them whether it can be a huge mapping.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from elfolio.elf.constants import ET_CORE, ET_EXEC, ET_REL, PF_W
from elfolio.elf.image import ElfHead, ElfImage, Segment
from elfolio.kernel.advice import advice, under
from elfolio.kernel.blocks import Block, Obstacle, block_sizes, blocks
from elfolio.kernel.execve import ExecError, Execution, execve, is_program
from elfolio.kernel.host import Host
from elfolio.kernel.loader import LoadError, linked, map_object
from elfolio.kernel.mappable import of_policy
from elfolio.kernel.placement import aligns
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, OpenFile, Vma, VmFlags
from elfolio.layout.finding import Finding, ranked
from elfolio.layout.findings import findings
from elfolio.layout.segments import Layout
from elfolio.span import Span, round_down, round_up

__all__ = ["BlockRun", "Prediction", "linked_skew", "predict"]


@dataclass(frozen=True, slots=True)
class BlockRun:
    """The blocks of one size that one mapping touches."""

    vma: Vma
    size: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Prediction:
    """What one kernel makes of one file. Addresses are mapped ones, with randomisation off."""

    image: ElfImage
    layout: Layout
    policy: Policy
    bias: int
    """The load bias: mapped minus linked address."""
    is_placed: bool
    """Whether the bias is what this kernel would choose; a shared object has no place of its own, and begins at 0."""
    entropy: int | None
    """Bits of the load bias that randomisation chooses; None where it is not the kernel's to choose."""
    space: AddressSpace | None
    """At the first instruction; None for a file that is not executed."""
    refusal: str
    """Why the kernel would not execute it; empty where it would, or where it is no program."""
    mapped: tuple[Vma, ...]
    """The file's own mappings, its zero fill among them, once the dynamic linker is done: RELRO protected."""
    runs: tuple[BlockRun, ...]
    """Of each of them that the file is behind, for each size of block."""
    findings: tuple[Finding, ...]

    @property
    def is_program(self) -> bool:
        """Whether it is execve that maps it."""
        return is_program(self.image)


def predict(
    image: ElfImage,
    interpreter: ElfImage | None,
    policy: Policy,
    host: Host | None = None,
    *,
    file: OpenFile | None = None,
    interpreter_file: OpenFile | None = None,
    open_for_writing: bool = False,
    missing: str = "",
) -> Prediction:
    """All that is known without running it. The files' names in maps are the OpenFiles', else the images'. `missing`
    says why there is no interpreter, where the file names one: the rest holds without it."""
    file = file or OpenFile(image.name)
    layout = Layout(image, policy.page_size)
    execution, refusal = None, _UNMAPPED.get(image.header.type, "")
    if not refusal and is_program(image):
        try:
            execution = execve(image, interpreter, policy, host, file=file, interpreter_file=interpreter_file)
        except ExecError as error:
            refusal = str(error.strerror)
    mapped = () if refusal else _after_linking(image, policy, execution, file)
    bias = execution.load_bias if execution else -_lowest(image, policy)
    runs = tuple(_runs(image, policy, mapped, bias, open_for_writing=open_for_writing))
    return Prediction(
        image=image,
        layout=layout,
        policy=policy,
        bias=bias,
        is_placed=execution is not None,
        entropy=execution.entropy_bits if execution else None,
        space=execution.space if execution else None,
        refusal=refusal,
        mapped=mapped,
        runs=runs,
        findings=ranked([*_findings(image, policy, execution, runs), *_missing(image, missing)]),
    )


_UNMAPPED = {
    ET_REL: "an object file, which nothing maps before it is linked",
    ET_CORE: "a core file, which nothing maps but a debugger",
}


def _missing(image: ElfImage, why: str) -> Iterator[Finding]:
    if why:
        text = f"Its interpreter {image.interpreter} is not here ({why}): execve fails with that. What is shown is the"
        yield Finding("no-interpreter", "warning", 0, f"{text} program alone.", "install the C library that it is for")


def _after_linking(image: ElfImage, policy: Policy, execution: Execution | None, file: OpenFile) -> tuple[Vma, ...]:
    """A program where execve put it, a shared object from 0; nothing of one that the dynamic loader refuses."""
    if execution is not None:
        found = linked(image, execution.space, execution.load_bias, policy)
        return found.at(execution.load_bias + _lowest(image, policy))
    try:
        return map_object(image, policy, file).space.vmas
    except LoadError:
        return ()


def _lowest(image: ElfImage, policy: Policy) -> int:
    """The linked address of the first page."""
    return round_down(min((segment.vaddr for segment in image.loads), default=0), policy.page_size)


def _places_well(image: ElfImage, policy: Policy, size: int) -> bool:
    """Whether a shared object comes to lie at a multiple of `size`: because its p_align asks for it, or because its
    file system does, of an object that is long enough."""
    if policy.libc.aligns and any(segment.align % size == 0 for segment in image.loads if segment.align):
        return True
    lowest = min(segment.vaddr for segment in image.loads)
    length = max(segment.memory.end for segment in image.loads) - lowest
    file = of_policy(policy, OpenFile(image.name))
    return size <= policy.pmd_size and aligns(policy, image.header.bits, round_up(length, policy.page_size), file)


def _runs(
    image: ElfImage, policy: Policy, mapped: Sequence[Vma], bias: int, *, open_for_writing: bool
) -> Iterator[BlockRun]:
    for vma in mapped:
        segment = _segment_of(image, vma, bias, policy.page_size)
        if segment is None or not vma.flags & VmFlags.READ:
            continue
        # What RELRO protects was written before.
        written = bool(segment.flags & PF_W)
        skew = linked_skew(image, segment, policy.page_size)
        for size in block_sizes(policy):
            found = blocks(
                vma,
                policy,
                size,
                file_size=image.size,
                linked_skew=skew,
                open_for_writing=open_for_writing,
                anywhere=not (is_program(image) or _places_well(image, policy, size)),
            )
            yield BlockRun(vma, size, tuple(replace(block, writable=written) for block in found))


def linked_skew(image: ElfHead, segment: Segment, page: int) -> int:
    """A segment's linked address minus its file offset, in bytes; of what is moved, counted from the address that
    becomes the load address: an aligned one is no multiple of the alignment before it is added."""
    moves = image.header.type != ET_EXEC
    return segment.vaddr - segment.offset - (round_down(image.loads[0].vaddr, page) if moves else 0)


def _segment_of(image: ElfImage, vma: Vma, bias: int, page: int) -> Segment | None:
    """The segment whose file pages a mapping shows."""
    if vma.file is None:
        return None
    for segment in image.loads:
        file = Span(segment.vaddr + bias, segment.vaddr + bias + segment.filesz).pages(page)
        if file.encloses(vma.span):
            return segment
    return None


def _findings(
    image: ElfImage, policy: Policy, execution: Execution | None, runs: Sequence[BlockRun]
) -> tuple[Finding, ...]:
    static = image.interpreter is None
    said = findings(image, policy.page_size, block=policy.pmd_size, vma_bytes=int(policy["vma_bytes"]))
    huge = [run.blocks for run in runs if run.size == policy.pmd_size]
    placed_well = all(b.obstacle is not Obstacle.BASE for blocks in huge for b in blocks if not b.writable)
    layouts = list(under(said, policy, static=static, placed_well=placed_well))
    text_is_said = any(finding.id == "text-align" for finding in layouts)
    return ranked(
        [*layouts, *advice(huge, policy, image.name, execution.space if execution else None, text_is_said=text_is_said)]
    )
