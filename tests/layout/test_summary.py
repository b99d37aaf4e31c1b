"""The flat row says what the values say, of files that no linker makes and of those of this machine."""

import os
import re
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elfolio.elf.image import ElfHead, Segment
from elfolio.elf.reader import head_size, read_head
from elfolio.layout.hugepages import PMD, Tier, climb, is_both_aligned
from elfolio.layout.modes import linked_as
from elfolio.layout.relro import relro
from elfolio.layout.segments import Layout
from elfolio.layout.summary import Summary, summarise, summary_of
from tests.layout.programs import ET_DYN, ET_EXEC, PT_GNU_RELRO, PT_GNU_STACK, R, W, X, head, load, needs

ADDRESSES = st.integers(0, 5).map(lambda n: n * PMD) | st.integers(0, 10 << 20) | st.integers(0, 1 << 64)
LENGTHS = st.sampled_from([0, 1, 4096, 65536, PMD, 3 * PMD]) | st.integers(0, 8 << 20)
ALIGNS = st.sampled_from([0, 1, 3, 16, 4096, 16384, 65536, PMD, 1 << 30])


@st.composite
def headers(draw: st.DrawFn) -> Segment:
    """A program header of any kind that the summary looks at, or not; congruent in every second case."""
    filesz, vaddr = draw(LENGTHS), draw(ADDRESSES)
    type_ = draw(st.sampled_from([1, 1, 1, 1, 6, PT_GNU_STACK, PT_GNU_RELRO]))
    offset = draw(st.just(vaddr % (4 << 20)) | ADDRESSES)
    memsz = draw(st.just(filesz) | LENGTHS)
    return load(vaddr, filesz, offset=offset, memsz=memsz, flags=draw(st.integers(0, 15)), align=draw(ALIGNS),
                type=type_)  # fmt: skip


def by_values(image: ElfHead) -> Summary:
    """The same row, from the room's values."""
    layout, in_16k, in_64k = (Layout(image, page) for page in (4096, 16384, 65536))
    mode, guarded = linked_as(layout), relro(layout, (4096, 16384, 65536))
    rungs = climb(layout).rungs
    text = [sum(r.at(tier) for r in rungs if r.load.is_executable) for tier in Tier]
    readonly = [climb(layout).blocks(tier) for tier in Tier]
    stacks = [s.perms for s in image.segments if s.type == PT_GNU_STACK]
    exposed = [cost.exposed for cost in guarded.costs] if guarded else [0, 0, 0]
    return Summary(
        loads=len(layout.loads),
        file_bytes=sum(x.segment.filesz for x in layout.loads),
        memory_bytes=sum(x.segment.memsz for x in layout.loads),
        text_bytes=sum(x.segment.filesz for x in layout.loads if x.is_executable),
        text_had=text[0],
        text_aligned=text[1],
        text_relaid=text[2],
        text_relinked=text[3],
        tier=next((int(tier) for tier in Tier if text[tier + 1] > text[0]), None),
        readonly_had=readonly[0],
        readonly_aligned=readonly[1],
        readonly_relaid=readonly[2],
        readonly_relinked=readonly[3],
        both_aligned=any(is_both_aligned(x.segment, PMD) for x in layout.loads if x.is_executable),
        align=layout.align,
        max_page_size=mode.max_page_size,
        congruence=mode.congruence,
        code=mode.code,
        rosegment=mode.rosegment,
        writable_segments=mode.writable,
        ready_16k=in_16k.is_ready,
        ready_64k=in_64k.is_ready,
        relro_bytes=guarded.memory.size if guarded else 0,
        relro_exposed_4k=exposed[0],
        relro_exposed_16k=exposed[1],
        relro_exposed_64k=exposed[2],
        rwx=any(x.is_writable and x.is_executable for x in layout.loads),
        stack=stacks[-1] if stacks else "",
        shared_bytes=sum(meeting.pages.size for meeting in layout.shared),
        file_padding=layout.file_padding,
        memory_padding=layout.memory_padding,
        gaps=len(layout.gaps),
        truncated=bool(layout.beyond),
    )


@settings(max_examples=400)
@given(
    segments=st.lists(headers(), max_size=6), type=st.sampled_from([ET_DYN, ET_EXEC]),
    size=st.none() | st.integers(0, 20 << 20),
)  # fmt: skip
def test_the_row_is_what_the_values_say(segments: list[Segment], type: int, size: int | None) -> None:
    """Of program headers of any kind, in any order, each field of the row is what layout's other modules give."""
    image = head(*segments, type=type, size=size)
    assert summary_of(image)._asdict() == by_values(image)._asdict()


def elf_files(*places: str) -> Iterator[ElfHead]:
    """The heads of all ELF64 files below these directories that may be read, hard links once."""
    seen = set()
    for place in places:
        for folder, _, names in os.walk(place):
            for path in (Path(folder, name) for name in sorted(names)):
                status = path.lstat()
                key = status.st_dev, status.st_ino
                if not stat.S_ISREG(status.st_mode) or key in seen or not os.access(path, os.R_OK):
                    continue
                seen.add(key)
                with path.open("rb") as file:
                    start = file.read(4096)
                    if start[:5] == b"\x7fELF\x02":
                        yield read_head(
                            start + file.read(max(0, head_size(start) - len(start))), str(path), status.st_size
                        )


def test_of_this_machine_s_programs() -> None:
    """Of 200 files of /usr/bin, the row is what the values say, and some of each kind are among them."""
    checked = 0
    for image in elf_files("/usr/bin"):
        assert summary_of(image)._asdict() == by_values(image)._asdict(), image.name
        checked += 1
        if checked == 200:
            break
    assert checked > 20


@pytest.mark.slow
def test_of_all_files_of_this_machine_as_readelf_counts_them() -> None:
    """Of every ELF64 file below /usr, the row is what the values say; and of text of 2 MiB and more, as many segments
    are congruent, skewed, both aligned and aligned to 2 MiB as counting in readelf's text gives. Printed: the count."""
    needs("readelf")
    ours, theirs, files = Counter[str](), Counter[str](), []
    for image in elf_files("/usr"):
        row = summary_of(image)
        assert row._asdict() == by_values(image)._asdict(), image.name
        files.append(image.name)
        text = [s for s in image.loads if s.flags & X and s.filesz >= PMD]
        congruent = [s for s in text if (s.vaddr - s.offset) % PMD == 0]
        ours["files"] += 1
        ours["text"] += bool(text)
        ours["congruent"] += bool(text) and len(congruent) == len(text)
        ours["skewed"] += len(congruent) < len(text)
        ours["both"] += row.both_aligned
        ours["aligned"] += any(s.align >= PMD for s in text)
        ours["tier 0"] += row.tier == 0
        ours["tier 1"] += row.tier == 1
        ours["tier 2"] += row.tier == 2
    for name in files:
        theirs.update(_by_readelf(name))
    print(dict(ours))
    for field in ("files", "text", "congruent", "skewed", "both", "aligned"):
        assert ours[field] == theirs[field], field


def _by_readelf(name: str) -> Iterator[str]:
    done = subprocess.run(["readelf", "-lW", name], capture_output=True, text=True, check=False)
    lines = re.findall(r"^  LOAD +(\w+) (\w+) \w+ (\w+) \w+ (.{3}) (\w+)$", done.stdout, re.M)
    rows = [[int(x, 16) for x in (o, v, f, a)] for o, v, f, flags, a in lines if "E" in flags]
    text = [(o, v, a) for o, v, f, a in rows if f >= PMD]
    yield "files"
    if text:
        yield "text"
        yield "skewed" if any((v - o) % PMD for o, v, _ in text) else "congruent"
    if any(o % PMD == v % PMD == 0 for o, v, _ in text):
        yield "both"
    if any(a >= PMD for _, _, a in text):
        yield "aligned"


def test_a_row_takes_plain_tuples() -> None:
    """What struct unpacks of a file is what the row is made of; no PT_LOAD at all makes a row too."""
    row = summarise(
        ET_DYN, [(1, R | X, 0, 0, 0, 3 * PMD, 3 * PMD, 4096), (1, R | W, 3 * PMD, 7 * PMD, 0, 1, 9, 4096)], 9 << 20
    )
    assert (row.text_had, row.text_aligned, row.tier, row.gaps) == (0, 3, 0, 1)
    empty = summarise(ET_DYN, [], 64)
    assert (empty.loads, empty.code, empty.tier, empty.stack) == (0, "no segment", None, "")
