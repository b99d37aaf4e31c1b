"""elf.buffers: the bytes that a reader reads. In: any buffer. Out: a view of single bytes; strings, bounded.

What a malformed file can make a reader do is bounded by its size: strings that overlap are the one structure of the
format where many small fields can each ask for nearly the whole file.
"""

from typing import TYPE_CHECKING

from elfolio.elf.image import Fault

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Strings", "byte_view", "text"]

_TAILS = 8
"""How many times its own length a table's strings may have together: linkers let names share their tails."""


def byte_view(data: "ReadableBuffer") -> memoryview:
    """The buffer as bytes in one row, without a copy wherever it is contiguous."""
    view = memoryview(data)
    if view.ndim == 1 and view.format == "B" and view.c_contiguous:
        return view
    if view.c_contiguous and view.nbytes and view.format in set("bBchHiIlLqQnNfd?"):
        return view.cast("B")
    return memoryview(view.tobytes())


def text(raw: bytes | memoryview) -> str:
    """A name. The format knows no encoding; what is no UTF-8 comes out as os.fsdecode has it."""
    return str(raw, "utf-8", "surrogateescape")


class Strings:
    """A string table (gABI, chapter 4): strings that end in NUL, named by where they begin."""

    def __init__(self, table: bytes | memoryview) -> None:
        self._table = bytes(table)
        self._known: dict[int, str] = {}
        self._left = _TAILS * len(self._table) + 4096

    def at(self, index: int, offset: int | None, field: str) -> str | Fault:
        """The string that begins at `index`, which stands in the file at `offset` as `field`; or what is wrong."""
        known = self._known.get(index)
        if known is not None:
            return known
        end = self._table.find(b"\0", index) if index >= 0 else -1
        if end < 0:
            size = len(self._table)
            why = "string without its NUL" if index < size else "string outside of its table"
            return Fault(why, offset, field, index, f"an index below {size:#x} with a NUL behind it")
        self._left -= end - index
        if self._left < 0:
            return Fault("strings that overlap too much", offset, field, index, "tables shared by their tails only")
        self._known[index] = found = text(self._table[index:end])
        return found
