"""The reader against files of the tests' own writer: every field comes out, every wrong one is told where it stands."""

import array
import mmap
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import head_size, read, read_head
from elfolio.errors import ElfError
from tests import elfwriter as w
from tests.elf.samples import KINDS, Bits, sample
from tests.elfwriter import Elf, Ph, Sh

every_kind = pytest.mark.parametrize(("bits", "order"), KINDS, ids=[f"{b}-{o}" for b, o in KINDS])


@every_kind
def test_every_field_comes_out(bits: Bits, order: w.Order) -> None:
    """What the writer put in, the reader gives back: header, segments, sections, dynamic, notes, interpreter."""
    elf = sample(bits, order)
    image = read(elf.build(), "it", strict=True)
    header = image.header
    assert (header.bits, header.byteorder, header.type, header.machine) == (bits, order, w.ET_DYN, elf.machine)
    assert (header.entry, header.flags, header.osabi, header.phnum, header.shnum) == (0x1010, 7, 3, 5, 5)
    text = image.segments[1]
    assert (text.type, text.flags, text.offset, text.vaddr, text.paddr) == (w.PT_LOAD, 5, 0x800, 0x1800, 0x1800)
    assert (text.filesz, text.memsz, text.align, text.perms) == (64, 0x100, 0x1000, "r-x")
    assert [s.name for s in image.sections] == ["", ".text", ".bss", ".comment", ".shstrtab"]
    bss = image.section(".bss")
    assert bss is not None
    assert (bss.type, bss.flags, bss.addr, bss.size, bss.file.size) == (w.SHT_NOBITS, 3, 0x1840, 0x1000, 0)
    assert image.interpreter == "/lib/ld.so"
    assert image.dynamic == ((1, 5), (30, 8), (0x6FFFFFFB, 1))
    assert [(n.owner, n.type, n.desc) for n in image.notes] == [("GNU", 3, bytes(range(20))), ("Go", 4, b"id")]
    assert image.build_id == bytes(range(20))
    assert image.faults == ()


@every_kind
def test_counts_may_stand_in_section_zero(bits: Bits, order: w.Order) -> None:
    """PN_XNUM, an e_shnum of 0 and SHN_XINDEX send the reader to section 0."""
    plain, extended = (read(sample(bits, order, extended=flag).build(), strict=True) for flag in (False, True))
    assert (extended.header.phnum, extended.header.shnum, extended.header.shstrndx) == (5, 5, 4)
    assert extended.segments == plain.segments
    assert [s.name for s in extended.sections] == [s.name for s in plain.sections]


def test_more_segments_and_sections_than_the_header_can_count() -> None:
    """70,000 program headers and as many sections are read, all of them."""
    elf = Elf(extended=True, segments=[Ph(4, 4, i, i, filesz=0) for i in range(70_000)])
    elf.sections = [Sh(type=0, info=i) for i in range(70_000)]
    image = read(elf.build(), strict=True)
    assert [s.offset for s in image.segments] == list(range(70_000))
    assert [s.info for s in image.sections[1:-1]] == list(range(70_000))


def test_notes_are_aligned_as_their_segment_says() -> None:
    """With an alignment of 8 a descriptor is padded to 8 bytes, with 4 and below to 4."""
    elf = Elf()
    for align in (1, 4, 8):
        data = b"".join(elf.note(b"GNU\0", 5, bytes(size), 8 if align == 8 else 4) for size in (4, 20, 0, 8))
        image = read(Elf(segments=[Ph(w.PT_NOTE, data=data, align=align)]).build(), strict=True)
        assert [len(note.desc) for note in image.notes] == [4, 20, 0, 8]


def test_notes_of_sections_count_where_no_segment_has_them() -> None:
    """SHT_NOTE sections are read where no PT_NOTE has them: in an object file all, in a Go program the build id."""
    elf = Elf(type=w.ET_REL)
    elf.sections = [Sh(".note.a", w.SHT_NOTE, data=elf.note(b"A\0", 1, b"x"), addralign=4)]
    assert [note.owner for note in read(elf.build(), strict=True).notes] == ["A"]
    elf.segments = [Ph(w.PT_NOTE, offset=0x200, data=elf.note(b"B\0", 1, b"x"), align=4)]
    elf.sections.append(Sh(".note.b", w.SHT_NOTE, offset=0x200, data=elf.note(b"B\0", 1, b"x"), addralign=4))
    assert [note.owner for note in read(elf.build(), strict=True).notes] == ["B", "A"]


def test_one_place_named_twice_holds_its_notes_once() -> None:
    """Two PT_NOTE headers of the same bytes give each note once."""
    elf = Elf()
    one = elf.note(b"GNU\0", 3, b"id")
    twice = [Ph(w.PT_NOTE, offset=0x200, data=one, align=4), Ph(w.PT_NOTE, offset=0x200, data=one, align=4)]
    assert len(read(Elf(segments=twice).build(), strict=True).notes) == 1


BUFFERS: dict[str, Callable[[bytes], Any]] = {
    "bytearray": bytearray,
    "memoryview": memoryview,
    "signed bytes": lambda data: memoryview(data).cast("b"),
    "8-byte words": lambda data: array.array("Q", data),
    "two dimensions": lambda data: memoryview(data).cast("B", (len(data) // 2, 2)),
    "every second byte": lambda data: memoryview(b"".join(bytes((byte, 0)) for byte in data))[::2],
}


@pytest.mark.parametrize("wrap", BUFFERS.values(), ids=BUFFERS)
def test_any_buffer_is_read(wrap: Callable[[bytes], Any]) -> None:
    """Whatever kind of buffer holds the bytes, in words or with gaps, the value is the same."""
    data = sample(size=0x4000).build()
    assert read(wrap(data)) == read(data)


def test_a_map_is_read_without_copying_it(tmp_path: Path) -> None:
    """Of a sparse file of 8 GiB, mapped, the headers are read where they stand, and it does not take its size."""
    path = tmp_path / "large"
    path.write_bytes(sample().build())
    with path.open("r+b") as file:
        file.truncate(8 << 30)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            image = read(mapped, strict=True)
    assert (image.size, image.interpreter) == (8 << 30, "/lib/ld.so")


@every_kind
def test_the_head_is_told_from_the_first_bytes(bits: Bits, order: w.Order) -> None:
    """From as many bytes as head_size asks for, and no fewer, read_head gives what read gives of the whole."""
    data = sample(bits, order).build()
    enough = head_size(data[:64])
    head, whole = read_head(data[:enough], "it", len(data)), read(data, "it")
    assert (head.name, head.size, head.header, head.segments) == (whole.name, whole.size, whole.header, whole.segments)
    assert head.loads == whole.loads
    with pytest.raises(ElfError, match="e_phoff"):
        read_head(data[: enough - 1], "it", len(data))


def test_a_linked_address_is_found_in_the_file() -> None:
    """file_offset goes through the PT_LOAD that has the byte, and gives None for zero fill and holes."""
    image = read(sample().build())
    found = [image.file_offset(address) for address in (0, 0x1800, 0x183F, 0x1840, 0x5000)]  # type: ignore[arg-type]
    assert found == [0, 0x800, 0x83F, None, None]


REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str, object]]] = {
    "magic": ({"e_ident": b"\x7fELG".ljust(16, b"\1")}, (0, "e_ident", b"\x7fELG")),
    "class": ({"e_ident": b"\x7fELF\3\1\1".ljust(16, b"\0"), "e_machine": 8}, (4, "EI_CLASS", 3)),
    "byte order": ({"e_ident": b"\x7fELF\2\0\1".ljust(16, b"\0"), "e_machine": 8}, (5, "EI_DATA", 0)),
    "table's place": ({"e_phoff": 1 << 40}, (32, "e_phoff", 1 << 40)),
    "table's length": ({"e_phnum": 0xFFFE}, (32, "e_phoff", 64)),
    "entries' size": ({"e_phentsize": 32}, (54, "e_phentsize", 32)),
}


@pytest.mark.parametrize(("header", "told"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_meaning_is_refused(header: dict[str, Any], told: tuple[int, str, object]) -> None:
    """A broken header gives an ElfError of one line with the file's name, and offset, field, found, expected."""
    data = sample(header=header).build()
    with pytest.raises(ElfError) as caught:
        read(data, "the/file")
    error = caught.value
    assert (error.offset, error.field, error.found) == told
    assert error.expected is not None
    assert str(error).startswith("the/file: ")
    assert str(error).count("\n") == 0
    with pytest.raises(ElfError):
        read_head(data)


def segment_fault(index: int, **fields: Any) -> Callable[[Elf], None]:
    def change(elf: Elf) -> None:
        for name, value in fields.items():
            setattr(elf.segments[index], name, value)

    return change


def section_fault(index: int, **fields: Any) -> Callable[[Elf], None]:
    def change(elf: Elf) -> None:
        for name, value in fields.items():
            setattr(elf.sections[index], name, value)

    return change


def header_fault(**fields: int) -> Callable[[Elf], None]:
    return lambda elf: elf.header.update(fields)


FAULTS: dict[str, tuple[Callable[[Elf], None], str, object]] = {
    "segment behind the end": (segment_fault(0, offset=1 << 33), "p_offset", 1 << 33),
    "segment over the end": (segment_fault(0, filesz=1 << 33), "p_filesz", 1 << 33),
    "less memory than file": (segment_fault(1, memsz=63), "p_filesz", 64),
    "beyond the last address": (segment_fault(1, vaddr=(1 << 64) - 8), "p_vaddr", (1 << 64) - 8),
    "interpreter's NUL": (segment_fault(2, data=b"/lib/ld.so"), "PT_INTERP", b"ib/ld.so"),
    "interpreter's length": (segment_fault(2, data=b"/" * 5000), "p_filesz", 5000),
    "dynamic without an end": (segment_fault(3, data=Elf().dynamic((1, 5), end=False)), "d_tag", None),
    "note's name": (segment_fault(4, data=b"\xff\0\0\0" + bytes(20)), "n_namesz", 255),
    "note's descriptor": (segment_fault(4, data=b"\4\0\0\0\xff\0\0\0" + bytes(20)), "n_descsz", 255),
    "section table's place": (header_fault(e_shoff=1 << 40), "e_shoff", 1 << 40),
    "section table's length": (header_fault(e_shnum=0xFFF0), "e_shoff", None),
    "section entries' size": (header_fault(e_shentsize=40), "e_shentsize", 40),
    "names' section": (header_fault(e_shstrndx=77), "e_shstrndx", 77),
    "section behind the end": (section_fault(2, offset=1 << 33, data=b"", size=5), "sh_offset", 1 << 33),
    "section over the end": (section_fault(2, size=1 << 33), "sh_size", 1 << 33),
    "section's name": (section_fault(2, name_index=1 << 20), "sh_name", 1 << 20),
    "section beyond the last address": (section_fault(0, addr=(1 << 64) - 8), "sh_addr", (1 << 64) - 8),
}


@pytest.mark.parametrize(("change", "field", "found"), FAULTS.values(), ids=FAULTS)
def test_what_the_kernel_does_not_need_is_a_fault(change: Callable[[Elf], None], field: str, found: object) -> None:
    """Anything else that is wrong leaves the segments readable, and is told with its place: as a fault, as an error
    with strict."""
    elf = sample()
    change(elf)
    data = elf.build()
    image = read(data, "it")
    assert len(image.segments) == 5
    (fault,) = image.faults
    assert fault.field == field
    assert found is None or fault.found == found
    assert fault.expected is not None
    assert fault.offset is not None
    assert fault.offset <= len(data)
    with pytest.raises(ElfError) as caught:
        read(data, "it", strict=True)
    assert (caught.value.field, caught.value.offset) == (fault.field, fault.offset)


@every_kind
def test_a_fault_stands_where_it_says(bits: Bits, order: w.Order) -> None:
    """At a fault's offset the file has the field's very bytes, in each class and order."""
    size = 4 if bits == 32 else 8
    bad = (1 << 31) - 0xFF
    for change in (
        segment_fault(1, offset=bad, data=b"", filesz=16),
        segment_fault(1, filesz=bad, memsz=bad),
        section_fault(2, offset=bad, data=b"", size=5),
        section_fault(2, size=bad),
        header_fault(e_shoff=bad),
    ):
        elf = sample(bits, order)
        change(elf)
        data = elf.build()
        fault = read(data).faults[0]
        assert fault.offset is not None
        assert int.from_bytes(data[fault.offset : fault.offset + size], order) == fault.found == bad


def test_every_truncation_is_a_value_or_an_error() -> None:
    """Cut anywhere, a file is read with faults, or refused: never anything else."""
    data = sample().build()
    for length in range(len(data)):
        try:
            image = read(data[:length], "it")
        except ElfError:
            assert length < 64 + 5 * 56
        else:
            assert image.faults
            assert len(image.segments) == 5


def test_an_error_survives_pickling() -> None:
    """An ElfError from another process still has its fields."""
    with pytest.raises(ElfError) as caught:
        read(b"MZ", "it")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.__dict__) == (str(caught.value), caught.value.__dict__)


def test_values_are_frozen() -> None:
    """Nothing that the reader gives can be changed, and equal files give equal values."""
    image, again = read(sample().build()), read(sample().build())
    assert image == again
    assert hash(image.segments) == hash(again.segments)
    for value, name in (
        (image, "size"),
        (image.header, "entry"),
        (image.segments[0], "vaddr"),
        (image.notes[0], "desc"),
    ):
        with pytest.raises(AttributeError):
            setattr(value, name, 0)


def test_an_image_is_a_head() -> None:
    """Who needs the program headers only takes either."""
    assert isinstance(read(sample().build()), ElfImage)
    assert issubclass(ElfImage, type(read_head(sample().build())))
