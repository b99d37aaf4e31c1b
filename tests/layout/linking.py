"""Real linkers for the what-if: found on this machine or fetched, run in every mode, and held against `relink`."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elfolio.elf.image import ElfImage
from elfolio.elf.reader import read
from elfolio.layout.relink import CODES, NINE_SIZES, Relinked
from elfolio.layout.relink_mode import CodeSeparation, LinkMode
from tests.layout.objects import ObjectSet, run


@dataclass(frozen=True)
class RealLinker:
    """`directory` holds the linker under the name that gcc looks for, `ld`."""

    name: str
    kind: str
    directory: Path


@dataclass(frozen=True)
class Linked:
    """A linker's result."""

    mode: LinkMode
    image: ElfImage
    data: bytes


def installed(kind: str, directory: Path) -> list[RealLinker]:
    """All linkers of this kind, `lld` or `ld`, that PATH leads to; each once."""
    names = ["ld.lld", *(f"ld.lld-{n}" for n in range(40, 12, -1))] if kind == "lld" else ["ld.bfd"]
    found: dict[Path, RealLinker] = {}
    for name in names:
        path = shutil.which(name)
        if path is not None and (target := Path(path).resolve()) not in found:
            found[target] = _as_ld(name, kind, Path(path), directory)
    return list(found.values())


def _as_ld(name: str, kind: str, program: Path, directory: Path) -> RealLinker:
    place = directory / name
    place.mkdir(exist_ok=True)
    (place / "ld").symlink_to(program)
    return RealLinker(name, kind, place)


def link(linker: RealLinker, objects: ObjectSet, files: Sequence[Path], mode: LinkMode, out: Path) -> Linked:
    """Links through the compiler, as everybody does."""
    run(objects.compiler, f"-B{linker.directory}", *map(str, files), *objects.link, *options(mode), "-o", str(out))
    data = out.read_bytes()
    return Linked(mode, read(data, out.name), data)


def options(mode: LinkMode) -> list[str]:
    """What the mode is called on the compiler's command line."""
    words = [f"-z,{mode.code}"] if mode.code else []
    words += ["--no-rosegment"] if not mode.rosegment else []
    words += [f"-z,max-page-size={mode.max_page_size}"] if mode.max_page_size else []
    words += [f"-z,common-page-size={mode.common_page_size}"] if mode.common_page_size else []
    words += {None: [], True: ["-z,relro"], False: ["-z,norelro"]}[mode.relro]
    return ["-Wl," + word for word in words]


def lld_modes(*, rosegment: bool = True, codes: Sequence[CodeSeparation] = CODES) -> list[LinkMode]:
    """The nine."""
    return [LinkMode("lld", None, code, rosegment, size) for code in codes for size in NINE_SIZES]


def ld_modes() -> list[LinkMode]:
    """GNU ld's: both code separations, three page sizes, with and without RELRO."""
    codes: tuple[CodeSeparation, ...] = ("noseparate-code", "separate-code")
    sizes = [(size, relro) for size in NINE_SIZES for relro in (True, False)]
    return [LinkMode("ld", None, code, True, size, None, relro) for code in codes for size, relro in sizes]


def differences(found: Relinked, real: Linked) -> list[str]:
    """What is not as the linker made it, a line each."""
    lines = []
    if found.size != real.image.size:
        lines.append(f"size: {found.size}, and the linker's {real.image.size}")
    for number, (a, b) in enumerate(zip(found.segments, real.image.segments, strict=False)):
        if a != b:
            lines.append(f"program header {number}: {a}, and the linker's {b}")
    if len(found.segments) != len(real.image.segments):
        lines.append(f"{len(found.segments)} program headers, and the linker's {len(real.image.segments)}")
    places = [
        [(s.name, s.addr, s.offset, s.size) for s in sections] for sections in (found.sections, real.image.sections)
    ]
    lines += [f"section {a}, and the linker's {b}" for a, b in zip(*places, strict=False) if a != b][:3]
    return lines
