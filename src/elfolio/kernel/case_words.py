"""kernel.case_words: how test cases name numbers. In: words, numbers, expressions. Out: the ABI's numbers.

Flags stand without their prefix or with it, alone, in a list or joined by "|"; what has no word is a number.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from elfolio.kernel import abi
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.expressions import ExpressionError, evaluate

__all__ = ["REMARKS", "WORD", "error_name", "first", "flags", "number", "outcome", "protection", "unknown"]

WORD = (1 << 64) - 1
"""An argument of a system call has 64 bits."""
REMARKS = frozenset(("note", "notes", "comment", "why", "source"))
"""Keys that say something to a reader."""
_ALIASES = {"ANON": "ANONYMOUS", "FILE": "0", "HUGE_2MB": str(21 << 26)}
_PROTECTIONS = {"NONE": 0, "READ": 1, "WRITE": 2, "EXEC": 4, "GROWSDOWN": 1 << 24, "GROWSUP": 1 << 25}
_PRCTL = {"PR_MDWE_REFUSE_EXEC_GAIN": 1, "PR_MDWE_NO_INHERIT": 2, "PR_THP_DISABLE_EXCEPT_ADVISED": 2}


def unknown(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises Undecidable for a key that is neither known nor a remark: it would change what is meant."""
    more = set(given) - set(known) - REMARKS
    if more:
        raise Undecidable(f"no model of {', '.join(sorted(more))} of {given.get('op') or next(iter(given))}")


def first(given: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """What stands under the first of the keys that is there. Raises KeyError where none is."""
    for key in keys:
        if key in given:
            return given[key]
    raise KeyError(f"none of {', '.join(keys)}")


def outcome(result: int) -> str:
    """What a call says: OK, or the name of its errno."""
    return "OK" if result >= 0 else errno.errorcode.get(-result, str(result))


def error_name(wanted: object) -> str:
    """The same of what a call is to say: a name, a number, nothing for OK; for a signal, what a host says instead."""
    if wanted in (None, 0, "", "0", "OK"):
        return "OK"
    if wanted in ("SIGSEGV", "SIGBUS"):
        return "EFAULT"
    number = abs(wanted) if isinstance(wanted, int) else getattr(errno, str(wanted), None)
    return errno.errorcode.get(number, str(wanted)) if isinstance(number, int) else str(wanted)


def flags(words: Sequence[str | int] | str | int | None, prefix: str) -> int:
    """Those of one family, MAP_ say, or'ed. Raises Undecidable for a word that nobody knows."""
    found = 0
    for word in _split(words):
        if isinstance(word, int) or word[:1].isdigit():
            found |= evaluate(word, {})
            continue
        bare = word.removeprefix(prefix)
        bare = _ALIASES.get(bare, bare)
        if bare.isdigit():
            found |= int(bare)
        elif hasattr(abi, prefix + bare):
            found |= int(getattr(abi, prefix + bare))
        else:
            raise Undecidable(f"no model of {prefix}{bare}")
    return found


def protection(words: Sequence[str | int] | str | int | None) -> int:
    """PROT_: three letters as maps has them, or words."""
    if isinstance(words, str) and not set(words) - set("rwxps-"):
        return sum(bit for letter, bit in (("r", 1), ("w", 2), ("x", 4)) if letter in words)
    found = 0
    for word in _split(words):
        bare = word.removeprefix("PROT_") if isinstance(word, str) else word
        if bare in _PROTECTIONS:
            found |= _PROTECTIONS[str(bare)]
        elif isinstance(bare, int) or bare[:1].isdigit():
            found |= evaluate(bare, {})
        else:
            raise Undecidable(f"no model of PROT_{bare}")
    return found


def number(value: object, names: Mapping[str, int]) -> int:
    """An argument of prctl: an expression or one of its constants. Raises ExpressionError."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value in _PRCTL:
        return _PRCTL[value]
    if value is None:
        raise ExpressionError("null is no number")
    return evaluate(value, names)


def _split(words: Sequence[str | int] | str | int | None) -> Sequence[str | int]:
    if words is None:
        return ()
    if isinstance(words, str):
        return [word.strip() for word in words.split("|") if word.strip() not in ("", "0")]
    return (words,) if isinstance(words, int) else words
