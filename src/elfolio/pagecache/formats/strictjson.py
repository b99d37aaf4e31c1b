"""pagecache.formats.strictjson: JSON as the safetensors package reads it. In: text. Out: values, or ValueError.

The module json takes more than RFC 8259 allows (NaN, lone surrogates, any depth) and keeps the last of equal names
without a word. A file must not mean one thing here and another there. So: names stay as they stand, numbers that
64 bits do not hold become floats, and what serde_json refuses is refused.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

__all__ = ["Members", "parse", "whole_number"]

_DEEPEST = 127
"""serde_json 1.0: `remaining_depth` starts at 128 and must not reach 0."""
_DIGITS = 400
"""No finite 64-bit float has as many before the point."""
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1


class Members(tuple[tuple[str, Any], ...]):
    """An object: names and values as they stand, equal names too."""

    __slots__ = ()


def parse(text: str) -> Any:
    """Members for an object, a list for an array; str, int, float, bool, None. Raises ValueError, which says why."""
    try:
        value = json.loads(
            text, object_pairs_hook=Members, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    surrogates = "\\ud" in text or "\\uD" in text
    for depth, item in _items(value):
        if depth > _DEEPEST:
            raise ValueError(_TOO_DEEP)
        if surrogates and isinstance(item, str) and any("\ud800" <= letter <= "\udfff" for letter in item):
            raise ValueError("half a surrogate pair in a string")
    return value


_TOO_DEEP = f"nested deeper than {_DEEPEST}"


def whole_number(value: object) -> bool:
    """Whether it is an integer that 64 bits without a sign hold: serde's usize."""
    return type(value) is int and 0 <= value <= _MOST


def _integer(text: str) -> int | float:
    if len(text) > _DIGITS:
        raise ValueError("a number out of range")
    value = int(text)
    if text != "-0" and _LEAST <= value <= _MOST:
        return value
    return _float(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number out of range")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _items(value: object) -> Iterator[tuple[int, object]]:
    """Every string and container, with the number of containers that it is in, its own included. Without recursion:
    the depth is the file's."""
    pending = [(0, value)]
    while pending:
        depth, item = pending.pop()
        if isinstance(item, Members):
            yield depth + 1, None
            for name, below in item:
                yield depth, name
                pending.append((depth + 1, below))
        elif isinstance(item, list):
            yield depth + 1, None
            pending.extend((depth + 1, below) for below in item if type(below) is not int)
        elif isinstance(item, str):
            yield depth, item
