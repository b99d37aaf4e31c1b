"""kernel.case_units: merging cases with VMAs given one by one. In: operations, what is expected. Out: what differs.

Cases of the kind vma_unit do not go through system calls: they make VMAs and ask single steps of merging (the functions
that mm/vma.c exports to its unit tests).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elfolio.kernel.anon import AnonVma
from elfolio.kernel.areas import Area
from elfolio.kernel.case_host import Undecidable
from elfolio.kernel.case_words import REMARKS, error_name, unknown
from elfolio.kernel.mapping_calls import region
from elfolio.kernel.merging import Given, given
from elfolio.kernel.mm import Mm
from elfolio.kernel.policy import Policy
from elfolio.kernel.remapping import copy_area
from elfolio.kernel.vmflags import VmFlags

__all__ = ["run_unit"]

_DEFAULT = ("READ", "WRITE", "MAYREAD", "MAYWRITE", "MAYEXEC")
_KNOWN = frozenset(("merged", "returned", "vmas", "map_count", "state", "errno", "anon_vma_cloned"))
_STATES = {"SUCCESS": True, "NOMERGE": False}
"""VMA_MERGE_... -> whether it merged."""
_PAGE = 4096
_MOST_LINKS = 1 << 16


def run_unit(setup: Sequence[Mapping[str, Any]], expect: Mapping[str, Any], policy: Policy) -> str:
    """The first difference, empty for none. Raises Undecidable."""
    at = _Unit(policy)
    for op in setup:
        if op["op"] not in _STEPS:
            raise Undecidable(_WHY.get(op["op"], f"no model of the step {op['op']}"))
        step, keys = _STEPS[op["op"]]
        unknown(op, ("op", *keys))
        at.before = {name: area.anon_vma for name, area in at.areas.items()}
        step(at, op)
    if "rule" in expect:
        raise Undecidable("what it expects is said in words")
    if set(expect) - _KNOWN - REMARKS:
        raise Undecidable(f"no model of {', '.join(sorted(set(expect) - _KNOWN))}")
    return at.compare(expect)


_WHY = {"inject": "memory that the kernel does not get is no rule of a model"}


class _Unit:
    def __init__(self, policy: Policy) -> None:
        self.mm = Mm(policy)
        self.areas: dict[str, Area] = {}
        self.anon_vmas: dict[str, AnonVma] = {}
        self.merged: bool | None = None
        self.returned: Area | None = None
        self.before: dict[str, AnonVma | None] = {}
        """The anon_vmas before the last step."""
        self.changed = ""
        """The name of the VMA that the last step changed."""

    def anon_vma(self, label: str | None) -> AnonVma | None:
        if label is None:
            return None
        return self.anon_vmas.setdefault(label, AnonVma(len(self.anon_vmas) + 1))

    def given(self, op: Mapping[str, Any], area: Area | None = None) -> Given:
        """The range of a step; of an area, with what that has."""
        start, end = _number(op["start"]), _number(op["end"])
        if area is not None:
            offset = _number(op["pgoff"]) * _PAGE if "pgoff" in op else area.offset + start - area.start
            new = given(area)._replace(start=start, end=end, flags=_flags(op), offset=offset)
            return new._replace(anon_vma=self.anon_vma(op["anon_vma"])) if "anon_vma" in op else new
        anon_vma = self.anon_vma(op.get("anon_vma"))
        return Given(start, end, _flags(op), _number(op["pgoff"]) * _PAGE, anon_vma=anon_vma)

    def compare(self, expect: Mapping[str, Any]) -> str:
        """The first difference."""
        state = str(expect.get("state", "")).removeprefix("VMA_MERGE_")
        if state and state not in _STATES:
            raise Undecidable(f"no model of the state {state}")
        merged = _STATES[state] if state else expect.get("merged", self.merged)
        if "errno" in expect and error_name(expect["errno"]) != "OK":
            raise Undecidable("no model of a step that fails")
        if self.merged != merged or expect.get("merged", merged) != merged:
            return f"{'merged' if self.merged else 'not merged'}, and should {'be' if merged else 'not'}"
        failed = self._returned(expect["returned"]) if "returned" in expect else ""
        if failed:
            return failed
        if "anon_vma_cloned" in expect and self._cloned() != bool(expect["anon_vma_cloned"]):
            return f"an anon_vma was {'cloned' if self._cloned() else 'not cloned'}"
        if "map_count" in expect and self.mm.count != expect["map_count"]:
            return f"{self.mm.count} VMAs in place of {expect['map_count']}"
        return self._vmas(expect["vmas"]) if "vmas" in expect else ""

    def _cloned(self) -> bool:
        """Whether the last step gave a VMA an anon_vma that it did not have."""
        return any(area.anon_vma is not self.before.get(name, area.anon_vma) for name, area in self.areas.items())

    def _returned(self, wanted: str | None) -> str:
        if wanted is None or wanted.lower() in ("null", "none"):
            return "" if self.returned is None else f"{self.returned.start:#x} was returned in place of nothing"
        name = re.split(r"[ ,]", wanted)[0]
        area = self.returned
        if area is None:
            return f"nothing was returned in place of {wanted}"
        found = next((label for label, known in self.areas.items() if known is area), self.changed)
        if name == "new" and name not in self.areas and found:
            return f"{found} was returned in place of {wanted}"
        if name in self.areas and found != name:
            return f"{found or 'a new VMA'} was returned in place of {wanted}"
        ends = re.search(r"\[(\w+),(\w+)\)", wanted)
        if ends and (area.start, area.end) != (int(ends[1], 0), int(ends[2], 0)):
            return f"{area.start:#x}-{area.end:#x} was returned in place of {wanted}"
        return ""

    def _vmas(self, wanted: Sequence[Mapping[str, Any]]) -> str:
        found = list(self.mm.areas)
        shown = ", ".join(f"{area.start:#x}-{area.end:#x}" for area in found)
        if len(found) != len(wanted):
            return f"{len(found)} VMAs ({shown}) in place of {len(wanted)}"
        for area, one in zip(found, wanted, strict=True):
            unknown(one, _SHOWN)
            if (area.start, area.end) != (_number(one["start"]), _number(one["end"])):
                return f"{shown} in place of {one['start']}-{one['end']}"
            if "pgoff" in one and area.offset != _number(one["pgoff"]) * _PAGE:
                return f"{area.start:#x}: offset {area.offset // _PAGE} in place of {one['pgoff']}"
            if "anon_vma" in one and area.anon_vma is not self.anon_vma(one["anon_vma"]):
                return f"{area.start:#x} has another anon_vma"
            if "close" in one and area.closes != bool(one["close"]):
                return f"{area.start:#x} has {'a' if area.closes else 'no'} close"
            if "avc" in one and len(area.chain) != one["avc"]:
                return f"{area.start:#x} has a chain of {len(area.chain)}"
            if "flags" in one and area.flags != _flags(one):
                return f"{area.start:#x} has other flags"
        return ""


def _number(value: int | str) -> int:
    return value if isinstance(value, int) else int(value, 0)


def _flags(op: Mapping[str, Any]) -> int:
    flags = 0
    for name in op.get("flags", _DEFAULT):
        if name not in VmFlags.__members__:
            raise Undecidable(f"no model of VM_{name}")
        flags |= VmFlags[name]
    return int(flags)


def _vma(at: _Unit, op: Mapping[str, Any]) -> None:
    area = Area(_number(op["start"]), _number(op["end"]), _flags(op), _number(op["pgoff"]) * _PAGE)
    area.anon_vma = at.anon_vma(op.get("anon_vma"))
    # The kernel's own test gives VMAs a chain entry that have no anon_vma.
    entry = area.anon_vma if area.anon_vma is not None else AnonVma(0)
    links = int(op.get("avc", int(area.anon_vma is not None)))
    if links > _MOST_LINKS:
        raise Undecidable(f"a chain of {links}")
    area.chain = (entry,) * links
    area.closes = bool(op.get("close"))
    at.mm.areas.insert(area)
    at.areas[op["as"]] = area


def _merge_new(at: _Unit, op: Mapping[str, Any]) -> None:
    new = at.given(op)
    after = at.mm.areas.find(new.start)
    before = after.prev if after is not None else at.mm.areas.last()
    only = bool(op.get("just_expand") or op.get("expand_only"))
    at.returned = at.mm.merge_new(new, before, after, below_only=only)
    at.merged = at.returned is not None


def _merge_existing(at: _Unit, op: Mapping[str, Any]) -> None:
    area = at.areas[op["vma"]]
    new = at.given(op, area)
    at.returned = at.mm.merge_existing(area, new.start, new.end, new)
    at.merged = at.returned is not None


def _modify_flags(at: _Unit, op: Mapping[str, Any]) -> None:
    area = at.areas[op["vma"]]
    merged = at.mm.merged
    at.changed = op["vma"]
    made = at.mm.change(area, _number(op["start"]), _number(op["end"]), _flags(op))
    at.merged = at.mm.merged > merged
    at.returned = made if isinstance(made, Area) else None
    # The kernel's own VMA is the part that was asked for: what was split off below is the new one.
    if isinstance(made, Area) and not at.merged:
        at.areas[op["vma"]] = made


def _copy_vma(at: _Unit, op: Mapping[str, Any]) -> None:
    area = at.areas[op["vma"]]
    made = copy_area(at.mm, area, area.start, _number(op["len"]), _number(op["addr"]), keep=bool(op.get("keep_source")))
    at.returned = made
    at.changed = ""
    at.merged = any(made is known for known in at.areas.values())


def _mmap_region(at: _Unit, op: Mapping[str, Any]) -> None:
    start = _number(op["addr"])
    region(at.mm, start, start + _number(op["len"]), _flags(op), None, start)


def _shrink(at: _Unit, op: Mapping[str, Any]) -> None:
    area = at.areas[op["vma"]]
    if "end" in op and _number(op["end"]) != area.end:
        at.mm.areas.move_end(area, _number(op["end"]))
    if "start" in op and _number(op["start"]) != area.start:
        area.offset += _number(op["start"]) - area.start
        at.mm.areas.move_start(area, _number(op["start"]))


def _expand(at: _Unit, op: Mapping[str, Any]) -> None:
    area = at.areas[op["vma"]]
    end = _number(op["end"])
    after = at.areas.get(op.get("next") or "")
    if after is not None and after.end == end:
        at.mm.inherit(area, after)
        at.mm.areas.remove(after)
    start = _number(op.get("start", area.start))
    if start != area.start:
        area.offset -= area.start - start
        at.mm.areas.move_start(area, start)
    at.mm.areas.move_end(area, end)
    at.returned = area


def _merge_extend(at: _Unit, op: Mapping[str, Any]) -> None:
    """vma_merge_extend: the range behind a VMA, as if it were mapped like it."""
    area = at.areas[op["vma"]]
    end = _number(op["end"]) if "end" in op else area.end + _number(op["delta"])
    offset, anon_offset = (value + area.end - area.start for value in (area.offset, area.anon_offset))
    new = given(area)._replace(start=area.end, end=end, offset=offset, anon_offset=anon_offset, middle=None)
    at.returned = at.mm.merge_new(new, area, area.next)
    at.merged = at.returned is not None


_SHOWN = ("start", "end", "pgoff", "anon_vma", "close", "avc", "flags")
_RANGE = ("start", "end", "pgoff", "flags", "anon_vma")
_STEPS: dict[str, tuple[Callable[[_Unit, Mapping[str, Any]], None], tuple[str, ...]]] = {
    "vma": (_vma, (*_RANGE, "as", "avc", "close", "anonymous")),
    "merge_new": (_merge_new, (*_RANGE, "just_expand", "expand_only", "prev", "next")),
    "merge_existing": (_merge_existing, (*_RANGE, "vma", "prev", "next")),
    "modify_flags": (_modify_flags, ("vma", "start", "end", "flags", "prev")),
    "copy_vma": (_copy_vma, ("vma", "addr", "len", "pgoff", "keep_source")),
    "mmap_region": (_mmap_region, ("addr", "len", "flags", "pgoff")),
    "shrink": (_shrink, ("vma", "start", "end", "pgoff")),
    "expand": (_expand, ("vma", "next", "start", "end", "pgoff")),
    "merge_extend": (_merge_extend, ("vma", "delta", "end")),
}
