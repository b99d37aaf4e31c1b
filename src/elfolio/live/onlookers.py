"""live.onlookers: who looks at the path that a program runs from. In: an ELF file's path. Out: what gives it away.

A program that runs from another file than the one that was asked for finds another path behind /proc/self/exe, and the
dynamic linker another $ORIGIN. Nobody can list all ways to ask; the usual ones stand in the file as texts.
"""

import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from elfolio.elf.constants import DT_NEEDED, DT_RPATH, DT_RUNPATH
from elfolio.elf.image import ElfImage
from elfolio.live.libraries import dynamic_strings, libraries

__all__ = ["Onlooker", "onlooker", "text_in"]

_EXE = b"/exe"
_OWN = re.compile(rb"(?:self|curproc|[0-9]|%[a-z0-9]+)\Z")
"""What stands before "/exe" where a program asks for its own: in /proc/self/exe, /proc/%d/exe, /proc/1234/exe."""
_TEXTS = (b"$ORIGIN", b"${ORIGIN}")
"""The linker's own word, in the file or in what it hands to dlopen."""
_DLINFO = b"\0dlinfo\0"
"""dlinfo(RTLD_DI_ORIGIN) tells it; the C library does not ask, but has the function, by that name."""
_HAVE_DLINFO = ("libc.so", "libdl.so", "ld-")


@dataclass(frozen=True, slots=True)
class Onlooker:
    """A file that looks, and how."""

    path: str
    text: str


def onlooker(image: ElfImage, data: mmap.mmap) -> tuple[Onlooker | None, tuple[str, ...]]:
    """The first one among the program and the libraries that it would be linked with, or None; and the paths of the
    libraries that were read. What is loaded later by name (dlopen) is not seen. `data` is the program's file. The
    dynamic linker, which asks for everybody, does not count. Raises OSError."""
    for tag in (DT_RPATH, DT_RUNPATH, DT_NEEDED):
        for text in dynamic_strings(image, tag):
            if "$" in text:
                return Onlooker(image.name, text), ()
    if found := text_in(data):
        return Onlooker(image.name, found), ()
    loader = os.path.realpath(image.interpreter or "")
    paths = [each.path for each in libraries(image) if each.image is not None and each.path != loader]
    return next(_looking(paths), None), tuple(paths)


def _looking(paths: list[str]) -> Iterator[Onlooker]:
    for path in paths:
        with open(path, "rb", 0) as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            own = os.path.basename(path).startswith(_HAVE_DLINFO)
            if found := text_in(data, dlinfo=not own):
                yield Onlooker(path, found)


def text_in(data: mmap.mmap | bytes, *, dlinfo: bool = True) -> str:
    """The first text by which a file gives itself away; "" for none. `dlinfo`: the name of that function is one."""
    for text in (*_TEXTS, *([_DLINFO] if dlinfo else [])):
        if data.find(text) >= 0:
            return text.strip(b"\0").decode()
    at = data.find(_EXE)
    while at >= 0:
        if _OWN.search(data[max(0, at - 16) : at]) and not data[at + 4 : at + 5].isalnum():
            start = max(data.rfind(b"\0", 0, at) + 1, at - 32)
            return data[start : at + 4].decode("ascii", "replace")
        at = data.find(_EXE, at + 1)
    return ""
