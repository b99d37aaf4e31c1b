"""Safetensors files, right and wrong ones, for tests. In: hypothesis's choices. Out: bytes. Shares nothing with src."""

import json
import struct
from typing import Any

from hypothesis import strategies as st

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4}
SIZES |= {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}


def assembled(header: bytes | str, data: bytes = b"", length: int | None = None) -> bytes:
    """`length`: what the first eight bytes say, where it is not the header's own."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(shape: str = "[2]", offsets: str = "[0,2]", dtype: str = '"U8"', more: str = "") -> str:
    """The header of a file with the tensor `a`, from the JSON texts of its fields."""
    return f'{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}}}'


@st.composite
def right(draw: st.DrawFn, dtypes: tuple[str, ...] = tuple(SIZES)) -> bytes:
    """A file that is in order: any tensors, empty ones, scalars, any padding before the data, so any alignment."""
    header: dict[str, Any] = {}
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(), st.text(), max_size=3))
    names = draw(st.lists(st.text().filter(lambda name: name != "__metadata__"), max_size=5, unique=True))
    at = 0
    for name in names:
        dtype, shape = draw(st.sampled_from(dtypes)), draw(st.lists(st.integers(0, 4), max_size=4))
        size = SIZES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    pairs = draw(st.permutations(list(header.items())))
    text = json.dumps(dict(pairs), ensure_ascii=draw(st.booleans())).encode() + b" " * draw(st.integers(0, 9))
    seed = draw(st.integers(0, 255))
    return assembled(text, bytes((seed + 7 * position) % 256 for position in range(at)))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A right file with bytes changed, cut out, put in, or cut off."""
    whole = bytearray(draw(right()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(whole) - 1)))
        how = draw(st.sampled_from(("change", "remove", "insert", "cut", "append")))
        if how == "change" and whole:
            whole[at] = draw(st.one_of(st.integers(0, 255), st.sampled_from(list(b'{}[]:,"\\0123456789-.eE \n'))))
        elif how == "remove":
            del whole[at : at + draw(st.integers(1, 3))]
        elif how == "insert":
            whole[at:at] = draw(st.binary(min_size=1, max_size=3))
        elif how == "cut":
            del whole[at:]
        else:
            whole += draw(st.binary(min_size=1, max_size=3))
    return bytes(whole)


_NUMBERS = st.one_of(
    st.sampled_from(("0", "1", "2", "3", "4", "6", "8", "16", "-0", "-1", "2.0", "1e0", "02", "1e400", "0e999")),
    st.sampled_from(("18446744073709551615", "18446744073709551616")),
    st.integers(0, 24).map(str),
)
_WORDS = st.sampled_from(
    ('"U8"', '"F4"', '"F6_E2M3"', '"F32"', '"BOOL"', '"\\u00558"', '"u8"', '"F8_E4M3FNUZ"', '"\\ud800"', '"', "null")
)
_ATOMS = st.one_of(_NUMBERS, _WORDS, st.sampled_from(("true", "NaN", "-Infinity", "-", "[", "}", '"\\ud83d\\ude00"')))
_SIDES = st.lists(_NUMBERS, max_size=3).map(lambda items: f"[{','.join(items)}]")


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"


_ANY = st.recursive(
    _ATOMS,
    lambda below: st.one_of(
        st.lists(below, max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(st.sampled_from(("dtype", "shape", "x", "U8")), below), max_size=3).map(_object),
    ),
    max_leaves=6,
)
_DTYPES = st.one_of(_WORDS, st.sampled_from(('{"U8":null}', '{"U8":1}', '{"U8":null,"U8":null}', '["U8"]')))
_OFFSETS = st.one_of(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda pair: f"[{pair[0]},{pair[1]}]"), _SIDES, _ANY
)


@st.composite
def _entries(draw: st.DrawFn) -> str:
    """A tensor's entry in one of serde's spellings, its fields nearly right."""
    dtype = draw(_DTYPES)
    shape, offsets = draw(st.one_of(_SIDES, _ANY)), draw(_OFFSETS)
    if draw(st.integers(0, 9)) == 0:
        return f"[{dtype},{shape},{offsets}]"
    pairs = [("dtype", dtype), ("shape", shape), ("data_offsets", offsets)]
    if draw(st.integers(0, 4)) == 0:
        pairs.append((draw(st.sampled_from(("x", "dtype", "\\u0064type"))), draw(_ANY)))
    return _object(draw(st.permutations(pairs)))


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """JSON text that means to be misread: names twice, numbers at their limits, values of other kinds."""
    names = st.sampled_from(("a", "b", "\\u0061", "__metadata__", ""))
    pairs = draw(st.lists(st.tuples(names, st.one_of(_entries(), _entries(), _ANY)), max_size=3))
    data = draw(st.binary(max_size=8))
    return assembled(_object(pairs) + draw(st.sampled_from(("", "", " ", "\n", "\0", "\x0b", ","))), data)
