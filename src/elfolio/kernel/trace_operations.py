"""kernel.trace_operations: one traced call as an operation of the model. In: Call. Out: operation and answer, or None.

Calls that walk over areas and fail half-way have done a part: they are tried too. All others do nothing where they
fail, and are left out then. What moved is asked for where it went.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

from elfolio.kernel import calls
from elfolio.kernel.abi import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from elfolio.kernel.trace import Call

__all__ = ["OPERATIONS", "Asked"]

_PR_SET_VMA = 0x53564D41

Asked = tuple[calls.Operation, int]
"""What is asked, and what the traced kernel said: a number, or -errno."""
Make = Callable[[Call], Asked | None]


def _numbers(call: Call) -> tuple[int, ...]:
    return tuple(argument for argument in call.args if type(argument) is int)


def _walking(make: Callable[..., calls.Operation], count: int) -> Make:
    def asked(call: Call) -> Asked | None:
        result = -call.errno if call.errno else call.result
        return None if result is None else (make(*call.args[:count]), result)

    return asked


def _simple(make: Callable[..., calls.Operation], count: int) -> Make:
    def asked(call: Call) -> Asked | None:
        return None if call.errno or call.result is None else (make(*call.args[:count]), call.result)

    return asked


def _mremap(call: Call) -> Asked | None:
    if call.errno or call.result is None:
        return None
    address, old, new, flags = _numbers(call)[:4]
    result = call.result
    if result == address and not flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return calls.Mremap(address, old, new, 0), result
    return calls.Mremap(address, old, new, flags | MREMAP_MAYMOVE | MREMAP_FIXED, result), result


def _prctl(call: Call) -> Asked | None:
    result = call.result
    if result is None or call.errno or not call.args:
        return None
    if call.args[0] == _PR_SET_VMA:
        if len(call.args) < 4:
            return None
        name = call.args[4] if len(call.args) > 4 and type(call.args[4]) is str else None
        return calls.NameVma(cast("int", call.args[2]), cast("int", call.args[3]), name), result
    return calls.Prctl(*_numbers(call)[:5]), result


OPERATIONS: Mapping[str, Make] = MappingProxyType(
    {
        "munmap": _simple(calls.Munmap, 2),
        "mprotect": _walking(calls.Mprotect, 3),
        "pkey_mprotect": _walking(calls.Mprotect, 3),
        "mremap": _mremap,
        "brk": _simple(calls.Brk, 1),
        "madvise": _walking(calls.Madvise, 3),
        "mlock": _walking(calls.Mlock, 2),
        "mlock2": _walking(calls.Mlock, 3),
        "munlock": _walking(calls.Munlock, 2),
        "mlockall": _simple(calls.Mlockall, 1),
        "munlockall": _simple(calls.Munlockall, 0),
        "mseal": _simple(calls.Mseal, 3),
        "prctl": _prctl,
        "UFFDIO_REGISTER": _simple(calls.UffdRegister, 4),
        "UFFDIO_UNREGISTER": _simple(calls.UffdUnregister, 3),
    }
)
"""Calls for which the thread's address space is all that matters; mmap needs its descriptors too."""
