"""kernel.trace_record: what elfolio's own recorder writes. In: its lines, JSON. Out: events; problems go to the Log.

One object a line. The first has `"elfolio": "record"`, `"version": 1`, and the facts of the trace. Then
`{"p": pid, "c": name, "a": [...], "r": result}` for a call, a negative result being an errno, with
`"f": [path, major, minor, inode, opening, size, f_type of statfs, access mode, S_IFMT of its mode]` where it maps a
file; `{"p", "t": [[start, end], ...]}` for memory first written; `{"p", "x": path, "b": start_brk, "v": [...]}` for an
image that was executed, with `"foreign": 1` where its calls are another architecture's and not recorded;
`{"p", "e": status, "v": [...]}` for an end. A VMA is
`[start, end, "rw-p", offset, major, minor, inode, name, "rd wr ...", KiB of anonymous pages]`. Lines with
`"facts"`, the second and the last, say which faults are sampled (`all`, those of `user` code, `none`) and how many were
lost.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from elfolio.errors import InvalidArgument
from elfolio.kernel.adopting import known_file
from elfolio.kernel.mappable import Mappable
from elfolio.kernel.space import OpenFile, Vma, VmFlags
from elfolio.kernel.trace import FORKS, Call, Ended, Event, Image, Log, Touched
from elfolio.kernel.trace_shapes import SHAPES
from elfolio.kernel.vmflags import MNEMONICS
from elfolio.span import FileOffset, MappedAddress

__all__ = ["VERSION", "looks_like_record", "read_record"]

VERSION = 1
_REGULAR = 0o100000
_LEAST = {
    **{name: sum(not kind.endswith("?") and kind != "-" for kind in shape) for name, shape in SHAPES.items()},
    **dict.fromkeys(FORKS, 1),
    **{"prctl": 1, "execve": 0, "UFFDIO_REGISTER": 4, "UFFDIO_UNREGISTER": 3},
}
"""How many numbers a call must have."""
_MAGIC = {0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs", 0x958458F6: "hugetlbfs",
          0x794C7630: "overlay", 0xF2F52010: "f2fs", 0x6969: "nfs", 0x73717368: "squashfs", 0x65735546: "fuse",
          0x01021997: "9p", 0xE0F5E1E2: "erofs", 0x858458F6: "ramfs", 0x4D44: "vfat", 0x2011BAB0: "exfat"}  # fmt: skip
"""f_type of statfs(2) -> the file system's name (include/uapi/linux/magic.h)."""


def looks_like_record(line: str) -> bool:
    """Whether a line is the first of a record."""
    return line.startswith('{"elfolio":"record"') or line.startswith('{"elfolio": "record"')


def read_record(lines: Iterable[str], log: Log) -> Iterator[Event]:
    """The events of a record, in the order in which the kernel did them. Raises InvalidArgument for one of another
    version."""
    decode = json.JSONDecoder().raw_decode
    for line in lines:
        log.lines += 1
        try:
            value, _ = decode(line)
            if log.lines == 1:
                _first(value, log)
            elif "facts" in value:
                log.facts.update(value)
            else:
                yield _event(value, log)
        except json.JSONDecodeError as error:
            log.note(log.lines, error.pos, f"no JSON: {error.msg}")
        except InvalidArgument:
            raise
        except RecursionError:
            log.note(log.lines, 0, "no JSON: nested too deeply")
        except KeyError as error:
            log.note(log.lines, 0, f"no event of a record: it has no {error}")
        except (TypeError, ValueError, IndexError) as error:
            log.note(log.lines, 0, f"no event of a record: {error}")


def _first(value: Any, log: Log) -> None:
    if not isinstance(value, dict) or value.get("elfolio") != "record":
        raise ValueError("not the first line of a record")
    if value.get("version") != VERSION:
        raise InvalidArgument(f"a record of version {value.get('version')!r}; this elfolio reads version {VERSION}")
    log.facts.update(value)


def _event(value: dict[str, Any], log: Log) -> Event:
    line = log.lines
    pid = _number(value["p"])
    if "c" in value:
        return _call(pid, value, line)
    if "t" in value:
        return Touched(pid, tuple(_range(start, end) for start, end in value["t"]), line)
    if "x" in value:
        rows = value["v"]
        log.foreign += "foreign" in value
        written = tuple(row[0] for row in rows if row[9])
        return Image(pid, _text(value["x"]), _vmas(rows, log), _number(value["b"]), line, written)
    _number(value["e"])
    return Ended(pid, line, _vmas(value["v"], log) if value.get("v") else None)


def _call(pid: int, value: dict[str, Any], line: int) -> Call:
    args, name = tuple(value["a"]), _text(value["c"])
    numbers = args[: _LEAST.get(name, 0)]
    if len(numbers) < _LEAST.get(name, 0):
        raise ValueError(f"{name} with {len(args)} arguments")
    for argument in numbers:
        _number(argument)
    for argument in args[len(numbers) :]:
        if type(argument) is not int and type(argument) is not str:
            raise TypeError(f"{argument!r} is no argument")
    file: Mappable | None = None
    if "f" in value:
        file = _file(*value["f"])
    result = None if value["r"] is None else _number(value["r"])
    if result is not None and -4096 < result < 0:
        return Call(pid, name, args, -1, -result, line, file)
    return Call(pid, name, args, result, 0, line, file)


def _file(
    path: str, major: int, minor: int, inode: int, opening: int, _size: int, magic: int, access: int, mode: int
) -> Mappable:
    for number in (major, minor, inode, opening, magic, access, mode):
        _number(number)
    known = known_file(OpenFile(_text(path), inode, major, minor, opening))
    known = replace(known, readable=access != 1, writable=access != 0)
    if known.kind != "regular":
        return known
    fs = _MAGIC.get(magic, f"{magic:#x}")
    kind = "shmem" if fs == "tmpfs" else "hugetlb" if fs == "hugetlbfs" else "regular" if mode == _REGULAR else "device"
    return replace(known, kind=kind, fs=fs)


def _number(value: object) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 64:
        raise TypeError(f"{value!r} is no number")
    return value


def _range(start: object, end: object) -> tuple[int, int]:
    low, high = _number(start), _number(end)
    if not 0 <= low < high:
        raise ValueError(f"{low:#x}-{high:#x} is no range")
    return low, high


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} is no text")
    return value


_PERMS = {"r": VmFlags.READ, "w": VmFlags.WRITE, "x": VmFlags.EXEC, "s": VmFlags.MAYSHARE}
_FLAGS: dict[str, VmFlags] = {}
"""Few combinations make up all of a record."""


def _vmas(rows: list[list[Any]], log: Log) -> tuple[Vma, ...]:
    page = log.facts.get("page", 4096)
    if not isinstance(page, int) or page <= 0:
        raise ValueError(f"pages of {page} bytes")
    vmas = tuple(_vma(row, page) for row in rows)
    for lower, upper in pairwise(vmas):
        if lower.end > upper.start:
            raise ValueError(f"{upper.start:#x} is mapped twice, or out of order")
    return vmas


def _vma(row: list[Any], page: int) -> Vma:
    start, end, perms, offset, major, minor, inode, name, words, _ = row
    if not 0 <= _number(start) < _number(end) or start % page or end % page:
        raise ValueError(f"{start:#x}-{end:#x} is no range of pages")
    flags = _FLAGS.get(perms + words)
    if flags is None:
        flags = VmFlags(sum(bit for letter, bit in _PERMS.items() if letter in perms))
        for word in words.split():
            flags |= MNEMONICS.get(word, VmFlags(0))
        _FLAGS[perms + words] = flags
    file = OpenFile(name, _number(inode), _number(major), _number(minor)) if inode else None
    return Vma(
        MappedAddress(start),
        MappedAddress(end),
        flags,
        file,
        FileOffset(_number(offset)),
        _text(name),
        anon_pgoff=0 if file else start // page,
    )
