"""kernel.trace_words: the arguments of one call in strace's writing. In: a line, a position. Out: Words, or Unreadable.

strace writes strings in quotes, structures in braces, and what it adds in angle brackets or as a comment. Its escapes
keep quotes and brackets inside of names from being mistaken for its own.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from elfolio.kernel.adopting import known_file
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.space import OpenFile
from elfolio.kernel.trace import FORKS, Unreadable
from elfolio.kernel.trace_shapes import ERRNOS, FLAGS, SHAPES, number_of

__all__ = ["Words", "read_call", "split_words", "unescaped"]

_CLONE_VM, _CLONE_VFORK, _SIGCHLD = 0x100, 0x4000, 17
_OPENERS, _CLOSERS = "([{", ")]}"
_RESULT = re.compile(
    r" *= (0x[0-9a-f]{1,16}|-?[1-9]\d{0,18}|0|\?)(?!\w)(<[^>]*>(?:\(deleted\))?)?(?: ([A-Z][A-Z0-9_]*))?"
)
_TOKEN = re.compile(
    r'"(?:[^"\\]++|\\.)*+"(?:\.\.\.)?|<(?:[^<>"-]++|<[^<>]*+>|->?)*>|/\*.*?\*/|[()\[\]{},]|=>|[^"<(\[{)\]},/=]++|.'
)
_FD = re.compile(r"(-?\d{1,10}|0x[0-9a-f]{1,8}|AT_FDCWD)(?:<(.*)>(\(deleted\))?)?$")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)")
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f"}


class Words(NamedTuple):
    """A call as it was read; `name` is empty where it has nothing to do with memory."""

    name: str
    args: tuple[int | str, ...]
    result: int | None
    errno: int
    file: Mappable | None


@lru_cache(4096)
def _value(word: str, kind: str) -> int | None:
    """None where the word is none of its kind. Few words make up most of a trace."""
    if kind in FLAGS:
        try:
            return number_of(word, kind)
        except KeyError:
            return None
    if word == "NULL":
        return 0
    if kind == "fd":
        found = _FD.match(word)
        return None if found is None or found[1] == "AT_FDCWD" else _descriptor_of(int(found[1], 0))
    return _integer(word)


def _descriptor_of(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number  # -e raw shows the int in a register


def _integer(word: str) -> int | None:
    try:
        value = int(word, 8 if len(word) > 1 and word[0] == "0" and word.isdigit() else 0)
    except ValueError:
        return None
    return value if -(1 << 63) <= value < 1 << 64 else None


def split_words(text: str, shape: tuple[str, ...], at: int) -> tuple[int | str, ...]:
    """The numbers of plain arguments. `at` is the column of the first, for Unreadable."""
    words = text.split(", ") if text else []
    count = len(words)
    if count != len(shape) and not (shape and count < len(shape) and shape[count].endswith("?")):
        raise Unreadable(at, f"{count} arguments, not {len(shape)}")
    values: list[int | str] = []
    column = at
    for word, kind in zip(words, shape, strict=False):
        value = _value(word, kind) if len(word) < 9 or kind.isupper() else _integer(word)
        if value is None:
            raise Unreadable(column, f"{word!r} is no {_kind(kind)}")
        values.append(value)
        column += len(word) + 2
    return tuple(values)


def _kind(kind: str) -> str:
    return f"flag of {kind}_*" if kind.isupper() else "number"


def read_call(name: str, text: str, at: int, *, by_number: bool = False) -> Words:
    """The call whose first argument stands at `at`. One that strace knew by its number only is shown with all six
    registers. Raises Unreadable."""
    words, end = _arguments(text, at)
    if by_number:
        del words[len(SHAPES.get(name, ())) :]
    result, number, described = _result(text, end)
    if name in SHAPES:
        return _memory(name, words, result, number, described)
    if name in FORKS:
        return Words(name, (_clone_flags(name, words),), result, number, None)
    if name == "prctl":
        return _prctl(words, result, number)
    if name == "ioctl":
        return _ioctl(words, result, number)
    if name in ("execve", "execveat"):
        path = next((word for _, word in words[:2] if word.startswith('"')), "")
        return Words("execve", (unescaped(path) if path else "",), result, number, None)
    return _descriptor(name, words, result, number, described)


Placed = tuple[int, str]
"""A word and its column."""


def _arguments(text: str, at: int) -> tuple[list[Placed], int]:
    """Words at the top level, and where the closing parenthesis ends."""
    words: list[Placed] = []
    depth, begin = 0, at
    for token in _TOKEN.finditer(text, at):
        sign = token[0]
        if sign in _OPENERS:
            depth += 1
        elif sign in _CLOSERS:
            if depth == 0:
                if sign != ")":
                    raise Unreadable(token.start(), f"{sign!r} closes nothing")
                _add(words, text, begin, token.start())
                return words, token.end()
            depth -= 1
        elif sign == "," and depth == 0:
            _add(words, text, begin, token.start())
            begin = token.end()
    raise Unreadable(len(text), "the line ends within the arguments")


def _add(words: list[Placed], text: str, begin: int, end: int) -> None:
    word = text[begin:end]
    left = len(word) - len(word.lstrip())
    if word.strip():
        words.append((begin + left, word.strip()))


def _result(text: str, at: int) -> tuple[int | None, int, str]:
    """Result, errno, and what -y says of a new descriptor."""
    found = _RESULT.match(text, at)
    if found is None:
        raise Unreadable(at, "no result")
    if found[1] == "?":
        return None, 0, ""
    value = int(found[1], 0)
    if value != -1:
        return value, 0, found[2] or ""
    name = found[3] or ""
    if name.startswith("ERRNO_"):
        return -1, _integer(name.removeprefix("ERRNO_")) or 0, ""
    if name not in ERRNOS:
        raise Unreadable(found.start(3) if name else found.end(), f"{name!r} is no errno")
    return -1, ERRNOS[name], ""


def _memory(name: str, words: list[Placed], result: int | None, number: int, described: str) -> Words:
    shape = SHAPES[name]
    if len(words) < len(shape) - shape.count("address?") or len(words) > len(shape):
        raise Unreadable(words[0][0] if words else 0, f"{len(words)} arguments, not {len(shape)}")
    values: list[int | str] = []
    file = None
    for (column, word), kind in zip(words, shape, strict=False):
        if kind == "-":
            continue
        value = _value(word, kind)
        if value is None:
            raise Unreadable(column, f"{word!r} is no {_kind(kind)}")
        values.append(value)
        if kind == "fd":
            file = _file(word)
    return Words(name, tuple(values), result, number, file)


def _file(word: str) -> Mappable | None:
    """What -y shows of a descriptor: 3</usr/lib/libc.so.6>, with -yy perhaps a device: 3</dev/x<char 1:5>>."""
    found = _FD.match(word)
    if found is None or found[2] is None:
        return None
    path = unescaped(f'"{found[2].partition("<")[0]}"')
    return known_file(OpenFile(path + " (deleted)" if found[3] else path))


def _clone_flags(name: str, words: list[Placed]) -> int:
    if name == "fork":
        return _SIGCHLD
    if name == "vfork":
        return _CLONE_VM | _CLONE_VFORK | _SIGCHLD
    for column, word in words:
        inner = re.search(r"flags=([^,}]*)", word)
        if inner is not None:
            flags = _value(inner[1].strip(), "CLONE")
            if flags is None:
                raise Unreadable(column + inner.start(1), f"{inner[1]!r} are no flags of clone")
            # clone3 has the signal in a field of its own.
            signal = re.search(r"exit_signal=(\w+)", word)
            return flags | ((_value(signal[1], "CLONE") or 0) if signal else 0)
    flags = _value(words[0][1], "CLONE") if words and name == "clone" else None
    if flags is None:
        raise Unreadable(words[0][0] if words else 0, "no flags")
    return flags


def _prctl(words: list[Placed], result: int | None, number: int) -> Words:
    if not words:
        raise Unreadable(0, "no option")
    option = _value(words[0][1].partition(" /*")[0], "PR")
    if option is None or option not in FLAGS["PR"].values() or option == 0:
        return Words("", (), None, 0, None)
    values: list[int | str] = [option]
    for column, word in words[1:]:
        value: int | str | None = unescaped(word) if word.startswith('"') else _value(word, "PR")
        if value is None:
            value = _value(word, "number")
        if value is None:
            raise Unreadable(column, f"{word!r} is no number")
        values.append(value)
    return Words("prctl", tuple(values), result, number, None)


_RANGE = re.compile(r"start=(NULL|0x[0-9a-f]{1,16}|0), len=(0x[0-9a-f]{1,16}|[1-9]\d{0,18}|0)")


_UFFD = {"0xc020aa00": "UFFDIO_REGISTER", "0x8010aa01": "UFFDIO_UNREGISTER"}
"""As -X raw and -X verbose write them."""


def _ioctl(words: list[Placed], result: int | None, number: int) -> Words:
    command = words[1][1] if len(words) > 1 else ""
    command = _UFFD.get(command.partition(" /*")[0], command)
    if command not in ("UFFDIO_REGISTER", "UFFDIO_UNREGISTER"):
        return Words("", (), None, 0, None)
    column, word = words[-1]
    range_ = _RANGE.search(word)
    mode = re.search(r"mode=([^,}]*)", word)
    bits = _value(mode[1].strip(), "UFFD") if mode else 0
    fd = _value(words[0][1], "fd")
    if range_ is None or bits is None or fd is None:
        raise Unreadable(column, f"{command}: neither range nor mode")
    start = 0 if range_[1] == "NULL" else int(range_[1], 0)
    return Words(command, (fd, start, int(range_[2], 0), bits), result, number, None)


_DUPS = ("F_DUPFD", "0x406", "1030")
"""F_DUPFD and F_DUPFD_CLOEXEC; raw, the first is 0, which begins other commands' arguments too."""


def _descriptor(name: str, words: list[Placed], result: int | None, number: int, described: str) -> Words:
    """open, dup, close: the descriptor that they are given, or 0, and the one that they give."""
    if number or result is None:
        return Words("", (), None, 0, None)
    first = _value(words[0][1], "fd") if words else None
    if name == "fcntl":
        if len(words) < 2 or not words[1][1].startswith(_DUPS):
            return Words("", (), None, 0, None)
        name = "dup"
    path = next((unescaped(word) for _, word in words if word.startswith('"')), "")
    file = _file(f"0{described}") if described else known_file(OpenFile(path)) if path else None
    return Words(name, (first if first is not None else -1,), result, 0, file)


def unescaped(word: str) -> str:
    """The text of a string in quotes; what strace cut short (`"..."...`) ends in an ellipsis."""
    cut = word.endswith("...")
    inner = word.removesuffix("...")[1:-1]
    if "\\" in inner:
        inner = _ESCAPE.sub(_letter, inner).encode("latin-1", "ignore").decode("utf-8", "surrogateescape")
    return inner + ("..." if cut else "")


def _letter(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] == "x" and len(code) == 3:
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code.isdigit() else _LETTERS.get(code, code)
