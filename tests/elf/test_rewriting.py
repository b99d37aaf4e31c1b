"""elf.rewriting, elf.write and elf.undo: bytes moved, edited, and back again."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.elf.reader import read
from elfolio.elf.rewriting import Edit, Field, Move, Rewrite
from elfolio.elf.tail import TailKind, read_tail
from elfolio.elf.undo import MAGIC, Record, find_record, record_start
from elfolio.elf.write import pieces, whole
from elfolio.errors import ElfError
from tests.elfwriter import EM_AARCH64, EM_X86_64, Elf, Ph, Sh

STEP = 64


@st.composite
def rewrites(draw: st.DrawFn) -> tuple[bytes, Rewrite]:
    """A few hundred bytes, cut into ranges that move apart, with copies before and behind, and edits."""
    data = random.Random(draw(st.integers(0, 9))).randbytes(draw(st.integers(1, 500)))
    cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=4))})
    moves, at = [], 0
    for start, end in pairwise(cuts):
        head = draw(st.integers(0, min(20, start)))
        at += draw(st.sampled_from((0, 7, 100, 300)))
        if head:
            moves.append(Move(start - head, at, head, copy=True))
        moves.append(Move(start, at + head, end - start))
        at += head + end - start
    edits, reached = [], 0
    for start, width in sorted(draw(st.lists(st.tuples(st.integers(0, 500), st.sampled_from((2, 4, 8))), max_size=5))):
        whole_in = any(m.old <= start and start + width <= m.old + m.size for m in moves if not m.copy)
        if start >= reached and whole_in:
            old = int.from_bytes(data[start : start + width], "little")
            edits.append(Edit(Field("f", start, width), old, draw(st.integers(0, (1 << 8 * width) - 1))))
            reached = start + width
    return data, Rewrite(len(data), at, "little", tuple(moves), tuple(edits))


def plainly(data: bytes, rewrite: Rewrite) -> bytes:
    """The new file, byte for byte."""
    edited = bytearray(data)
    for e in rewrite.edits:
        edited[e.field.at : e.field.at + e.field.width] = e.new.to_bytes(e.field.width, "little")
    out = bytearray(rewrite.new_size)
    for m in rewrite.moves:
        out[m.new : m.new + m.size] = edited[m.old : m.old + m.size]
    return bytes(out)


@given(rewrites())
def test_pieces_are_the_new_file(case: tuple[bytes, Rewrite]) -> None:
    """Put together they are what was asked for, in ascending order, apart from each other, and each but the last ends
    where a step does or padding begins; the inverse gives the old file."""
    data, rewrite = case
    out = bytearray(rewrite.new_size)
    reached = 0
    for offset, view in pieces(rewrite, memoryview(data), STEP):
        assert offset >= reached
        out[offset : offset + len(view)] = view
        reached = offset + len(view)
    assert bytes(out) == plainly(data, rewrite) == bytes(whole(rewrite, memoryview(data)))
    assert bytes(whole(rewrite.inverse(), memoryview(out))) == data


def test_plain_steps_are_views_of_the_old_file() -> None:
    """What nobody edits is not copied, and goes in large pieces; padding is in none."""
    data = memoryview(bytes(range(256)) * 64)
    rewrite = Rewrite(len(data), len(data) + 640, "little", (Move(0, 0, 6400), Move(6400, 7040, len(data) - 6400)), ())
    found = list(pieces(rewrite, data, STEP))
    assert [(offset, len(view)) for offset, view in found][:3] == [(0, 2048), (2048, 2048), (4096, 2048)]
    assert all(view.obj is data.obj for _, view in found)
    assert not any(6400 <= offset < 7040 for offset, _ in found)


def test_a_source_of_another_length_is_refused() -> None:
    """A plan is for one file."""
    with pytest.raises(ValueError, match="the rewrite is for 9"):
        list(pieces(Rewrite(9, 9, "little", (Move(0, 0, 9),), ()), memoryview(b"x")))


@given(rewrites(), st.binary(max_size=40))
def test_a_record_is_read_as_it_was_written(case: tuple[bytes, Rewrite], inner: bytes) -> None:
    """Whatever stands before it."""
    data, rewrite = case
    record = Record(rewrite, b"a" * 32, b"b" * 32, inner)
    file = plainly(data, rewrite) + bytes(77) + record.encoded()
    found = find_record(memoryview(file))
    assert found is not None
    assert (found.record, found.body) == (record, rewrite.new_size)
    assert file[found.span.start :] == record.encoded()


RECORD = Record(Rewrite(9, 9, "big", (Move(0, 0, 9),), ()), b"a" * 32, b"b" * 32).encoded()


def test_a_file_without_a_record() -> None:
    """None where the last bytes are others, or a record is not the last."""
    for data in (b"", b"x", MAGIC[1:], bytes(9) + RECORD + b"x"):
        assert find_record(memoryview(data)) is None


@given(st.integers(0, len(RECORD) - len(MAGIC) - 1), st.integers(1, 255))
def test_a_damaged_record_is_an_error(at: int, flip: int) -> None:
    """One changed byte anywhere is seen."""
    raw = bytearray(bytes(9) + RECORD)
    raw[9 + at] ^= flip
    with pytest.raises(ElfError, match="undo record"):
        find_record(memoryview(bytes(raw)), "file")


def test_a_record_begins_a_page_of_its_own() -> None:
    """4 KiB where a machine has no other, else 64 KiB."""
    for machine, page in ((EM_X86_64, 4096), (EM_AARCH64, 65536)):
        image = read(Elf(machine=machine, segments=[Ph(data=b"x")]).build())
        assert [record_start(image, n) for n in (1, page, page + 1)] == [page, page, 2 * page]


def test_what_is_appended() -> None:
    """Kinds of data behind everything that headers tell of."""
    plain = Elf(segments=[Ph(data=b"x" * 500)], sections=[Sh(".text", data=b"y")]).build()
    cases = [
        (plain, TailKind.NOTHING),
        (plain + bytes(5000), TailKind.ZEROS),
        (plain + b"data", TailKind.UNKNOWN),
        (plain + b"data" + b"MEI\014\013\012\013\016" + bytes(80), TailKind.PYINSTALLER),
        (plain + b"PK\5\6" + bytes(18), TailKind.ZIP),
        (plain + b"Caml1999X031", TailKind.OCAML),
        (plain + b"~Module signature appended~\n", TailKind.MODULE_SIGNATURE),
        (Elf(segments=[Ph(data=b"UPX!" * 9)]).build(), TailKind.UPX),
    ]
    for data, kind in cases:
        tail = read_tail(read(data), memoryview(data))
        assert (tail.kind, data[tail.span.start :]) == (kind, data[len(plain) :] if data.startswith(plain) else b"")


@given(st.integers(0, 3), st.integers(-3, 1 << 70))
def test_a_record_that_somebody_made_up_is_refused(which: int, number: int) -> None:
    """Ranges that overlap, lie outside or leave something out, values too large: an error, and no file of any size."""
    moves = (Move(0, 0, 9),)
    cases = [
        Rewrite(9 + number, 9, "big", moves, ()),
        Rewrite(9, 9, "big", (Move(0, number, 9),), ()),
        Rewrite(9, 9, "big", (Move(number, 0, 9),), ()),
        Rewrite(9, 9, "big", moves, (Edit(Field("f", number, 2), 1, number),)),
    ]
    right = number == 0 or (which == 3 and 0 <= number <= 7)
    raw = bytes(9) + Record(cases[which], b"a" * 32, b"b" * 32).encoded()
    if right:
        assert find_record(memoryview(raw)) is not None
    else:
        with pytest.raises(ElfError, match="undo record"):
            find_record(memoryview(raw))
