"""layout.realign: plans, and the files that they make, held against what a loader would see."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.elf.image import ElfHead
from elfolio.elf.reader import read
from elfolio.elf.tail import Tail, TailKind, read_tail
from elfolio.elf.write import whole
from elfolio.layout.hugepages import PMD, Tier
from elfolio.layout.plan import Plan, Reason
from elfolio.layout.realign import realign
from elfolio.layout.recheck import differences
from elfolio.span import Span
from tests.elfwriter import ET_CORE, SHT_PROGBITS, Elf, Ph, Sh
from tests.layout.files import ET_EXEC, PAGE, RW, RX, Part, R, linked, parts

SMALL = 64 << 10
"""A huge page for files that are quick to make."""


def planned(data: bytes, **wishes: object) -> Plan:
    """Of a file's bytes."""
    view = memoryview(data)
    image = read(view, "made")

    def is_zero(span: Span) -> bool:
        return not data[span.start : span.end].strip(b"\0")

    return realign(image, read_tail(image, view), is_zero=is_zero, **wishes)  # type: ignore[arg-type]


def made(data: bytes, plan: Plan) -> bytes:
    """The new file."""
    return bytes(whole(plan.rewrite, memoryview(data)))


def memory(data: bytes, image: ElfHead, page: int = PAGE) -> dict[int, bytes]:
    """What a loader maps: each page by its address, with the bytes of neighbours that it shows; zeros as zeros."""
    found: dict[int, bytes] = {}
    for s in sorted(image.loads, key=lambda s: s.vaddr):
        start, end = s.vaddr // page * page, -(-(s.vaddr + s.memsz) // page) * page
        file_end = -(-(s.vaddr + s.filesz) // page) * page if s.filesz else start
        offset = s.offset - (s.vaddr - start)
        raw = bytearray(data[offset : offset + file_end - start].ljust(file_end - start, b"\0"))
        if s.memsz > s.filesz and s.flags & 2:
            raw[s.vaddr + s.filesz - start :] = bytes(len(raw) - (s.vaddr + s.filesz - start))
        raw = raw.ljust(end - start, b"\0")
        found |= {at: bytes(raw[at - start : at - start + page]) for at in range(start, end, page)}
    return found


SHAPES = st.builds(
    linked,
    parts(largest=5 * SMALL),
    bits=st.sampled_from((64, 64, 32)),
    order=st.sampled_from(("little", "big")),
    type=st.sampled_from((3, 2)),
    base=st.sampled_from((0, 0x400000)),
    seed=st.integers(0, 99),
    sections=st.booleans(),
)


@given(SHAPES, st.booleans(), st.booleans())
def test_what_every_plan_keeps(data: bytes, force: bool, merge: bool) -> None:
    """The file that a plan makes has the headers that it says, passes its own check, gives no more to do, and its
    inverse gives the old file."""
    plan = planned(data, block=SMALL, force=force, merge=merge)
    new = made(data, plan)
    assert read(new, "made") == replace(plan.becomes, faults=plan.image.faults, notes=plan.image.notes)
    assert list(differences(plan, memoryview(data), memoryview(new))) == []
    assert bytes(whole(plan.rewrite.inverse(), memoryview(new))) == data
    assert plan.won >= 0
    again = planned(new, block=SMALL, force=force, merge=merge)
    assert again.rewrite.is_identity, (again.tier, again.rewrite.edits)


@given(SHAPES, st.booleans())
def test_every_page_shows_what_it_showed(data: bytes, force: bool) -> None:
    """Tiers 0 and 1: in memory each page has the same bytes, its neighbours' too."""
    plan = planned(data, block=SMALL, force=force)
    new = made(data, plan)
    before, after = without_tables(data), without_tables(new)
    assert memory(before, read(data)) == memory(after, read(new))


def without_tables(data: bytes) -> bytes:
    """With zeros in place of header, program headers and section headers, which are edited; of every copy of them."""
    image = read(data)
    h = image.header
    out = bytearray(data)
    spans = [(0, h.ehsize), (h.phoff, h.phnum * h.phentsize), (h.shoff, h.shnum * h.shentsize)]
    for at, size in spans:
        raw = bytes(out[at : at + size])
        out[at : at + size] = bytes(size)
        for page in range(0, len(out), PAGE):  # a copy stands at the same place of another page
            place = page + at % PAGE
            if size and raw[: PAGE - at % PAGE] == bytes(out[place : place + min(size, PAGE - at % PAGE)]):
                out[place : place + min(size, PAGE - at % PAGE)] = bytes(min(size, PAGE - at % PAGE))
    return bytes(out)


def test_tier_0_edits_one_field() -> None:
    """Congruent text of a PIE wants nothing but p_align, and only its own."""
    data = linked([Part(R, 0x100), Part(RX, 2 * PMD + 0x5000), Part(RW, 0x1000, 0x100)])
    plan = planned(data)
    assert (plan.tier, plan.won) == (Tier.ALIGN, 1)
    assert [(e.field.name, e.field.at, e.old, e.new) for e in plan.rewrite.edits] == [
        ("program header 1 p_align", 64 + 56 + 48, PAGE, PMD)
    ]
    assert plan.rewrite.padding == ()
    assert plan.random_bits_lost == 9


def test_text_that_does_not_move_needs_folios_only() -> None:
    """An ET_EXEC that is congruent is left as it is, by plan and not by refusal."""
    plan = planned(linked([Part(RX, 2 * PMD)], type=ET_EXEC, base=0x400000))
    assert (plan.tier, plan.refusals, plan.rewrite.is_identity) == (Tier.AS_IS, (), True)


def test_a_skewed_segment_moves_and_takes_its_page_along() -> None:
    """lld's layout: text moves to its address modulo the huge page; the page that it shared stands there twice."""
    data = linked([Part(R, 0x777), Part(RX, 2 * PMD, apart=False), Part(RW, 0x2000, 0x99, apart=False)])
    plan = planned(data)
    text = plan.becomes.loads[1]
    assert (plan.tier, text.offset, text.vaddr, text.align) == (Tier.RELAY, 0x1777, 0x1777, PMD)
    new = made(data, plan)
    assert new[0x1000:0x1777] == without_old_edits(data, plan)[:0x777]
    assert any(move.copy for move in plan.rewrite.moves)


def without_old_edits(data: bytes, plan: Plan) -> bytes:
    """The old file with the plan's edits."""
    out = bytearray(data)
    for e in plan.rewrite.edits:
        out[e.field.at : e.field.at + e.field.width] = e.new.to_bytes(e.field.width, "little")
    return bytes(out)


def test_force_gives_each_segment_blocks_of_its_own() -> None:
    """No block of the file has bytes of two segments, though no huge page is won."""
    data = linked([Part(R, 0x500), Part(RX, 0x500), Part(R, 0x500), Part(RW, 0x500, 0x500)])
    plan = planned(data, force=True)
    blocks = [set(range(s.offset // PMD, (s.file.end - 1) // PMD + 1)) for s in plan.becomes.loads]
    assert (plan.tier, plan.won) == (Tier.RELAY, 0)
    assert all(not a & b for i, a in enumerate(blocks) for b in blocks[:i])


def test_tier_0_only() -> None:
    """Asked to go no further than tier 0, skewed text stays where it is."""
    plan = planned(linked([Part(R, 0x777), Part(RX, 2 * PMD, apart=False)]), most=Tier.ALIGN)
    assert (plan.tier, plan.rewrite.is_identity) == (Tier.AS_IS, True)


def refusals() -> Iterator[tuple[str, bytes, Reason]]:
    """Files that are refused."""
    text = Part(RX, 2 * PMD)
    yield "object file", Elf(type=1, sections=[Sh(".text", data=b"x")]).build(), Reason.NOT_PROGRAM
    yield "core file", Elf(type=ET_CORE, segments=[Ph(data=b"x")]).build(), Reason.NOT_PROGRAM
    yield "nothing in the file", Elf(segments=[Ph(filesz=0, memsz=0x1000)]).build(), Reason.NO_LOAD
    yield "appended data", linked([text], tail=b"payload"), Reason.PAYLOAD
    yield "a ZIP archive", linked([text], tail=b"x" * 500 + b"PK\5\6" + bytes(18)), Reason.PAYLOAD
    yield "a module's signature", linked([text], tail=b"x~Module signature appended~\n"), Reason.SIGNED
    yield "an AppImage", b"\x7fELF\2\1\1\0AI\2" + linked([text])[11:], Reason.PAYLOAD
    yield "an align bomb", linked([text], align=1 << 30, base=1 << 30, type=ET_EXEC), Reason.ALIGN_BOMB
    yield "an odd p_align", linked([text], align=3 << 12), Reason.ODD_ALIGN
    yield "not congruent", Elf(segments=[Ph(data=b"x" * 99, offset=0x1000, vaddr=0x1234)]).build(), Reason.INCONGRUENT
    yield "more in the file", Elf(segments=[Ph(data=b"x" * 99, memsz=9)]).build(), Reason.MALFORMED
    yield "cut short", linked([text], sections=False)[:PMD], Reason.MALFORMED
    yield "first address", linked([Part(R), replace(text, size=3 * PMD)], base=0x10000), Reason.FIRST_ADDRESS
    for name, reason in ((".gnu.prelink_undo", Reason.PRELINKED), (".signature", Reason.SIGNED)):
        elf = Elf(segments=[Ph(data=b"x" * 99)], sections=[Sh(name, SHT_PROGBITS, data=b"yy")])
        yield name, elf.build(), reason


@pytest.mark.parametrize(("data", "reason"), [pytest.param(d, r, id=name) for name, d, r in refusals()])
def test_what_is_refused(data: bytes, reason: Reason) -> None:
    """With its reason, a clause, and what to do; forced or not, nothing is planned."""
    for force in (False, True):
        if force and reason is Reason.FIRST_ADDRESS:
            continue  # nothing is won there, and that is what force is for
        plan = planned(data, force=force)
        assert reason in [r.reason for r in plan.refusals]
        assert plan.rewrite.is_identity
        assert all(r.text and r.mend for r in plan.refusals)
        assert plan.refused


def test_the_segment_with_the_header_stays() -> None:
    """Text in the segment of the ELF header cannot be moved to fit, and that is said; but text of its own can."""
    stuck = planned(linked([Part(RX, 3 * PMD)], type=ET_EXEC, base=0x8048000))
    assert [r.reason for r in stuck.refusals] == [Reason.HEADERS]
    free = planned(linked([Part(R), Part(RX, 3 * PMD)], type=ET_EXEC, base=0x8048000))
    assert (free.tier, free.refusals, free.won) == (Tier.RELAY, (), 2)


def test_a_section_across_two_segments_is_refused() -> None:
    """What would be torn apart is named."""
    text = Ph(data=b"t" * (2 * SMALL), flags=RX, offset=0x1000, vaddr=0x2000, align=PAGE)
    elf = Elf(
        segments=[Ph(data=b"h" * 0x1000, offset=0, vaddr=0), text], sections=[Sh("odd", offset=0xF00, size=0x200)]
    )
    plan = planned(elf.build(), block=SMALL)
    assert [(r.reason, "odd" in r.text) for r in plan.refusals] == [(Reason.STRADDLES, True)]


def test_32_bit_offsets_do_not_overflow() -> None:
    """A file that would need offsets above 4 GiB is refused."""
    image = read(linked([Part(R, 0x777), Part(RX, 2 * PMD, apart=False)], bits=32))
    large = replace(image, size=(1 << 32) - 0x800)
    plan = realign(large, Tail(Span(0, 0), TailKind.NOTHING))
    assert [r.reason for r in plan.refusals] == [Reason.TOO_LARGE]


def test_a_broken_section_table_allows_p_align() -> None:
    """Nobody knows what else would move; what does not move is no matter."""
    congruent = [Part(R, 0x100), Part(RX, 2 * PMD + 0x5000)]
    broken = bytearray(linked(congruent, sections=False))
    broken[40:48] = (1 << 40).to_bytes(8, "little")  # e_shoff
    broken[58:62] = bytes((64, 0, 9, 0))
    plan = planned(bytes(broken))
    assert (plan.tier, [r.reason for r in plan.refusals]) == (Tier.ALIGN, [Reason.MALFORMED])
