"""pagecache.formats.fault: what is wrong with a model file. In: a file's name, the fault. Out: FormatError."""

__all__ = ["FormatError", "NoSuchType"]


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
