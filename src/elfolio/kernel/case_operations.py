"""kernel.case_operations: what a test case does. In: a case at work, an operation as data. Out: what the call returned.

The operations of kernel.cases by their words; most are a system call each, some are what the kernel's tests do around
them, such as looking for a free range.
"""

from collections.abc import Callable, Mapping
from errno import errorcode
from typing import TYPE_CHECKING, Any

from elfolio.kernel import abi, calls
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.case_words import WORD, first, flags, number, protection, unknown

if TYPE_CHECKING:
    from elfolio.kernel.cases import Run

__all__ = ["operate"]

_UFFD_MODES = {"MISSING": 1, "WP": 2, "MINOR": 4}
_COMMON = ("op", "as", "expect_errno", "expect_ret", "expect_fault", "expect_signal", "measure_pagetables")


def operate(at: "Run", op: Mapping[str, Any]) -> int:
    """One operation. Raises Undecidable for one that is not known, or says more than is known here."""
    word = op["op"]
    if word not in _OPS:
        raise Undecidable(f"no model of the operation {word}")
    how, keys = _OPS[word]
    unknown(op, (*_COMMON, *keys))
    return how(at, op)


def _mmap(at: "Run", op: Mapping[str, Any], address: int | None = None) -> int:
    if address is None:
        address = 0 if op.get("addr") is None else at.value(op["addr"])
    file = None if op.get("fd") in (None, -1, "-1") else at.files[op["fd"]]
    offset = at.value(op.get("off", 0))
    length, prot, how = at.value(op["len"]), protection(op["prot"]), flags(op["flags"], "MAP_")
    return at.apply(calls.Mmap(address, length, prot, how, file, offset))


def _mmap_aligned(at: "Run", op: Mapping[str, Any]) -> int:
    """The lowest free address from 40 MiB on that is a multiple of the alignment, and not of twice as much."""
    align = at.value(op["align"])
    address = -(-(65536 + (40 << 20)) // align) * align
    for _ in range(1 << 16):
        if address % (2 * align):
            result = _mmap(at, op, address)
            if errorcode.get(-result) != "EEXIST":
                return result
        address += align
    raise Undecidable("nothing is free for the case's first mapping")


def _pick_dest(at: "Run", op: Mapping[str, Any]) -> int:
    align, overlap = at.value(op["align"]), bool(op.get("overlap"))
    address = (at.value(op["after"]) + (-align if overlap else align)) // align * align + at.value(
        op.get("preamble", 0)
    )
    if not address % (2 * align):
        address += align
    while not overlap and at.host.space().at(address) is not None:
        address += align
    return address


def _find_free(at: "Run", op: Mapping[str, Any]) -> int:
    length = at.value(op["len"])
    address = at.apply(calls.Mmap(0, length, 0, abi.MAP_PRIVATE | abi.MAP_ANONYMOUS))
    if address > 0:
        at.apply(calls.Munmap(address, length))
    return address


def _write(at: "Run", op: Mapping[str, Any]) -> int:
    start, length = at.value(op["addr"]), at.value(op["len"])
    if "pattern" in op:
        return at.host.fill(
            start & WORD, length & WORD, at.value(op["pattern"]) + at.value(op.get("pattern_off", 0)) // at.page, 1
        )
    if "byte" in op:
        return at.host.fill(start & WORD, length & WORD, at.value(op["byte"]), 0)
    return at.apply(calls.Touch(start, length, True))


def _file(at: "Run", op: Mapping[str, Any]) -> int:
    length = at.value(op["len"])
    if length < 0:
        raise ValueError(f"a file of {length} bytes")
    at.files[op["as"]] = at.host.file(op["as"], length, memory=op["op"] == "memfd")
    return 0


def _dup(at: "Run", op: Mapping[str, Any]) -> int:
    at.files[op["as"]] = at.files[_of(op)]
    return 0


def _reopen(at: "Run", op: Mapping[str, Any]) -> int:
    """The same inode once more: another struct file."""
    at.files[op["as"]] = at.host.reopen(at.files[_of(op)])
    return 0


def _of(op: Mapping[str, Any]) -> str:
    return str(first(op, ("of", "fd", "path", "file")))


def _close(at: "Run", op: Mapping[str, Any]) -> int:
    """A file stays while it is mapped; what a userfaultfd watched is free again."""
    name = op["fd"] if "fd" in op else op["of"]
    if name in at.files:
        del at.files[name]
        return 0
    return at.apply(calls.UffdClose(at.uffds[name]))


def _brk(at: "Run", op: Mapping[str, Any]) -> int:
    if "addr" in op:
        return at.apply(calls.Brk(at.value(op["addr"])))
    if "first brk" not in at.names:
        at.names["first brk"] = at.apply(calls.Brk(0))
    return at.apply(calls.Brk(at.names["first brk"] + at.value(op["delta"])))


def _fork(at: "Run", _op: Mapping[str, Any]) -> int:
    at.host.fork()
    return 0


def _fork_parent(at: "Run", _op: Mapping[str, Any]) -> int:
    at.host.fork_aside()
    return 0


def _exec(at: "Run", _op: Mapping[str, Any]) -> int:
    at.host.exec()
    return 0


def _prctl(at: "Run", op: Mapping[str, Any]) -> int:
    option, given = op["option"], list(op.get("args", ()))
    if str(option).startswith("PR_SET_VMA"):
        return _name_vma(at, op, given)
    known = {getattr(abi, name) for name in abi.__all__ if name.startswith("PR_")}
    which = getattr(abi, option, None) if isinstance(option, str) else option
    if which is None or which not in known:
        raise Undecidable(f"no model of prctl's option {option}")
    return at.apply(calls.Prctl(which, *(number(value, at.names) for value in given[:4])))


def _name_vma(at: "Run", op: Mapping[str, Any], given: list[Any]) -> int:
    """PR_SET_VMA's one option may stand before the range; the name behind it, or apart."""
    if given and given[0] in ("PR_SET_VMA_ANON_NAME", 0, "0"):
        del given[0]
    where = given[:2] if "addr" not in op else [op["addr"], op["len"]]
    behind = given[2:] if "addr" not in op else given
    name = op["name"] if "name" in op else behind[0] if behind else None
    address, length = (at.value(value) for value in where)
    return at.apply(calls.NameVma(address, length, None if name in (None, 0, "0") else str(name)))


def _madvise(at: "Run", op: Mapping[str, Any]) -> int:
    word = op["advice"]
    advice = word if isinstance(word, int) else abi.ADVICE.get(str(word).removeprefix("MADV_"))
    if advice is None and str(word).lstrip("-").isdigit():
        advice = int(word)
    if advice is None:
        raise Undecidable(f"no model of the advice {word}")
    if advice == abi.ADVICE["COLLAPSE"]:
        raise Undecidable("whether MADV_COLLAPSE works depends on free memory")
    return at.apply(calls.Madvise(at.value(op["addr"]), at.value(op["len"]), advice))


def _mprotect(at: "Run", op: Mapping[str, Any]) -> int:
    prot = protection(op["prot"]) | protection(op.get("extra"))
    return at.apply(calls.Mprotect(at.value(op["addr"]), at.value(op["len"]), prot))


def _mremap(at: "Run", op: Mapping[str, Any]) -> int:
    address, old, new = (at.value(op[key]) for key in ("addr", "old_len", "new_len"))
    target = 0 if op.get("new_addr") is None else at.value(op["new_addr"])
    return at.apply(calls.Mremap(address, old, new, flags(op.get("flags"), "MREMAP_"), target))


def _mlock2(at: "Run", op: Mapping[str, Any]) -> int:
    return at.apply(calls.Mlock(at.value(op["addr"]), at.value(op["len"]), flags(op.get("flags"), "MLOCK_")))


def _mseal(at: "Run", op: Mapping[str, Any]) -> int:
    return at.apply(calls.Mseal(at.value(op["addr"]), at.value(op["len"]), flags(op.get("flags"), "MSEAL_")))


def _userfaultfd(at: "Run", op: Mapping[str, Any]) -> int:
    at.uffds[op["as"]] = at.host.userfaultfd()
    return at.uffds[op["as"]]


def _uffd(at: "Run", op: Mapping[str, Any]) -> int:
    return at.uffds[op["fd"]]


def _uffd_register(at: "Run", op: Mapping[str, Any]) -> int:
    words = op.get("mode", "MISSING")
    modes = words.split("|") if isinstance(words, str) else [words] if isinstance(words, int) else words
    mode = sum(one if isinstance(one, int) else _UFFD_MODES[one.strip()] for one in modes)
    return at.apply(calls.UffdRegister(_uffd(at, op), at.value(op["addr"]), at.value(op["len"]), mode))


def _setrlimit(at: "Run", op: Mapping[str, Any]) -> int:
    word = str(op["resource"]).removeprefix("RLIMIT_")
    value = first(op, ("value", "soft", "cur", "limit"))
    at.host.limit(word, None if value in ("infinity", "unlimited", None) else at.value(value))
    return 0


def _ranged(make: Callable[[int, int], calls.Operation]) -> Callable[["Run", Mapping[str, Any]], int]:
    return lambda at, op: at.apply(make(at.value(op["addr"]), at.value(op["len"])))


_Step = tuple[Callable[["Run", Mapping[str, Any]], int], tuple[str, ...]]
_RANGE, _MAPPED = ("addr", "len"), ("addr", "len", "prot", "flags", "fd", "off")
_AGAIN: _Step = (_reopen, ("of", "fd", "path", "file"))
_OPS: dict[str, _Step] = {
    "let": (lambda at, op: at.value(op["value"]), ("value",)),
    "mmap": (_mmap, _MAPPED),
    "mmap_aligned": (_mmap_aligned, (*_MAPPED, "align")),
    "pick_dest": (_pick_dest, ("align", "after", "overlap", "preamble")),
    "find_free": (_find_free, ("len",)),
    "munmap": (_ranged(calls.Munmap), _RANGE),
    "mprotect": (_mprotect, (*_RANGE, "prot", "extra")),
    "mremap": (_mremap, ("addr", "old_len", "new_len", "flags", "new_addr")),
    "brk": (_brk, ("addr", "delta")),
    "madvise": (_madvise, (*_RANGE, "advice")),
    "mlock": (_ranged(calls.Mlock), _RANGE),
    "mlock2": (_mlock2, (*_RANGE, "flags")),
    "munlock": (_ranged(calls.Munlock), _RANGE),
    "mlockall": (lambda at, op: at.apply(calls.Mlockall(flags(op["flags"], "MCL_"))), ("flags",)),
    "munlockall": (lambda at, op: at.apply(calls.Munlockall()), ()),
    "mseal": (_mseal, (*_RANGE, "flags")),
    "prctl": (_prctl, ("option", "args", "addr", "len", "name")),
    "write": (_write, (*_RANGE, "pattern", "pattern_off", "byte")),
    "read": (lambda at, op: at.apply(calls.Touch(at.value(op["addr"]), at.value(op["len"]), False)), _RANGE),
    "memfd": (_file, ("len",)),
    "file": (_file, ("len",)),
    "dup": (_dup, ("of", "fd")),
    "open": _AGAIN,
    "reopen": _AGAIN,
    "open_again": _AGAIN,
    "close": (_close, ("fd", "of")),
    "fork_child": (_fork, ()),
    "fork_parent": (_fork_parent, ()),
    "exec_probe": (_exec, ()),
    "userfaultfd": (_userfaultfd, ()),
    "uffd_register": (_uffd_register, ("fd", *_RANGE, "mode")),
    "uffd_unregister": (
        lambda at, op: at.apply(calls.UffdUnregister(_uffd(at, op), at.value(op["addr"]), at.value(op["len"]))),
        ("fd", *_RANGE),
    ),
    "setrlimit": (_setrlimit, ("resource", "value", "soft", "cur", "limit")),
}
