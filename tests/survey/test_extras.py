"""Parquet, SQL and a cluster. They need elfolio[table] and elfolio[cluster]; the last test brings them along."""

import os
import signal
import subprocess
import venv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from elfolio.survey.cluster import address_of
from elfolio.survey.rows import COLUMNS
from elfolio.survey.run import survey
from tests.cli.running import elfolio
from tests.survey.test_run import many
from tests.survey.trees import plant

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = {"pyarrow": "table", "duckdb": "table", "distributed": "cluster"}


def need(module: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"needs elfolio[{EXTRAS[module]}]; to force: pip install {module}, or pytest -m slow tests/survey")


def test_parquet_holds_every_row(tmp_path: Path) -> None:
    """The Parquet file has a column for each name, a line for each row, and the same values as JSON."""
    need("pyarrow")
    import pyarrow.parquet

    plant(tmp_path / "tree")
    done = elfolio("survey", str(tmp_path / "tree"), "--format", "parquet", "-o", str(tmp_path / "it.parquet"))
    assert (done.status, done.stdout) == (0, b"")
    table = pyarrow.parquet.read_table(tmp_path / "it.parquet")
    assert tuple(table.column_names) == COLUMNS
    rows = {row.path: row for row in survey([str(tmp_path / "tree")], jobs=1).rows}
    for record in table.to_pylist():
        row = rows.pop(record["path"])
        assert record["size"] == row.size
        assert record["huge_win"] == row.huge_win
        assert record["tier"] == row.summary.tier
        assert 1 << record["congruence"] == row.summary.congruence
    assert rows == {}


def test_sql_is_answered(tmp_path: Path) -> None:
    """--sql sees the rows as the table survey, and prints the answer in each format."""
    need("duckdb")
    need("pyarrow")
    plant(tmp_path / "tree")
    query = "select kind, count(*) as n, sum(huge_win)::int as gain from survey group by kind order by kind"
    tree = str(tmp_path / "tree")
    assert elfolio("survey", tree, "--sql", query, "--format", "csv").stdout == (
        b"kind,n,gain\nobject,1,0\nshared,5,4\n"
    )
    assert elfolio("survey", tree, "--sql", query).stdout == (b"kind    n  gain\nobject  1     0\nshared  5     4\n")
    assert b'"rows": [{"kind": "object", "n": 1, "gain": 0}' in elfolio("survey", tree, "--sql", query, "--format", "json").stdout  # fmt: skip  # noqa: E501


def test_sql_writes_a_database(tmp_path: Path) -> None:
    """A query may attach a DuckDB file and leave the rows there."""
    need("duckdb")
    need("pyarrow")
    import duckdb

    plant(tmp_path / "tree")
    query = f"attach '{tmp_path}/it.duckdb' as it; create table it.survey as from survey"
    assert elfolio("survey", str(tmp_path / "tree"), "--sql", query).status == 0
    with duckdb.connect(f"{tmp_path}/it.duckdb") as connection:
        assert connection.sql("select count(*), sum(huge_win) from survey").fetchall() == [(6, 4)]


def test_sql_without_an_answer(tmp_path: Path) -> None:
    """An empty query, and a comment, print nothing; a large sum is an integer."""
    need("duckdb")
    need("pyarrow")
    plant(tmp_path / "tree")
    tree = str(tmp_path / "tree")
    for query in ("", "-- nothing"):
        done = elfolio("survey", tree, "--sql", query)
        assert (done.status, done.stdout.strip()) == (0, b"")
    done = elfolio("survey", tree, "--sql", "select sum(huge_win) as gain from survey", "--format", "json")
    assert b'{"gain": 4}' in done.stdout


def test_sql_that_is_wrong(tmp_path: Path) -> None:
    """A mistake in the query is one line, and status 2."""
    need("duckdb")
    need("pyarrow")
    plant(tmp_path / "tree")
    done = elfolio("survey", str(tmp_path / "tree"), "--sql", "select nothing from nowhere")
    assert (done.status, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert b"nowhere" in done.stderr


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A file name that is no UTF-8 has a line in Parquet, its strange byte as an escape."""
    need("pyarrow")
    from elfolio.survey.table import arrow_table

    plant(tmp_path / "tree")
    name = os.fsencode(tmp_path / "tree/lib") + b"/\xff"
    os.link(tmp_path / "tree/bin/rwx", name)
    os.unlink(tmp_path / "tree/bin/rwx")
    paths = arrow_table(survey([str(tmp_path / "tree")], jobs=1).rows).column("path").to_pylist()
    assert any(path.endswith("lib/\\xff") for path in paths)


def test_an_address_is_a_clusters() -> None:
    """dask:// is the one scheme there is."""
    assert address_of("dask://there:8786") == "tcp://there:8786"
    for wrong in ("tcp://there:8786", "dask://", "there:8786"):
        with pytest.raises(ValueError, match="dask://"):
            address_of(wrong)


@pytest.mark.leaky("multiprocessing keeps a resource tracker for as long as this process lives")
@pytest.mark.filterwarnings("ignore")  # not ours: of the cluster's own shutdown
def test_a_cluster_loses_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers find what one process finds, though one of them is killed in the middle."""
    need("distributed")
    from distributed import LocalCluster

    monkeypatch.setattr("elfolio.survey.tree.BATCH", 4)
    many(tmp_path, 1200)
    alone = survey([str(tmp_path)], jobs=1)
    killed: list[tuple[int, int]] = []
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        url = cluster.scheduler_address.replace("tcp://", "dask://")
        pids = _pids(cluster)
        assert len(set(pids)) == 2

        def kill(done: int, total: int, _: int) -> None:
            if not killed and done >= total // 10:
                killed.append((done, total))
                os.kill(pids[0], signal.SIGKILL)

        found = survey([str(tmp_path)], cluster=url, progress=kill)
    ((done, total),) = killed
    assert done < total // 2
    assert found.rows == alone.rows
    assert (found.files, found.problems) == (1200, [])


def _pids(cluster: Any) -> list[int]:
    return [worker.process.pid for worker in cluster.workers.values()]


def test_no_cluster_there(tmp_path: Path) -> None:
    """An address where nobody listens is one line, and status 2."""
    need("distributed")
    plant(tmp_path / "tree")
    done = elfolio("survey", str(tmp_path / "tree"), "--on", "dask://127.0.0.1:9")
    assert (done.status, done.stdout) == (2, b"")
    assert b"dask://127.0.0.1:9" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.network
def test_with_all_extras(tmp_path: Path) -> None:
    """In an environment that has what the extras name, all these tests run, and none is skipped."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    tools = [name for name in project["dependency-groups"]["dev"] if name.startswith(("pytest", "hypothesis"))]
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted, *tools], check=True)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-m", "not slow", __file__],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert "skipped" not in done.stdout.splitlines()[-1]
