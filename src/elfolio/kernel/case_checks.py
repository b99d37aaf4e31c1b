"""kernel.case_checks: what a test case expects. In: a case at work, a check. Out: what differs, in words, or nothing.

The checks of kernel.cases, each named by the key that makes it one.
"""

from collections.abc import Callable, Mapping
from errno import errorcode
from typing import TYPE_CHECKING, Any

from elfolio.kernel.calls import Touch
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.space import Vma
from elfolio.kernel.vmflags import MNEMONICS, VmFlags
from elfolio.span import Span

if TYPE_CHECKING:
    from elfolio.kernel.cases import Run

__all__ = ["check"]

Check = Mapping[str, Any]


def check(at: "Run", one: Check) -> str:
    """Raises Undecidable for one that a host cannot answer."""
    for key, how in _CHECKS.items():
        if key in one:
            return how(at, one)
    raise Undecidable(f"no model of the check {', '.join(one)}")


def _vma_at(at: "Run", one: Check) -> str:
    address = at.value(one["vma_at"])
    vma = at.host.space().at(address)
    if vma is None:
        return f"nothing is mapped at {one['vma_at']}"
    start, end = at.value(one["start"]), at.value(one["end"])
    if (vma.start, vma.end) != (start, end):
        return f"at {one['vma_at']}: {vma.start:#x}-{vma.end:#x} in place of {start:#x}-{end:#x}"
    if "prot" in one and vma.perms[:3] != one["prot"]:
        return f"at {one['vma_at']}: {vma.perms[:3]} in place of {one['prot']}"
    if "file_off" in one and vma.offset != at.value(one["file_off"]):
        return f"at {one['vma_at']}: offset {vma.offset:#x} in place of {one['file_off']}"
    return _flags(vma, one.get("vmflags_has", ()), one.get("vmflags_lacks", ()))


def _vmflags_at(at: "Run", one: Check) -> str:
    vma = at.host.space().at(at.value(one["vmflags_at"]))
    if vma is None:
        return f"nothing is mapped at {one['vmflags_at']}"
    return _flags(vma, one.get("has", ()), one.get("lacks", ()))


def _flags(vma: Vma, has: tuple[str, ...], lacks: tuple[str, ...]) -> str:
    for name in (*has, *lacks):
        if name not in MNEMONICS:
            raise Undecidable(f"no model of the flag {name}")
        if bool(vma.flags & MNEMONICS[name]) != (name in has):
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
    start, length = (at.value(part) for part in one["content"])
    if "byte" in one:
        fine = at.host.holds(start, length, at.value(one["byte"]), 0)
    else:
        fine = at.host.holds(start, length, at.value(one["pattern"]) + at.value(one.get("pattern_off", 0)) // 4096, 1)
    return "" if fine else f"{one['content']} has another content"


def _returns(at: "Run", one: Check) -> str:
    found, wanted = at.value(one["returns"]), at.value(one["equals"])
    return "" if found == wanted else f"{one['returns']} is {found:#x} in place of {wanted:#x}"


def _differs(at: "Run", one: Check) -> str:
    a, b = (at.value(part) for part in one["differs"])
    return "" if a != b else f"{one['differs']} are both {a:#x}"


def _same_vma(at: "Run", one: Check) -> str:
    key = "same_vma" if "same_vma" in one else "different_vma"
    space = at.host.space()
    vmas = [space.at(at.value(part)) for part in one[key]]
    same = None not in vmas and len({vma.start for vma in vmas if vma is not None}) == 1
    return "" if same == (key == "same_vma") else f"{one[key]} are {'' if same else 'not '}in one mapping"


def _errno(at: "Run", one: Check) -> str:
    said = "OK" if at.last >= 0 else errorcode.get(-at.last, str(at.last))
    return "" if said == one["errno"] else f"the last call gave {said} in place of {one['errno']}"


def _access(at: "Run", one: Check) -> str:
    key = "access_fault" if "access_fault" in one else "access_ok"
    for part in one[key]:
        fine = at.host.apply(Touch(at.value(part), 1, False)) == 0
        if fine != (key == "access_ok"):
            return f"touching {part} {'does not fault' if fine else 'faults'}"
    return ""


def _aligned(at: "Run", one: Check) -> str:
    value, size = (
        one["aligned"] if isinstance(one["aligned"], list) else (one["aligned"], one.get("to", one.get("align")))
    )
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
        for vma in space:
            if _CLASSES[name](vma) if name in _CLASSES else vma.name == name:
                failed = _flags(vma, wanted.get("has", ()), wanted.get("lacks", ()))
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
    "different_vma": _same_vma,
    "errno": _errno,
    "access_fault": _access,
    "access_ok": _access,
    "anon_huge_kb": _huge,
    "pagetable_pages_delta": _tables,
    "exec_vmflags": _exec_flags,
    "aligned": _aligned,
}
