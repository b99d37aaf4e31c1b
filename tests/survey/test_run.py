"""Whole surveys: which files have a row, in what order, and that however the work is shared the rows are the same."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from elfolio.survey import pool, tree
from elfolio.survey.examine import Batch, Examined
from elfolio.survey.pool import WorkersLost
from elfolio.survey.rows import COLUMNS, COSTS, Problem, Row, ranked, values
from elfolio.survey.run import Survey, as_seen_here, once, survey
from elfolio.survey.tree import list_files
from tests.elfwriter import Elf, Ph
from tests.survey.trees import plant


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that trees.plant makes."""
    root = tmp_path_factory.mktemp("tree")
    plant(root)
    return root


def names(rows: list[Row]) -> list[str]:
    return [os.path.basename(row.path) for row in rows]


def test_each_file_has_one_row(planted: Path) -> None:
    """Hard links count once, symbolic links to files and directories are not followed, other files have no row."""
    found = survey([str(planted)], jobs=1)
    assert names(found.rows) == ["again", "congruent", "rwx", "skewed", "object", "readable"]
    assert found.files == 10
    assert found.rows[0].links == 2
    assert [(os.path.basename(p.path), p.kind) for p in found.problems] == [("broken", "malformed")]


def test_directories_that_overlap_count_once(planted: Path) -> None:
    """A directory given twice, or inside another, or through a link, changes nothing about the rows."""
    once = survey([str(planted)], jobs=1)
    twice = survey([str(planted), str(planted / "bin"), str(planted / "lib/folder"), str(planted / "bin/rwx")], jobs=1)
    assert (twice.rows, twice.problems) == (once.rows, once.problems)


def test_ranked_by_what_a_remedy_would_win(planted: Path) -> None:
    """The file that gains most stands first, with its tier: p_align is enough for congruent text, skewed text must be
    re-laid; and each other cost puts its own first."""
    rows = survey([str(planted)], jobs=1).rows
    first = ranked(rows, "huge")
    assert names(first)[:2] == ["skewed", "congruent"]
    assert [(row.huge_win, row.huge_possible) for row in first[:3]] == [(2, 3), (2, 2), (0, 0)]
    assert [row.summary.tier for row in first[:3]] == [1, 0, None]
    assert names(ranked(rows, "exposed"))[0] == "rwx"
    assert names(ranked(rows, "size"))[0] == "skewed"
    assert set(names(ranked(rows, "pages"))[-2:]) <= {"readable", "object"}
    for cost in COSTS:
        assert sorted(names(ranked(rows, cost))) == sorted(names(rows))


def test_values_and_columns_go_together(planted: Path) -> None:
    """A row's values stand in the order of the columns."""
    row = next(row for row in survey([str(planted)], jobs=1).rows if row.path.endswith("rwx"))
    record = dict(zip(COLUMNS, values(row), strict=True))
    assert (record["path"], record["rwx"], record["executable_stack"]) == (row.path, True, True)
    for name in COLUMNS:
        assert record[name] == getattr(row, name, getattr(row.summary, name, None))


def test_device_numbers_of_other_machines_do_not_count(planted: Path) -> None:
    """Rows from two workers with one device number for different file systems stay two, and hard links with two
    device numbers for one file system become one."""
    rows = survey([str(planted)], jobs=1).rows
    strange = [row._replace(device=1, inode=1) for row in rows]
    again = rows[0]._replace(path=str(planted / "bin/small"), device=2)
    assert once([as_seen_here(row) for row in (*strange, again)]) == rows
    gone = rows[0]._replace(path="/nowhere")
    assert as_seen_here(gone) == gone


def many(root: Path, count: int = 200) -> None:
    """Files in several directories, ELF and not."""
    data = Elf(segments=[Ph(filesz=64)]).build()
    for i in range(count):
        folder = root / f"d{i % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{i}").write_bytes(data if i % 3 else b"text")


def without_time(found: Survey) -> Survey:
    return found._replace(seconds=0.0)


def test_processes_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process and three find the same rows, in the same order, and tell of every file on the way."""
    monkeypatch.setattr(tree, "BATCH", 16)
    many(tmp_path)
    told: list[tuple[int, int, int]] = []
    alone = survey([str(tmp_path)], jobs=1)
    shared = survey([str(tmp_path)], jobs=3, progress=lambda *counts: told.append(counts))
    assert without_time(alone) == without_time(shared)
    assert len(alone.rows) == 133
    assert told == sorted(told)
    assert told[-1] == (200, 200, 133)


def test_no_batch_is_lost_or_taken_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty times over, three processes that are hardly started when all is done give each batch once."""
    monkeypatch.setattr(tree, "BATCH", 16)
    many(tmp_path)
    batches = list_files([str(tmp_path)]).batches
    for _ in range(30):
        found = [row.path for examined in pool.in_processes(batches, 3) for row in examined.rows]
        assert (len(found), len(set(found))) == (133, 133)


def test_more_batches_than_a_pipe_holds_numbers() -> None:
    """Batches are taken in larger shares where there are very many."""
    assert sum(examined.files for examined in pool.in_processes([[]] * 5_000 + [[("/", ["etc"])]], 2)) == 1


def deadly(batch: Batch) -> Examined:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(batch)


def test_a_worker_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process that is killed ends the survey with one line, and not with rows missing."""
    monkeypatch.setattr(tree, "BATCH", 16)
    monkeypatch.setattr(pool, "examine", deadly)
    many(tmp_path)
    with pytest.raises(WorkersLost, match="--jobs 1"):
        survey([str(tmp_path)], jobs=2)


def test_workers_do_not_outlive_who_asked(tmp_path: Path) -> None:
    """When the process that surveys is killed, those that it started end too."""
    code = (
        "import os, sys, time\n"
        "from elfolio.survey import pool\n"
        "from elfolio.survey.examine import Examined\n"
        "pool.examine = lambda batch: (time.sleep(0.05), Examined(1, [], ['x' * 70_000]))[1]\n"
        "for _ in pool.in_processes([[]] * 1000, 3):\n"
        "    print(*open(f'/proc/self/task/{os.getpid()}/children').read().split(), flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        process.kill()
    assert len(pids) == 3
    deadline = time.monotonic() + 30
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    """Whether it is there, and no zombie that nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_batches_are_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories, small and large, are cut into batches that hold each file once."""
    monkeypatch.setattr(tree, "BATCH", 16)
    many(tmp_path, 100)
    listed = list_files([str(tmp_path)])
    sizes = [sum(len(files) for _, files in batch) for batch in listed.batches]
    assert sizes == [16] * 6 + [4]
    paths = [os.path.join(folder, name) for batch in listed.batches for folder, files in batch for name in files]
    assert sorted(paths) == sorted(str(p) for p in tmp_path.rglob("*") if p.is_file())


def test_a_directory_that_is_not_there() -> None:
    """It is an error with its name, before any work."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        survey(["/nowhere"])


def test_the_kernels_own_trees_are_left_out() -> None:
    """Nothing of /proc, /sys or /dev is listed on the way through the root."""
    names, folders = tree._entries("/", [])
    assert not {"/proc", "/sys", "/dev"} & set(folders)
    assert names is not None


@pytest.mark.root
def test_what_may_not_be_read_is_listed() -> None:
    """Another user's files and directories are told as unreadable, each by its name."""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        many(Path(root), 20)
        os.chmod(f"{root}/d1", 0)
        os.chmod(f"{root}/d2/f2", 0)
        os.seteuid(65534)
        try:
            found = survey([root], jobs=1)
        finally:
            os.seteuid(0)
        assert found.problems == [
            Problem(f"{root}/d1", "unreadable", "Permission denied"),
            Problem(f"{root}/d2/f2", "unreadable", "Permission denied"),
        ]
        assert found.rows
