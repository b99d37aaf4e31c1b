"""layout.merging, through realign: segments joined, for huge pages and for larger pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.elf.image import ElfHead
from elfolio.elf.reader import read
from elfolio.layout.findings import findings
from elfolio.layout.hugepages import PMD, Tier
from elfolio.layout.plan import Plan, Reason
from elfolio.layout.recheck import differences
from elfolio.layout.segments import Layout
from tests.elfwriter import PT_NULL
from tests.layout.files import ET_EXEC, PAGE, RW, RX, Part, R, linked, parts
from tests.layout.test_realign import made, memory, planned, without_tables

LARGE = 16 << 10


def old_bytes(data: bytes) -> dict[int, bytes]:
    """Each old segment's memory, by its address; headers' tables as zeros."""
    contents = without_tables(data)
    return {s.vaddr: contents[s.offset : s.file.end].ljust(s.memsz, b"\0") for s in read(data).loads}


def new_bytes(data: bytes, plan: Plan, start: int, size: int) -> bytes:
    """What the new file's memory has there."""
    new = made(data, plan)
    pages = memory(without_tables(new), read(new))
    first = start // PAGE * PAGE
    return b"".join(pages[at] for at in range(first, start + size, PAGE))[start - first :][:size]


@given(st.builds(linked, parts(largest=0x9000), seed=st.integers(0, 9), align=st.just(PAGE)), st.sampled_from((16, 64)))
def test_larger_pages_show_every_byte_with_the_right_permissions(data: bytes, kib: int) -> None:
    """Mapped with larger pages, in the order of the headers, each byte of each old segment is there, and its page may
    be read, written, executed as before; no page may be written and executed. Or it is refused."""
    page = kib << 10
    plan = planned(data, page=page, merge=True)
    if plan.refusals:
        assert plan.rewrite.is_identity
        return
    new = made(data, plan)
    image = read(new)
    assert list(differences(plan, memoryview(data), memoryview(new))) == []
    pages: dict[int, tuple[int, bytes]] = {}
    contents = without_tables(new)
    for s in image.loads:
        assert (s.vaddr - s.offset) % page == 0
        assert s.align % page == 0
        shown = memory(contents, ElfHead("", len(new), image.header, (s,)), page)
        pages |= {at: (s.flags, raw) for at, raw in shown.items()}
    assert not [at for at, (flags, _) in pages.items() if flags & 3 == 3]
    old = without_tables(data)
    for s in read(data).loads:
        for at in range(s.vaddr // page * page, s.vaddr + s.memsz, page):
            flags, raw = pages[at]
            assert flags & s.flags == s.flags
            start, end = max(at, s.vaddr), min(at + page, s.vaddr + s.memsz)
            theirs = old[s.offset + start - s.vaddr : s.offset + min(end, s.vaddr + s.filesz) - s.vaddr]
            assert raw[start - at : end - at] == theirs.ljust(end - start, b"\0")
    again = planned(new, page=page, merge=True)
    assert again.rewrite.is_identity


def test_neighbours_that_win_a_huge_page_together() -> None:
    """Headers, text and read-only data become one executable segment; what was joined is said, and PT_NULL is left."""
    data = linked([Part(R, 0x1E000), Part(RX, PMD), Part(R, 0xC4DF0), Part(RW, 0x18660, 0x2000)])
    plan = planned(data, merge=True)
    assert (plan.tier, plan.won) == (Tier.MERGE, 1)
    assert [(j.headers, j.perms, j.joined, j.pages) for j in plan.joints] == [
        ((0, 1, 2), ("r--", "r-x", "r--"), "r-x", None)
    ]
    assert [s.type == PT_NULL for s in plan.becomes.segments[:4]] == [False, True, True, False]
    assert all(new_bytes(data, plan, at, len(raw)) == raw for at, raw in old_bytes(data).items())


def test_huge_pages_of_padding_are_not_won() -> None:
    """Neighbours that are far apart stay what they are, though an aligned block would lie between them."""
    data = linked([Part(R, 0x600), Part(RX, 0x9000, skip=0x200), Part(R, 0x9000, skip=0x200)])
    assert planned(data, merge=True).joints == ()


def test_without_merge_nothing_is_joined() -> None:
    """The same file without consent; and with larger pages a refusal that names the option."""
    data = linked([Part(R, 0x1E000), Part(RX, PMD), Part(R, 0xC4DF0), Part(RW, 0x18660)])
    assert planned(data).joints == ()
    refused = planned(data, page=LARGE)
    assert [r.reason for r in refused.refusals] == [Reason.PAGES]
    assert "--merge" in refused.refusals[0].mend


def test_code_and_data_never_share() -> None:
    """A page that would be written and executed is refused, by name."""
    plan = planned(linked([Part(R, 0x100), Part(RX, 0x100), Part(RW, 0x100)]), page=LARGE, merge=True)
    assert [r.reason for r in plan.refusals] == [Reason.WRITE_EXEC]
    assert "1 (r-x) and 2 (rw-)" in plan.refusals[0].text


def test_zeros_between_joined_segments_must_be_zeros() -> None:
    """What follows a segment in the file, and would be seen where it has zeros in memory, is a refusal."""
    data = bytearray(linked([Part(R, 0x100), Part(RW, 0x100, 0x40), Part(RW, 0x100)]))
    assert planned(bytes(data), page=LARGE, merge=True).refusals == ()
    data[0x1100] = 1
    assert [r.reason for r in planned(bytes(data), page=LARGE, merge=True).refusals] == [Reason.OVERLAP]


@pytest.mark.parametrize("size", [PMD, 3 * PMD])
def test_a_file_for_larger_pages_that_shares_none(size: int) -> None:
    """Linked for 4 KiB and by chance apart: offsets move, nothing is joined, and pages of 16 KiB can map it."""
    data = linked([Part(R, LARGE), Part(RX, size, skip=1), Part(RW, 0x100, skip=9)], type=ET_EXEC, base=0x400000)
    plan = planned(data, page=LARGE)
    assert (plan.joints, plan.refusals) == ((), ())
    assert Layout(plan.becomes, LARGE).is_ready


def test_what_was_joined_is_no_finding_of_harm() -> None:
    """A page that data has taken over is a note, once the file is for such pages; before, it was an error."""
    data = linked([Part(R, 0x100), Part(RX, 0x9000), Part(R, 0x9000), Part(RW, 0x1000, 0x100)])
    plan = planned(data, page=LARGE, merge=True)
    before = {f.id for f in findings(read(data), LARGE) if f.severity == "error"}
    after = findings(read(made(data, plan)), LARGE)
    assert before == {"page-collision"}
    assert [f.id for f in after if f.severity == "error"] == []
    assert [f.severity for f in after if f.id == "page-overlaid"] == ["note"]
