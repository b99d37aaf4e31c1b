"""measure.objects: the mapped files of a process after dynamic linking, compared. In: AddressSpace. Out: Comparisons.

Each object is compared by itself, relative to where it lies: where the loader places it among the others depends on
what else it mapped. An anonymous mapping that goes on beyond the object, because Linux joined its bss with a
neighbour's memory, counts up to the object's end.
"""

from collections.abc import Iterator
from dataclasses import replace

from elfolio.elf.constants import DT_NEEDED, DT_SONAME
from elfolio.elf.image import ElfImage
from elfolio.errors import ElfError
from elfolio.kernel.execve import Execution
from elfolio.kernel.loader import LoadError, MappedObject, linked, map_object
from elfolio.kernel.policy import Policy
from elfolio.kernel.space import AddressSpace, Vma
from elfolio.live.libraries import dynamic_strings
from elfolio.measure.compare import Comparison, Difference, compare_vmas
from elfolio.measure.program import Program, read_image
from elfolio.span import FileOffset, MappedAddress, Span, round_down

__all__ = ["compare_objects", "mapped_images"]


def compare_objects(
    program: Program, execution: Execution, real: AddressSpace, policy: Policy
) -> tuple[Comparison, ...]:
    """The program, its interpreter and every library that is mapped in `real`."""
    found = []
    images = list(mapped_images(real, policy.page_size))
    referenced = policy.libc.name == "musl" or _is_needed(program, [image for image, _ in images])
    for image, base in images:
        subject = f"{image.name} after dynamic linking"
        try:
            predicted = _predicted(image, program, execution, policy, referenced)
        except LoadError as error:
            found.append(Comparison(subject, 0, (Difference(str(error), None, None),)))
            continue
        span = predicted.span.shifted(base)
        parts = [_relative(vma, span) for vma in real.within(span)]
        found.append(compare_vmas(predicted.space, parts, subject))
    return tuple(found)


def _predicted(
    image: ElfImage, program: Program, execution: Execution, policy: Policy, referenced: bool
) -> MappedObject:
    if image.name == program.image.name:
        return linked(image, execution.space, execution.load_bias, policy)
    if program.interpreter is not None and image.name == program.interpreter.name:
        return linked(image, execution.space, execution.interpreter_bias or 0, policy, relro=referenced)
    return map_object(image, policy)


def _is_needed(program: Program, images: list[ElfImage]) -> bool:
    """Whether the interpreter's RELRO is protected: glibc relocates its loader once more only if an object needs it by
    name (rtld_multiple_ref, elf/rtld.c), as libc.so.6 does; musl's is its C library, and always is."""
    if program.interpreter is None:
        return False
    names = set(dynamic_strings(program.interpreter, DT_SONAME))
    others = (image for image in images if image.name != program.interpreter.name)
    return any(names & set(dynamic_strings(image, DT_NEEDED)) for image in others)


def mapped_images(space: AddressSpace, page: int) -> Iterator[tuple[ElfImage, int]]:
    """Every ELF file with a dynamic section or segments that is mapped from its first page on, and the address of the
    first page of its lowest segment. Files that are gone or changed since are left out."""
    seen = set()
    for vma in space:
        if vma.file is None or vma.name in seen:
            continue
        seen.add(vma.name)
        try:
            image = read_image(vma.name)
        except (OSError, ElfError):
            continue
        first = min(image.loads, key=lambda s: s.vaddr, default=None)
        if first is not None and round_down(first.offset, page) == vma.offset:
            yield image, vma.start


def _relative(vma: Vma, span: Span) -> Vma:
    """The part of it in `span`, from the span's start. [heap] is a name that a program's bss gets when the heap behind
    it has been joined to it."""
    start, end = max(vma.start, span.start), min(vma.end, span.end)
    by = start - vma.start
    return replace(
        vma,
        start=MappedAddress(start - span.start),
        end=MappedAddress(end - span.start),
        offset=FileOffset(vma.offset + by if vma.file is not None else 0),
        name="" if vma.name == "[heap]" else vma.name,
    )
