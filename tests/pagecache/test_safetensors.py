"""Headers of safetensors files: what the safetensors package takes is taken, what it refuses is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from elfolio.pagecache.formats.fault import FormatError
from elfolio.pagecache.formats.safetensors import LONGEST, Header, header_of, read_header
from tests.pagecache.safetensors_files import assembled, damaged, hostile, one, right

Outcome = dict[str, tuple[str, list[int], bytes]] | None
"""Tensors by name; None: refused."""

plenty = settings(
    max_examples=int(os.environ.get("ELFOLIO_EXAMPLES", "150")),
    deadline=None,
    derandomize="ELFOLIO_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)


def header(whole: bytes) -> Header:
    """As it is read from a file: through the file system, so that no byte behind the end can be had."""
    fd = os.memfd_create("tensors")
    try:
        os.pwrite(fd, whole, 0)
        return read_header(fd, "model.safetensors")
    finally:
        os.close(fd)


def ours(whole: bytes) -> Outcome:
    try:
        found = header(whole)
    except FormatError:
        return None
    for info in found.tensors:
        assert 0 < found.size <= info.span.start <= info.span.end <= len(whole)
    return {t.name: (t.dtype, list(t.shape), whole[t.span.start : t.span.end]) for t in found.tensors}


def theirs(whole: bytes) -> Outcome:
    package: Any = pytest.importorskip("safetensors", reason="needs the package; to force: pip install safetensors")
    try:
        found = package.deserialize(whole)
    except package.SafetensorError:
        return None
    return {name: (entry["dtype"], entry["shape"], bytes(entry["data"])) for name, entry in found}


@plenty
@given(whole=right())
def test_a_right_file_is_taken_as_the_package_takes_it(whole: bytes) -> None:
    """Every file that is in order has the same names, types, shapes and bytes here and there."""
    found = ours(whole)
    assert found is not None
    assert found == theirs(whole)


@plenty
@given(whole=damaged())
def test_a_damaged_file_is_taken_or_refused_as_by_the_package(whole: bytes) -> None:
    """Bytes changed, removed, inserted, cut off: the same tensors as the package's, or a refusal where it refuses."""
    assert ours(whole) == theirs(whole)


@plenty
@given(whole=hostile())
def test_a_hostile_header_is_taken_or_refused_as_by_the_package(whole: bytes) -> None:
    """JSON text made to be misread means the same here and there, or is refused here and there."""
    assert ours(whole) == theirs(whole)


_DEEP = "[" * 125 + "]" * 125
_A = '{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'
_Z = '{"dtype":"F32","shape":[0],"data_offsets":[%s]}'
TAKEN = {
    "nothing in it": assembled("{}"),
    "blanks around it": assembled("  {}  \n"),
    "a name twice: the last": assembled(f'{{"a":{{"dtype":"I8","shape":[3],"data_offsets":[0,2]}},"a":{_A}}}', b"ab"),
    "a field it does not know": assembled(one(more=',"x":1'), b"ab"),
    "fields as a list": assembled('{"a":["U8",[2],[0,2]]}', b"ab"),
    "a dtype as a variant": assembled(one(dtype='{"U8":null}'), b"ab"),
    "a scalar": assembled(one("[]", dtype='"I16"'), b"ab"),
    "4 bits": assembled(one("[4]", dtype='"F4"'), b"ab"),
    "6 bits": assembled(one("[4]", "[0,3]", '"F6_E3M2"'), b"abc"),
    "nothing of something vast": assembled(one("[0,18446744073709551615,2]", "[0,0]")),
    "empty before another": assembled(f'{{"a":{_A},"z":{_Z % "0,0"}}}', b"ab"),
    "empty behind another": assembled(f'{{"a":{_A},"z":{_Z % "2,2"}}}', b"ab"),
    "no metadata": assembled(f'{{"__metadata__":null,"a":{_A}}}', b"ab"),
    "no name": assembled(f'{{"":{_A}}}', b"ab"),
    "just deep enough": assembled(one(more=f',"x":{_DEEP}'), b"ab"),
    "the longest header": assembled(b"{}" + b" " * (LONGEST - 2)),
}
REFUSED = {
    "an empty file": b"",
    "seven bytes": bytes(7),
    "no header": bytes(8),
    "a header longer than the file": assembled("{}", length=3),
    "a header of 2^64 - 1 bytes": assembled("{}", length=(1 << 64) - 1),
    "a header of 2^64 - 8 bytes": assembled("{}", length=(1 << 64) - 8),
    "one byte more than the longest": assembled(b"{}" + b" " * (LONGEST - 1)),
    "a list": assembled("[]"),
    "a byte order mark": assembled("\ufeff{}"),
    "Latin-1": assembled(b'{"__metadata__":{"\xe9":"a"}}'),
    "data that no tensor has": assembled(one(), b"abc"),
    "too little data": assembled(one(), b"a"),
    "two tensors on the same bytes": assembled(f'{{"a":{_A},"b":{_A}}}', b"ab"),
    "a gap": assembled(one(offsets="[1,3]"), b"abc"),
    "backwards": assembled(one(offsets="[2,0]"), b"ab"),
    "empty inside another": assembled(f'{{"a":{_A},"z":{_Z % "1,1"}}}', b"ab"),
    "an overflow that wraps to 0": assembled(one("[4294967296,4294967296]", "[0,0]")),
    "an overflow before a 0": assembled(one("[18446744073709551615,2,0]", "[0,0]")),
    "an overflow of bits": assembled(one("[4611686018427387904]", "[0,0]")),
    "half a byte": assembled(one("[3]", dtype='"F4"'), b"ab"),
    "a size below 0": assembled(one("[-2]"), b"ab"),
    "minus 0": assembled(one("[-0]", "[0,0]")),
    "a size with a point": assembled(one("[2.0]"), b"ab"),
    "true": assembled(one("[true]", "[0,1]"), b"a"),
    "an unknown type": assembled(one(dtype='"U9"'), b"ab"),
    "a field twice": assembled(one(more=',"dtype":"U8"'), b"ab"),
    "metadata twice": assembled(f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{_A}}}', b"ab"),
    "metadata of numbers": assembled('{"__metadata__":{"a":1}}'),
    "half a surrogate pair": assembled(f'{{"\\ud800":{_A}}}', b"ab"),
    "NaN": assembled(one(more=',"x":NaN'), b"ab"),
    "a number without end": assembled(one(more=f',"x":{"9" * 5000}'), b"ab"),
    "too deep": assembled(one(more=f',"x":[{_DEEP}]'), b"ab"),
    "deeper than any stack": assembled("[" * 200_000),
}


@pytest.mark.parametrize("whole", TAKEN.values(), ids=TAKEN)
def test_what_looks_wrong_and_is_not_is_taken(whole: bytes) -> None:
    """The format's corners are read, not refused, and the package agrees."""
    found = ours(whole)
    assert found is not None
    assert found == theirs(whole)


@pytest.mark.parametrize("whole", REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused(whole: bytes) -> None:
    """A file that lies about itself is refused with one line that names it; the package agrees."""
    with pytest.raises(FormatError, match=r"^model\.safetensors: ") as raised:
        header(whole)
    assert "\n" not in str(raised.value)
    assert theirs(whole) is None


def test_tensors_come_in_the_files_order() -> None:
    """Tensors are in the order of their bytes, however the header orders them, and metadata is kept."""
    text = (
        '{"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},"__metadata__":{"format":"pt"},'
        '"a":{"dtype":"I16","shape":[1],"data_offsets":[0,2]}}'
    )
    found = header(assembled(text, b"abc"))
    assert [info.name for info in found.tensors] == ["a", "b"]
    assert found.metadata == {"format": "pt"}
    assert found.size == 8 + len(text)


def test_a_file_cut_off_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has become shorter than its header since it was measured is refused, not read on."""
    path, longer = tmp_path / "short", tmp_path / "long"
    path.write_bytes(assembled("{", length=2))
    longer.write_bytes(assembled("{}"))
    status = longer.stat()
    with path.open("rb") as file:
        monkeypatch.setattr(os, "fstat", lambda fd: status)
        with pytest.raises(FormatError, match="ends in its header"):
            read_header(file.fileno(), "short")


def test_the_header_alone_says_whether_the_size_is_right() -> None:
    """A header is refused for a file of any other size than the one it describes."""
    text = one().encode()
    assert header_of(text, 8 + len(text) + 2, "x").tensors[0].span.size == 2
    for size in (0, 8 + len(text), 8 + len(text) + 1, 8 + len(text) + 3, 1 << 70):
        with pytest.raises(FormatError):
            header_of(text, size, "x")
