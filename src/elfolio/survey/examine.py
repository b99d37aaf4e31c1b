"""survey.examine: one file after another. In: names in directories. Out: Rows, and Problems.

This is the path that thousands of files take: 4 KiB of each for the header and the program headers, then, of a linked
ELF file, the section table's end for where a linker signs. No value is made that is not in the row.
"""

import mmap
import os
from typing import NamedTuple

from elfolio.elf import constants as c
from elfolio.elf.head import RawHead, raw_head
from elfolio.errors import ElfError
from elfolio.layout.summary import summarise
from elfolio.survey.rows import Problem, Row
from elfolio.survey.signature import linker_of

__all__ = ["Batch", "Examined", "examine"]

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""What was a regular file a moment ago may be a fifo or a link now."""
HEAD = 4096
"""Bytes read first: linkers put program headers right behind the header, 72 of them fit."""

Batch = list[tuple[str, list[str]]]
"""Directories, and the names in each that are to be examined."""


class Examined(NamedTuple):
    """What came of a batch."""

    files: int
    """That were opened, or could not be."""
    rows: list[Row]
    problems: list[Problem]


def examine(batch: Batch) -> Examined:
    """Looks at every file of the batch; what is no ELF file leaves nothing behind."""
    done = Examined(sum(len(names) for _, names in batch), [], [])
    for folder, names in batch:
        try:
            # A file's path is looked up once a directory, not once a file.
            where = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            done.problems.append(_unreadable(folder, error))
            continue
        try:
            for name in names:
                _examine_file(where, folder, name, done)
        finally:
            os.close(where)
    return done


def _examine_file(where: int, folder: str, name: str, done: Examined) -> None:
    fd = -1
    try:
        fd = os.open(name, _OPEN, dir_fd=where)
        data = os.pread(fd, HEAD, 0)
        if data[:4] == c.ELFMAG:
            done.rows.append(_row(fd, data, os.path.join(folder, name)))
    except OSError as error:
        done.problems.append(_unreadable(os.path.join(folder, name), error))
    except ElfError as error:
        done.problems.append(Problem(os.path.join(folder, name), "malformed", str(error)))
    finally:
        if fd >= 0:
            os.close(fd)


def _unreadable(path: str, error: OSError) -> Problem:
    kind = "gone" if isinstance(error, FileNotFoundError) else "unreadable"
    return Problem(path, kind, error.strerror or str(error))


def _row(fd: int, data: bytes, path: str) -> Row:
    facts = os.fstat(fd)
    size = facts.st_size
    raw = _head(fd, data, size)
    form, fields, rows, _ = raw
    made = linker_of(fd, raw, size)
    return Row(
        path, size, facts.st_nlink, facts.st_dev, facts.st_ino, _kind(fd, raw, size), form.bits, form.byteorder,
        c.MACHINE_NAMES.get(fields[1]) or str(fields[1]), made.linker, made.version, made.confidence,
        summarise(fields[0], rows, size),
    )  # fmt: skip


def _head(fd: int, data: bytes, size: int) -> RawHead:
    try:
        return raw_head(data, "", size)
    except ElfError:
        if size <= len(data):
            raise
    # The table may stand anywhere, and its length in a section header.
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
        return raw_head(view, "", size)


def _kind(fd: int, raw: RawHead, size: int) -> str:
    e_type, entry = raw.fields[0], raw.fields[3]
    if e_type != c.ET_DYN:
        return {c.ET_EXEC: "exec", c.ET_REL: "object", c.ET_CORE: "core"}.get(e_type, "other")
    place = None
    for row in raw.rows:
        if row[0] == c.PT_INTERP:
            return "pie"
        if row[0] == c.PT_DYNAMIC:
            place = row
    # A static PIE has no interpreter: only its DF_1_PIE tells it from a shared object with an entry point.
    if place is None or not entry or place[2] >= size:
        return "shared"
    pair = raw.form.dynamic
    body = os.pread(fd, min(place[5], HEAD), place[2])
    for tag, value in pair.iter_unpack(body[: len(body) // pair.size * pair.size]):
        if tag == c.DT_FLAGS_1:
            return "pie" if value & c.DF_1_PIE else "shared"
    return "shared"
