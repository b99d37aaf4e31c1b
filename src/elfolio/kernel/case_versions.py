"""kernel.case_versions: which kernels a test case is about. In: a case, a Policy. Out: what it expects, or why nothing.

`min_kernel` and `max_kernel` say it; where they are missing, the free text of `kernels` does as far as it begins with
comparisons (">=6.17; before EFAULT"). What older kernels do may stand in `expect_older`, by the last version with it.
"""

import re
from collections.abc import Mapping
from errno import errorcode
from typing import Any

from elfolio.kernel.policy import Policy

__all__ = ["Expected", "expected"]

_CLAUSE = re.compile(r"\s*(?:linux\s*)?(>=|<=|<|>)\s*v?(\d+(?:\.\d+)*)\s*(?:,|and\b|&&?)?", re.IGNORECASE)
_V = r"v?(\d+(?:\.\d+)+)"
_WORDS = tuple(
    (re.compile(rf"\s*(?:linux\s*)?{pattern}", re.IGNORECASE), comparison)
    for pattern, comparison in (
        (rf"{_V}\s*(?:-|\.\.+|to)\s*{_V}", r">=\1, <=\2"),
        (rf"{_V}\s*\+", r">=\1"),
        (rf"(?:since|from)\s+{_V}(?:\s+on(?:wards)?)?", r">=\1"),
        (rf"(?:up\s+to|until|through)\s+{_V}", r"<=\1"),
        (rf"before\s+{_V}", r"<\1"),
    )
)
"""How a text may begin that says the same without signs."""
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_ERRORS = frozenset(errorcode.values())

Version = tuple[int, ...]


class Expected:
    """What a case says about one kernel."""

    __slots__ = ("bounded", "checks", "older", "reason")

    def __init__(self, checks: Any, reason: str = "", *, older: bool = False, bounded: bool = False) -> None:
        self.checks = checks
        """Checks, or facts about VMAs; None: nothing is said."""
        self.reason = reason
        """Why nothing is."""
        self.bounded = bounded
        """Whether the case says which kernels it is about: this one then is."""
        self.older = older
        """Whether they are those of older kernels, so that the operations' own expectations are not about this one."""


def expected(case: Mapping[str, Any], policy: Policy) -> Expected:
    """Raises ValueError for a version that is none."""
    least, most = _span(case)
    if least and policy.version[: len(least)] < least:
        return _of_older(case, policy, least)
    if most and policy.version[: len(most)] > most:
        return Expected(None, f"it is about Linux {_text(most)} and earlier")
    stated = bool(least or most) or str(case.get("kernels") or "").strip().lower() == "all"
    return Expected(case["expect"], bounded=stated)


def _span(case: Mapping[str, Any]) -> tuple[Version, Version]:
    """The first and the last version, empty where there is none."""
    least, most = (_version(case[key]) if case.get(key) else () for key in ("min_kernel", "max_kernel"))
    text, at = _signed(str(case.get("kernels") or "")), 0
    while found := _CLAUSE.match(text, at):
        sign, version = found[1], _version(found[2])
        at = found.end()
        if sign[0] == ">" and not least:
            least = version if sign == ">=" else _after(version)
        elif sign[0] == "<" and not most:
            most = version if sign == "<=" else _before(version)
    return least, most


def _signed(text: str) -> str:
    for pattern, comparison in _WORDS:
        found = pattern.match(text)
        if found is not None:
            return found.expand(comparison)
    return text


def _after(version: Version) -> Version:
    return (*version[:-1], version[-1] + 1)


def _before(version: Version) -> Version:
    # Of the release before the first one of a series nothing but that it is an older one is known.
    return (*version[:-1], version[-1] - 1) if version[-1] else (version[0] - 1, 1 << 30)


def _of_older(case: Mapping[str, Any], policy: Policy, least: Version) -> Expected:
    for limit, checks in _older(case.get("expect_older")):
        if not limit or policy.version[: len(limit)] <= limit:
            if checks is not None:
                return Expected(checks, older=True)
            return Expected(None, "what it says about older kernels is words")
    return Expected(None, f"it is about Linux {_text(least)} and later")


def _older(value: Any) -> list[tuple[Version, Any]]:
    """The last version and the checks of each expectation, by version; an empty version: any older one."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return [((), _checks(value))]
    if "expect" in value:
        keys = ("until", "kernel", "version", "max_kernel", "kernels")
        limit = next((_version(value[key]) for key in keys if value.get(key)), ())
        return [(limit, _checks(value["expect"]))]
    if not all(re.match(r"\s*(<=|v)?\s*\d", str(key)) for key in value):
        return [((), _checks(value))]
    return sorted((_version(key), _checks(one)) for key, one in value.items())


def _checks(value: Any) -> Any:
    """As `expect` would have it; None for words."""
    if isinstance(value, str):
        return [{"errno": value}] if value in _ERRORS or value == "OK" else None
    if isinstance(value, int):
        return [{"pagetable_pages_delta": value}]
    if isinstance(value, Mapping) and set(value) & {"errno", "expect_errno"} and len(value) == 1:
        return [{"errno": next(iter(value.values()))}]
    return value


def _version(value: object) -> Version:
    found = _NUMBERS.search(str(value))
    if found is None:
        raise ValueError(f"{value!r} names no version")
    return tuple(int(part) for part in found[0].split("."))


def _text(version: Version) -> str:
    return ".".join(str(part) for part in version if part < 1 << 30)
