"""layout.costs: what a file's layout costs in memory, address randomness and huge pages. In: Layout. Out: Findings."""

from collections.abc import Iterator

from elfolio.elf import constants
from elfolio.elf.image import ElfImage
from elfolio.layout.finding import Finding, counted, size_text
from elfolio.layout.hugepages import PMD, Rung, climb
from elfolio.layout.modes import linked_as
from elfolio.layout.relro import relro
from elfolio.layout.segments import Layout

__all__ = ["ALIGN_MOST", "VMA_BYTES", "costs"]

ALIGN_MOST = 64 << 20
"""The largest p_align that has a use: the largest PMD that one would want aligned is 32 MiB."""
VMA_BYTES = 152
"""sizeof(struct vm_area_struct) in Linux 6.3."""
_PADDING_WORTH_A_WORD = 64 << 10


def costs(layout: Layout, block: int = PMD, vma_bytes: int = VMA_BYTES) -> Iterator[Finding]:
    """Costs and notes, at the layout's page size, for huge pages of `block` bytes and VMAs of `vma_bytes` each."""
    yield from _shared(layout)
    yield from _gaps(layout, vma_bytes)
    for rung in climb(layout, block).rungs:
        if rung.load.is_executable:
            yield from _text(layout, rung)
    yield from _alignment(layout)
    yield from _padding(layout)
    yield from _relro(layout, block)
    yield from _notes(layout)
    yield from _headers(layout)
    yield from _odd(layout)


def _shared(layout: Layout) -> Iterator[Finding]:
    for meeting in layout.shared:
        a, b = meeting.first, meeting.second
        if a.segment.perms != b.segment.perms:
            code = a.is_executable or b.is_executable
            written = a.is_writable or b.is_writable
            text = f"Program headers {a.index} ({a.segment.perms}) and {b.index} ({b.segment.perms}) both map"
            text += f" {size_text(meeting.pages.size)} of the file"
            text += ": bytes beside code can be executed" if code else ""
            text += ", and a copy of them written" if code and written else ""
            mend = "relink with -Wl,-z,separate-code (lld: -Wl,-z,separate-loadable-segments)" if code else ""
            yield Finding("shared-page", "cost" if code else "note", meeting.pages.size, f"{text}.", mend)


def _gaps(layout: Layout, vma_bytes: int) -> Iterator[Finding]:
    """execve unmaps what lies between a program's segments; glibc makes it PROT_NONE in a library (has_holes)."""
    if not layout.gaps:
        return
    count, size = len(layout.gaps), sum(gap.memory.size for gap in layout.gaps)
    said = f"Gaps between its segments, {count} of {size_text(size)} together:"
    mend = f"relink with -Wl,-z,max-page-size={layout.page}, if it need not run with larger pages"
    if layout.moves and layout.image.segment(constants.PT_INTERP) is None:
        text = f"{said} under glibc, each is a PROT_NONE mapping, {vma_bytes} bytes of kernel memory in each process"
        yield Finding("gaps", "cost", count * vma_bytes, f"{text} that loads it.", mend)
    else:
        text = f"{said} other mappings may come to lie there, and glibc does not take the program for one range"
        yield Finding("not-contiguous", "note", 0, f"{text} (l_contiguous is 0).", mend)


def _text(layout: Layout, rung: Rung) -> Iterator[Finding]:
    """What keeps code off huge pages; each with the bytes that its remedy would win."""
    lost, block = rung.lost, size_text(rung.block)
    mend = f"relink with -Wl,-z,max-page-size={rung.block}"
    name = f"Text (program header {rung.load.index})"
    if lost["p_align"]:
        text = f"{name} could have huge pages of {block}, were it loaded at a multiple of that; p_align is"
        price = f"It would take {counted(_bits(layout, rung.block), 'bit')} of the load address's randomness"
        message = f"{text} {size_text(layout.align)}. {price}."
        yield Finding("text-align", "cost", lost["p_align"], message, f"{mend}, or set p_align to {rung.block:#x}")
    if lost["skewed"]:
        skew = (rung.load.segment.vaddr - layout.origin - rung.load.segment.offset) % rung.block
        text = f"{name} is skewed: address and offset differ by {skew:#x} modulo {block}, so that no huge page fits"
        yield Finding("text-skewed", "cost", lost["skewed"], f"{text}.", mend)
    if lost["misplaced"]:
        _, _, has, could = rung.blocks
        text = f"{name} would fill {counted(could, 'huge page')} of {block}, if it began where one does; now {has}"
        price = f"The file grows by {block} at most for each segment, in holes where the file system has them"
        yield Finding("text-misplaced", "cost", lost["misplaced"], f"{text}. {price}.", f"{mend},-z,separate-code")


def _bits(layout: Layout, align: int) -> int:
    """Of the load address's randomness, what aligning it to `align` takes: it has none below its alignment."""
    return align.bit_length() - max(layout.page, layout.align).bit_length()


def _alignment(layout: Layout) -> Iterator[Finding]:
    """From 5.10 the kernel aligns a PIE, and from 2.35 glibc a library, to the largest p_align (ce81bb256a22)."""
    as_linked = linked_as(layout)
    if not layout.moves or layout.align <= layout.page:
        return
    bits = counted(layout.align.bit_length() - layout.page.bit_length(), "bit")
    size = size_text(layout.align)
    if layout.align > ALIGN_MOST:
        text = f"Its p_align is {size}, more than any huge page asks for: it takes {bits} of the load address's"
        yield Finding("align-bomb", "warning", 0, f"{text} randomness, and room that may not be there.", _LESS)
    elif as_linked.over_aligned:
        which = ", ".join(map(str, as_linked.over_aligned))
        text = f"Program header {which} is aligned to {size}, the others to {size_text(as_linked.max_page_size)}:"
        text += f" a section in it asks for that. It takes {bits} of the load address's randomness"
        yield Finding("over-aligned", "cost", 0, f"{text}; before glibc 2.35 a library's was passed over.", _LESS)
    else:
        text = f"Its load address is a multiple of {size}: {bits} of randomness less than with pages alone"
        yield Finding("entropy", "note", 0, f"{text}.", f"relink with -Wl,-z,max-page-size={layout.page}")


_LESS = "look for alignas or __attribute__((aligned)) in the sources; readelf -SW shows the section"


def _padding(layout: Layout) -> Iterator[Finding]:
    if layout.file_padding >= _PADDING_WORTH_A_WORD:
        text = f"Padding between segments takes {size_text(layout.file_padding)} of the file"
        mend = "relink with -Wl,-z,noseparate-code, or a smaller -Wl,-z,max-page-size"
        yield Finding("file-padding", "note", layout.file_padding, f"{text}; a copy may store them.", mend)


def _relro(layout: Layout, block: int) -> Iterator[Finding]:
    """Read-only and writable data cannot share a page, nor a huge page."""
    found = relro(layout, (layout.page, block))
    if found is None:
        return
    here, huge = found.costs
    if here.is_whole and here.cost > 0:
        text = (
            f"RELRO takes {here.pages} pages of {size_text(here.page)} where {here.together} would hold the same data"
        )
        yield Finding("relro-pages", "note", here.cost * here.page, f"{text}.")
    if huge.is_whole and huge.cost > 0:
        text = f"RELRO takes {huge.pages} huge pages of {size_text(block)} where {huge.together} would do"
        mend = "-Wl,-z,norelro wins them back, and gives up what RELRO guards"
        yield Finding("relro-huge-pages", "cost", huge.cost * block, f"{text}.", mend)


def _notes(layout: Layout) -> Iterator[Finding]:
    """Of a file's mappings that were not written to, a core file has the first page, unless more is asked for
    (MMF_DUMP_ELF_HEADERS, 82df39738ba9)."""
    notes = layout.image.notes if isinstance(layout.image, ElfImage) else ()
    ids = [n.offset for n in notes if (n.owner, n.type) == ("GNU", constants.NT_GNU_BUILD_ID)]
    if ids and ids[0] >= layout.page:
        text = f"Its build id stands at offset {ids[0]:#x}, not in the first page: a core file will not have it"
        yield Finding("notes-not-first", "note", 0, f"{text}.", "let the linker script place .note.* first")


def _headers(layout: Layout) -> Iterator[Finding]:
    """AT_PHDR: until 5.18 (0da1d5002745) the kernel took the first segment to hold the program headers."""
    header = layout.image.header
    table = header.phoff, header.phoff + header.phnum * header.phentsize
    holders = [x for x in layout.loads if x.segment.offset <= table[0] and table[1] <= x.segment.file.end]
    if not layout.loads:
        return
    if not holders:
        text = "No segment maps the program headers: AT_PHDR is 0 from Linux 5.18 on, and wrong before"
        yield Finding("headers-unmapped", "note", 0, f"{text}.")
    elif holders[0] is not layout.loads[0]:
        text = f"The program headers stand in program header {holders[0].index}, not in the first PT_LOAD: before Linux"
        yield Finding("headers-moved", "note", 0, f"{text} 5.18 AT_PHDR pointed elsewhere.")


def _odd(layout: Layout) -> Iterator[Finding]:
    for load in layout.loads:
        if load.is_empty:
            yield Finding("empty-segment", "note", 0, f"Program header {load.index} is a PT_LOAD without a size.")
        elif load.is_bss_only:
            size = size_text(load.segment.memsz)
            text = f"Program header {load.index} has {size} of memory and nothing in the file"
            yield Finding("bss-only", "note", load.segment.memsz, f"{text}: an anonymous mapping of its own.")
