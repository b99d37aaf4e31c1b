"""Headers of GGUF files: what is in them, in both byte orders, and what is refused."""

import os
import struct
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfolio.pagecache.formats.dtypes import GGML
from elfolio.pagecache.formats.fault import FormatError
from elfolio.pagecache.formats.gguf import Gguf, read_gguf
from tests.pagecache.gguf_files import SIZES, Writer

quick = settings(max_examples=200, deadline=None, derandomize=True)
orders = pytest.mark.parametrize("order", ["<", ">"])


def header(whole: bytes) -> Gguf:
    fd = os.memfd_create("tensors")
    try:
        os.pwrite(fd, whole, 0)
        return read_gguf(fd, "model.gguf")
    finally:
        os.close(fd)


def sample(order: str = "<", version: int = 3) -> Writer:
    """Every kind of value, and tensors of plain and quantised types."""
    writer = Writer(order, version)
    for kind, value in ((0, 255), (1, -1), (2, 65535), (3, -2), (4, 7), (5, -7), (6, 0.5), (10, 1 << 63), (11, -9)):
        writer.put(f"number.{kind}", kind, value)
    writer.put("number.12", 12, 0.1)
    writer.put("bool", 7, 1)
    writer.put("text", 8, "día")
    writer.put("numbers", 9, writer.array(5, [writer.number("i", value) for value in (1, -2, 3)]))
    writer.put("texts", 9, writer.array(8, [writer.text("a"), writer.text(b"\xff")]))
    writer.put("bools", 9, writer.array(7, [b"\1", b"\0"]))
    inner = writer.array(4, [writer.number("I", 5)])
    writer.put("nested", 9, writer.array(9, [inner, inner]))
    writer.add("plain", (3, 2), 0, b"".join(writer.number("f", value) for value in range(6)))
    writer.add("quantised", (64, 3), 2, bytes(range(108)))
    writer.add("empty", (0, 5), 1, b"")
    writer.add("scalar", (), 27, writer.number("q", -5))
    return writer


@orders
@pytest.mark.parametrize("version", [2, 3])
def test_values_and_tensors_are_what_was_written(order: str, version: int) -> None:
    """Metadata of every type, shapes, types and places of tensors are read back, in either byte order."""
    whole = sample(order, version).whole()
    found = header(whole)
    assert (found.version, found.order, found.alignment) == (version, order, 32)
    values = found.metadata
    kinds = (0, 1, 2, 3, 4, 5, 6, 10, 11, 12)
    expected = [255, -1, 65535, -2, 7, -7, 0.5, 1 << 63, -9, 0.1]
    assert [values[f"number.{kind}"] for kind in kinds] == expected
    assert (values["bool"], values["text"], values["bools"]) == (True, "día", (True, False))
    assert values["numbers"] == array("i", (1, -2, 3))
    assert values["texts"] == ("a", "\udcff")
    assert values["nested"] == (array("I", (5,)),) * 2
    assert [(info.name, info.dtype, info.shape) for info in found.tensors] == [
        ("plain", "F32", (2, 3)),
        ("quantised", "Q4_0", (3, 64)),
        ("empty", "F16", (5, 0)),
        ("scalar", "I64", ()),
    ]
    pieces = [whole[info.span.start : info.span.end] for info in found.tensors]
    assert pieces[1:3] == [bytes(range(108)), b""]
    assert struct.unpack(order + "6f", pieces[0]) == (0, 1, 2, 3, 4, 5)
    assert struct.unpack(order + "q", pieces[3]) == (-5,)


def test_blocks_are_those_of_the_gguf_package() -> None:
    """Every type that the gguf package knows has the same number, name and block here."""
    constants: Any = pytest.importorskip("gguf.constants", reason="needs the package; to force: pip install gguf")
    sizes = {int(kind): (kind.name, *size) for kind, size in constants.GGML_QUANT_SIZES.items()}
    here = {number: (kind.word, kind.elements, kind.size) for number, kind in GGML.items()}
    assert {number: here.get(number) for number in sizes} == sizes


@orders
def test_a_file_is_read_as_the_gguf_package_reads_it(order: str, tmp_path: Path) -> None:
    """Tensors' names, shapes, places and sizes are those that the gguf package finds."""
    gguf: Any = pytest.importorskip("gguf", reason="needs the package; to force: pip install gguf")
    writer = sample(order)
    writer.pairs = [pair for pair in writer.pairs if pair[0] != "texts"]
    path = tmp_path / "model.gguf"
    path.write_bytes(writer.whole())
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for info in header(path.read_bytes()).tensors:
        other = theirs.pop(info.name)
        assert (info.span.start, info.span.size) == (other.data_offset, other.n_bytes)
        assert info.shape == tuple(reversed(other.shape.tolist()))
    assert not theirs


def test_alignment_and_gaps_are_heeded() -> None:
    """Tensors stand at multiples of the file's own alignment, in the order of their offsets, gaps or not."""
    writer = Writer(alignment=128)
    writer.put("general.alignment", 4, 128)
    writer.data = bytes(512)
    writer.tensors = [("b", (2,), 24, 384), ("a", (2,), 24, 0)]
    found = header(writer.whole())
    assert [info.name for info in found.tensors] == ["a", "b"]
    assert [info.span.start % 128 for info in found.tensors] == [0, 0]
    assert found.tensors[1].span.start - found.tensors[0].span.start == 384


def change(**changes: Any) -> Callable[[Writer], None]:
    def apply(writer: Writer) -> None:
        for name, value in changes.items():
            setattr(writer, name, value)

    return apply


def tensor(name: str | bytes, sides: tuple[int, ...], kind: int, offset: int) -> Callable[[Writer], None]:
    return lambda writer: writer.tensors.append((name, sides, kind, offset))


def pair(key: str | bytes, kind: int, raw: bytes) -> Callable[[Writer], None]:
    return lambda writer: writer.pairs.append((key, kind, raw))


_NEST = struct.pack("<IQ", 9, 1)
REFUSED = {
    "version 1": (change(version=1), "version 1"),
    "version 4": (change(version=4), "version 4"),
    "more values than bytes": (change(counts=(0, 1 << 60)), "values in"),
    "more tensors than bytes": (change(counts=(1 << 60, 0)), "tensors in"),
    "2^64 - 1 of both": (change(counts=((1 << 64) - 1,) * 2), "tensors in"),
    "a key twice": (pair("text", 0, b"\0"), "twice"),
    "a key that is no UTF-8": (pair(b"\xff", 0, b"\0"), "UTF-8"),
    "a key too long": (pair(b"k" * 65536, 0, b"\0"), "at most 65535"),
    "an unknown kind of value": (pair("new", 13, b"\0"), "type 13"),
    "an unknown kind in an array": (pair("new", 9, struct.pack("<IQ", 99, 1) + bytes(12)), "type 99"),
    "a string of 2^63 bytes": (pair("new", 8, struct.pack("<Q", 1 << 63)), "letters in"),
    "an array of 2^61 numbers": (pair("new", 9, struct.pack("<IQ", 10, 1 << 61)), "numbers in"),
    "an array of 2^60 strings": (pair("new", 9, struct.pack("<IQ", 8, 1 << 60)), "values in"),
    "arrays without end": (pair("new", 9, _NEST * 2000), "deep"),
    "a bool of 2": (pair("new", 7, b"\2"), "neither 0 nor 1"),
    "an alignment of 0": (pair("general.alignment", 4, bytes(4)), "power of two"),
    "an alignment of 24": (pair("general.alignment", 4, struct.pack("<I", 24)), "power of two"),
    "an alignment of another type": (pair("general.alignment", 10, struct.pack("<Q", 32)), "power of two"),
    "an alignment that is a text": (pair("general.alignment", 8, struct.pack("<Q", 0)), "power of two"),
    "a tensor twice": (tensor("plain", (1,), 24, 256), "twice"),
    "a tensor's name too long": (tensor(b"n" * 65, (1,), 24, 256), "at most 64"),
    "five dimensions": (tensor("new", (1,) * 5, 24, 256), "5 dimensions"),
    "a type that is gone": (tensor("new", (32,), 4, 256), "number 4"),
    "rows of half a block": (tensor("new", (48, 2), 2, 256), "blocks of 32"),
    "a size that overflows": (tensor("new", (1 << 32, 1 << 32), 0, 256), "overflows"),
    "a size that overflows before a 0": (tensor("new", (1 << 62, 1 << 62, 0), 0, 256), "overflows"),
    "an offset in between": (tensor("new", (1,), 24, 257), "multiple"),
    "an offset behind the end": (tensor("new", (1,), 24, 1 << 40), "the file at"),
    "an offset of 2^64 - 32": (tensor("new", (64,), 24, (1 << 64) - 32), "the file at"),
    "bytes of another": (tensor("new", (8,), 24, 64), "inside"),
}


@pytest.mark.parametrize(("spoil", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused(spoil: Callable[[Writer], None], why: str) -> None:
    """A file that lies about itself is refused with one line that says what is wrong."""
    writer = sample()
    spoil(writer)
    with pytest.raises(FormatError, match=why) as raised:
        header(writer.whole())
    assert str(raised.value).startswith("model.gguf: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("whole", [b"", b"GGU", b"GGUF", b"GGML" + bytes(20), b"GGUF" + bytes(20)])
def test_no_gguf_at_all_is_refused(whole: bytes) -> None:
    """Files that are empty, of another format, or only the first bytes of one are refused."""
    with pytest.raises(FormatError):
        header(whole)


@orders
def test_every_length_of_a_file_that_is_too_short_is_refused(order: str) -> None:
    """A file cut off at any byte is refused, whether the header or the data is missing."""
    writer = sample(order)
    whole = writer.whole()
    needed = header(whole).tensors[-1].span.end
    assert header(whole[:needed]).tensors == header(whole).tensors
    for length in range(needed):
        with pytest.raises(FormatError):
            header(whole[:length])


@quick
@given(data=st.data())
def test_damage_is_refused_or_stays_within_the_file(data: st.DataObject) -> None:
    """With any bytes of the header changed, a file is refused or its tensors lie in it, apart from one another."""
    whole = bytearray(sample(data.draw(st.sampled_from("<>"))).whole())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from((0, 1, 9, 127, 128, 255))))
    try:
        found = header(bytes(whole))
    except FormatError:
        return
    end = found.size
    for info in found.tensors:
        assert end <= info.span.start <= info.span.end <= len(whole)
        end = info.span.end


@quick
@given(data=st.data())
def test_any_tensors_are_found_where_they_were_put(data: st.DataObject) -> None:
    """Whatever tensors are written, in whichever byte order and alignment, their bytes are found again."""
    writer = Writer(data.draw(st.sampled_from("<>")), alignment=data.draw(st.sampled_from((8, 32, 64, 4096))))
    writer.put("general.alignment", 4, writer.alignment)
    written = {}
    for name in data.draw(st.lists(st.text(max_size=16), max_size=5, unique=True)):
        kind = data.draw(st.sampled_from(list(SIZES)))
        elements, size = SIZES[kind]
        sides = [data.draw(st.integers(0, 3)) * elements, *data.draw(st.lists(st.integers(0, 3), max_size=3))]
        length = sides[0] // elements * size
        for side in sides[1:]:
            length *= side
        written[name] = data.draw(st.binary(min_size=length, max_size=length)) if length < 99 else bytes(length)
        writer.add(name, sides, kind, written[name])
    whole = writer.whole()
    assert {info.name: whole[info.span.start : info.span.end] for info in header(whole).tensors} == written
