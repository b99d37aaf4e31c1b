"""kernel.case_operations: what a test case does. In: a case at work, an operation as data. Out: what the call returned.

The operations of kernel.cases by their words; most are a system call each, some are what the kernel's tests do around
them, such as looking for a free range.
"""

from collections.abc import Callable, Mapping, Sequence
from errno import errorcode
from typing import TYPE_CHECKING, Any

from elfolio.kernel import abi, calls
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.expressions import evaluate

if TYPE_CHECKING:
    from elfolio.kernel.cases import Run

__all__ = ["operate"]

_FLAG_WORDS = {"ANON": "ANONYMOUS"}
_UFFD_MODES = {"MISSING": 1, "WP": 2, "MINOR": 4}


def operate(at: "Run", op: Mapping[str, Any]) -> int:
    """One operation. Raises Undecidable for one that is not known."""
    word = op["op"]
    if word not in _OPS:
        raise Undecidable(f"no model of the operation {word}")
    return _OPS[word](at, op)


def _prot(text: str | int) -> int:
    if isinstance(text, int):
        return text
    return sum(bit for letter, bit in (("r", 1), ("w", 2), ("x", 4)) if letter in text)


def _flags(words: Sequence[str | int] | int, prefix: str) -> int:
    """From words without their prefix, or numbers: flags that no kernel knows have no word."""
    flags = 0
    for word in [words] if isinstance(words, int) else words:
        if isinstance(word, int) or word[:1].isdigit():
            flags |= evaluate(word, {})
            continue
        name = f"{prefix}{_FLAG_WORDS.get(word, word)}"
        if not hasattr(abi, name):
            raise Undecidable(f"no model of {name}")
        flags |= int(getattr(abi, name))
    return flags


def _mmap(at: "Run", op: Mapping[str, Any], address: int | None = None) -> int:
    if address is None:
        address = 0 if op.get("addr") is None else at.value(op["addr"])
    file = at.files[op["fd"]] if op.get("fd") is not None else None
    offset = at.value(op.get("off", 0))
    return at.host.apply(
        calls.Mmap(address, at.value(op["len"]), _prot(op["prot"]), _flags(op["flags"], "MAP_"), file, offset)
    )


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
    address = at.host.apply(calls.Mmap(0, length, 0, abi.MAP_PRIVATE | abi.MAP_ANONYMOUS))
    if address > 0:
        at.host.apply(calls.Munmap(address, length))
    return address


def _write(at: "Run", op: Mapping[str, Any]) -> int:
    start, length = at.value(op["addr"]), at.value(op["len"])
    if "pattern" in op:
        return at.host.fill(start, length, at.value(op["pattern"]) + at.value(op.get("pattern_off", 0)) // 4096, 1)
    if "byte" in op:
        return at.host.fill(start, length, at.value(op["byte"]), 0)
    return at.host.apply(calls.Touch(start, length, True))


def _file(at: "Run", op: Mapping[str, Any]) -> int:
    at.files[op["as"]] = at.host.file(op["as"], at.value(op["len"]), memory=op["op"] == "memfd")
    return 0


def _dup(at: "Run", op: Mapping[str, Any]) -> int:
    at.files[op["as"]] = at.files[op["of"]]
    return 0


def _brk(at: "Run", op: Mapping[str, Any]) -> int:
    if "addr" in op:
        return at.host.apply(calls.Brk(at.value(op["addr"])))
    if "first brk" not in at.names:
        at.names["first brk"] = at.host.apply(calls.Brk(0))
    return at.host.apply(calls.Brk(at.names["first brk"] + at.value(op["delta"])))


def _fork(at: "Run", _op: Mapping[str, Any]) -> int:
    at.host.fork()
    return 0


def _exec(at: "Run", _op: Mapping[str, Any]) -> int:
    at.host.exec()
    return 0


def _prctl(at: "Run", op: Mapping[str, Any]) -> int:
    if op["option"] in ("PR_SET_VMA", "PR_SET_VMA_ANON_NAME"):
        address, length = (at.value(value) for value in op["args"][-3:-1] or op["args"][:2])
        return at.host.apply(calls.NameVma(address, length, op["args"][-1]))
    if not hasattr(abi, op["option"]):
        raise Undecidable(f"no model of {op['option']}")
    numbers = [at.value(value) for value in op.get("args", ())]
    return at.host.apply(calls.Prctl(getattr(abi, op["option"]), *numbers))


def _madvise(at: "Run", op: Mapping[str, Any]) -> int:
    advice = abi.ADVICE.get(str(op["advice"]).removeprefix("MADV_"))
    if advice is None:
        raise Undecidable(f"no model of the advice {op['advice']}")
    if op["advice"] == "COLLAPSE":
        raise Undecidable("whether MADV_COLLAPSE works depends on free memory")
    return at.host.apply(calls.Madvise(at.value(op["addr"]), at.value(op["len"]), advice))


def _mremap(at: "Run", op: Mapping[str, Any]) -> int:
    address, old, new = (at.value(op[key]) for key in ("addr", "old_len", "new_len"))
    return at.host.apply(
        calls.Mremap(address, old, new, _flags(op["flags"], "MREMAP_"), at.value(op.get("new_addr", 0)))
    )


def _uffd_register(at: "Run", op: Mapping[str, Any]) -> int:
    modes = str(op.get("mode", "MISSING")).split("|")
    mode = sum(_UFFD_MODES[word] for word in modes)
    return at.host.apply(calls.UffdRegister(at.names[op["fd"]], at.value(op["addr"]), at.value(op["len"]), mode))


def _ranged(make: Callable[[int, int], calls.Operation]) -> Callable[["Run", Mapping[str, Any]], int]:
    return lambda at, op: at.host.apply(make(at.value(op["addr"]), at.value(op["len"])))


_OPS: dict[str, Callable[["Run", Mapping[str, Any]], int]] = {
    "let": lambda at, op: at.value(op["value"]),
    "mmap": _mmap,
    "mmap_aligned": _mmap_aligned,
    "pick_dest": _pick_dest,
    "find_free": _find_free,
    "munmap": _ranged(calls.Munmap),
    "mprotect": lambda at, op: at.host.apply(
        calls.Mprotect(at.value(op["addr"]), at.value(op["len"]), _prot(op["prot"]) | at.value(op.get("extra", 0)))
    ),
    "mremap": _mremap,
    "brk": _brk,
    "madvise": _madvise,
    "mlock": _ranged(calls.Mlock),
    "mlock2": lambda at, op: at.host.apply(
        calls.Mlock(at.value(op["addr"]), at.value(op["len"]), int("ONFAULT" in op.get("flags", ())))
    ),
    "munlock": _ranged(calls.Munlock),
    "mlockall": lambda at, op: at.host.apply(calls.Mlockall(_flags(op["flags"], "MCL_"))),
    "munlockall": lambda at, op: at.host.apply(calls.Munlockall()),
    "mseal": lambda at, op: at.host.apply(
        calls.Mseal(at.value(op["addr"]), at.value(op["len"]), at.value(op.get("flags", 0) or 0))
    ),
    "prctl": _prctl,
    "write": _write,
    "read": lambda at, op: at.host.apply(calls.Touch(at.value(op["addr"]), at.value(op["len"]), False)),
    "memfd": _file,
    "file": _file,
    "dup": _dup,
    "fork_child": _fork,
    "exec_probe": _exec,
    "userfaultfd": lambda at, op: at.host.userfaultfd(),
    "uffd_register": _uffd_register,
    "uffd_unregister": lambda at, op: at.host.apply(
        calls.UffdUnregister(at.names[op["fd"]], at.value(op["addr"]), at.value(op["len"]))
    ),
}
