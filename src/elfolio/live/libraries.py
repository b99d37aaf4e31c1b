"""live.libraries: the shared objects that a program would be linked with. In: ElfImage. Out: Libraries, breadth first.

The search is the dynamic linker's (ld.so(8)): DT_RPATH where there is no DT_RUNPATH, DT_RUNPATH, /etc/ld.so.cache, the
default directories; musl has a path file and defaults of its own. The environment (LD_LIBRARY_PATH, LD_PRELOAD) is left
out, and of hardware variants (glibc-hwcaps) the plain file is taken.
"""

import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from elfolio.elf.constants import DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, EM_386, EM_AARCH64, EM_X86_64
from elfolio.elf.image import ElfImage
from elfolio.errors import ElfError
from elfolio.live.opened import opened

__all__ = ["Library", "dynamic_strings", "libraries", "read_image"]

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER, _ENTRY = 48, struct.Struct("=iIIIQ")
_KINDS = {(EM_X86_64, 64): 0x0303, (EM_386, 32): 0x0003, (EM_AARCH64, 64): 0x0A03}
"""FLAG_ELF_LIBC6 and the class's flag (sysdeps/generic/ldconfig.h), by machine and bits."""
_TRIPLETS = {(EM_X86_64, 64): "x86_64-linux-gnu", (EM_386, 32): "i386-linux-gnu", (EM_AARCH64, 64): "aarch64-linux-gnu"}
_MUSL_DEFAULTS = "/lib:/usr/local/lib:/usr/lib"
_IMAGES_KEPT = 512
_MOST = 4096
"""Objects, after which a search has gone wrong."""


@dataclass(frozen=True)
class Library:
    """One object that is needed. Not found: no image, and the name for a path."""

    name: str
    """As DT_NEEDED has it."""
    path: str
    """Links followed, as maps shows it."""
    image: ElfImage | None


@dataclass(frozen=True)
class _Place:
    """An object of the search, and those by which it was reached."""

    image: ElfImage
    above: tuple[ElfImage, ...]


def libraries(image: ElfImage, root: str | Path = "/") -> tuple[Library, ...]:
    """All objects that `image`, whose name is its path, needs directly or not, in the order in which glibc maps them;
    without the image itself, and with the interpreter where an object needs it by name. `root` stands before /etc and
    every path. Raises OSError for the image."""
    search = _Search(image, str(root).rstrip("/"))
    return tuple(search.walk(image))


class _Search:
    def __init__(self, program: ElfImage, root: str) -> None:
        self.root = root
        self.program = program
        self.kind = (program.header.machine, program.header.bits)
        self.musl = (program.interpreter or "").rpartition("/")[2].startswith("ld-musl-")
        self.cache = {} if self.musl else _cache(f"{root}/etc/ld.so.cache", _KINDS.get(self.kind, 0))
        self.seen: dict[str, Library] = {}

    def walk(self, program: ElfImage) -> Iterator[Library]:
        queue = [_Place(program, ())]
        paths = {os.path.realpath(program.name)}
        for place in queue:
            for name in dynamic_strings(place.image, DT_NEEDED):
                if name in self.seen or len(self.seen) > _MOST:
                    continue
                library = self.seen[name] = self._find(name, place)
                if library.path in paths:
                    continue
                paths.add(library.path)
                yield library
                if library.image is not None:
                    queue.append(_Place(library.image, (*place.above, place.image)))

    def _find(self, name: str, place: _Place) -> Library:
        for path in self._candidates(name, place):
            image = _read_or_none(self.root + path)
            if image is not None and (image.header.machine, image.header.bits) == self.kind:
                return Library(name, image.name, image)
        return Library(name, name, None)

    def _candidates(self, name: str, place: _Place) -> Iterator[str]:
        if "/" in name:
            yield name
            return
        if self.musl and re.fullmatch(r"lib(c|pthread|rt|m|dl|util|xnet)\.(so|musl-\w+\.so\.1)", name):
            yield self.program.interpreter or ""  # all of them are one file, the loader
        for directory in self._directories(place):
            yield f"{directory}/{name}"
        yield from self.cache.get(name, ())
        for directory in self._defaults():
            yield f"{directory}/{name}"

    def _directories(self, place: _Place) -> Iterator[str]:
        runpath = _paths(place.image, DT_RUNPATH)
        if not runpath or self.musl:
            for image in (place.image, *reversed(place.above)):
                if self.musl or not _paths(image, DT_RUNPATH):
                    yield from _paths(image, DT_RPATH)
        yield from runpath

    def _defaults(self) -> list[str]:
        if self.musl:
            arch = (self.program.interpreter or "").rpartition("/ld-musl-")[2].partition(".so")[0]
            return (_text(f"{self.root}/etc/ld-musl-{arch}.path") or _MUSL_DEFAULTS).replace("\n", ":").split(":")
        own = _TRIPLETS.get(self.kind)
        wide = ["/lib64", "/usr/lib64"] if self.kind[1] == 64 else ["/lib32", "/usr/lib32"]
        return [*([f"/lib/{own}", f"/usr/lib/{own}"] if own else []), *wide, "/lib", "/usr/lib"]


def _paths(image: ElfImage, tag: int) -> list[str]:
    """The directories of DT_RPATH or DT_RUNPATH, with $ORIGIN and $LIB put in."""
    kind = (image.header.machine, image.header.bits)
    tokens: Mapping[str, str] = {"ORIGIN": os.path.dirname(image.name), "LIB": f"lib/{_TRIPLETS.get(kind, '')}"}
    found = []
    for text in dynamic_strings(image, tag):
        for part in text.split(":"):
            found.append(re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: tokens.get(m[1] or m[2], m[0]), part))
    return [part for part in found if part]


def read_image(path: str) -> ElfImage:
    """An ELF file by its path, links followed: maps shows where they lead. A file that has not changed is read once.
    Raises OSError, ElfError."""
    real = os.path.realpath(path)
    status = os.stat(real)
    return _read(real, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=_IMAGES_KEPT)
def _read(path: str, key: tuple[int, ...]) -> ElfImage:
    with opened(path) as found:
        return found.image


def _read_or_none(path: str) -> ElfImage | None:
    try:
        return read_image(path)
    except (OSError, ElfError):
        return None


def dynamic_strings(image: ElfImage, tag: int) -> tuple[str, ...]:
    """The texts that entries of this tag name (DT_NEEDED, DT_SONAME, DT_RUNPATH), from the file at the image's name.
    Raises OSError."""
    tags = dict(image.dynamic)
    table = tags.get(DT_STRTAB, 0)
    holding = next((s for s in image.loads if s.vaddr <= table < s.vaddr + s.filesz), None)
    wanted = [value for kind, value in image.dynamic if kind == tag]
    if holding is None or not wanted:
        return ()
    with open(image.name, "rb") as file:
        size = min(tags.get(DT_STRSZ, 0), image.size)
        data = os.pread(file.fileno(), size, table - holding.vaddr + holding.offset)
    return tuple(data[at:].partition(b"\0")[0].decode("utf-8", "surrogateescape") for at in wanted)


def _cache(path: str, kind: int) -> dict[str, list[str]]:
    """ld.so.cache in its newer form (sysdeps/generic/dl-cache.h): name to paths, without hardware variants."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return {}
    start = data.find(_MAGIC)
    if start < 0:
        return {}
    found: dict[str, list[str]] = {}
    (count,) = struct.unpack_from("=I", data, start + len(_MAGIC))
    for at in range(start + _HEADER, min(start + _HEADER + count * _ENTRY.size, len(data) - _ENTRY.size), _ENTRY.size):
        flags, key, value, _, hwcap = _ENTRY.unpack_from(data, at)
        if flags == kind and not hwcap:
            # Offsets count from the newer part where it stands alone, else from the file's beginning.
            found.setdefault(_string(data, start + key), []).append(_string(data, start + value))
    return found


def _string(data: bytes, at: int) -> str:
    return data[at : at + 4096].partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
