"""`elfolio load` of models: the header is checked first, what it holds is said, an index loads what it names."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.running import elfolio
from tests.pagecache.gguf_files import Writer
from tests.pagecache.safetensors_files import assembled, one


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two tensors of one type, one of another."""
    tensors = (("a", "F32", [2], 0, 8), ("b", "F32", [1], 8, 12), ("c", "U8", [3], 12, 15))
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        for name, dtype, shape, start, end in tensors
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(assembled(json.dumps(header), bytes(15)))
    return path


def test_what_a_model_holds_is_said(model: Path) -> None:
    """The line of the file, and one with the format, and the tensors by type; the object has the same."""
    done = elfolio("load", str(model))
    assert (done.status, done.stderr) == (0, b"")
    said = " ".join(done.stdout.decode().split())
    assert f"{model}: safetensors, 3 tensors, 15 B: 2 F32 (12 B), 1 U8 (3 B)" in said
    found = json.loads(elfolio("load", "--json", str(model)).stdout)
    assert [entry["path"] for entry in found["files"]] == [str(model)]
    (entry,) = found["models"]
    assert entry == {
        "path": str(model),
        "format": "safetensors",
        "files": [str(model)],
        "dtypes": {"F32": {"tensors": 2, "size": 12}, "U8": {"tensors": 1, "size": 3}},
        "tensors": 3,
        "size": 15,
    }


def test_an_index_loads_what_it_names(model: Path) -> None:
    """Every shard has its line; the tensors of all are said as those of the index."""
    shard = model.with_name("other.safetensors")
    shard.write_bytes(assembled(one().replace('"a"', '"z"'), b"ab"))
    index = model.with_name("model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"a": model.name, "z": shard.name}}))
    found = json.loads(elfolio("load", "--json", str(index)).stdout)
    assert [entry["path"] for entry in found["files"]] == [str(model), str(shard)]
    assert (found["models"][0]["path"], found["models"][0]["tensors"]) == (str(index), 4)
    said = " ".join(elfolio("load", str(index)).stdout.decode().split())
    assert "4 tensors in 2 files" in said


def test_other_json_is_a_file_like_others(tmp_path: Path) -> None:
    """Only *.index.json is taken for an index."""
    path = tmp_path / "data.json"
    path.write_text("{}")
    found = json.loads(elfolio("load", "--json", str(path)).stdout)
    assert (len(found["files"]), found["models"]) == (1, [])


BAD = {
    "cut": ("x.safetensors", assembled(one(), b"a"), "its tensors end at"),
    "no header": ("x.safetensors", b"", "ends in its header"),
    "no GGUF": ("x.gguf", b"GGML" * 9, "it does not begin with GGUF"),
    "no index": ("x.index.json", b"[]", "its index is no JSON object"),
    "a pointer": ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "a GGUF pointer": ("x.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
}


@pytest.mark.parametrize(("name", "content", "why"), BAD.values(), ids=BAD)
def test_a_wrong_model_is_one_line(tmp_path: Path, model: Path, name: str, content: bytes, why: str) -> None:
    """Status 2, one line with the file and the fault; it is not loaded, what comes after it is."""
    bad = tmp_path / name
    bad.write_bytes(content)
    done = elfolio("load", "--json", str(bad), str(model))
    assert (done.status, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.decode().startswith(f"elfolio load: {bad}: ")
    assert why in done.stderr.decode()
    found = json.loads(done.stdout)
    assert [entry["path"] for entry in found["files"]] == [str(model)]
    assert [entry["path"] for entry in found["problems"]] == [str(bad)]


@pytest.mark.parametrize("name", ["x.safetensors", "x.gguf", "x.index.json"])
def test_a_fifo_is_no_model(tmp_path: Path, name: str) -> None:
    """Nobody is waited for: one line, status 2."""
    os.mkfifo(tmp_path / name)
    done = elfolio("load", str(tmp_path / name))
    assert (done.status, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"elfolio load: {tmp_path / name}: not a regular file\n"


def test_a_gguf_file_is_said(tmp_path: Path) -> None:
    """Quantised tensors are counted by GGML's words for their types."""
    path = tmp_path / "model.gguf"
    writer = Writer()
    writer.add("a", [32], 2, bytes(18))
    path.write_bytes(writer.whole())
    said = " ".join(elfolio("load", str(path)).stdout.decode().split())
    assert f"{path}: GGUF, 1 tensor, 18 B: 1 Q4_0 (18 B)" in said
