"""errors: the error types of all rooms. In: what went wrong. Out: exceptions that name the thing and the mend.

Wherever the kernel has a word for it, the error is an `OSError` with the kernel's errno, so that callers
need no second vocabulary.
"""

import errno
import os

__all__ = ["ElfError", "InvalidArgument", "StaleTemplate", "TooManyActions", "UnholdableProgram", "UnsupportedPlatform"]


class UnsupportedPlatform(ImportError):
    """elfolio was imported on something other than Linux on x86-64 or aarch64."""


class StaleTemplate(OSError):
    """A file that a template holds is no longer the one it was made from (`ESTALE`).

    `filename` is the file, `changed` the names of the fields that differ (`inode`, `mtime`, ...), empty
    where the file is gone. The mend: make a new template.
    """

    def __init__(self, filename: str, changed: tuple[str, ...], why: str) -> None:
        super().__init__(errno.ESTALE, f"stale template: {why}; make a new one", filename)
        self.changed = changed

    def __reduce__(self) -> tuple[object, ...]:
        return _stale, (self.filename, self.changed, self.strerror)


def _stale(filename: str, changed: tuple[str, ...], message: str) -> StaleTemplate:
    error = StaleTemplate(filename, changed, "")
    error.strerror = message
    return error


class InvalidArgument(OSError, ValueError):
    """An argument that can never be right (`EINVAL`), refused before anything starts.

    Both the kernel's error and Python's: `except ValueError` and `except OSError` each catch it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.EINVAL, message)


class TooManyActions(OSError):
    """More actions than one spawn may carry (`E2BIG`)."""

    def __init__(self, count: int, limit: int) -> None:
        super().__init__(errno.E2BIG, f"{count} actions, at most {limit}: {os.strerror(errno.E2BIG)}")


class UnholdableProgram(OSError):
    """A program that the kernel would run, but that no template can pin (`ENOEXEC`)."""

    def __init__(self, program: str | int, why: str) -> None:
        super().__init__(errno.ENOEXEC, f"cannot be held: {why}; start it through subprocess", str(program))


class ElfError(ValueError):
    """A file that is no ELF object, or a malformed one.

    `offset` is where in the file the offending field stands, `field` its name in the specification, `found` and
    `expected` what is there and what could be; each None where it does not apply.
    """

    def __init__(
        self,
        name: str,
        why: str,
        *,
        offset: int | None = None,
        field: str | None = None,
        found: object = None,
        expected: str | None = None,
    ) -> None:
        super().__init__(_malformed(name, why, offset, field, found, expected))
        self.name = name
        self.why = why
        self.offset = offset
        self.field = field
        self.found = found
        self.expected = expected

    def __reduce__(self) -> tuple[object, ...]:
        return _elf_error, (self.name, self.why, self.offset, self.field, self.found, self.expected)


def _elf_error(
    name: str, why: str, offset: int | None, field: str | None, found: object, expected: str | None
) -> ElfError:
    return ElfError(name, why, offset=offset, field=field, found=found, expected=expected)


def _malformed(name: str, why: str, offset: int | None, field: str | None, found: object, expected: str | None) -> str:
    """`name: why: field at offset 0x20 is 0x7f, expected ...`, as far as each is known."""
    said = f"{name}: {why}" if name else why
    if field is not None:
        said += f": {field}"
    if offset is not None:
        said += f" at offset {offset:#x}"
    if found is not None:
        said += f" is {found:#x}" if isinstance(found, int) else f" is {found!r}"
    return said if expected is None else f"{said}, expected {expected}"
