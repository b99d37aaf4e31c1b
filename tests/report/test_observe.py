"""report.observe and its renderings: a recorded process with every sort of memory, as rows, text, table and page."""

import dataclasses
import json
from collections.abc import Callable

import pytest

from elfolio.kernel.backing import Backing
from elfolio.kernel.blocks import Obstacle
from elfolio.kernel.folio import UNSEEN, Kind, Run, Sum
from elfolio.kernel.losses import Loss, Piece
from elfolio.kernel.neighbours import apart
from elfolio.kernel.policy import policy
from elfolio.kernel.space import OpenFile, Vma, VmFlags
from elfolio.live.backed import FileFacts
from elfolio.live.folios import ProcessFolios, VmaFolios
from elfolio.live.observed import Observed, Picture, Seen
from elfolio.live.vmas import ProcessMemory, VmaUse
from elfolio.report.observe import Process, Report, as_json, as_process, as_report
from elfolio.report.observe_files import FileRow, file_rows, joined_files, why
from elfolio.report.observe_html import SHADES, as_html
from elfolio.report.observe_text import as_table, as_text
from elfolio.span import FileOffset, MappedAddress, Span
from tests.cli.test_run_json import mismatches
from tests.report.test_page import EVIL, outline

M, P = 1 << 20, 4096
PMD = 2 * M
NOW = policy("linux-6.18")
FILE, ANON = Kind.FILE, Kind.ANON
TEXT = VmFlags.READ | VmFlags.EXEC
DATA = VmFlags.READ | VmFlags.WRITE


def mapped(start: int, size: int, flags: VmFlags, name: str = "", offset: int = 0) -> Vma:
    """A mapping, of a file where there is a path."""
    file = OpenFile(name, 7) if name.startswith("/") else None
    return Vma(MappedAddress(start), MappedAddress(start + size), flags, file, FileOffset(offset), name)


def seen(vma: Vma, sums: tuple[Sum, ...], *losses: Loss, hidden: str = "", huge: int = 0, elf: bool = True) -> Seen:
    """With the figures that smaps would have."""
    folios = VmaFolios(vma, P, sums)
    use = VmaUse(vma, folios.rss, folios.anonymous, folios.swapped, 0, folios.rss, 0, 0, huge)
    segments = (Piece(Span(0, M), 0, False, True),) if elf else ()
    facts = FileFacts(vma.name, 64 * M, NOW, segments, hidden) if vma.file is not None else None
    return Seen(use, folios, facts, losses)


LIB = Loss(PMD, 6, False, 1, 3, 2, {Backing.SMALLER: 1}, {Obstacle.EDGE: 2, Obstacle.SKEWED: 1})
RECORDED = (
    seen(
        mapped(0x10000000, 12 * M, TEXT, "/usr/lib/big.so"),
        (Sum(512, 1, 9, FILE | Kind.PMD | Kind.SHARED, 0), Sum(48, 3, 4, FILE, 0), Sum(5, 5, 0, FILE, 0)),
        LIB,
        huge=PMD,
    ),
    seen(
        mapped(0x10C00000, 4 * M, DATA, "/usr/lib/big.so", 12 * M),
        (Sum(9, 9, 0, ANON, 0),),
        Loss(PMD, 2, True, 0, 2, 2),
    ),
    seen(
        mapped(0x20000000, 64 * M, DATA, "[heap]"),
        (Sum(7, 7, 0, ANON, 0), Sum(3, 0, 0, Kind.ZERO, 0), Sum(2, 0, UNSEEN, Kind.SWAPPED, 0)),
    ),
    seen(mapped(0x30000000, P, VmFlags.READ, "/other (deleted)"), (), hidden="Permission denied"),
)


def process(rows: tuple[Seen, ...] = RECORDED, *, whole: bool = True, pid: int = 41, name: str = "a\tb") -> Process:
    """The recorded process."""
    uses = tuple(one.use for one in rows)
    memory = ProcessMemory(pid, name, uses, 44 << 10, {"ksm_merge_any": False}, 65530, False)
    folios = ProcessFolios(pid, P, tuple(one.folios for one in rows), ("pagemap",), "dirty pages")
    neighbours = apart([use.vma for use in uses], {1, 2}, NOW)
    return as_process(Observed(memory, rows, folios), neighbours, file_rows(rows, PMD), whole=whole)


def report(*processes: Process, files: list[FileRow] | None = None) -> Report:
    """Of these, with the recorded files."""
    rows = file_rows(RECORDED, PMD) if files is None else files
    problems = [{"pid": 5, "name": "x", "reason": "another user's process"}]
    return as_report(
        list(processes), rows, problems, {"zombies": 2},  # type: ignore[arg-type]
        policy="linux-6.18", page=P, huge_page=PMD, time=3.5,
    )  # fmt: skip


def test_the_object_is_of_its_type() -> None:
    """Whole and in a table, it has the keys and types that are promised, through JSON and back."""
    for value in (report(process()), report(process(whole=False))):
        assert mismatches(json.loads(as_json(value)), Report) == []


def test_the_sums() -> None:
    """By kind, by what maps them, by order; zero pages and what is swapped out are in no order."""
    found = process()
    folios = found["folios"]
    assert (folios["file"], folios["anonymous"], folios["zero"], folios["swapped"], folios["shared"]) == (
        565 * P, 16 * P, 3 * P, 2 * P, 512 * P
    )  # fmt: skip
    assert (folios["pmd"], folios["pte"]) == (PMD, (48 + 5 + 9 + 7 + 3) * P)
    assert [(one["order"], one["bytes"], one["folios"]) for one in folios["orders"]] == [
        (0, 21 * P, 21), (4, 48 * P, 3), (9, PMD, 1)
    ]  # fmt: skip
    assert found["rss"] == 581 * P
    assert found["huge"] == PMD
    assert found["lost"] == LIB.lost == 3 * PMD


def test_the_files() -> None:
    """Whole blocks only, without mappings that are written to; the remedy follows what keeps most."""
    (row,) = file_rows(RECORDED, PMD)
    assert (row["path"], row["blocks"], row["mapped"], row["could"], row["now"]) == ("/usr/lib/big.so", 4, 1, 3, 2)
    assert (row["lacking"], row["barred"], row["lost"]) == ({"smaller": 1}, {"skewed": 1}, 3 * PMD)
    assert why(row) == (
        "1 with the folio there, not mapped as one yet; 1 in smaller folios; "
        "1 not: the file has it at an offset that does not fit"
    )
    assert row["remedy"] == "elfolio warm /usr/lib/big.so"


REMEDIES: list[tuple[Loss, str, str]] = [
    (Loss(PMD, 3, False, 0, 0, 0, {}, {Obstacle.BASE: 3}), "/b i", "elfolio tune '/b i' -o OUT"),
    (Loss(PMD, 3, False, 0, 0, 0, {}, {Obstacle.SKEWED: 3}), "/b", "elfolio tune /b -o OUT"),
    (Loss(PMD, 3, False, 0, 3, 0, {Backing.ABSENT: 3}, {}), "/b", "elfolio warm /b"),
    (Loss(PMD, 3, False, 1, 3, 3, {}, {}), "/b", "start its processes again: the folios are there now"),
    (Loss(PMD, 3, False, 3, 3, 3, {}, {}), "/b", ""),
    (Loss(PMD, 3, False, 0, 3, 0, {Backing.ABSENT: 3}, {}), "/b (deleted)",
     "start its processes again: the file has been replaced or removed"),
    (Loss(PMD, 3, False, 0, 0, 0, {}, {Obstacle.ADVICE: 3}), "/b", "in the program: madvise(MADV_HUGEPAGE), or none"),
    (Loss(PMD, 3, False, 0, 0, 0, {}, {Obstacle.FILESYSTEM: 3}), "/b",
     "move it to xfs (large folios from 5.18), or ext4 with Linux 6.16 or later"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "path", "remedy"), REMEDIES)
def test_remedies(loss: Loss, path: str, remedy: str) -> None:
    """Each way of losing has its own."""
    (row,) = file_rows([seen(mapped(0x10000000, 6 * M, TEXT, path), (), loss)], PMD)
    assert row["remedy"] == remedy


def test_what_an_overlay_hides_is_to_be_tried() -> None:
    """Its layer may have large folios: nothing is to be moved before that is known."""
    one = seen(mapped(0x10000000, 6 * M, TEXT, "/b"), (), REMEDIES[-1][0])
    assert one.file is not None
    policy = one.file.policy.with_options(fs="overlay")
    (row,) = file_rows([dataclasses.replace(one, file=dataclasses.replace(one.file, policy=policy))], PMD)
    assert (row["fs"], row["remedy"].partition(" finds")[0]) == ("overlay", "elfolio warm /b")


def test_what_is_no_elf_file_is_not_to_be_tuned() -> None:
    """Whoever maps a data file at an odd address can map it elsewhere."""
    rows = [seen(mapped(0x10000000, 6 * M, TEXT, "/b"), (), REMEDIES[0][0], elf=False)]
    assert file_rows(rows, PMD)[0]["remedy"] == "in the program: map it at a multiple of 2 MiB"


def test_the_same_file_in_two_processes() -> None:
    """Is one row, with both in it; in two mappings of one process it counts as one process."""
    once = file_rows(RECORDED, PMD)
    (both,) = joined_files([once, once], PMD)
    assert (both["processes"], both["lost"], both["blocks"]) == (2, 6 * PMD, 8)
    (twice,) = file_rows((*RECORDED, *RECORDED), PMD)
    assert (twice["processes"], twice["lost"]) == (1, 6 * PMD)


TEXT_OF_IT = r"""41 a\tb
4 VMAs of at most 65530; 1 pairs touch and are two; 80.0 MiB mapped, 2.3 MiB there, 2 MiB by huge pages; page tables
44 KiB
64 KiB anonymous, 2.2 MiB of files, 12 KiB the zero page, 8 KiB swapped out, 2 MiB mapped more than once; mapped 288
KiB by PTEs, 2 MiB by PMDs
it has switched huge pages off for itself (PR_SET_THP_DISABLE)
KSM: PR_SET_MEMORY_MERGE off; 0 VMAs, 0 B may merge
not seen: dirty pages
not seen: the files behind mappings: 1 (Permission denied)

addresses perms offset size there anonymous huge folios by order blocks KSM two because name
10000000-10c00000 r-xp 0x0 12 MiB 2.2 MiB 0 B 2 MiB 9:91% 4:8% .. 1/4 /usr/lib/big.so
10c00000-11000000 rw-p 0xc00000 4 MiB 36 KiB 36 KiB 0:100% flags wr ex /usr/lib/big.so
20000000-24000000 rw-p 0x0 64 MiB 28 KiB 28 KiB 0:100% [heap]
30000000-30001000 r--p 0x0 4 KiB 0 B 0 B /other (deleted)

order folio folios bytes share
0 4 KiB 21 84 KiB 3.6% #
4 64 KiB 3 192 KiB 8.3% ##
9 2 MiB 1 2 MiB 88.1% ##########################
"""


def test_the_text() -> None:
    """As it stands, but for spaces: what is there, each mapping, the orders, the files, why neighbours are two."""
    found = as_text(report(process()), 120)
    for line in TEXT_OF_IT.splitlines():
        assert " ".join(line.split()) in " ".join(found.split()), line
    assert "\x1b" not in found
    for part in (
        "Whole blocks of 2 MiB of files under linux-6.18, the most lost first",
        "     -> elfolio warm /usr/lib/big.so",
        "Why neighbours are two",
    ):
        assert part in found
    assert max(map(len, found.splitlines())) < 140


def test_the_table() -> None:
    """A line for each process, the files, and who was left out."""
    found = as_table(report(process(whole=False), process(whole=False, pid=7, name="other")), 100).splitlines()
    assert [line.split()[0] for line in found[:3]] == ["pid", "41", "7"]
    assert " ".join(found[1].split()[1:]) == "4 2.3 MiB 64 KiB 2.2 MiB 2 MiB 6 MiB 44 KiB 9:88% 4:8% 0:4% a\\tb"
    assert found[-1] == "Left out: 2 zombies; 1 not seen: another user's process"


def test_nothing_is_shown_of_nothing() -> None:
    """No process, no file: no table of files, and no division by what is not there."""
    empty = as_report([], [], [], {}, policy="p", page=P, huge_page=PMD, time=0.0)
    assert as_text(empty) == ""
    assert len(as_table(empty).splitlines()) == 1
    outline(as_html(empty, {}))


def pictures(vmas: tuple[Seen, ...]) -> list[Picture]:
    """A cell of each sort, and as many more as the mapping has room for."""
    kinds = [
        None, Run(0, 1, 0, FILE, 0), Run(0, 1, 2, FILE, 0), Run(0, 1, 4, FILE, 0), Run(0, 1, 9, FILE, 0),
        Run(0, 1, 9, FILE | Kind.PMD, 0), Run(0, 1, UNSEEN, FILE, 0), Run(0, 1, 0, Kind.ZERO, 0),
        Run(0, 1, UNSEEN, Kind.SWAPPED, 0),
    ]  # fmt: skip
    return [Picture(max(P, one.use.vma.size // 16), tuple(kinds[: one.use.vma.size // P])) for one in vmas]


def test_the_page_has_every_shade_and_what_it_means() -> None:
    """Each sort of folio is a colour of its own in the picture, said in words where it is pointed at."""
    found = outline(as_html(report(process()), {41: pictures(RECORDED)}))
    styles = {str(attrs.get("class")).split()[0] for tag, attrs in found.tags if tag == "rect"}
    assert {f"o-{name}" for name, _ in SHADES} <= styles
    assert {"p-rx", "p-rw", "p-r"} <= styles
    words = " ".join(found.words)
    assert all(meaning in words for _, meaning in SHADES)
    assert "1 with the folio there, not mapped as one yet" in words


@pytest.mark.parametrize("render", [lambda r: as_html(r, {41: pictures(RECORDED)}), as_text, as_table])
def test_names_are_harmless(render: Callable[[Report], str]) -> None:
    """What a process or a file is called breaks neither the page nor the terminal."""
    evil = dataclasses.replace(RECORDED[0].use.vma, name=f"/{EVIL}\x1b[2J")
    rows = (dataclasses.replace(RECORDED[0], use=dataclasses.replace(RECORDED[0].use, vma=evil)), *RECORDED[1:])
    found = render(report(process(rows, name=f"{EVIL}\x1b[2J"), files=file_rows(rows, PMD)))
    if found.startswith("<!doctype"):
        assert [tag for tag, _ in outline(found).tags].count("script") == 1
    else:
        assert "\x1b" not in found
