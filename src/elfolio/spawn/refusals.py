"""spawn.refusals: why a launch did not happen. In: what the C core answered. Out: the exception, in words."""

import errno
import os

from elfolio import _native
from elfolio.errors import StaleTemplate
from elfolio.spawn.options import Options
from elfolio.spawn.plan import Plan

__all__ = ["NO_PROCESS", "foreign_error", "object_error", "refusal_error"]

# In the order of the bits: enum key_field and enum authority_field (native/identity.h).
_FIELDS = ("device", "inode", "size", "mode", "owner", "group", "ctime", "mtime")
_AUTHORITY = ("ids", "supplementary groups", "capabilities", "securebits", "no_new_privs", "security label")

NO_PROCESS = "no process could be made"
"""How the message begins when not even a child came to be."""


def _named(names: tuple[str, ...], bits: int) -> tuple[str, ...]:
    return tuple(name for i, name in enumerate(names) if bits >> i & 1)


def foreign_error(target: str | int) -> PermissionError:
    """For a template that was made by another process."""
    return PermissionError(errno.EACCES, "a template stays in the process that made it; make one here", target)


def refusal_error(
    target: str | int,
    files: tuple[str, ...],
    refusal: "_native.Refusal",
    plan: Plan | None = None,
    options: Options | None = None,
) -> OSError:
    """The exception for `refusal`; `files` are the held files that its index counts."""
    status, detail, index, error, failed = refusal
    if status == _native.IMAGE_FOREIGN:
        return foreign_error(target)
    if status == _native.IMAGE_UNAUTHORIZED:
        return _authority_error(target, detail, error)
    if status in (_native.IMAGE_STALE, _native.IMAGE_OBJECT, _native.IMAGE_CHANGED):
        return _stale_error(files[index], detail, error, status == _native.IMAGE_CHANGED)
    if failed in (_native.STEP_CLONE, _native.STEP_PIDFD):
        return OSError(error, f"{NO_PROCESS}: {os.strerror(error)}")
    if failed == _native.STEP_CGROUP:
        return OSError(error, f"cgroup: {os.strerror(error)}")
    if failed == _native.STEP_EXEC or plan is None or options is None:
        return OSError(error, os.strerror(error), target)
    if failed == _native.STEP_WARM:
        return OSError(error, "the template's process died in mid-spawn; what the actions had done by then is done")
    return plan.failure(failed, error, options, warm=index < 0)


def object_error(file: str, held: tuple[int, ...] | None, found: tuple[int, ...] | None) -> StaleTemplate:
    """For an object of the image whose key (`Image.key`) is not the one held; None: there is no such file."""
    bits = 0
    if held is not None and found is not None:
        fields = (*zip(held[:6], found[:6], strict=True), (held[6:8], found[6:8]), (held[8:], found[8:]))
        bits = sum(1 << i for i, (before, now) in enumerate(fields) if before != now)
    return _stale_error(file, bits, errno.ENOENT if found is None else errno.EEXIST, False)


def _authority_error(target: str | int, detail: int, error: int) -> OSError:
    if error:
        return OSError(error, f"credentials cannot be read: {os.strerror(error)}")
    changed = ", ".join(_named(_AUTHORITY, detail))
    return PermissionError(errno.EACCES, f"{changed} changed since the template was made; make a new one", target)


def _stale_error(file: str, detail: int, error: int, afterwards: bool) -> StaleTemplate:
    changed = _named(_FIELDS, detail)
    why = f"{', '.join(changed)} changed" if changed else os.strerror(error)
    return StaleTemplate(file, changed, f"{why} during the start; the child was killed" if afterwards else why)
