"""pagecache.formats.fault: what is wrong with a model file. In: a file's name, the fault. Out: FormatError."""

__all__ = ["FormatError", "NoSuchType", "pointer"]

_POINTER = b"version https://git-lfs"
"""How every pointer file begins (docs/spec.md of git-lfs)."""


class FormatError(ValueError):
    """A file that is not of its format, or lies about what is in it.

    `name` is the file, `why` the fault in one line, `offset` the byte of the file that it stands at, or None.
    """

    def __init__(self, name: str, why: str, offset: int | None = None) -> None:
        where = "" if offset is None else f" (at offset {offset:#x})"
        super().__init__(f"{name}: {why}{where}")
        self.name = name
        self.why = why
        self.offset = offset

    def __reduce__(self) -> tuple[object, ...]:
        return FormatError, (self.name, self.why, self.offset)


class NoSuchType(TypeError):
    """The library that was asked for has no type for a tensor's elements. The message says what to do instead."""


def pointer(name: str, first: bytes) -> FormatError | None:
    """Where a file that begins like this stands for a model that was not fetched: clones without git-lfs have these."""
    if not first or not _POINTER.startswith(first):
        return None
    return FormatError(name, "a pointer of Git LFS, not the model itself; to fetch it: git lfs pull", 0)
