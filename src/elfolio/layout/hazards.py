"""layout.hazards: what of a file's layout does not run, or runs with less protection. In: Layout. Out: Findings.

Kernel: fs/binfmt_elf.c (elf_map, elf_load, load_elf_binary). glibc: elf/dl-load.c, elf/dl-reloc.c.
"""

from collections.abc import Iterator

from elfolio.elf import constants
from elfolio.elf.image import ElfImage
from elfolio.layout.finding import Finding, Severity, size_text
from elfolio.layout.relro import protected_span
from elfolio.layout.segments import PAGE_SIZES, Layout, Load, Meeting, is_valid_align
from elfolio.span import Span, round_up

__all__ = ["hazards"]

_DF_TEXTREL = 0x4


def hazards(layout: Layout) -> Iterator[Finding]:
    """Errors and warnings, at the layout's page size; and how the file would fare with larger pages."""
    for load in layout.loads:
        yield from _load(layout, load)
    yield from _order(layout)
    yield from _collisions(layout)
    yield from _larger_pages(layout)
    yield from _stack(layout)
    yield from _relro(layout)
    if isinstance(layout.image, ElfImage):
        yield from _dynamic(layout.image)
        for fault in layout.image.faults:
            yield Finding("malformed", "warning", 0, f"The file is malformed where no kernel looks: {fault.why}.")


def _load(layout: Layout, load: Load) -> Iterator[Finding]:
    """What one segment says that cannot be done."""
    segment, name = load.segment, f"Program header {load.index}"
    link = f"relink with -Wl,-z,max-page-size={layout.page}"
    if not is_valid_align(segment.align):
        text = f"{name}: p_align {segment.align:#x} is no power of two: kernel and glibc 2.36 pass over it, glibc 2.31"
        yield Finding("align-invalid", "warning", 0, f"{text} refuses a library that has it.", link)
    elif 0 < segment.align < layout.page:
        text = f"{name}: p_align {segment.align:#x} is less than a page"
        yield Finding("align-small", "note", 0, f"{text}: glibc 2.31 refuses a library that has it.", link)
    if segment.filesz and not load.is_congruent:
        text = f"p_vaddr and p_offset differ modulo {size_text(layout.page)} pages: mmap refuses it (EINVAL)"
        yield Finding("incongruent", "error", segment.filesz, f"{name}: {text}.", link)
    if segment.filesz > segment.memsz:
        text = "p_filesz is larger than p_memsz: the kernel refuses it (EINVAL)"
        yield Finding("file-over-memory", "error", segment.filesz - segment.memsz, f"{name}: {text}.")
    if segment.flags & constants.PF_W and segment.flags & constants.PF_X and segment.memsz:
        text = "is writable and executable: what is written there can be run"
        mend = "relink without -N, and with -Wl,-z,separate-code; -Wl,--warn-rwx-segments names the object"
        yield Finding("rwx", "warning", segment.memsz, f"{name} {text}.", mend)
    if load in layout.beyond:
        yield _beyond(layout, load, name)


def _beyond(layout: Layout, load: Load, name: str) -> Finding:
    missing = load.segment.file.end - layout.image.size
    pages = max(0, load.file.end - max(load.file.start, round_up(layout.image.size, layout.page)))
    text = f"ends {size_text(missing)} behind the file's end"
    if pages:
        text += f"; touching the {size_text(pages)} of pages there gives SIGBUS"
    return Finding(
        "past-end", "error" if pages else "warning", missing, f"{name} {text}.", "the file is cut off: get it whole"
    )


def _order(layout: Layout) -> Iterator[Finding]:
    if layout.descending:
        which = ", ".join(str(load.index) for load in layout.descending)
        text = f"Program header {which} stands behind one with a higher address; the format asks for ascending PT_LOADs"
        yield Finding("descending", "warning", 0, f"{text}, and glibc counts on it in libraries.")
    first = next((i for i, s in enumerate(layout.image.segments) if s.type == constants.PT_LOAD), 0)
    for i, segment in enumerate(layout.image.segments):
        if segment.type in (constants.PT_PHDR, constants.PT_INTERP) and i > first:
            name = "PT_PHDR" if segment.type == constants.PT_PHDR else "PT_INTERP"
            yield Finding("late-header", "note", 0, f"{name} stands behind a PT_LOAD; the format wants it first.")


def _collisions(layout: Layout) -> Iterator[Finding]:
    for meeting in layout.collisions:
        a, b = meeting.first, meeting.second
        both = a.segment.memory.common(b.segment.memory).size
        if both:
            text = f"Program headers {a.index} and {b.index} overlap in {size_text(both)} of memory"
            yield Finding("overlap", "error", both, f"{text}: what is mapped later hides the other.")
        elif not _is_same(a, b) and is_overlaid(layout, meeting):
            text = f"Program headers {a.index} ({a.segment.perms}) and {b.index} ({b.segment.perms}) share a page of"
            message = f"{text} {size_text(layout.page)}: all of it is {b.segment.perms}."
            yield Finding("page-overlaid", "note", meeting.pages.size, message)
        elif not _is_same(a, b):
            text = f"Program headers {a.index} ({a.segment.perms}) and {b.index} ({b.segment.perms}) want the same"
            mend = f"relink with -Wl,-z,max-page-size={layout.page}"
            message = f"{text} pages of {size_text(layout.page)}: what is mapped later hides the other."
            yield Finding("page-collision", "error", meeting.pages.size, message, mend)


def is_overlaid(layout: Layout, meeting: Meeting) -> bool:
    """Whether the one that is mapped later shows, on the pages that both want, the bytes of both, and lacks no
    permission that they need: what `tune --page-size` makes of such pages. Sections tell what is code."""
    a, b = meeting.first, meeting.second
    if a.index > b.index or a.zero.size or a.segment.vaddr - a.segment.offset != b.segment.vaddr - b.segment.offset:
        return False
    lost = a.segment.flags & ~b.segment.flags
    if lost & ~constants.PF_X:
        return False
    sections = layout.image.sections if isinstance(layout.image, ElfImage) else ()
    code = [s for s in sections if s.flags & constants.SHF_ALLOC and s.flags & constants.SHF_EXECINSTR]
    return not lost or (bool(sections) and not any(s.memory.common(meeting.pages).size for s in code))


def _is_same(a: Load, b: Load) -> bool:
    """Whether a page shows the same bytes, with the same permissions, whichever of the two it is mapped for."""
    return (
        a.segment.perms == b.segment.perms
        and a.segment.vaddr - a.segment.offset == b.segment.vaddr - b.segment.offset
        and a.zero.size == 0
    )


def _larger_pages(layout: Layout) -> Iterator[Finding]:
    """A machine with other pages is another machine: a note here, which is an error there."""
    for page in PAGE_SIZES:
        there = Layout(layout.image, page)
        if page <= layout.page or there.is_ready or not layout.loads:
            continue
        if there.is_congruent and all(is_overlaid(there, meeting) for meeting in there.collisions):
            continue
        why = _unreadiness(there)
        text = f"With {size_text(page)} pages it does not load as it should: {why}"
        mend = f"relink with -Wl,-z,max-page-size={max(page, 65536)}"
        yield Finding(f"not-ready-{page >> 10}k", "note", 0, f"{text}.", mend)


def _unreadiness(layout: Layout) -> str:
    """The gravest reason why a page size does not fit."""
    if any(load.segment.filesz and not load.is_congruent for load in layout.loads):
        return "the kernel refuses to map it, since addresses and offsets are not equal modulo a page (EINVAL)"
    if layout.collisions:
        return "segments with different permissions want the same page"
    return "old dynamic linkers (glibc 2.31) refuse a library whose p_align is less than the page"


def _stack(layout: Layout) -> Iterator[Finding]:
    """arch/x86/include/asm/elf.h and arch/arm64/include/asm/elf.h have what a missing PT_GNU_STACK means."""
    mend = "relink with -Wl,-z,noexecstack; an assembler file needs a section .note.GNU-stack"
    found = [s for s in layout.image.segments if s.type == constants.PT_GNU_STACK]
    is_library = layout.moves and layout.image.segment(constants.PT_INTERP) is None
    if found and found[-1].flags & constants.PF_X:
        text = "PT_GNU_STACK asks for an executable stack"
        text += ": glibc makes that of the process that loads it, or refuses from 2.41" if is_library else ""
        yield Finding("exec-stack", "warning", 0, f"{text}.", mend)
    elif not found and layout.loads and is_library:
        text = "There is no PT_GNU_STACK: glibc makes the stack of a process that loads it executable, or refuses"
        yield Finding("no-gnu-stack", "warning", 0, f"{text} to load it from 2.41.", mend)
    elif not found and layout.loads:
        text = "There is no PT_GNU_STACK: the stack is executable in 32-bit programs, and on x86-64 before Linux 5.8"
        yield Finding("no-gnu-stack", "note", 0, f"{text}.", mend)


def _relro(layout: Layout) -> Iterator[Finding]:
    """Of a range that is rounded down to no page, none is protected and none is refused."""
    found = [s for s in layout.image.segments if s.type == constants.PT_GNU_RELRO and s.memsz]
    if not found:
        return
    segment = found[-1]
    for page in sorted({layout.page, *(p for p in PAGE_SIZES if p > layout.page)}):
        protected = protected_span(segment.vaddr, segment.memsz, page)
        exposed = segment.memory.end - max(segment.vaddr, protected.end)
        if exposed > 0:
            share = "all" if exposed == segment.memsz else size_text(exposed)
            text = f"With {size_text(page)} pages, {share} of RELRO's {size_text(segment.memsz)} stays writable"
            mend = f"relink with -Wl,-z,max-page-size={page},-z,common-page-size={page}"
            severity: Severity = "warning" if page == layout.page else "note"
            yield Finding(f"relro-exposed-{page >> 10}k", severity, exposed, f"{text}: its end is rounded down.", mend)
    protected = protected_span(segment.vaddr, segment.memsz, layout.page)
    held = sum(protected.common(load.memory).size for load in layout.in_memory)
    if held < protected.size:
        text = "PT_GNU_RELRO reaches over pages of no segment: mprotect fails there, and the dynamic linker gives up"
        yield Finding("relro-outside", "error", Span(held, protected.size).size, f"{text}.")


def _dynamic(image: ElfImage) -> Iterator[Finding]:
    if image.tag(constants.DT_TEXTREL) is not None or (image.tag(constants.DT_FLAGS) or 0) & _DF_TEXTREL:
        text = "Relocations change its text (DT_TEXTREL): each process has a copy, writable while it is relocated."
        mend = "compile with -fPIC (programs: -fPIE) and relink with -Wl,-z,text, which names the object"
        yield Finding("textrel", "warning", sum(s.filesz for s in image.loads if s.flags & constants.PF_X), text, mend)
