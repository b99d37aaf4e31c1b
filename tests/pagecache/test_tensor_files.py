"""Files of tensors, opened: arrays equal to the safetensors and gguf packages', on demand, all at once, from shards."""

import json
import os
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elfolio.errors import InvalidArgument
from elfolio.pagecache.formats import part as part_module
from elfolio.pagecache.formats.fault import FormatError, NoSuchType
from elfolio.pagecache.formats.files import load_gguf, load_safetensors, open_gguf, open_safetensors
from elfolio.pagecache.formats.shards import read_index
from elfolio.pagecache.load import load
from tests.pagecache.gguf_files import Writer
from tests.pagecache.safetensors_files import assembled, damaged, hostile, one, right


def needed(name: str) -> Any:
    return pytest.importorskip(name, reason=f"needs the package; to force: pip install {name.partition('.')[0]}")


def simple(path: Path, tensors: dict[str, bytes]) -> Path:
    """A file of bytes (U8), in this order."""
    header, at = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    path.write_bytes(assembled(json.dumps(header), b"".join(tensors.values())))
    return path


def letters(length: int, seed: int) -> bytes:
    return bytes((seed + 31 * at) % 251 for at in range(length))


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor is loaded as a large one is."""
    monkeypatch.setattr(part_module, "_SMALL", 1)


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """An index of three shards, and the tensors in them."""
    tensors = {f"layer.{number}": letters(3000 + number, number) for number in range(9)}
    weight_map: dict[str, str] = {}
    for shard in range(3):
        names = [name for name in tensors if int(name[6:]) // 3 == shard]
        file = f"model-{shard + 1:05}-of-00003.safetensors"
        simple(tmp_path / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index, tensors


_NUMPY = ("BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "F64", "I64", "U64", "C64")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(whole=right(_NUMPY))
def test_arrays_equal_the_packages(whole: bytes, tmp_path: Path, mapped: None) -> None:
    """Every type of numpy's, any shape, any alignment: type, shape and bytes are those of safetensors.numpy."""
    package = needed("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole)
    found, expected = load_safetensors(path), package.load_file(path)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
        assert array.tobytes() == expected[name].tobytes()
        assert not array.flags.writeable


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(whole=right((*_NUMPY, "BF16", "F8_E4M3", "F8_E5M2")))
def test_torch_tensors_equal_the_packages(whole: bytes, tmp_path: Path, mapped: None) -> None:
    """With torch as the framework type, shape and bytes are those of safetensors.torch, aligned in the file or not."""
    torch, package = needed("torch"), needed("safetensors.torch")
    found, expected = load_safetensors(_written(tmp_path, whole), framework="torch"), package.load(whole)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        flat, other = (one.reshape(-1).view(torch.uint8) for one in (tensor, expected[name]))
        assert torch.equal(flat, other)


def _written(folder: Path, whole: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("dtype", "size", "type_name"),
    [("BF16", 2, "bfloat16"), ("F8_E4M3", 1, "float8_e4m3fn"), ("F8_E8M0", 1, "float8_e8m0fnu")],
)
def test_types_that_only_ml_dtypes_has_come_with_it(tmp_path: Path, dtype: str, size: int, type_name: str) -> None:
    """bfloat16 and 8-bit floats are arrays of ml_dtypes' types, with the file's bytes."""
    ml_dtypes = needed("ml_dtypes")
    data = bytes(range(60, 60 + 3 * size))
    whole = assembled(one("[3]", f"[0,{3 * size}]", f'"{dtype}"'), data)
    array = load_safetensors(_written(tmp_path, whole))["a"]
    assert array.dtype == getattr(ml_dtypes, type_name)
    assert array.tobytes() == data


def test_without_ml_dtypes_the_mend_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ml_dtypes is missing, bfloat16 is refused with what to install; its bytes are still there."""
    needed("numpy")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    files = open_safetensors(_written(tmp_path, assembled(one("[1]", dtype='"BF16"'), b"ab")))
    with pytest.raises(NoSuchType, match="pip install ml_dtypes"):
        files["a"].numpy()
    assert bytes(files["a"].data) == b"ab"


@pytest.mark.parametrize("padding", range(8))
def test_arrays_at_odd_offsets_are_right(tmp_path: Path, padding: int, mapped: None) -> None:
    """Numbers that stand at no multiple of their size are read right, as views."""
    numpy = needed("numpy")
    text = one("[1000]", "[0,8000]", '"F64"') + " " * padding
    values = [at / 7 for at in range(1000)]
    array = load_safetensors(_written(tmp_path, assembled(text, struct.pack("<1000d", *values))))["a"]
    assert array.tolist() == values
    assert array.sum() == numpy.array(values).sum()
    assert not array.flags.owndata


def test_packed_types_are_bytes(tmp_path: Path) -> None:
    """Of four- and six-bit types an array has the bytes, a row at a time; half a byte a row is refused."""
    needed("numpy")
    array = load_safetensors(_written(tmp_path, assembled(one("[2,4]", "[0,4]", '"F4"'), b"abcd")))["a"]
    assert (array.dtype, array.tolist()) == ("uint8", [[97, 98], [99, 100]])
    files = open_safetensors(_written(tmp_path, assembled(one("[2,3]", "[0,3]", '"F4"'), b"abc")))
    with pytest.raises(NoSuchType, match="no whole number of bytes"):
        files["a"].numpy()


def test_an_empty_array_of_a_vast_shape_is_refused(tmp_path: Path) -> None:
    """A shape whose other sides overflow numpy's sizes is refused with one line, not by an error of numpy's."""
    needed("numpy")
    shape = "[0,18446744073709551615,2]"
    with pytest.raises(NoSuchType, match="no array of the shape"):
        load_safetensors(_written(tmp_path, assembled(one(shape, "[0,0]"))))


def mapped_of(path: Path) -> list[tuple[int, int]]:
    """Where the mappings of a file begin and end in it."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if words[5:] == [str(path)]:
            start, end = (int(word, 16) for word in words[0].split("-"))
            found.append((int(words[2], 16), int(words[2], 16) + end - start))
    return found


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(whole=st.one_of(right(), damaged(), hostile()))
def test_nothing_is_mapped_beyond_the_file(whole: bytes, tmp_path: Path, mapped: None) -> None:
    """Whatever a header says, no page behind the file's last one is mapped, and no tensor has a byte that is not the
    file's: alone or with all others."""
    path = tmp_path.resolve() / "model.safetensors"
    path.write_bytes(whole)
    try:
        files = open_safetensors(path)
    except FormatError:
        assert mapped_of(path) == []
        return
    alone = dict(files)
    files.load()
    for name, tensor in files.items():
        span = files.info(name).span
        assert bytes(tensor.data) == bytes(alone[name].data) == whole[span.start : span.end]
    places = mapped_of(path)
    page = os.sysconf("SC_PAGE_SIZE")
    assert bool(places) is bool(files.size)
    assert all(end <= -(-len(whole) // page) * page for _, end in places)


def test_data_comes_on_demand(tmp_path: Path, mapped: None) -> None:
    """Opening loads nothing; one tensor is loaded alone; then all at once, of which tensors are views."""
    tensors = {"a": letters(5000, 1), "b": letters(70_000, 2), "c": b""}
    files = open_safetensors(simple(tmp_path / "m.safetensors", tensors))
    assert (list(files), len(files), files.reports) == (["a", "b", "c"], 3, ())
    assert files.info("b").shape == (70_000,)
    assert bytes(files["b"].data) == tensors["b"]
    assert [report.length for report in files.reports] == [70_000]
    files.load()
    files.load()
    assert {name: bytes(tensor.data) for name, tensor in files.items()} == tensors
    assert [report.length for report in files.reports] == [70_000, 75_000]
    with pytest.raises(KeyError):
        files["d"]


def test_what_was_handed_out_outlives_the_files(tmp_path: Path, mapped: None) -> None:
    """A view stays valid after the mapping of names to tensors is gone, and cannot be written to."""
    tensors = {"a": letters(9000, 1), "b": letters(9000, 2)}
    files = open_safetensors(simple(tmp_path / "m.safetensors", tensors))
    files.load()
    view = files["b"].data
    del files
    assert bytes(view) == tensors["b"]
    assert view.readonly


def test_shards_are_loaded_from_their_index(sharded: tuple[Path, dict[str, bytes]]) -> None:
    """An index's shards give all tensors by name, one at a time or several at once."""
    index, tensors = sharded
    for at_once in (1, 2, 16, None):
        files = open_safetensors(index)
        files.load(at_once=at_once)
        assert {name: bytes(tensor.data) for name, tensor in files.items()} == tensors


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("small", [1, 1 << 20])
def test_the_progress_of_all_files_is_one(
    sharded: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, at_once: int, small: int
) -> None:
    """The progress of several files rises from one to the next, up to the sum of all, small files or large ones; a
    second load tells the same end."""
    monkeypatch.setattr(part_module, "_SMALL", small)
    index, tensors = sharded
    told: list[tuple[int, int]] = []
    files = open_safetensors(index)
    total = sum(map(len, tensors.values()))
    assert files.size == total
    for _ in range(2):
        told.clear()
        files.load(at_once=at_once, progress=lambda done, total: told.append((done, total)))
        assert told == sorted(told)
        assert told[-1] == (total, total)


def test_a_failing_progress_ends_every_load(sharded: tuple[Path, dict[str, bytes]], mapped: None) -> None:
    """What the progress raises is raised, and no thread is left behind."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        open_safetensors(sharded[0]).load(at_once=3, progress=stop)
    assert threading.active_count() == before


def test_several_paths_are_one_mapping(tmp_path: Path) -> None:
    """A list of files is taken as shards are; a name in two of them is refused."""
    first = simple(tmp_path / "1.safetensors", {"a": b"aa"})
    second = simple(tmp_path / "2.safetensors", {"b": b"b"})
    files = open_safetensors([first, second])
    assert {name: bytes(tensor.data) for name, tensor in files.items()} == {"a": b"aa", "b": b"b"}
    with pytest.raises(FormatError, match=r"'a' is in .*1\.safetensors too"):
        open_safetensors([first, first])


BAD_INDEXES = {
    "no JSON": ("{", "no JSON"),
    "a list": ("[]", "no JSON object"),
    "no map": ('{"metadata":{}}', "needs an object weight_map"),
    "two maps": ('{"weight_map":{},"weight_map":{}}', "needs an object weight_map"),
    "a map that is none": ('{"weight_map":["a"]}', "needs an object weight_map"),
    "a tensor twice": ('{"weight_map":{"a":"x","a":"y"}}', "twice"),
    "a way out": ('{"weight_map":{"a":"../x.safetensors"}}', "no name of a file beside it"),
    "an absolute path": ('{"weight_map":{"a":"/etc/passwd"}}', "no name of a file beside it"),
    "the directory": ('{"weight_map":{"a":".."}}', "no name of a file beside it"),
    "no name": ('{"weight_map":{"a":""}}', "no name of a file beside it"),
    "a zero byte": ('{"weight_map":{"a":"x\\u0000"}}', "no name of a file beside it"),
    "a number": ('{"weight_map":{"a":1}}', "no name of a file beside it"),
}


@pytest.mark.parametrize(("text", "why"), BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_a_wrong_index_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """An index that is none, or that leads out of its directory, is refused with one line before a shard is opened."""
    path = tmp_path / "index.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=why):
        read_index(str(path))


def test_a_shard_without_its_tensor_is_refused(sharded: tuple[Path, dict[str, bytes]]) -> None:
    """An index that puts a tensor into the wrong shard is refused, and the error names the shard and the tensor."""
    index, _ = sharded
    index.write_text(index.read_text().replace('"layer.8"', '"layer.9"'))
    with pytest.raises(FormatError, match=r"00003-of-00003.*layer\.9"):
        open_safetensors(index)


def test_a_missing_shard_is_the_systems_error(sharded: tuple[Path, dict[str, bytes]]) -> None:
    """A shard that is not there gives FileNotFoundError with its path."""
    index, _ = sharded
    missing = index.with_name("model-00002-of-00003.safetensors")
    missing.unlink()
    with pytest.raises(FileNotFoundError) as raised:
        open_safetensors(index)
    assert raised.value.filename == str(missing)


CHANGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: os.truncate(path, 60),
    "grown": lambda path: os.truncate(path, 20_000),
    "replaced": lambda path: simple(path.with_name("new"), {"b": letters(9000, 2)}).replace(path),
    "rewritten": lambda path: os.utime(path, ns=(1, 1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_file_changed_since_it_was_opened_is_refused(
    tmp_path: Path, change: Callable[[Path], object], whole: bool
) -> None:
    """A header is never applied to another file's bytes: changed, replaced or cut short, it is refused."""
    path = simple(tmp_path / "m.safetensors", {"a": letters(9000, 1)})
    files = open_safetensors(path)
    change(path)
    with pytest.raises(FormatError, match="has changed since"):
        files.load() if whole else files["a"]


def test_a_file_cut_short_in_the_middle_of_a_load_is_refused(
    tmp_path: Path, mapped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that becomes shorter between the check and the load is refused as changed, not as a wrong argument."""
    path = simple(tmp_path / "m.safetensors", {"a": letters(9000, 1)})
    files = open_safetensors(path)

    def late(*args: Any, **keywords: Any) -> Any:
        os.truncate(path, 60)
        return load(*args, **keywords)

    monkeypatch.setattr(part_module, "load", late)
    with pytest.raises(FormatError, match="has changed since"):
        files.load()


def test_an_unknown_strategy_stays_what_it_is(tmp_path: Path, mapped: None) -> None:
    """An error of the load that has another reason than a changed file is passed on."""
    path = simple(tmp_path / "m.safetensors", {"a": letters(9000, 1)})
    with pytest.raises(InvalidArgument, match="no strategy"):
        open_safetensors(path, strategy="best").load()


def test_bfloat16_of_the_other_byte_order_is_right(tmp_path: Path) -> None:
    """A big-endian GGUF file's bfloat16 has its numbers, in numpy with ml_dtypes and in torch."""
    needed("ml_dtypes")
    writer = Writer(">")
    writer.add("a", (2,), 30, bytes((0x3F, 0x80, 0xC0, 0x40)))
    path = tmp_path / "model.gguf"
    path.write_bytes(writer.whole())
    assert load_gguf(path)["a"].astype("f4").tolist() == [1, -3]
    needed("torch")
    assert load_gguf(path, framework="torch")["a"].tolist() == [1, -3]


def test_an_unknown_framework_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """A framework that is neither numpy nor torch is InvalidArgument."""
    path = simple(tmp_path / "m.safetensors", {"a": b"a"})
    with pytest.raises(InvalidArgument, match="numpy and torch"):
        load_safetensors(path, framework="jax")


@pytest.mark.parametrize("order", ["<", ">"])
def test_gguf_arrays_equal_the_packages(tmp_path: Path, order: str, mapped: None) -> None:
    """Numbers in either byte order, and quantised rows as bytes, are those that the gguf package gives."""
    numpy, gguf = needed("numpy"), needed("gguf")
    writer = Writer(order)
    writer.put("general.name", 8, "small")
    writer.add("f32", (3, 2), 0, b"".join(writer.number("f", value / 3) for value in range(6)))
    writer.add("i64", (2,), 27, b"".join(writer.number("q", value) for value in (-5, 1 << 40)))
    writer.add("q4_0", (64, 3), 2, bytes(range(108)))
    writer.add("q4_k", (512, 2), 12, bytes(at % 251 for at in range(576)))
    path = tmp_path / "model.gguf"
    path.write_bytes(writer.whole())
    found = load_gguf(path)
    for theirs in gguf.GGUFReader(path).tensors:
        ours = found.pop(theirs.name)
        assert ours.shape == theirs.data.shape
        assert numpy.array_equal(ours, theirs.data)
    assert not found
    files = open_gguf(path)
    assert files.metadata == {"general.name": "small"}
    assert (files.info("q4_k").dtype, files.info("q4_k").shape) == ("Q4_K", (2, 512))


@pytest.mark.parametrize("order", ["<", ">"])
def test_gguf_in_torch_has_the_same_numbers(tmp_path: Path, order: str) -> None:
    """torch's tensors are in this machine's byte order whatever the file's is; quantised ones are bytes."""
    needed("torch")
    writer = Writer(order)
    writer.add("f32", (3, 2), 0, b"".join(writer.number("f", value / 4) for value in range(6)))
    writer.add("q4_0", (32, 2), 2, bytes(range(36)))
    path = tmp_path / "model.gguf"
    path.write_bytes(writer.whole())
    found = load_gguf(path, framework="torch")
    assert found["f32"].tolist() == [[0, 0.25, 0.5], [0.75, 1, 1.25]]
    assert found["q4_0"].shape == (2, 18)
    assert bytes(found["q4_0"].reshape(-1).tolist()) == bytes(range(36))
