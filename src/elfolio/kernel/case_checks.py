"""kernel.case_checks: what a test case expects. In: a case at work, a check. Out: what differs, in words, or nothing.

The checks of kernel.cases, each named by the key that makes it one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elfolio.kernel.calls import Touch
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.case_words import WORD, error_name, first, outcome, unknown
from elfolio.kernel.space import Vma
from elfolio.kernel.vmflags import MNEMONICS, VmFlags
from elfolio.span import Span

if TYPE_CHECKING:
    from elfolio.kernel.cases import Run

__all__ = ["check"]

Check = Mapping[str, Any]
_LETTERS: Mapping[str, int] = MNEMONICS | {"ui": 1 << 41}
"""The last is VM_UFFD_MINOR, where x86-64 has it."""


def check(at: "Run", one: Check) -> str:
    """Raises Undecidable for one that a host cannot answer, and for one that says more than is known here."""
    kinds = [key for key in _CHECKS if key in one]
    if not kinds:
        raise Undecidable(f"no model of the check {', '.join(one)}")
    unknown(one, {key for kind in kinds for key in (kind, *_DETAILS.get(kind, ()))})
    return next(filter(None, (_CHECKS[kind](at, one) for kind in kinds)), "")


def _vma_at(at: "Run", one: Check) -> str:
    vma = at.host.space().at(at.value(one["vma_at"]))
    if vma is None:
        return f"nothing is mapped at {one['vma_at']}"
    start, end = (at.value(one.get(key, default)) for key, default in (("start", vma.start), ("end", vma.end)))
    if (vma.start, vma.end) != (start, end):
        return f"at {one['vma_at']}: {vma.start:#x}-{vma.end:#x} in place of {start:#x}-{end:#x}"
    if "prot" in one and not vma.perms.startswith(one["prot"]):
        return f"at {one['vma_at']}: {vma.perms} in place of {one['prot']}"
    if "file_off" in one and vma.offset != at.value(one["file_off"]):
        return f"at {one['vma_at']}: offset {vma.offset:#x} in place of {one['file_off']}"
    if "name" in one and vma.name not in (one["name"] or "", f"[anon:{one['name']}]"):
        return f"at {one['vma_at']}: the name {vma.name!r} in place of {one['name']!r}"
    return _flags(vma, _words(one.get("vmflags_has")), _words(one.get("vmflags_lacks")))


def _vmflags_at(at: "Run", one: Check) -> str:
    vma = at.host.space().at(at.value(one["vmflags_at"]))
    if vma is None:
        return f"nothing is mapped at {one['vmflags_at']}"
    has = (*_words(one.get("has")), *_words(one.get("vmflags_has")))
    return _flags(vma, has, (*_words(one.get("lacks")), *_words(one.get("vmflags_lacks"))))


def _words(names: str | Sequence[str] | None) -> Sequence[str]:
    """Flags in a list, or in one text as smaps has them."""
    return names.split() if isinstance(names, str) else names or ()


def _flags(vma: Vma, has: Sequence[str], lacks: Sequence[str]) -> str:
    for name in (*has, *lacks):
        if name not in _LETTERS:
            raise Undecidable(f"no model of the flag {name}")
        if bool(vma.flags & _LETTERS[name]) != (name in has):
            return f"{vma.start:#x}-{vma.end:#x} {'lacks' if name in has else 'has'} the flag {name}"
    return ""


def _contained(at: "Run", one: Check) -> str:
    span = _span(at, one["contained_in_one_vma"])
    vma = at.host.space().at(span.start)
    inside = vma is not None and vma.span.encloses(span)
    return "" if inside else f"{one['contained_in_one_vma']} is not in one mapping"


def _mapped(at: "Run", one: Check) -> str:
    holes = at.host.space().holes(_span(at, one["mapped"]))
    return f"{one['mapped']} has a hole at {holes[0].start:#x}" if holes else ""


def _unmapped(at: "Run", one: Check) -> str:
    found = at.host.space().within(_span(at, one["unmapped"]))
    return f"{one['unmapped']} has a mapping at {found[0].start:#x}" if found else ""


def _span(at: "Run", ends: tuple[str, str]) -> Span:
    return Span(at.value(ends[0]), at.value(ends[1]))


def _content(at: "Run", one: Check) -> str:
    start, length = (at.value(part) & WORD for part in one["content"])
    if "byte" in one:
        fine = at.host.holds(start, length, at.value(one["byte"]), 0)
    else:
        first = at.value(one["pattern"]) + at.value(one.get("pattern_off", 0)) // at.page
        fine = at.host.holds(start, length, first, 1)
    return "" if fine else f"{one['content']} has another content"


def _returns(at: "Run", one: Check) -> str:
    found, wanted = at.value(one["returns"]), at.value(one["equals"])
    return "" if found == wanted else f"{one['returns']} is {found:#x} in place of {wanted:#x}"


def _differs(at: "Run", one: Check) -> str:
    a, b = (at.value(part) for part in one["differs"])
    return "" if a != b else f"{one['differs']} are both {a:#x}"


def _same_vma(at: "Run", one: Check) -> str:
    return _alike(at, one["same_vma"], same=True)


def _different_vma(at: "Run", one: Check) -> str:
    return _alike(at, one["different_vma"], same=False)


def _alike(at: "Run", addresses: Sequence[object], *, same: bool) -> str:
    space = at.host.space()
    vmas = [space.at(at.value(part)) for part in addresses]
    found = len({vma.start for vma in vmas if vma is not None})
    if None in vmas:
        return f"nothing is mapped at {addresses[vmas.index(None)]}"
    if same:
        return "" if found == 1 else f"{addresses} are not in one mapping"
    return "" if found == len(vmas) else f"{addresses} are in one mapping"


def _errno(at: "Run", one: Check) -> str:
    said, wanted = outcome(at.last), one["errno"]
    allowed = [error_name(value) for value in (wanted if isinstance(wanted, list) else [wanted])]
    return "" if said in allowed else f"the last call gave {said} in place of {' or '.join(allowed)}"


def _faults(at: "Run", one: Check) -> str:
    return _access(at, one, "access_fault", fine=False)


def _works(at: "Run", one: Check) -> str:
    return _access(at, one, "access_ok", fine=True)


def _access(at: "Run", one: Check, key: str, *, fine: bool) -> str:
    parts = one[key] if isinstance(one[key], list) else [one[key]]
    for part in parts:
        if (at.apply(Touch(at.value(part), 1, bool(one.get("write")))) == 0) != fine:
            return f"touching {part} {'faults' if fine else 'does not fault'}"
    return ""


_SIZES = ("to", "align", "of", "by", "multiple", "multiple_of", "alignment")


def _aligned(at: "Run", one: Check) -> str:
    given = one["aligned"]
    value, size = given if isinstance(given, list) else (given, first(one, _SIZES))
    left = at.value(value) % at.value(size)
    return f"{value} is {left} above a multiple of {size}" if left else ""


def _tables(at: "Run", one: Check) -> str:
    wanted = at.value(one["pagetable_pages_delta"])
    return "" if at.table_growth == wanted else f"{at.table_growth} page tables made in place of {wanted}"


def _huge(_at: "Run", _one: Check) -> str:
    raise Undecidable("which pages are huge depends on free memory")


_CLASSES: dict[str, Callable[[Vma], bool]] = {
    "file_private": lambda vma: vma.file is not None and not vma.flags & VmFlags.MAYSHARE,
    "file_shared": lambda vma: vma.file is not None and bool(vma.flags & VmFlags.MAYSHARE),
    "anon": lambda vma: vma.file is None and not vma.name,
}
"""Mappings of a program that a case speaks of together; else they are named as maps does."""


def _exec_flags(at: "Run", one: Check) -> str:
    space = at.host.space()
    for name, wanted in one["exec_vmflags"].items():
        unknown(wanted, ("has", "lacks"))
        meant = [vma for vma in space if (_CLASSES[name](vma) if name in _CLASSES else vma.name == name)]
        if not meant:
            raise Undecidable(f"no model of a new program's {name}")
        for vma in meant:
            failed = _flags(vma, _words(wanted.get("has")), _words(wanted.get("lacks")))
            if failed:
                return f"{name}: {failed}"
    return ""


_CHECKS: dict[str, Callable[["Run", Check], str]] = {
    "vma_at": _vma_at,
    "vmflags_at": _vmflags_at,
    "contained_in_one_vma": _contained,
    "mapped": _mapped,
    "unmapped": _unmapped,
    "content": _content,
    "returns": _returns,
    "differs": _differs,
    "same_vma": _same_vma,
    "different_vma": _different_vma,
    "errno": _errno,
    "access_fault": _faults,
    "access_ok": _works,
    "anon_huge_kb": _huge,
    "pagetable_pages_delta": _tables,
    "exec_vmflags": _exec_flags,
    "aligned": _aligned,
}

_DETAILS: Mapping[str, Sequence[str]] = {
    "vma_at": ("start", "end", "prot", "vmflags_has", "vmflags_lacks", "file_off", "name"),
    "vmflags_at": ("has", "lacks", "vmflags_has", "vmflags_lacks"),
    "content": ("pattern", "pattern_off", "byte"),
    "returns": ("equals",),
    "access_fault": ("write",),
    "access_ok": ("write",),
    "anon_huge_kb": ("equals",),
    "aligned": _SIZES,
}
"""What else may stand beside the key of a check."""
